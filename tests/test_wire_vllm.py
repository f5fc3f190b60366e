"""The vLLM dialect, both ends: what goes in comes out, and what is wrong is named."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from realtimed.errors import InvalidAudio, InvalidEvent, InvalidJson, UnknownEvent, WireError
from realtimed.wire import vllm
from realtimed.wire.events import (
    Append,
    ClientEvent,
    Commit,
    Configure,
    ErrorOccurred,
    ServerEvent,
    ServerVad,
    SessionCreated,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Usage,
    UtteranceDone,
    Warned,
    Word,
)

CLIENT_TYPES = ["session.update", "input_audio_buffer.append", "input_audio_buffer.commit"]
SERVER_TYPES = [
    "session.created",
    "transcription.delta",
    "transcription.done",
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "warning",
    "error",
]

turn_detections = st.builds(
    ServerVad,
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.integers(0, 5_000),
    st.integers(100, 10_000),
)
client_events: st.SearchStrategy[ClientEvent] = st.one_of(
    st.builds(
        Configure,
        st.text(),
        st.one_of(st.just(UNSET), st.none(), turn_detections),
        st.one_of(st.just(UNSET), st.frozensets(st.sampled_from(["words", "warnings"]))),
    ),
    st.builds(Append, st.binary(min_size=1)),
    st.builds(Commit, st.booleans()),
)
counts = st.integers(0, 2**40)
seconds = st.floats(0, 1e6, allow_nan=False)
times = st.integers(0, 10**9).map(lambda ms: ms / 1_000)
words = st.lists(st.builds(Word, st.text(), times, times), max_size=3).map(tuple)
server_events: st.SearchStrategy[ServerEvent] = st.one_of(
    st.builds(SessionCreated, st.text(), st.integers(0, 2**40)),
    st.builds(TextDelta, st.just(0), st.text(min_size=1)),
    st.builds(TextDelta, st.just(0), st.text(min_size=1), times, times),
    st.builds(
        UtteranceDone,
        st.just(0),
        st.text(),
        st.builds(Usage, counts, counts, seconds, times),
        st.one_of(st.none(), words),
    ),
    st.builds(SpeechStarted, st.just(0), times),
    st.builds(SpeechStopped, st.just(0), times),
    st.builds(Warned, st.text(min_size=1), st.text(), st.none()),
    st.builds(ErrorOccurred, st.text(min_size=1), st.text(), st.none()),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
fields = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        [
            *("model", "audio", "final", "turn_detection", "include", "session", "language"),
            *("id", "created", "delta", "text", "usage", "words", "start", "end", "error", "code"),
            *("warning", "audio_start_ms", "audio_end_ms"),
        ],
        json_values,
    ),
)


def typed(types: list[str]) -> st.SearchStrategy[str]:
    """Messages of a known type whose fields may be anything."""
    return st.builds(
        lambda kind, body: json.dumps({**body, "type": kind}), st.sampled_from(types), fields
    )


# --- round trips --------------------------------------------------------------------------


@given(client_events)
def test_client_events_survive_the_wire(event: ClientEvent) -> None:
    message = vllm.encode_client(event)
    assert vllm.decode_client(message) == event
    assert vllm.decode_client(message.decode()) == event


@given(server_events)
def test_server_events_survive_the_wire(event: ServerEvent) -> None:
    message = vllm.encode_server(event)
    assert vllm.decode_server(message) == event
    assert vllm.decode_server(message.decode()) == event


@given(st.text())
def test_text_stays_readable_and_in_one_line(text: str) -> None:
    message = vllm.encode_server(TextDelta(0, text))
    assert b"\n" not in message
    assert json.loads(message) == {"type": "transcription.delta", "delta": text}


# --- the bytes that vLLM 0.32 would have sent ---------------------------------------------


def test_server_events_have_the_fields_and_the_order_of_vllm() -> None:
    assert vllm.encode_server(SessionCreated("sess-0123456789abcdef", 1_700_000_000)) == (
        b'{"type":"session.created","id":"sess-0123456789abcdef","created":1700000000}'
    )
    assert (
        vllm.encode_server(TextDelta(0, " one")) == b'{"type":"transcription.delta","delta":" one"}'
    )
    assert vllm.encode_server(UtteranceDone(3, " one", Usage(39, 12, 1.5))) == (
        b'{"type":"transcription.done","text":" one","usage":{"prompt_tokens":39,'
        b'"total_tokens":51,"completion_tokens":12,"prompt_tokens_details":null,'
        b'"completion_tokens_details":null,"audio_seconds":1.5,"lag_seconds":0.0}}'
    )
    assert vllm.encode_server(ErrorOccurred("invalid_json", "No.")) == (
        b'{"type":"error","error":"No.","code":"invalid_json"}'
    )


def test_extensions_have_the_fields_of_the_documentation() -> None:
    assert vllm.encode_server(TextDelta(0, " one", 0.48, 0.7204)) == (
        b'{"type":"transcription.delta","delta":" one","start":0.48,"end":0.72}'
    )
    done = UtteranceDone(3, " one", Usage(39, 12, 1.5, 0.47961), (Word("one", 0.48, 0.7204),))
    assert vllm.encode_server(done) == (
        b'{"type":"transcription.done","text":" one","usage":{"prompt_tokens":39,'
        b'"total_tokens":51,"completion_tokens":12,"prompt_tokens_details":null,'
        b'"completion_tokens_details":null,"audio_seconds":1.5,"lag_seconds":0.48},'
        b'"words":[{"word":"one","start":0.48,"end":0.72}]}'
    )
    assert vllm.encode_server(SpeechStarted(3, 1.0239)) == (
        b'{"type":"input_audio_buffer.speech_started","audio_start_ms":1024}'
    )
    assert vllm.encode_server(SpeechStopped(3, 2.0)) == (
        b'{"type":"input_audio_buffer.speech_stopped","audio_end_ms":2000}'
    )
    assert vllm.encode_server(Warned("queued", "Wait.", 3)) == (
        b'{"type":"warning","warning":"Wait.","code":"queued"}'
    )
    bye = b'{"type":"warning","warning":"Bye.","code":"draining","deadline_s":9.5}'
    assert vllm.encode_server(Warned("draining", "Bye.", deadline_s=9.5)) == bye
    assert vllm.decode_server(bye) == Warned("draining", "Bye.", deadline_s=9.5)


def test_client_events_have_the_fields_that_vllm_documents() -> None:
    assert json.loads(vllm.encode_client(Configure("m"))) == {
        "type": "session.update",
        "model": "m",
    }
    assert json.loads(vllm.encode_client(Commit())) == {
        "type": "input_audio_buffer.commit",
        "final": False,
    }
    assert json.loads(vllm.encode_client(Append(b"\x00\xff"))) == {
        "type": "input_audio_buffer.append",
        "audio": "AP8=",
    }


def test_commit_without_final_begins_an_utterance() -> None:
    assert vllm.decode_client('{"type":"input_audio_buffer.commit"}') == Commit(final=False)


def test_model_may_be_the_empty_string() -> None:
    assert vllm.decode_client('{"type":"session.update","model":""}') == Configure("")


@given(
    st.one_of(st.builds(Append, st.binary(min_size=1)), st.builds(Commit, st.booleans())),
    st.dictionaries(st.text(), json_values),
)
def test_unknown_fields_of_audio_and_commits_are_ignored(
    event: ClientEvent, extra: dict[str, Any]
) -> None:
    message = {**extra, **json.loads(vllm.encode_client(event))}
    assert vllm.decode_client(json.dumps(message)) == event


# --- what is wrong with a client's message ------------------------------------------------


@pytest.mark.parametrize(
    "message", ["", "{", "nope", "\x00", '{"type":}', b"\xff", b'{"type":"\xff"}']
)
def test_no_json_is_invalid_json(message: str | bytes) -> None:
    with pytest.raises(InvalidJson):
        vllm.decode_client(message)


@pytest.mark.parametrize("message", ["[]", "null", "1", '"append"', "[{}]"])
def test_json_that_is_no_object_is_invalid_event(message: str) -> None:
    with pytest.raises(InvalidEvent):
        vllm.decode_client(message)


@pytest.mark.parametrize("kind", ["input_audio_buffer.clear", "", "session.created", "error"])
def test_other_types_are_unknown_events(kind: str) -> None:
    with pytest.raises(UnknownEvent):
        vllm.decode_client(json.dumps({"type": kind}))


@pytest.mark.parametrize("message", ["{}", '{"type":null}', '{"type":1}', '{"audio":"AAA="}'])
def test_an_object_without_a_type_is_an_unknown_event(message: str) -> None:
    with pytest.raises(UnknownEvent):
        vllm.decode_client(message)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "session.update"},
        {"type": "session.update", "model": None},
        {"type": "session.update", "model": 7},
        {"type": "session.update", "session": {"model": "nested as OpenAI has it"}},
        {"type": "input_audio_buffer.commit", "final": None},
        {"type": "input_audio_buffer.commit", "final": "true"},
        {"type": "input_audio_buffer.append"},
        {"type": "input_audio_buffer.append", "audio": None},
        {"type": "input_audio_buffer.append", "audio": [0, 1]},
    ],
)
def test_wrong_fields_are_invalid_events(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        vllm.decode_client(json.dumps(body))


@pytest.mark.parametrize("audio", ["", "A", "AAA", "AA==AA==", "AAA=\n", "!!!!", "AA-_", "é==="])
def test_audio_that_is_empty_or_not_strict_base64_is_invalid_audio(audio: str) -> None:
    with pytest.raises(InvalidAudio):
        vllm.decode_client(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))


@given(st.binary(min_size=1))
def test_standard_base64_is_taken(data: bytes) -> None:
    audio = base64.b64encode(data).decode()
    message = json.dumps({"type": "input_audio_buffer.append", "audio": audio})
    assert vllm.decode_client(message) == Append(data)


@pytest.mark.parametrize("field", ["type", "audio", "unheard_of"])
def test_an_event_nested_without_end_is_an_invalid_event(field: str) -> None:
    with pytest.raises(InvalidEvent, match="nested"):
        vllm.decode_client(f'{{"{field}":' + "[" * 100_000)


def test_text_that_utf_8_has_no_bytes_for_is_invalid_json() -> None:
    for decode in (vllm.decode_client, vllm.decode_server):
        with pytest.raises(InvalidJson):
            decode('{"type":"\ud800"}')


# --- what is wrong with a server's message ------------------------------------------------


@pytest.mark.parametrize(
    "message", ["", "{", "<html>", b"\xff", b'{"type":"error","error":"\xff"}']
)
def test_a_server_that_sends_no_json_is_told_so(message: str | bytes) -> None:
    with pytest.raises(InvalidJson):
        vllm.decode_server(message)


@pytest.mark.parametrize("message", ["[]", "null", "{}", '{"type":null}', '{"type":1}'])
def test_a_server_that_sends_no_event_is_told_so(message: str) -> None:
    with pytest.raises(InvalidEvent):
        vllm.decode_server(message)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "session.created"},
        {"type": "session.created", "id": "s", "created": "now"},
        {"type": "transcription.delta"},
        {"type": "transcription.delta", "delta": None},
        {"type": "transcription.done", "text": 1},
        {"type": "transcription.done", "text": "", "usage": "none"},
        {"type": "transcription.done", "text": "", "usage": {"prompt_tokens": "many"}},
        {"type": "transcription.delta", "delta": "a", "start": "now"},
        {"type": "transcription.done", "text": "a", "words": ["a"]},
        {"type": "input_audio_buffer.speech_started"},
        {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": "now"},
        {"type": "warning", "warning": None, "code": "queued"},
        {"type": "error", "error": {"message": "nested as OpenAI has it"}},
        {"type": "error", "error": "x", "code": 1},
    ],
)
def test_a_known_server_event_with_wrong_fields_is_invalid(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent, match="malformed " + body["type"].replace(".", r"\.")):
        vllm.decode_server(json.dumps(body))


@pytest.mark.parametrize("kind", ["session.updated", "", "input_audio_buffer.append", "x.y"])
def test_server_events_of_unknown_type_are_nothing(kind: str) -> None:
    assert vllm.decode_server(json.dumps({"type": kind, "audio": 1, "text": None})) is None


def test_a_done_without_usage_counts_nothing() -> None:
    done = vllm.decode_server('{"type":"transcription.done","text":"a"}')
    assert done == UtteranceDone(0, "a", Usage(0, 0, 0.0))


def test_vllms_own_usage_lacks_audio_seconds() -> None:
    done = vllm.decode_server(
        '{"type":"transcription.done","text":"a","usage":{"prompt_tokens":3,"total_tokens":3,'
        '"completion_tokens":null,"prompt_tokens_details":null,"completion_tokens_details":null}}'
    )
    assert done == UtteranceDone(0, "a", Usage(3, 0, 0.0))


def test_times_and_words_of_null_are_none() -> None:
    delta = vllm.decode_server('{"type":"transcription.delta","delta":"a","start":null,"end":null}')
    assert delta == TextDelta(0, "a")
    done = vllm.decode_server('{"type":"transcription.done","text":"a","words":null}')
    assert done == UtteranceDone(0, "a", Usage(0, 0, 0.0))


def test_an_error_without_a_code_is_a_processing_error() -> None:
    event = vllm.decode_server('{"type":"error","error":"x","code":null}')
    assert event == ErrorOccurred("processing_error", "x")


def test_a_server_event_nested_without_end_is_invalid() -> None:
    with pytest.raises(InvalidEvent, match="nested"):
        vllm.decode_server('{"type":"error","error":' + "[" * 100_000)


# --- nothing but the tree of wire errors --------------------------------------------------


def _decodes_or_says_why(message: str | bytes) -> None:
    for decode in (vllm.decode_client, vllm.decode_server):
        try:
            decode(message)
        except WireError as error:
            assert error.message
            assert "\n" not in error.message


@given(st.binary() | st.text())
def test_any_message_decodes_or_is_a_wire_error(message: str | bytes) -> None:
    _decodes_or_says_why(message)


@given(json_values)
def test_any_json_decodes_or_is_a_wire_error(value: Any) -> None:
    _decodes_or_says_why(json.dumps(value))


@given(typed(CLIENT_TYPES + SERVER_TYPES))
def test_known_types_with_any_fields_decode_or_are_wire_errors(message: str) -> None:
    _decodes_or_says_why(message)


@given(
    st.one_of(client_events.map(vllm.encode_client), server_events.map(vllm.encode_server)),
    st.data(),
)
def test_damaged_messages_decode_or_are_wire_errors(message: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(message) - 1))
    byte = data.draw(st.binary(max_size=2))
    _decodes_or_says_why(message[:at] + byte + message[at + 1 :])
