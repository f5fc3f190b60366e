"""OpenAI's dialect: its own SDK takes what we say, and we take what its clients say."""

import base64
import importlib
import json
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.beta.realtime.conversation_item_created_event import (
    ConversationItemCreatedEvent as BetaItemCreated,
)
from openai.types.realtime import (
    InputAudioBufferAppendEvent,
    RealtimeServerEvent,
    RealtimeTranscriptionSessionCreateRequest,
    RealtimeTranscriptionSessionCreateResponse,
    SessionUpdateEvent,
)
from openai.types.realtime.realtime_audio_formats import AudioPCM, AudioPCMA, AudioPCMU
from pydantic import BaseModel, TypeAdapter, create_model

from realtimed.errors import (
    EngineFailed,
    InvalidAudio,
    InvalidEvent,
    InvalidJson,
    ModelNotFound,
    UnknownEvent,
    UnsupportedOption,
    WireError,
)
from realtimed.wire.codec import Opening
from realtimed.wire.events import (
    LOGPROBS,
    Append,
    AudioFormat,
    Clear,
    Cleared,
    Commit,
    Committed,
    Configure,
    ErrorOccurred,
    ServerEvent,
    ServerVad,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TokenLogprob,
    Usage,
    UtteranceDone,
    Warned,
)
from realtimed.wire.logprobs import fitted
from realtimed.wire.openai import OpenAICodec
from realtimed.wire.openai_beta import OpenAIBetaCodec

PCM = AudioFormat("pcm_s16le", 24_000)
USAGE = Usage(10, 4, 1.5)
HELLO = SessionCreated("sess-0123456789abcdef", 1_700_000_000)
LONE_SURROGATE = "\ud800"


def sdk_types() -> dict[str, type[BaseModel]]:
    """Each event class of the SDK by its `type`."""
    union = RealtimeServerEvent.__origin__  # type: ignore[attr-defined]
    return {member.model_fields["type"].annotation.__args__[0]: member for member in union.__args__}


SDK = sdk_types()
BETA = importlib.import_module("openai.types.beta.realtime")


def beta_sdk_types() -> dict[str, type[BaseModel]]:
    """The same of the beta; its greeting is not in its union, but has the type of the update."""
    kinds = {
        member.model_fields["type"].annotation.__args__[0]: member
        for member in BETA.RealtimeServerEvent.__origin__.__args__
    }
    updated = kinds["transcription_session.updated"]
    created = create_model(
        "Created", __base__=updated, type=(Literal["transcription_session.created"], ...)
    )
    return {**kinds, "transcription_session.created": created}


BETA_SDK = beta_sdk_types()


def opening(model: str = "", *, strict: bool = False) -> Opening:
    return Opening("sess-0123456789abcdef", 1_700_000_000, ("voxtral", "/m"), model, strict)


def codec(model: str = "", *, strict: bool = False) -> OpenAICodec:
    return OpenAICodec(opening(model, strict=strict))


def update(*, event_id: str | None = None, **audio_input: Any) -> str:
    session = {"type": "transcription", "audio": {"input": audio_input}}
    return message("session.update", event_id=event_id, session=session)


