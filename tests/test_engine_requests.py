"""No sequence of client bytes makes an engine request that the engine could choke on.

A `FakeEngine` stands where the real one does, and judges what it is sent: frames that are empty,
oversized, not numbers, out of order, too many for the model, or behind the end of their request.
Socket framing, codec, session, buffer, speech detection's plumbing, segments and transcriber are
the real ones; whether sound is speech is a matter of its loudness here.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from attacks.peer import BINARY, TEXT, frame
from fuzz.targets import CODECS, OPENING
from geometry import model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_fuzz import messages as nonsense

from realtimed.config import Limits
from realtimed.engine.availability import Availability
from realtimed.engine.spec import ModelInfo
from realtimed.server.access import Identity
from realtimed.server.connection import Connection
from realtimed.server.websocket import WebSocket
from realtimed.transcription.detection import SpeechDetection
from realtimed.transcription.recognition import Recognition
from realtimed.wire.codec import Codec

MODEL_LEN = 96
LIMITS = Limits(ring_s=4, rate=0, overflow_s=2, soft_age_s=2, hard_age_s=3, queue_s=5, close_s=0.1)


@dataclass
class FakeEngine:
    """Answers every frame in the next tick, and judges it."""

    nursery: trio.Nursery
    info: ModelInfo = field(default_factory=lambda: model(MODEL_LEN))
    streams: list["FakeStream"] = field(default_factory=list)
    availability: Availability = field(default_factory=Availability)

    @property
    def stepped_at(self) -> float:
        return trio.current_time()

    def open_stream(self, on_answer: Any, on_failure: Any, *, logprobs: bool) -> "FakeStream":
        self.streams.append(FakeStream(self, on_answer, logprobs))
        return self.streams[-1]

    def detokenizer(self) -> "FakeEngine":
        return self

    def text(self, tokens: Sequence[int]) -> str:
        return " word" if tokens else ""

    def piece(self, token: int) -> str:
        return " word"


@dataclass
class FakeStream:
    engine: FakeEngine
    on_answer: Any
    logprobs: bool
    tokens: int = 0
    in_flight: bool = False
    closed: bool = False
    last: NDArray[np.float32] | None = None

    def send(self, token_ids: list[int], audio: NDArray[np.float32]) -> None:
        geometry = self.engine.info.geometry
        assert not self.closed, "behind the end"
        assert not self.in_flight, "before the last was answered"
        beside = geometry.look_back + geometry.look_ahead
        if self.last is None:
            assert tuple(token_ids[: len(geometry.prompt)]) == geometry.prompt
            # The first frame has no look-back: it begins with the padding.
            size = len(token_ids) * geometry.samples_per_token + geometry.look_ahead
            assert len(audio) == size, "the first frame covers the prompt"
        else:
            assert len(token_ids) == 1
            assert len(audio) == geometry.samples_per_token + beside
            again = audio[:beside]
            # A turn may end where the last frame had heard on: from there it is padding now.
            changed = self.last[-beside:] != again
            padding = again[int(np.argmax(changed)) :]
            assert not changed.any() or not padding.any(), "out of order"
        assert audio.dtype == np.float32
        assert bool((np.abs(audio) <= 1).all()), "no number, or out of range"
        self.tokens += len(token_ids)
        assert self.tokens < MODEL_LEN, "longer than the model's context"
        self.last, self.in_flight = audio.copy(), True
        self.engine.nursery.start_soon(self._answer)

    async def _answer(self) -> None:
        await trio.lowlevel.checkpoint()
        self.in_flight = False
        if not self.closed:
            self.on_answer([7], [-0.5] if self.logprobs else None)

    def close(self) -> None:
        self.closed = True


class Loudness:
    """Stands for the speech model: what is loud is speech."""

    def probabilities(self, windows: NDArray[np.float32], voices: object) -> NDArray[np.float32]:
        return (np.abs(windows).mean(axis=1) > 0.01).astype(np.float32)


@dataclass(frozen=True)
class Audio:
    """A chunk of sound: `kind` draws its samples, `odd` leaves half a sample at its end."""

    samples: int
    kind: str
    odd: bool
    raw: bool

    def bytes(self) -> bytes:
        draw = np.random.Generator(np.random.PCG64(self.samples))
        if self.kind == "quiet":
            data = bytes(2 * self.samples)
        elif self.kind == "noise":
            data = draw.bytes(2 * self.samples)
        else:
            data = (20_000 * draw.choice([-1, 1], self.samples)).astype("<i2").tobytes()
        return data + b"a" * self.odd


chunks = st.builds(
    Audio,
    st.one_of(st.integers(0, 3_000), st.integers(0, 60_000)),
    st.sampled_from(["quiet", "noise", "loud"]),
    st.sampled_from([False] * 9 + [True]),
    st.booleans(),
)
TURNS = {"type": "server_vad", "prefix_padding_ms": 100, "silence_duration_ms": 200}
PLAIN = {
    "vllm": [
        {"type": "session.update", "model": "", "include": ["words"]},
        {"type": "session.update", "model": "", "turn_detection": TURNS},
        {"type": "session.update", "model": "", "turn_detection": None},
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.commit", "final": True},
    ],
    "openai": [
        {
            "type": "session.update",
            "session": {"type": "transcription", "audio": {"input": {"turn_detection": None}}},
        },
        {
            "type": "session.update",
            "session": {"type": "transcription", "audio": {"input": {"turn_detection": TURNS}}},
        },
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
    ],
    "openai_beta": [
        {"type": "transcription_session.update", "session": {"input_audio_format": "g711_ulaw"}},
        {"type": "transcription_session.update", "session": {"turn_detection": None}},
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
    ],
    "mistral": [
        {
            "type": "session.update",
            "session": {"audio_format": {"encoding": "pcm_f32le", "sample_rate": 16_000}},
        },
        {"type": "input_audio.flush"},
        {"type": "input_audio.end"},
    ],
}


def spelled(dialect: str, said: object) -> bytes:
    """One step of a client as a frame."""
    if isinstance(said, Audio):
        if said.raw:
            return frame(BINARY, said.bytes())
        kind = "input_audio.append" if dialect == "mistral" else "input_audio_buffer.append"
        said = {"type": kind, "audio": base64.b64encode(said.bytes()).decode()}
    return frame(TEXT, (said if isinstance(said, str) else json.dumps(said)).encode())


def conversations(dialect: str) -> st.SearchStrategy[list[object]]:
    step = st.one_of(chunks, st.sampled_from(PLAIN[dialect]), nonsense.map(lambda said: said[:1]))
    return st.lists(step, max_size=14).map(
        lambda steps: [
            one for step in steps for one in (step if isinstance(step, list) else [step])
        ]
    )


async def play(
    codec: Codec, data: bytes, *, gate: bool, limits: Limits = LIMITS
) -> tuple[FakeEngine, Connection]:
    """All of a client's bytes, to the end of its connection; the engine that has judged."""
    ours, theirs = trio.testing.memory_stream_pair()
    detection = SpeechDetection(Loudness())  # type: ignore[arg-type]
    # Ends by the cancel, when the connection has ended.
    async with trio.open_nursery() as nursery:
        engine = FakeEngine(nursery)
        recognition = Recognition.build(engine, detection, limits, gate=gate)  # type: ignore[arg-type]
        connection = Connection(
            WebSocket(ours, b"", limits), codec, recognition, OPENING, Identity("test")
        )
        nursery.start_soon(detection.run)
        nursery.start_soon(_read, theirs)
        await theirs.send_all(data)

        async def leave() -> None:
            # Everything that it asked for has been done by then; virtual seconds cost nothing.
            await trio.sleep(60)
            await theirs.aclose()

        nursery.start_soon(leave)
        await connection.run()
        nursery.cancel_scope.cancel()
    return engine, connection


