"""Speaks through one agent framework's own client and prints, as JSON, what the framework heard.

Runs in the virtual environment of the agents (conf/requirements-agents.txt), which shares nothing
with the daemon's:

    python tests/agents/drive.py CLIENT HOST:PORT WORDS FILE.wav [FILE.wav ...]

The files, 16 kHz mono, are spoken as one stream at the speed of speech, with quiet between them;
then there are a few seconds for the finals to come to WORDS words. Printed are the final
transcripts, in order, how many interim ones there were, and what the framework reported as errors.
"""

import asyncio
import json
import sys
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np

RATE = 16_000
CHUNK_S = 0.02
PAUSE_S = 1.5
PATIENCE_S = 10.0
DEADLINE_S = 120.0


class Heard:
    """What a client reports, until there are as many words as were spoken."""

    def __init__(self, words: int) -> None:
        self.finals: list[str] = []
        self.interims = 0
        self.errors: list[str] = []
        self._missing = words
        self._complete = asyncio.Event()

    def final(self, text: str) -> None:
        self.finals.append(text)
        self._missing -= len(text.split())
        if self._missing <= 0:
            self._complete.set()

    def error(self, error: Any) -> None:
        self.errors.append(str(error))

    async def wait(self) -> None:
        """Until all words have come, or patience ends."""
        try:
            await asyncio.wait_for(self._complete.wait(), PATIENCE_S)
        except TimeoutError:
            self.errors.append(f"{self._missing} words are missing after {PATIENCE_S} s")

    def report(self) -> str:
        return json.dumps({"finals": self.finals, "interims": self.interims, "errors": self.errors})


def quiet(seconds: float) -> np.ndarray:
    draw = np.random.default_rng(1)
    return (20 * draw.standard_normal(round(seconds * RATE))).astype(np.int16)


def samples(paths: list[str]) -> np.ndarray:
    parts = [quiet(0.5)]
    for path in paths:
        with wave.open(path) as file:
            assert (file.getframerate(), file.getnchannels()) == (RATE, 1)
            parts += [np.frombuffer(file.readframes(file.getnframes()), np.int16), quiet(PAUSE_S)]
    return np.concatenate(parts)


async def spoken(paths: list[str]) -> AsyncIterator[bytes]:
    """The audio in chunks of 20 ms, when it would have been spoken."""
    audio, size = samples(paths), round(RATE * CHUNK_S)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number, at in enumerate(range(0, len(audio), size), 1):
        yield audio[at : at + size].tobytes()
        await asyncio.sleep(began + number * CHUNK_S - loop.time())


# --- LiveKit ------------------------------------------------------------------------------


async def livekit(stt: Any, paths: list[str], heard: Heard, *, ends: bool) -> None:
    """`ends`: the stream of events is to end by itself once its input has."""
    from livekit import rtc
    from livekit.agents.stt import SpeechEventType

    stt.on("error", heard.error)
    stream = stt.stream()

    async def listen() -> None:
        async for event in stream:
            if event.type == SpeechEventType.FINAL_TRANSCRIPT:
                heard.final(event.alternatives[0].text)
            heard.interims += event.type == SpeechEventType.INTERIM_TRANSCRIPT

    listening = asyncio.create_task(listen())
    async for chunk in spoken(paths):
        stream.push_frame(rtc.AudioFrame(chunk, RATE, 1, len(chunk) // 2))
    if ends:
        stream.end_input()
        await asyncio.wait_for(listening, PATIENCE_S)
    else:
        await heard.wait()
        listening.cancel()
    await stream.aclose()
    await stt.aclose()


async def livekit_openai(
    host: str, paths: list[str], heard: Heard, model: str = "gpt-4o-mini-transcribe"
) -> None:
    from livekit.agents.utils import http_context
    from livekit.plugins import openai

    async with http_context.open():
        stt = openai.STT(
            model=model, use_realtime=True, api_key="none", base_url=f"http://{host}/v1"
        )
        await livekit(stt, paths, heard, ends=False)


async def livekit_openai_local_vad(host: str, paths: list[str], heard: Heard) -> None:
    await livekit_openai(host, paths, heard, "gpt-realtime-whisper")


async def livekit_mistral(host: str, paths: list[str], heard: Heard) -> None:
    from livekit.plugins import mistralai
    from mistralai.client import Mistral

    client = Mistral(api_key="none", server_url=f"http://{host}")
    stt = mistralai.STT(client=client, model="voxtral-mini-transcribe-realtime-2602")
    await livekit(stt, paths, heard, ends=True)


# --- pipecat ------------------------------------------------------------------------------


async def pipecat(stt: Any, paths: list[str], heard: Heard) -> None:
    """A pipeline of pipecat's own speech detection, the service, and a listener."""
    from pipecat.audio.vad.silero import SileroVADAnalyzer
    from pipecat.frames.frames import (
        EndFrame,
        ErrorFrame,
        InputAudioRawFrame,
        InterimTranscriptionFrame,
        TranscriptionFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import WorkerRunner
    from pipecat.pipeline.worker import PipelineParams, PipelineWorker
    from pipecat.processors.audio.vad_processor import VADProcessor
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

    class Listener(FrameProcessor):
        async def process_frame(self, frame: Any, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, TranscriptionFrame):
                heard.final(frame.text)
            heard.interims += isinstance(frame, InterimTranscriptionFrame)
            await self.push_frame(frame, direction)

    class Errors(FrameProcessor):
        async def process_frame(self, frame: Any, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, ErrorFrame):
                heard.error(frame.error)
            await self.push_frame(frame, direction)

    detection = VADProcessor(vad_analyzer=SileroVADAnalyzer(sample_rate=RATE))
    pipeline = Pipeline([Errors(), detection, stt, Listener()])
    worker = PipelineWorker(
        pipeline, params=PipelineParams(audio_in_sample_rate=RATE), cancel_on_idle_timeout=False
    )
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def on_started(_worker: Any, _frame: Any) -> None:
        started.set()

    async def speak() -> None:
        await started.wait()
        async for chunk in spoken(paths):
            await worker.queue_frame(InputAudioRawFrame(chunk, RATE, 1))
        await heard.wait()
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak())


async def pipecat_openai(
    host: str, paths: list[str], heard: Heard, turn_detection: Any = False
) -> None:
    from pipecat.services.openai.stt import OpenAIRealtimeSTTService

    url = f"ws://{host}/v1/realtime"
    stt = OpenAIRealtimeSTTService(api_key="none", base_url=url, turn_detection=turn_detection)
    await pipecat(stt, paths, heard)


async def pipecat_openai_server_vad(host: str, paths: list[str], heard: Heard) -> None:
    await pipecat_openai(host, paths, heard, {"type": "server_vad"})


async def pipecat_mistral(host: str, paths: list[str], heard: Heard) -> None:
    from pipecat.services.mistral.stt import MistralSTTService

    await pipecat(MistralSTTService(api_key="none", base_url=f"http://{host}"), paths, heard)


Client = Callable[[str, list[str], Heard], Awaitable[None]]
CLIENTS: dict[str, Client] = {
    "livekit-openai": livekit_openai,
    "livekit-openai-local-vad": livekit_openai_local_vad,
    "livekit-mistral": livekit_mistral,
    "pipecat-openai": pipecat_openai,
    "pipecat-openai-server-vad": pipecat_openai_server_vad,
    "pipecat-mistral": pipecat_mistral,
}


async def main(name: str, host: str, words: int, paths: list[str]) -> None:
    heard = Heard(words)
    await asyncio.wait_for(CLIENTS[name](host, paths, heard), DEADLINE_S)
    print(heard.report())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
