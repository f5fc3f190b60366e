"""Mistral's dialect: fields are exactly what its SDK takes, and nothing else is decoded."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from realtimed import errors
from realtimed.errors import (
    InvalidAudio,
    InvalidEvent,
    InvalidJson,
    UnknownEvent,
    UnsupportedOption,
    WireError,
)
from realtimed.wire.codec import Codec, Opening
from realtimed.wire.events import (
    ENCODINGS,
    Append,
    AudioFormat,
    Cleared,
    Commit,
    Committed,
    Configure,
    ErrorOccurred,
    Finish,
    ServerEvent,
    ServerVad,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Usage,
    UtteranceDone,
    Warned,
    Word,
)
from realtimed.wire.mistral import ERROR_CODES, MAX_APPEND_BYTES, MistralCodec

OPENING = Opening("sess-0123456789abcdef", 1_700_000_000, ("voxtral", "/models/voxtral"))
USAGE = Usage(3, 2, 4.4, 0.25)
TURNS = {  # what mistralai 3.7.0 makes of `TurnDetectionConfig()`
    "start_threshold": 0.5,
    "eager_end_threshold": 0.5,
    "end_threshold": 0.33,
    "min_silence_ms": 500,
}


def codec(**changed: Any) -> MistralCodec:
    given = {"requested_model": "voxtral"} | changed
    return MistralCodec(Opening(OPENING.session_id, 0, OPENING.served_names, **given))


def append(audio: bytes) -> str:
    text = base64.b64encode(audio).decode()
    return json.dumps({"audio": text, "type": "input_audio.append"})


def update(**session: Any) -> str:
    return json.dumps({"session": session, "type": "session.update"})


def told(of: Codec, *events: ServerEvent) -> list[dict[str, Any]]:
    return [json.loads(message) for event in events for message in of.encode(event)]


# --- what clients send --------------------------------------------------------------------


def test_the_codec_is_one() -> None:
    one: Codec = codec()
    assert (one.NAME, one.BEGINS_BY_AUDIO) == ("mistral", True)
    assert one.configuration() == Configure(
        "", turn_detection=None, audio_format=AudioFormat("pcm_s16le", 16_000)
    )


def test_a_strict_name_is_looked_up() -> None:
    wanted = codec(requested_model="other", strict_model_names=True).configuration()
    assert wanted is not None
    assert wanted.model == "other"


def test_what_transcribe_stream_sends() -> None:
    one = codec()
    settings = one.decode(update(audio_format={"encoding": "pcm_f32le", "sample_rate": 48_000}))
    assert settings == (Configure("", audio_format=AudioFormat("pcm_f32le", 48_000)),)
    assert one.decode(append(b"\0\1")) == (Append(b"\0\1"),)
    assert one.decode('{"type":"input_audio.flush"}') == (Commit(final=True),)
    assert one.decode('{"type":"input_audio.end"}') == (Finish(),)


def test_what_livekit_sends() -> None:
    """No `session.update`, 50 ms of audio a message, a flush by its own VAD."""
    one = codec()
    audio = b"\1\2" * 800
    assert one.decode(append(audio).encode()) == (Append(audio),)
    assert one.decode(b'{"type": "input_audio.flush"}') == (Commit(final=True),)
    assert one.decode(append(audio)) == (Append(audio),)
    assert one.decode(b'{"type": "input_audio.end"}') == (Finish(),)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
def test_every_format(encoding: str, rate: int) -> None:
    asked = update(audio_format={"encoding": encoding, "sample_rate": rate})
    assert codec().decode(asked) == (Configure("", audio_format=AudioFormat(encoding, rate)),)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, None),
        ({}, ServerVad()),
        (TURNS, ServerVad()),
        (TURNS | {"end_timeout_ms": None}, ServerVad()),
        (
            {"start_threshold": 0.8, "min_silence_ms": 250},
            ServerVad(threshold=0.8, silence_duration_ms=250),
        ),
    ],
)
def test_turn_detection(given: Any, wanted: ServerVad | None) -> None:
    assert codec().decode(update(turn_detection=given)) == (Configure("", turn_detection=wanted),)


def test_what_asks_for_nothing_is_no_error() -> None:
    nothing = update(
        audio_format=None,
        diarize=False,
        context_bias=[],
        language=None,
        speaker_references={},
        target_streaming_delay_ms=None,
    )
    assert codec().decode(nothing) == (Configure(""),)
    assert codec().decode(update()) == (Configure(""),)
    assert codec().decode(append(b"")) == ()


def test_hints_are_taken_and_the_session_does_not_claim_them() -> None:
    one = codec()
    hints = update(language="en", context_bias=["Kubernetes"], target_streaming_delay_ms=480)
    assert one.decode(hints) == (Configure(""),)
    [updated] = told(one, SessionUpdated())
    assert set(updated["session"]) == {"request_id", "model", "audio_format", "turn_detection"}


@pytest.mark.parametrize(
    ("session", "error", "named"),
    [
        ({"diarize": True}, UnsupportedOption, "diarize"),
        ({"speaker_references": {"Ann": "AAAA"}}, UnsupportedOption, "speaker_references"),
        ({"audio_format": []}, InvalidEvent, "audio_format"),
        ({"audio_format": {}}, InvalidEvent, "encoding"),
        ({"audio_format": {"encoding": "pcm_s16le"}}, InvalidEvent, "sample_rate"),
        ({"audio_format": {"encoding": "mp3", "sample_rate": 8_000}}, UnsupportedOption, "mp3"),
        (
            {"audio_format": {"encoding": "pcm_alaw", "sample_rate": 96_000}},
            UnsupportedOption,
            "96000",
        ),
        (
            {"audio_format": {"encoding": "pcm_alaw", "sample_rate": 7_999}},
            UnsupportedOption,
            "7999",
        ),
        (
            {"audio_format": {"encoding": "pcm_alaw", "sample_rate": 8_000, "channels": 2}},
            UnsupportedOption,
            "channels",
        ),
        ({"turn_detection": "on"}, InvalidEvent, "turn_detection"),
        ({"turn_detection": {"start_threshold": 1.5}}, InvalidEvent, "start_threshold"),
        ({"turn_detection": {"min_silence_ms": 1}}, InvalidEvent, "min_silence_ms"),
        ({"turn_detection": {"end_threshold": 0.2}}, UnsupportedOption, "end_threshold"),
        ({"turn_detection": {"eager_end_threshold": 0.9}}, UnsupportedOption, "eager_end"),
        ({"turn_detection": {"end_timeout_ms": 900}}, UnsupportedOption, "end_timeout_ms"),
        ({"turn_detection": {"type": "server_vad"}}, UnsupportedOption, "type"),
    ],
)
def test_what_is_not_served_is_named(
    session: dict[str, Any], error: type[WireError], named: str
) -> None:
    one = codec()
    before = told(one, SessionUpdated())
    with pytest.raises(error, match=named):
        one.decode(update(**session))
    assert told(one, SessionUpdated()) == before


def test_no_session_field_changes_after_audio() -> None:
    one = codec()
    one.decode(append(b"\0\0"))
    changes: list[dict[str, Any]] = [
        {"audio_format": {"encoding": "pcm_s16le", "sample_rate": 8_000}},
        {"turn_detection": {}},
    ]
    for session in changes:
        with pytest.raises(InvalidEvent, match="after audio has started") as raised:
            one.decode(update(**session))
        [event] = told(one, ErrorOccurred(raised.value.code, raised.value.message))
        assert event["error"]["code"] == 3051
    same = update(audio_format={"encoding": "pcm_s16le", "sample_rate": 16_000})
    assert one.decode(same) == (Configure("", audio_format=AudioFormat()),)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("", InvalidJson),
        ("{", InvalidJson),
        (b"\xff", InvalidJson),
        ("\ud800", InvalidJson),
        ("[" * 100_000, WireError),
        ('{"type":"session.update","session":' + '{"a":' * 100_000, WireError),
        ("7", InvalidEvent),
        ("{}", UnknownEvent),
        ('{"type": 3}', UnknownEvent),
        ('{"type":"input_audio_buffer.append","audio":""}', UnknownEvent),
        ('{"type":"session.update"}', InvalidEvent),
        ('{"type":"session.update","session":null}', InvalidEvent),
        ('{"type":"input_audio.append"}', InvalidEvent),
        ('{"type":"input_audio.append","audio":[]}', InvalidEvent),
        ('{"type":"input_audio.append","audio":"A"}', InvalidAudio),
        ('{"type":"input_audio.append","audio":"AA-_"}', InvalidAudio),
        (
            '{"type":"session.update","session":{"audio_format":'
            '{"encoding":"pcm_alaw","sample_rate":1e400}}}',
            WireError,
        ),
    ],
)
def test_what_is_wrong_is_named(message: str | bytes, error: type[WireError]) -> None:
    with pytest.raises(error):
        codec().decode(message)


def test_the_longest_append() -> None:
    longest = bytes(MAX_APPEND_BYTES)
    assert codec().decode(append(longest)) == (Append(longest),)
    with pytest.raises(InvalidAudio, match="262144"):
        codec().decode(append(longest + b"\0\0"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
options = st.sampled_from(["encoding", "sample_rate", *TURNS, "end_timeout_ms"])
members = st.dictionaries(options, values | st.sampled_from(ENCODINGS), max_size=4)
sessions = st.dictionaries(
    st.sampled_from(["audio_format", "turn_detection", "language", "diarize"]), values | members
)
messages = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=80),
    st.builds(lambda session: update(**session), sessions),
    st.builds(lambda fields: json.dumps({"type": "input_audio.append"} | fields), sessions),
    st.builds(lambda text: text[:-1], st.builds(append, st.binary(max_size=9))),
)


@given(messages)
def test_anything_decodes_or_is_a_wire_error(message: str | bytes) -> None:
    one = codec()
    try:
        one.decode(message)
    except WireError as error:
        assert "\n" not in error.message
        assert error.close_code is None
    told(one, SessionUpdated())


@given(st.binary(min_size=1))
def test_audio_comes_through(audio: bytes) -> None:
    assert codec().decode(append(audio)) == (Append(audio),)


# --- what clients are told ----------------------------------------------------------------

Check = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def _string(value: Any) -> bool:
    return isinstance(value, str)


def _object(**fields: Check) -> Check:
    def check(value: Any) -> bool:
        required = {name for name in fields if not name.endswith("_or_absent")}
        known = {name.removesuffix("_or_absent"): one for name, one in fields.items()}
        return required <= set(value) <= set(known) and all(
            known[name](one) for name, one in value.items()
        )

    return check


def _integer(value: Any) -> bool:
    return type(value) is int


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _all(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(check(one) for one in value)


_TURNS = _object(
    start_threshold=_number,
    eager_end_threshold=_number,
    end_threshold=_number,
    min_silence_ms=_integer,
    end_timeout_ms=_or_null(_integer),
)
_SESSION = _object(
    request_id=_string,
    model=_string,
    audio_format=_object(encoding=_string, sample_rate=_integer),
    turn_detection=_or_null(_TURNS),
)
_CHUNK = _object(
    type=lambda value: value == "transcription_segment",
    text=_string,
    start=_or_null(_number),
    end=_or_null(_number),
)
FIELDS: dict[str, Check] = {
    "session.created": _object(type=_string, session=_SESSION),
    "session.updated": _object(type=_string, session=_SESSION),
    "transcription.text.delta": _object(type=_string, text=_string),
    "transcription.segment": _object(
        type=_string, text=_string, start=_or_null(_number), end=_or_null(_number)
    ),
    "transcription.done": _object(
        type=_string,
        model=_string,
        text=_string,
        language=_or_null(_string),
        segments_or_absent=_all(_CHUNK),
        usage=_object(
            prompt_tokens=_integer,
            completion_tokens=_integer,
            total_tokens=_integer,
            prompt_audio_seconds=_integer,
        ),
    ),
    "turn.start": _object(type=_string, time_s=_number),
    "turn.end": _object(
        type=_string, time_s=_number, end_reason=lambda value: value in ("threshold", "timeout")
    ),
    "error": _object(type=_string, error=_object(message=_string, code=_integer)),
}


def everything() -> list[dict[str, Any]]:
    """Every kind of event that can be told, optional fields both there and not."""
    plain, turns = codec(), codec(requested_model="")
    turns.decode(update(turn_detection={}))
    words = (Word("hello", 0.5, 0.9), Word("there", 1.0, 1.23456))
    return told(
        plain,
        SessionCreated(OPENING.session_id, 0),
        SessionUpdated(),
        TextDelta(0, " hello", 0.5, 0.9),
        UtteranceDone(0, " hello there", USAGE, words),
        UtteranceDone(1, "", Usage(0, 0, 0.0)),
        ErrorOccurred("engine_error", "It failed.", 2),
        ErrorOccurred("new_code", "It failed."),
    ) + told(
        turns,
        SessionUpdated(),
        SpeechStarted(0, 1.23456),
        TextDelta(0, " hello"),
        SpeechStopped(0, 2.5),
        UtteranceDone(0, " hello", USAGE),
        UtteranceDone(1, "", USAGE),
    )


def test_every_event_has_exactly_its_fields() -> None:
    events = everything()
    assert {event["type"] for event in events} == set(FIELDS)
    for event in events:
        assert FIELDS[event["type"]](event), event


def test_the_sdk_takes_every_event() -> None:
    sdk = pytest.importorskip("mistralai.extra.realtime.connection", reason="needs mistralai 3")
    for event in everything():
        parsed = sdk.parse_realtime_event(event)
        assert type(parsed) is sdk._MESSAGE_MODELS[event["type"]], parsed


numbers = st.integers(0, 3)
seconds = st.floats(0, 1e6)
usages = st.builds(Usage, st.integers(0, 10**9), st.integers(0, 10**9), seconds)
server_events = st.one_of(
    st.just(SessionCreated(OPENING.session_id, 0)),
    st.builds(SessionUpdated),
    st.builds(Committed, numbers),
    st.builds(SpeechStarted, numbers, seconds),
    st.builds(SpeechStopped, numbers, seconds),
    st.builds(TextDelta, numbers, st.text(min_size=1)),
    st.builds(UtteranceDone, numbers, st.text(), usages),
    st.builds(ErrorOccurred, st.sampled_from([*ERROR_CODES, "x"]), st.text(), st.none() | numbers),
)


@given(st.lists(server_events, max_size=8))
def test_whatever_is_said_in_whatever_order_the_sdk_takes_it(events: list[ServerEvent]) -> None:
    sdk = pytest.importorskip("mistralai.extra.realtime.connection", reason="needs mistralai 3")
    for event in told(codec(), *events):
        assert FIELDS[event["type"]](event), event
        parsed = sdk.parse_realtime_event(event)
        assert type(parsed) is sdk._MESSAGE_MODELS[event["type"]], parsed


@given(
    encoding=st.sampled_from(ENCODINGS),
    rate=st.integers(8_000, 48_000),
    vad=st.none()
    | st.builds(ServerVad, st.floats(0.01, 0.99), st.just(300), st.integers(100, 10_000)),
)
def test_what_the_sdk_spells_is_what_is_asked_for(
    encoding: str, rate: int, vad: ServerVad | None
) -> None:
    models = pytest.importorskip("mistralai.client.models", reason="needs mistralai 3")
    turns = vad and {"start_threshold": vad.threshold, "min_silence_ms": vad.silence_duration_ms}
    payload = models.RealtimeTranscriptionSessionUpdatePayload.model_validate(
        {"audio_format": {"encoding": encoding, "sample_rate": rate}, "turn_detection": turns}
    )
    message = models.RealtimeTranscriptionSessionUpdateMessage(session=payload)
    assert codec().decode(message.model_dump_json()) == (
        Configure("", turn_detection=vad, audio_format=AudioFormat(encoding, rate)),
    )


def test_what_the_sdk_sends_is_taken() -> None:
    models = pytest.importorskip("mistralai.client.models", reason="needs mistralai 3")
    one = codec()
    payload = models.RealtimeTranscriptionSessionUpdatePayload.model_validate(
        {"turn_detection": {}, "audio_format": {"encoding": "pcm_mulaw", "sample_rate": 8_000}}
    )
    message = models.RealtimeTranscriptionSessionUpdateMessage(session=payload)
    assert one.decode(message.model_dump_json()) == (
        Configure("", turn_detection=ServerVad(), audio_format=AudioFormat("pcm_mulaw", 8_000)),
    )
    [updated] = told(one, SessionUpdated())
    assert updated["session"]["turn_detection"] == TURNS | {"end_timeout_ms": None}
    audio = models.RealtimeTranscriptionInputAudioAppend(audio="AAAA")
    assert one.decode(audio.model_dump_json()) == (Append(b"\0\0\0"),)
    flush = models.RealtimeTranscriptionInputAudioFlush().model_dump_json()
    end = models.RealtimeTranscriptionInputAudioEnd().model_dump_json()
    assert [*one.decode(flush), *one.decode(end)] == [Commit(final=True), Finish()]


def test_the_session_as_it_is_told() -> None:
    one = codec()
    one.decode(update(audio_format={"encoding": "pcm_alaw", "sample_rate": 8_000}))
    created, updated = told(one, SessionCreated(OPENING.session_id, 0), SessionUpdated())
    assert created["session"] == {
        "request_id": OPENING.session_id,
        "model": "voxtral",
        "audio_format": {"encoding": "pcm_s16le", "sample_rate": 16_000},
        "turn_detection": None,
    }
    assert updated["session"]["audio_format"] == {"encoding": "pcm_alaw", "sample_rate": 8_000}


@pytest.mark.parametrize(
    ("served", "asked", "shown"),
    [
        (("a", "b"), "b", "b"),
        (("a", "b"), "c", "a"),
        (("a", "b"), "", "a"),
        (("/models/a",), "c", "c"),
        (("/models/a",), "", "default"),
        ((), "", "default"),
    ],
)
def test_the_model_is_told_by_a_name_of_its_own(
    served: tuple[str, ...], asked: str, shown: str
) -> None:
    one = MistralCodec(Opening("sess-0", 0, served, requested_model=asked))
    [created] = told(one, SessionCreated("sess-0", 0))
    assert created["session"]["model"] == shown


def test_an_utterance_begins_without_a_space() -> None:
    one = codec()
    events = told(
        one,
        TextDelta(0, " "),
        TextDelta(0, " hello"),
        TextDelta(0, " there"),
        UtteranceDone(0, "  hello there", USAGE),
        TextDelta(1, " again"),
        UtteranceDone(1, " again", USAGE),
    )
    assert [event["text"] for event in events] == [
        "hello",
        " there",
        "hello there",
        "again",
        "again",
    ]
    assert events[-1] == {
        "type": "transcription.done",
        "model": "voxtral",
        "text": "again",
        "language": None,
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_audio_seconds": 4,
        },
    }


def test_an_empty_flush_has_one_done() -> None:
    [done] = told(codec(), UtteranceDone(0, "", Usage(0, 0, 0.0)))
    assert (done["type"], done["text"]) == ("transcription.done", "")


def test_segments_have_both_times_or_are_left_out_of_the_done() -> None:
    """LiveKit adds to both without asking whether they are there."""
    one = codec()
    one.decode(update(turn_detection={}))
    events = told(
        one,
        SpeechStarted(0, 1.0),
        Committed(0),
        UtteranceDone(0, " one", USAGE),
    )
    assert "segments" not in events[-1]


def test_turns_are_segments_of_one_done() -> None:
    one = codec()
    one.decode(update(turn_detection={}))
    events = told(
        one,
        SpeechStarted(0, 1.0),
        TextDelta(0, " one"),
        SpeechStopped(0, 2.0),
        Committed(0),
        SpeechStarted(1, 3.0),
        UtteranceDone(0, " one", USAGE),
        TextDelta(1, "two"),
        SpeechStopped(1, 4.0),
        UtteranceDone(1, "two", USAGE),
        UtteranceDone(2, "", Usage(1, 0, 0.4)),
        TextDelta(3, " three"),
        UtteranceDone(3, " three", USAGE),
    )
    assert [event["type"] for event in events] == [
        "turn.start",
        "transcription.text.delta",
        "turn.end",
        "turn.start",
        "transcription.segment",
        "transcription.text.delta",
        "turn.end",
        "transcription.segment",
        "transcription.done",
        "transcription.text.delta",
        "transcription.done",
    ]
    assert events[4] == {"type": "transcription.segment", "text": "one", "start": 1.0, "end": 2.0}
    done, last = events[8], events[10]
    assert (done["text"], last["text"]) == ("one two", "three")
    assert [one["text"] for one in done["segments"]] == ["one", "two"]
    assert done["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "total_tokens": 11,
        "prompt_audio_seconds": 9,
    }
    assert last["usage"]["prompt_audio_seconds"] == 4


def test_a_turn_that_stops_after_its_flush_still_has_its_done() -> None:
    one = codec()
    one.decode(update(turn_detection={}))
    events = told(
        one,
        SpeechStarted(0, 1.0),
        TextDelta(0, " one"),
        Committed(0),
        SpeechStopped(0, 2.0),
        UtteranceDone(0, " one", USAGE),
    )
    assert [event["type"] for event in events] == [
        "turn.start",
        "transcription.text.delta",
        "turn.end",
        "transcription.done",
    ]
    assert events[-1]["text"] == "one"


texts = st.lists(st.text(" \tab", min_size=1, max_size=4), max_size=4)


@given(st.lists(st.tuples(texts, st.booleans()), max_size=6))
def test_deltas_join_to_the_text(utterances: list[tuple[list[str], bool]]) -> None:
    one, joined = codec(), ""
    for number, (parts, of_a_turn) in enumerate(utterances):
        events: list[ServerEvent] = [TextDelta(number, part) for part in parts]
        if of_a_turn:
            events.append(SpeechStopped(number, 1.0))
        for event in told(one, *events, UtteranceDone(number, "".join(parts), USAGE)):
            if event["type"] == "transcription.text.delta":
                joined += event["text"]
            if event["type"] == "transcription.done":
                assert not of_a_turn
                assert event["text"] == joined
                joined = ""


def test_a_failed_utterance_leaves_nothing_behind() -> None:
    one = codec()
    events = told(
        one,
        TextDelta(0, " one"),
        ErrorOccurred("engine_error", "It failed.", 0),
        TextDelta(1, " two"),
        UtteranceDone(1, " two", USAGE),
    )
    assert events[1]["error"] == {"message": "It failed.", "code": 3801}
    assert [events[2]["text"], events[3]["text"]] == ["two", "two"]


@pytest.mark.parametrize("event", [Committed(0), Cleared(), Warned("cut", "It was cut.")])
def test_what_the_dialect_has_no_words_for(event: ServerEvent) -> None:
    assert told(codec(), event) == []


def test_every_error_has_a_number() -> None:
    kinds = {kind.code for kind in vars(errors).values() if _is_wire_error(kind)}
    assert kinds - {"ended"} == set(ERROR_CODES)
    assert all(3_000 <= code < 4_000 for code in ERROR_CODES.values())


def _is_wire_error(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, WireError)


def test_options_left_out_are_unset() -> None:
    [event] = codec().decode(update())
    assert isinstance(event, Configure)
    assert event.turn_detection is UNSET
    assert event.audio_format is UNSET
