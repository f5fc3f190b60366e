"""vLLM's own transcription of clips, by the code that serves its endpoint.

    python tests/own_transcription.py MODELS_JSON ENGINE_JSON OUT.json CLIP.wav ...

writes what `OpenAIServingTranscription` makes of each clip with each model, by their names.
Importing this module imports no vLLM.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 240.0


@dataclass(frozen=True)
class Transcription:
    """A process that transcribes."""

    process: "subprocess.Popen[bytes]"
    answers: Path

    def texts(self, model: str) -> dict[str, str]:
        """Wait for it; the texts by the names of the clips' files, without outer spaces."""
        assert self.process.wait(LIMIT_S) == 0
        texts = json.loads(self.answers.read_text())[model]
        return {name: text.strip() for name, text in texts.items()}


@contextmanager
def running(
    models: Mapping[str, Path],
    engine: Mapping[str, Any],
    environment: Mapping[str, str],
    clips: Sequence[Path],
    directory: Path,
) -> Iterator[Transcription]:
    """Run this file as a process, which does not outlive the context."""
    answers = directory / "answers.json"
    named = json.dumps({name: str(path) for name, path in models.items()})
    command = [sys.executable, __file__, named, json.dumps(engine), str(answers)]
    with subprocess.Popen(
        [*command, *map(str, clips)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment, "VLLM_LOGGING_LEVEL": "ERROR"},
    ) as process:
        try:
            yield Transcription(process, answers)
        finally:
            process.kill()


async def _transcribe(model: str, engine: dict[str, Any], paths: Sequence[Path]) -> dict[str, str]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.speech_to_text.transcription.protocol import TranscriptionRequest
    from vllm.entrypoints.speech_to_text.transcription.serving import OpenAIServingTranscription
    from vllm.v1.engine.async_llm import AsyncLLM

    core = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **engine))
    models = OpenAIServingModels(core, [BaseModelPath(name="served", model_path=model)])
    serving = OpenAIServingTranscription(core, models, request_logger=None)
    said = {}
    for path in paths:
        request = TranscriptionRequest.model_construct(
            model="served", language=None, response_format="json", temperature=0.0
        )
        answer = await serving.create_transcription(path.read_bytes(), request, None)
        said[path.stem] = answer.text
    core.shutdown()
    return said


if __name__ == "__main__":
    clips = [Path(name) for name in sys.argv[4:]]
    engine = json.loads(sys.argv[2])
    said = {
        name: asyncio.run(_transcribe(model, engine, clips))
        for name, model in json.loads(sys.argv[1]).items()
    }
    Path(sys.argv[3]).write_text(json.dumps(said))
