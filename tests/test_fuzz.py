"""Whatever bytes a client sends: events or the errors that are there for it, in bounded time."""

import json
from typing import Any

import pytest
from fuzz import targets
from hypothesis import given, settings
from hypothesis import strategies as st

TYPES = (
    "session.update",
    "transcription_session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "input_audio.append",
    "input_audio.flush",
    "input_audio.end",
    "conversation.item.create",
)
NAMES = (
    *("model", "session", "audio", "final", "event_id", "turn_detection", "include", "type"),
    *("input", "format", "rate", "transcription", "language", "prompt", "noise_reduction"),
    *("threshold", "prefix_padding_ms", "silence_duration_ms", "create_response", "eagerness"),
    *("audio_format", "encoding", "sample_rate", "target_streaming_delay_ms", "keywords"),
    *("input_audio_format", "input_audio_transcription", "delay", "idle_timeout_ms"),
)
WORDS = (
    *("server_vad", "semantic_vad", "audio/pcm", "audio/pcmu", "pcm16", "pcm_s16le", "pcm_f32le"),
    *("transcription", "words", "warnings", "model", "gpt-realtime-whisper", "AAAA", "AA==", "!"),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(WORDS),
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=10,
)
objects = st.fixed_dictionaries({"type": st.sampled_from(TYPES)}).flatmap(
    lambda head: st.dictionaries(st.sampled_from(NAMES), values, max_size=5).map(
        lambda rest: json.dumps({**rest, **head})
    )
)
noise = st.one_of(
    st.text(max_size=60), st.sampled_from(["[" * 5_000, '{"a":' * 5_000, "9" * 5_000])
)
messages = st.lists(st.one_of(objects, objects, noise), max_size=6)


@pytest.mark.parametrize("dialect", targets.CODECS)
@given(said=messages)
def test_a_codec_answers_any_messages_with_events_or_wire_errors(
    dialect: str, said: list[str]
) -> None:
    targets.codec(dialect, said)


@given(st.lists(st.one_of(objects, noise, st.binary(max_size=20)), max_size=6))
def test_so_does_one_that_has_yet_to_find_out_the_dialect(said: list[str | bytes]) -> None:
    targets.undecided(said)


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_end_the_connection(data: bytes) -> None:
    targets.frames(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_an_upgrade_or_refused(data: bytes) -> None:
    targets.head(data)


@settings(deadline=1_000)
@given(st.binary(max_size=400))
def test_any_audio_is_finite_and_in_range(data: bytes) -> None:
    targets.audio(data)


@given(st.text())
def test_any_key_is_looked_up(text: str) -> None:
    targets.key(text)


@given(st.binary(max_size=200))
def test_the_fuzzers_entry_takes_any_bytes(data: bytes) -> None:
    targets.one_input(data)