async def _read(stream: trio.abc.ReceiveStream) -> None:
    try:
        while await stream.receive_some():
            pass
    except trio.ClosedResourceError:
        pass  # the client has left


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("dialect", CODECS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_bytes_of_a_client_make_a_bad_engine_request(
    dialect: str, gate: bool, data: st.DataObject
) -> None:
    said = data.draw(conversations(dialect))
    sent = b"".join(spelled(dialect, one) for one in said)
    clock = trio.testing.MockClock(autojump_threshold=0)
    engine, _ = trio.run(lambda: play(CODECS[dialect](OPENING), sent, gate=gate), clock=clock)
    assert all(stream.closed for stream in engine.streams), "every request has been ended"


def test_the_judge_sees_requests_in_every_dialect() -> None:
    """Otherwise the property would hold of nothing."""
    for dialect in CODECS:
        loud = [Audio(16_000, "loud", odd=False, raw=False)] * 3
        quiet = [Audio(16_000, "quiet", odd=False, raw=False)] * 2
        said = [PLAIN[dialect][0], *loud, *quiet, PLAIN[dialect][-1], *loud]
        if dialect == "vllm":
            said.insert(1, PLAIN["vllm"][3])
        sent = b"".join(spelled(dialect, one) for one in said)
        clock = trio.testing.MockClock(autojump_threshold=0)
        engine, _ = trio.run(
            lambda sent=sent, dialect=dialect: play(CODECS[dialect](OPENING), sent, gate=True),
            clock=clock,
        )
        assert sum(stream.tokens for stream in engine.streams) > 36, dialect


def test_a_turn_may_end_in_the_quiet_that_its_last_segment_was_cut_in() -> None:
    said = [Audio(47_489, "noise", odd=False, raw=False), Audio(26_431, "quiet", False, False)]
    sent = b"".join(spelled("openai", one) for one in said)
    clock = trio.testing.MockClock(autojump_threshold=0)
    engine, connection = trio.run(
        lambda: play(CODECS["openai"](OPENING), sent, gate=True), clock=clock
    )
    assert connection.outcome == "client_left"
    assert len(engine.streams) >= 2