def message(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def configured(dialect: OpenAICodec, text: str) -> Configure:
    [event] = dialect.decode(text)
    assert isinstance(event, Configure)
    return event


def said(dialect: OpenAICodec, *events: ServerEvent) -> list[dict[str, Any]]:
    """What the dialect says, each message held against the SDK's type and free of extras."""
    messages = [json.loads(text) for event in events for text in dialect.encode(event)]
    for one in messages:
        kind = SDK[one["type"]]
        parsed = kind.model_validate(one, strict=True)
        assert not parsed.model_extra
        assert one["event_id"]
    return messages


def refused(dialect: OpenAICodec, text: str | bytes) -> WireError:
    with pytest.raises(WireError) as info:
        dialect.decode(text)
    return info.value


def told(dialect: OpenAICodec, error: WireError) -> dict[str, Any]:
    [one] = said(dialect, ErrorOccurred(error.code, error.message))
    body: dict[str, Any] = one["error"]
    return body


# --- what holds from the beginning --------------------------------------------------------


def test_begins_with_turns_on_24_khz_pcm() -> None:
    assert codec().configuration() == Configure("", ServerVad(), frozenset(), audio_format=PCM)


@pytest.mark.parametrize("model", ["gpt-realtime-whisper", "gpt-live-transcribe-2"])
def test_models_without_vad_begin_without_turns(model: str) -> None:
    assert codec(model).configuration().turn_detection is None


def test_only_strict_names_insist_on_the_model() -> None:
    assert codec("gpt-4o-transcribe").configuration().model == ""
    assert codec("voxtral", strict=True).configuration().model == "voxtral"
    assert codec("other", strict=True).configuration().model == "other"


# --- what clients send --------------------------------------------------------------------


def test_livekit() -> None:
    dialect = codec("gpt-4o-mini-transcribe")
    asked = configured(
        dialect,
        update(
            format={"type": "audio/pcm", "rate": 24000},
            transcription={"model": "gpt-4o-mini-transcribe", "language": "en", "prompt": ""},
            turn_detection={
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": 600,
                "silence_duration_ms": 350,
            },
            noise_reduction={"type": "near_field"},
        ),
    )
    assert asked == Configure("", ServerVad(0.5, 600, 350), frozenset(), audio_format=PCM)
    [answer] = said(dialect, SessionUpdated())
    heard = answer["session"]["audio"]["input"]
    assert heard["transcription"]["language"] == "en"
    assert heard["noise_reduction"] == {"type": "near_field"}
    assert heard["turn_detection"]["prefix_padding_ms"] == 600


def test_livekit_with_its_own_vad_never_mentions_turns() -> None:
    asked = configured(codec(), update(transcription={"model": "gpt-realtime-whisper"}))
    assert asked.turn_detection is None


def test_turns_that_were_chosen_stay_whatever_the_model() -> None:
    dialect = codec()
    dialect.decode(update(turn_detection={"type": "server_vad", "threshold": 0.7}))
    asked = configured(dialect, update(transcription={"model": "gpt-realtime-whisper"}))
    assert asked.turn_detection == ServerVad(0.7)


def test_pipecat() -> None:
    dialect = codec()
    audio = base64.b64encode(b"\0\1" * 480).decode()
    assert dialect.decode(message("input_audio_buffer.append", audio=audio)) == (
        Append(b"\0\1" * 480),
    )
    asked = configured(
        dialect,
        update(
            format={"type": "audio/pcm", "rate": 24000},
            transcription={"model": "gpt-realtime-whisper", "delay": "low", "keywords": ["a"]},
            turn_detection=None,
        ),
    )
    assert asked.turn_detection is None
    assert dialect.decode(message("input_audio_buffer.commit")) == (Commit(final=True),)


def test_what_needs_no_answer() -> None:
    dialect = codec()
    assert dialect.decode(message("input_audio_buffer.append", audio="")) == ()
    assert dialect.decode(message("input_audio_buffer.clear", event_id="e")) == (Clear(),)
    for kind in ("response.create", "conversation.item.create", "output_audio_buffer.clear"):
        assert dialect.decode(message(kind, item={"a": [1]})) == ()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"type": "audio/pcm", "rate": 24000}, PCM),
        ({"type": "audio/pcm"}, PCM),
        ({"type": "audio/pcm", "rate": 16000}, AudioFormat("pcm_s16le", 16_000)),
        ({"type": "audio/pcmu"}, AudioFormat("pcm_mulaw", 8_000)),
        ({"type": "audio/pcma"}, AudioFormat("pcm_alaw", 8_000)),
        (None, PCM),
    ],
)
def test_formats_are_read_and_echoed(given: Any, read: AudioFormat) -> None:
    dialect = codec()
    dialect.decode(update(format={"type": "audio/pcmu"}))
    dialect.encode(SessionUpdated())
    assert configured(dialect, update(format=given)).audio_format == read
    [answer] = [json.loads(text) for text in dialect.encode(SessionUpdated())]
    echo = answer["session"]["audio"]["input"]["format"]
    assert echo == (given if given and len(given) > 1 else echo)
    assert configured(codec(), update(format=echo)).audio_format == read


