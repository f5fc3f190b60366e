"""The first decisive message chooses the dialect; what came before it is not lost."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtimed.errors import BufferOverflow
from realtimed.wire.codec import Opening
from realtimed.wire.events import ErrorOccurred, SessionCreated
from realtimed.wire.openai import OpenAICodec
from realtimed.wire.openai_beta import OpenAIBetaCodec
from realtimed.wire.undecided import Undecided
from realtimed.wire.vllm import VllmCodec

OPENING = Opening("sess-0123456789abcdef", 1_700_000_000, ("m",))
AUDIO = json.dumps(
    {"type": "input_audio_buffer.append", "audio": base64.b64encode(b"\0\1" * 800).decode()}
)
GA = json.dumps({"type": "session.update", "session": {"type": "transcription"}})
PLAIN = json.dumps({"type": "session.update", "model": "m"})


def undecided() -> Undecided:
    return Undecided(OPENING, VllmCodec, OpenAICodec, OpenAIBetaCodec)


def test_the_hello_has_the_fields_of_both_dialects() -> None:
    (hello,) = undecided().encode(SessionCreated(OPENING.session_id, OPENING.created))
    event = json.loads(hello)
    assert event["type"] == "session.created"
    assert (event["id"], event["created"]) == (OPENING.session_id, OPENING.created)
    assert event["session"]["type"] == "transcription"
    assert isinstance(event["event_id"], str)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (GA, "openai"),
        (PLAIN, "vllm"),
        ('{"type":"session.update"}', "vllm"),
        ('{"type":"transcription_session.update","session":{}}', "openai_beta"),
        ('{"type":"input_audio_buffer.clear"}', "openai"),
        ('{"type":"input_audio_buffer.commit","final":true}', "vllm"),
    ],
)
def test_the_first_message_chooses(message: str, name: str) -> None:
    codec = undecided()
    assert codec.sort_out(message) == [message]
    assert codec.chosen is not None
    assert name == codec.chosen.NAME


@pytest.mark.parametrize("decisive", [GA, PLAIN])
def test_audio_that_comes_first_is_held_and_read_in_its_place(decisive: str) -> None:
    codec = undecided()
    for audio in (AUDIO, b"\1\2", AUDIO):
        assert codec.sort_out(audio) == ()
        assert codec.chosen is None
    assert codec.sort_out(decisive) == [AUDIO, b"\1\2", AUDIO, decisive]


@pytest.mark.parametrize("audio", [AUDIO, bytes(3_200)])
def test_audio_is_not_held_for_ever(audio: str | bytes) -> None:
    codec = undecided()
    with pytest.raises(BufferOverflow):
        for _ in range(1_000):
            codec.sort_out(audio)


@given(message=st.one_of(st.text(max_size=60), st.binary(max_size=60)))
def test_any_message_is_held_or_decides(message: str | bytes) -> None:
    codec = undecided()
    assert list(codec.sort_out(message)) == ([] if codec.chosen is None else [message])


def test_what_cannot_be_told_yet_is_told_as_vllms_dialect_has_it() -> None:
    assert undecided().encode(ErrorOccurred("processing_error", "x")) == VllmCodec(OPENING).encode(
        ErrorOccurred("processing_error", "x")
    )
