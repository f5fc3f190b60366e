"""The options of `session.update`: what is served is read, and what is not is refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from realtimed.errors import InvalidEvent, InvalidJson, UnsupportedOption, WireError
from realtimed.wire import vllm
from realtimed.wire.events import Configure, ServerVad

VAD = {"type": "server_vad"}


def update(**fields: Any) -> Any:
    return vllm.decode_client(json.dumps({"type": "session.update", "model": "m", **fields}))


def refused(error: type[WireError], **fields: Any) -> str:
    with pytest.raises(error) as caught:
        update(**fields)
    assert "\n" not in caught.value.message
    return caught.value.message


# --- what is served -----------------------------------------------------------------------


def test_what_is_not_mentioned_stays_as_it_is() -> None:
    assert update() == Configure("m", UNSET, UNSET)


def test_null_switches_turn_detection_off() -> None:
    assert update(turn_detection=None) == Configure("m", None)


def test_the_defaults_of_server_vad_are_those_of_openai() -> None:
    assert update(turn_detection=VAD) == Configure("m", ServerVad(0.5, 300, 500))


def test_every_member_of_server_vad_is_read() -> None:
    members = {"threshold": 0.7, "prefix_padding_ms": 0, "silence_duration_ms": 100}
    assert update(turn_detection={**VAD, **members}) == Configure("m", ServerVad(0.7, 0, 100))


def test_what_openais_clients_say_of_replies_is_taken_if_it_says_no() -> None:
    no = {"create_response": False, "interrupt_response": None, "idle_timeout_ms": None}
    assert update(turn_detection={**VAD, **no}) == Configure("m", ServerVad())


@pytest.mark.parametrize("names", [[], ["words"], ["warnings", "words"], ["words", "words"]])
def test_include_is_a_set_of_known_names(names: list[str]) -> None:
    assert update(include=names) == Configure("m", include=frozenset(names))


def test_include_null_includes_nothing() -> None:
    assert update(include=None) == Configure("m", include=frozenset())


@pytest.mark.parametrize("value", [None, "", [], {}])
@pytest.mark.parametrize(
    "name",
    [
        "language",
        "prompt",
        "timestamp_granularities",
        "timestamp_granularities[]",
        "hotwords",
        "temperature",
    ],
)
def test_a_field_that_asks_for_nothing_is_no_question(name: str, value: Any) -> None:
    assert update(**{name: value}, event_id="e1") == Configure("m")


# --- what is wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{}, {"threshold": 0.5}, {"type": None}, {"type": 1}, "", [], 1])
def test_turn_detection_without_a_type_is_invalid(value: Any) -> None:
    assert "`turn_detection`" in refused(InvalidEvent, turn_detection=value)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("threshold", [0, 1, -0.1, 1.1, "0.5", None, True], "a number above 0 and below 1"),
        ("prefix_padding_ms", [-1, 5_001, 0.5, "300", None, False], "an integer from 0 to 5000"),
        ("silence_duration_ms", [99, 10_001, 500.5, [], None], "an integer from 100 to 10000"),
    ],
)
def test_a_member_out_of_its_range_is_invalid(name: str, values: list[Any], expected: str) -> None:
    for value in values:
        message = refused(InvalidEvent, turn_detection={**VAD, name: value})
        assert message == f"Invalid field: `turn_detection.{name}` must be {expected}."


@pytest.mark.parametrize("value", ["words", {"words": True}, [1], [["words"]], 1, True])
def test_include_that_is_no_list_of_strings_is_invalid(value: Any) -> None:
    assert "`include`" in refused(InvalidEvent, include=value)


# --- what is not served -------------------------------------------------------------------


def test_another_way_to_detect_turns_is_refused_by_name() -> None:
    message = refused(
        UnsupportedOption, turn_detection={"type": "semantic_vad", "eagerness": "low"}
    )
    assert "`semantic_vad`" in message
    assert "server_vad" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("create_response", True),
        ("interrupt_response", True),
        ("idle_timeout_ms", 0),
        ("eagerness", None),
        ("thresold", 0.5),
    ],
)
def test_an_unknown_member_of_server_vad_is_refused_by_name(name: str, value: Any) -> None:
    message = refused(UnsupportedOption, turn_detection={**VAD, name: value})
    assert f"`turn_detection.{name}`" in message


def test_an_unknown_name_to_include_is_refused_by_name() -> None:
    name = "item.input_audio_transcription.logprobs"
    message = refused(UnsupportedOption, include=["words", name])
    assert f"`{name}`" in message
    assert "words, warnings" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("language", "en"),
        ("prompt", "Acme"),
        ("temperature", 0),
        ("hotwords", ["Acme"]),
        ("timestamp_granularities[]", ["word"]),
        ("session", {"model": "m"}),
        ("audio", None),
        ("", ""),
    ],
)
def test_another_field_is_refused_by_name(name: str, value: Any) -> None:
    message = refused(UnsupportedOption, **{name: value})
    assert f"`{name}`" in message
    assert "model, turn_detection and include" in message


@given(st.text())
def test_a_name_is_shown_in_one_short_line(name: str) -> None:
    try:
        update(**{name: 1})
    except WireError as error:
        assert len(error.message) < 200
        assert "\n" not in error.message


@given(st.text().filter(lambda name: name not in ("type", "model", "event_id", "include")))
def test_every_unknown_field_is_refused(name: str) -> None:
    with pytest.raises(WireError) as caught:
        update(**{name: 1})
    assert isinstance(caught.value, UnsupportedOption) or name == "turn_detection"


# --- before all that ----------------------------------------------------------------------


def test_an_update_as_openai_nests_it_lacks_a_model() -> None:
    body = {"type": "session.update", "session": {"model": "m", "turn_detection": VAD}}
    with pytest.raises(InvalidEvent, match="Missing required field: model"):
        vllm.decode_client(json.dumps(body))


@pytest.mark.parametrize(
    "value", [b'"\xff"', rb'"\ud800"', b"1e999999"], ids=["bytes", "surrogate", "infinite"]
)
def test_a_value_that_no_json_reader_takes_is_invalid_json(value: bytes) -> None:
    with pytest.raises(InvalidJson):
        vllm.decode_client(b'{"type":"session.update","model":"m","prompt":' + value + b"}")


def test_an_option_nested_without_end_is_invalid() -> None:
    with pytest.raises(InvalidEvent, match="nested"):
        vllm.decode_client('{"type":"session.update","model":"m","x":' + "[" * 100_000)