def test_only_what_is_present_changes_and_null_clears() -> None:
    dialect = codec()
    dialect.decode(update(transcription={"model": "m", "language": "de"}, format=None))
    dialect.decode(update(transcription={"prompt": "Hallo"}))
    dialect.decode(update(turn_detection={"type": "server_vad", "silence_duration_ms": 900}))
    dialect.decode(update(turn_detection={"type": "server_vad", "threshold": 0.25}))
    dialect.decode(message("session.update", session={"include": ["nonsense"], "audio": None}))
    dialect.decode(update(noise_reduction=None, transcription=None))
    answers = said(dialect, *[SessionUpdated()] * 6)
    inputs = [one["session"]["audio"]["input"] for one in answers]
    assert inputs[1]["transcription"] == {"model": "m", "language": "de", "prompt": "Hallo"}
    assert inputs[3]["turn_detection"]["silence_duration_ms"] == 900
    assert inputs[3]["turn_detection"]["threshold"] == 0.25
    assert answers[4]["session"]["include"] == []
    assert inputs[4]["transcription"] is not None
    assert inputs[5]["transcription"] is None


def test_semantic_vad_is_served_by_turns_and_says_so() -> None:
    dialect = codec()
    asked = configured(dialect, update(turn_detection={"type": "semantic_vad", "eagerness": "low"}))
    assert asked.turn_detection == ServerVad()
    [answer] = said(dialect, SessionUpdated())
    assert answer["session"]["audio"]["input"]["turn_detection"]["type"] == "server_vad"


def test_values_beyond_what_is_served_are_drawn_to_it() -> None:
    asked = configured(
        codec(),
        update(
            turn_detection={
                "type": "server_vad",
                "threshold": 1,
                "prefix_padding_ms": 1e300,
                "silence_duration_ms": 0,
            }
        ),
    )
    assert asked.turn_detection == ServerVad(0.99, 5_000, 100)


def test_long_echoes_are_cut() -> None:
    dialect = codec()
    long = "x" * 100_000
    dialect.decode(update(transcription={"prompt": long, "keywords": [long] * 1_000}))
    [answer] = dialect.encode(SessionUpdated())
    assert len(answer) < 20_000


# --- what is wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{", InvalidJson),
        (LONE_SURROGATE, InvalidJson),
        (b'{"type":"session.update","session":{"type":"\xff"}}', InvalidJson),
        ("[]", InvalidEvent),
        ("{}", UnknownEvent),
        (message("transcription.delta"), UnknownEvent),
        (message("input_audio_buffer.append"), InvalidEvent),
        (message("input_audio_buffer.append", audio="a?=="), InvalidAudio),
        (message("session.update", model="voxtral"), InvalidEvent),
        (message("session.update", session=None), InvalidEvent),
        (message("session.update", session={"type": "realtime"}), UnsupportedOption),
        (message("session.update", session={"include": [1]}), InvalidEvent),
        ('{"type":"session.update","session":{"a":' + "[" * 100_000, InvalidEvent),
        (update(format={"type": "audio/opus"}), UnsupportedOption),
        (update(format={"type": "audio/pcm", "rate": 7999}), UnsupportedOption),
        (update(format={"type": "audio/pcm", "channels": 2}), UnsupportedOption),
        (update(turn_detection={"type": "magic"}), UnsupportedOption),
        (update(turn_detection={"type": "server_vad", "threshold": 2}), InvalidEvent),
        (update(turn_detection={"type": "server_vad", "prefix_padding_ms": -1}), InvalidEvent),
        (update(transcription={"language": 7}), InvalidEvent),
    ],
)
def test_what_is_wrong_is_named_in_one_line(text: str | bytes, kind: type[WireError]) -> None:
    error = refused(codec(), text)
    assert type(error) is kind
    assert error.message.isprintable()
    assert len(error.message) < 300


def test_a_refused_update_changes_nothing() -> None:
    dialect = codec()
    before = dialect.configuration()
    refused(dialect, update(format={"type": "audio/pcmu"}, turn_detection={"type": "magic"}))
    assert dialect.configuration() == before


def test_strict_names_refuse_other_models_and_keep_the_last() -> None:
    dialect = codec(strict=True)
    asked = update(event_id="mine", transcription={"model": "gpt-4o-transcribe"})
    error = refused(dialect, asked)
    assert type(error) is ModelNotFound
    assert told(dialect, error)["event_id"] == "mine"
    assert configured(dialect, update(transcription={"model": "voxtral"})).model == "voxtral"
    assert configured(dialect, update(turn_detection=None)).model == "voxtral"


def test_errors_name_the_message_they_answer_and_no_other() -> None:
    dialect = codec()
    first = refused(dialect, message("nonsense", event_id="one"))
    second = refused(dialect, message("input_audio_buffer.append", audio="?", event_id="two"))
    third = refused(dialect, message("nonsense"))
    assert told(dialect, EngineFailed("Not about a message."))["event_id"] is None
    assert [told(dialect, error)["event_id"] for error in (first, second, third)] == [
        "one",
        "two",
        None,
    ]
    assert told(dialect, first)["event_id"] is None


def test_errors_tell_whose_mistake_it_was() -> None:
    dialect = codec()
    assert told(dialect, InvalidAudio("x"))["type"] == "invalid_request_error"
    assert told(dialect, EngineFailed("x"))["type"] == "server_error"


@given(st.binary() | st.text())
def test_any_message_is_an_event_or_a_wire_error(text: bytes | str) -> None:
    for dialect in (codec(), OpenAIBetaCodec(opening())):
        try:
            dialect.decode(text)
        except WireError as error:
            assert error.message.isprintable()


@given(st.binary(min_size=1), st.sampled_from([OpenAICodec, OpenAIBetaCodec]))
def test_audio_comes_through(audio: bytes, kind: type[OpenAICodec]) -> None:
    sent = InputAudioBufferAppendEvent(
        type="input_audio_buffer.append", audio=base64.b64encode(audio).decode()
    )
    assert kind(opening()).decode(sent.model_dump_json()) == (Append(audio),)


sdk_formats: Any = st.sampled_from(
    [
        (AudioPCM(type="audio/pcm", rate=24_000), PCM),
        (AudioPCMU(type="audio/pcmu"), AudioFormat("pcm_mulaw", 8_000)),
        (AudioPCMA(type="audio/pcma"), AudioFormat("pcm_alaw", 8_000)),
    ]
)
server_vads = st.builds(
    ServerVad,
    st.floats(0.01, 0.99),
    st.integers(0, 5_000),
    st.integers(100, 10_000),
)


@given(audio_format=sdk_formats, vad=st.none() | server_vads, logprobs=st.booleans())
def test_what_the_sdk_spells_is_what_is_asked_for(
    audio_format: tuple[Any, AudioFormat], vad: ServerVad | None, logprobs: bool
) -> None:
    given_, wanted = audio_format
    detection = None if vad is None else {"type": "server_vad", **msgspec.structs.asdict(vad)}
    session = RealtimeTranscriptionSessionCreateRequest.model_validate(
        {
            "type": "transcription",
            "audio": {"input": {"format": given_.model_dump(), "turn_detection": detection}},
            "include": ["item.input_audio_transcription.logprobs"] if logprobs else None,
        }
    )
    sent = SessionUpdateEvent(type="session.update", session=session)
    include = frozenset({LOGPROBS} if logprobs else ())
    assert configured(codec(), sent.model_dump_json(exclude_unset=True)) == Configure(
        "", vad, include, audio_format=wanted
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def some(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    known = st.fixed_dictionaries({}, optional=members)
    return known | json_values


texts = st.text(max_size=8) | json_values
transcriptions = some(model=texts, language=texts, prompt=texts, keywords=st.lists(texts))
vads = some(
    type=st.sampled_from(["server_vad", "semantic_vad"]) | texts,
    threshold=st.floats(-0.5, 1.5),
    prefix_padding_ms=json_values,
    silence_duration_ms=st.integers(-1, 20_000),
)
formats = some(type=st.sampled_from(["audio/pcm", "audio/pcmu", "audio/pcma"]), rate=json_values)
inputs = some(
    transcription=transcriptions, turn_detection=vads, format=formats, noise_reduction=json_values
)
updates = st.builds(
    lambda session, event_id: message("session.update", session=session, event_id=event_id),
    some(include=json_values, audio=some(input=inputs)),
    json_values,
)


@settings(max_examples=60)
@given(st.lists(updates, max_size=4))
def test_any_update_is_answered_once_with_a_session_that_can_be_spelt(texts: list[str]) -> None:
    dialect = codec()
    for text in texts:
        try:
            asked = configured(dialect, text)
        except WireError as error:
            assert error.message.isprintable()
            assert told(dialect, error)["code"] == error.code
            continue
        [answer] = [json.loads(one) for one in dialect.encode(SessionUpdated())]
        echoed = answer["session"]["audio"]["input"]
        again = codec()
        repeated = configured(again, update(**{k: echoed[k] for k in ("format", "turn_detection")}))
        assert repeated.audio_format == asked.audio_format
        assert repeated.turn_detection == asked.turn_detection


# --- what the server says -----------------------------------------------------------------


numbers = st.integers(0, 3)
seconds = st.floats(0, 1e6)
spoken = st.builds(TokenLogprob, st.text(min_size=1), st.floats(-50, 0))
usages = st.builds(Usage, st.integers(0), st.integers(0), seconds)
server_events = st.one_of(
    st.just(HELLO),
    st.builds(SessionUpdated),
    st.builds(Cleared),
    st.builds(Committed, numbers),
    st.builds(SpeechStarted, numbers, seconds),
    st.builds(SpeechStopped, numbers, seconds),
    st.builds(
        TextDelta,
        numbers,
        st.text(min_size=1),
        logprobs=st.none() | st.lists(spoken, max_size=3).map(tuple),
    ),
    st.builds(UtteranceDone, numbers, st.text(), usages),
    st.builds(ErrorOccurred, st.sampled_from(["invalid_audio", "x"]), st.text(), st.none()),
    st.builds(ErrorOccurred, st.just("engine_error"), st.text(), numbers),
    st.builds(Warned, st.just("queued"), st.text()),
)


@given(st.lists(server_events, max_size=8))
def test_whatever_is_said_in_whatever_order_the_sdk_takes_it(events: list[ServerEvent]) -> None:
    said(codec(), *events)
    beta = OpenAIBetaCodec(opening("whisper-1"))  # one of the names that its types allow
    for one in [json.loads(text) for event in events for text in beta.encode(event)]:
        kind = BETA_SDK[one["type"]]
        if one["type"].startswith("transcription_session."):
            one["session"]["client_secret"] = {"expires_at": 0, "value": ""}  # REST's alone
        kind.model_validate(one, strict=True)


def test_the_session_object_is_the_sdks() -> None:
    [hello] = said(codec("gpt-4o-transcribe"), HELLO)
    session = hello["session"]
    assert session["id"] == "sess_0123456789abcdef"
    assert session["object"] == "realtime.transcription_session"
    assert session["audio"]["input"]["transcription"] == {"model": "gpt-4o-transcribe"}
    for kind in (
        RealtimeTranscriptionSessionCreateResponse,
        RealtimeTranscriptionSessionCreateRequest,
    ):
        kind.model_validate(session, strict=True)
    parsed = TypeAdapter(SDK["session.created"]).validate_python(hello)
    assert type(parsed.session) is RealtimeTranscriptionSessionCreateRequest  # type: ignore[attr-defined]


def test_the_served_model_is_named_and_its_path_is_not() -> None:
    [hello] = said(codec(), HELLO)
    assert hello["session"]["audio"]["input"]["transcription"]["model"] == "voxtral"
    unnamed = OpenAICodec(Opening("sess-0", 0, ("/m",)))
    assert b"/m" not in unnamed.encode(HELLO)[0]


def test_a_turn() -> None:
    dialect = codec()
    heard = said(
        dialect,
        SpeechStarted(0, 1.0),
        TextDelta(0, " Hello"),
        SpeechStopped(0, 2.0),
        Committed(0),
        TextDelta(0, " world."),
        UtteranceDone(0, " Hello world.", USAGE),
    )
    assert [one["type"] for one in heard] == [
        "input_audio_buffer.speech_started",
        "conversation.item.input_audio_transcription.delta",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "conversation.item.done",
    ]
    assert heard[0]["audio_start_ms"] == 700
    assert heard[2]["audio_end_ms"] == 2_000
    assert heard[6]["transcript"] == "Hello world."
    assert heard[6]["usage"] == {
        "type": "tokens",
        "input_tokens": 10,
        "output_tokens": 4,
        "total_tokens": 14,
    }
    assert heard[7]["item"]["content"] == [{"type": "input_audio", "transcript": "Hello world."}]
    items = {one.get("item_id") or one["item"]["id"] for one in heard}
    assert len(items) == 1
    assert len({one["event_id"] for one in heard}) == len(heard)


def test_padding_never_reaches_before_the_session() -> None:
    [one] = said(codec(), SpeechStarted(0, 0.1))
    assert one["audio_start_ms"] == 0


def test_items_are_chained_in_the_order_of_commits() -> None:
    dialect = codec()
    heard = said(dialect, *[Committed(number) for number in (0, 2, 5)])
    heard += said(dialect, *[UtteranceDone(number, "", USAGE) for number in (0, 2, 5)])
    for kind in ("conversation.item.added", "conversation.item.done"):
        chain = [one for one in heard if one["type"] == kind]
        ids = [one["item"]["id"] for one in chain]
        assert [one["previous_item_id"] for one in chain] == [None, *ids[:-1]]
    committed = [one for one in heard if one["type"] == "input_audio_buffer.committed"]
    assert [one["previous_item_id"] for one in committed] == [None, *ids[:-1]]


def test_an_utterance_that_fails() -> None:
    heard = said(codec(), Committed(0), ErrorOccurred("engine_error", "It failed.", 0))
    failed = heard[-1]
    assert failed["type"] == "conversation.item.input_audio_transcription.failed"
    assert failed["item_id"] == heard[0]["item_id"]
    assert failed["error"]["type"] == "server_error"
    assert failed["error"]["code"] == "engine_error"


def test_warnings_have_no_words() -> None:
    assert codec().encode(Warned("queued", "Wait.")) == []


@given(st.lists(st.text(alphabet=" ab\n", min_size=1)))
def test_deltas_join_to_the_transcript(pieces: list[str]) -> None:
    dialect = codec()
    deltas = said(dialect, *[TextDelta(3, piece) for piece in pieces])
    [completed, _] = said(dialect, UtteranceDone(3, "".join(pieces), USAGE))
    assert "".join(one["delta"] for one in deltas) == completed["transcript"]
    assert all(one["delta"] for one in deltas)
    assert not completed["transcript"][:1].isspace()


def test_logprobs_are_asked_for_and_told_with_the_deltas_and_the_end() -> None:
    dialect = codec()
    include = ["item.input_audio_transcription.logprobs"]
    for names, asked in ((include, {LOGPROBS}), (None, set()), (include, {LOGPROBS})):
        text = message("session.update", session={"type": "transcription", "include": names})
        assert configured(dialect, text).include == asked
    first = (TokenLogprob(" ", -3.0), TokenLogprob(" Grü", -0.5), TokenLogprob("ße", 0.0))
    second = (TokenLogprob(" an", -0.25),)
    heard = said(
        dialect,
        TextDelta(0, "  Grüße", logprobs=first),
        TextDelta(0, " an", logprobs=second),
        UtteranceDone(0, "  Grüße an", USAGE),
    )
    assert heard[0]["logprobs"] == [
        {"token": "Grü", "bytes": [71, 114, 195, 188], "logprob": -0.5},
        {"token": "ße", "bytes": [195, 159, 101], "logprob": 0.0},
    ]
    assert heard[2]["logprobs"] == heard[0]["logprobs"] + heard[1]["logprobs"]
    later = said(dialect, TextDelta(1, "no"), UtteranceDone(1, "no", USAGE))
    assert all("logprobs" not in one for one in later)


tokens = st.lists(st.builds(TokenLogprob, st.text(" ab", min_size=1), st.floats(-9, 0)))


@given(tokens, st.sampled_from(["", " ", "  "]))
def test_tokens_are_fitted_to_text_that_begins_with_other_space(
    given_: list[TokenLogprob], space: str
) -> None:
    body = "".join(one.token for one in given_).lstrip()
    text = space + body if body else ""
    told = fitted(given_, text)
    assert "".join(one.token for one in told) == text
    assert [one.logprob for one in told] == [one.logprob for one in given_][
        len(given_) - len(told) :
    ]


def test_ended_utterances_are_forgotten() -> None:
    dialect = codec()
    for number in range(0, 30, 3):
        cancelled, failed, done = number, number + 1, number + 2
        dialect.encode(TextDelta(cancelled, "never said"))
        dialect.encode(Cleared())
        for utterance in (failed, done):
            dialect.encode(TextDelta(utterance, "said"))
            dialect.encode(Committed(utterance))
        dialect.encode(Cleared())
        assert set(dialect._utterances) == {failed, done}
        dialect.encode(ErrorOccurred("engine_error", "It failed.", failed))
        dialect.encode(UtteranceDone(done, "said", USAGE))
    assert not dialect._utterances


def test_another_greeting_of_the_same_session_is_no_other_event() -> None:
    assert codec().encode(HELLO) == codec().encode(HELLO)
    first, second = said(codec(), HELLO, Cleared())
    assert first["event_id"] != second["event_id"]


# --- the beta shape -----------------------------------------------------------------------


def beta_update(**session: Any) -> str:
    return message("transcription_session.update", session=session, event_id="mine")


def test_beta_session() -> None:
    dialect = OpenAIBetaCodec(opening())
    asked = configured(
        dialect,
        beta_update(
            input_audio_format="g711_alaw",
            input_audio_transcription={"model": "whisper-1", "language": "en"},
            turn_detection={"type": "server_vad", "silence_duration_ms": 350},
            input_audio_noise_reduction={"type": "far_field"},
            modalities=["text"],
            client_secret={},
        ),
    )
    assert asked == Configure(
        "", ServerVad(0.5, 300, 350), frozenset(), audio_format=AudioFormat("pcm_alaw", 8_000)
    )
    [text] = dialect.encode(SessionUpdated())
    answer = json.loads(text)
    updated = importlib.import_module(
        "openai.types.beta.realtime.transcription_session_updated_event"
    ).TranscriptionSessionUpdatedEvent
    secret = {"client_secret": {"expires_at": 0, "value": ""}}  # REST only, yet not optional
    updated.model_validate({**answer, "session": {**answer["session"], **secret}}, strict=True)
    assert answer["session"]["input_audio_format"] == "g711_alaw"


def test_beta_events() -> None:
    dialect = OpenAIBetaCodec(opening())
    events: list[ServerEvent] = [HELLO, Committed(0), UtteranceDone(0, " Hi.", USAGE)]
    heard = [json.loads(text) for event in events for text in dialect.encode(event)]
    assert [one["type"] for one in heard] == [
        "transcription_session.created",
        "input_audio_buffer.committed",
        "conversation.item.created",
        "conversation.item.input_audio_transcription.completed",
    ]
    BetaItemCreated.model_validate(heard[2], strict=True)


def test_beta_errors_are_named() -> None:
    dialect = OpenAIBetaCodec(opening())
    error = refused(dialect, beta_update(input_audio_format="opus"))
    assert type(error) is UnsupportedOption
    assert told(dialect, error)["event_id"] == "mine"
    assert type(refused(dialect, beta_update(turn_detection=7))) is InvalidEvent
    asked = configured(dialect, beta_update(turn_detection=None))
    assert asked.turn_detection is None
