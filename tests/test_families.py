"""Which models are served how, and what a session may ask of them."""

import ast
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec import UNSET

from realtimed.engine import families
from realtimed.engine.families import SEGMENTED, STREAMING, Mode
from realtimed.errors import EngineStartError, InvalidEvent, UnsupportedOption
from realtimed.wire.codec import Opening
from realtimed.wire.events import NO_GUIDANCE, Configure, Guidance
from realtimed.wire.guidance import NAMES, Served, changed, to_wire, wished
from realtimed.wire.mistral import MistralCodec
from realtimed.wire.openai import OpenAICodec
from realtimed.wire.vllm import VllmCodec

WHISPER = Served(frozenset({"language", "prompt", "temperature"}), frozenset({"en", "fr"}))
FUNASR = Served(frozenset({"language", "hotwords"}), frozenset({"en", "zh"}))


def opening(served: Served) -> Opening:
    return Opening("sess-0123456789abcdef", 0, ("m",), served=served)


def configured(codec: Any, message: str) -> Configure:
    [event] = codec.decode(message)
    assert isinstance(event, Configure)
    return event


def test_the_models_that_are_named_in_a_refusal_are_those_of_vllm() -> None:
    pytest.importorskip("vllm")
    from vllm.model_executor.models.registry import ModelRegistry

    found = importlib.util.find_spec("vllm.model_executor.models")
    assert found is not None
    assert found.submodule_search_locations is not None
    bases: dict[str, list[str]] = {}
    for path in Path(found.submodule_search_locations[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [getattr(base, "id", "") for base in node.bases]

    def transcribes(name: str) -> bool:
        inherited = [base for base in bases.get(name, []) if base != name]
        return "SupportsTranscription" in inherited or any(map(transcribes, inherited))

    for name in (*SEGMENTED, *STREAMING):
        assert transcribes(ModelRegistry.models[name].class_name), name


@pytest.mark.parametrize(
    ("base", "mode"),
    [
        ("whisper.WhisperForConditionalGeneration", Mode.SEGMENTED),
        ("qwen3_asr_realtime.Qwen3ASRRealtimeGeneration", Mode.SEGMENTED),
        ("voxtral_realtime.VoxtralRealtimeGeneration", Mode.STREAMING),
    ],
)
def test_a_model_is_served_as_its_class_allows(
    base: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    from vllm.model_executor import model_loader

    module, _, name = base.partition(".")
    # Some classes need libraries that vLLM's CPU build does not bring.
    loaded = pytest.importorskip(f"vllm.model_executor.models.{module}", exc_type=ImportError)
    monkeypatch.setattr(model_loader, "get_model_cls", lambda _config: getattr(loaded, name))
    assert families.choose(SimpleNamespace(model="m"))[0] is mode


def test_a_model_that_does_not_transcribe_is_refused_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("vllm")
    from vllm.model_executor import model_loader

    class LlamaForCausalLM:
        pass

    monkeypatch.setattr(model_loader, "get_model_cls", lambda _config: LlamaForCausalLM)
    with pytest.raises(EngineStartError) as caught:
        families.choose(SimpleNamespace(model="m"))
    for name in ("LlamaForCausalLM", *SEGMENTED, *STREAMING):
        assert name in str(caught.value)


def test_a_class_that_does_not_load_is_told_with_its_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("vllm")
    missing = ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    said = {missing: "needs the library torchvision", RuntimeError("no\nnms"): "loaded: no nms"}
    refused = ValueError("Model architectures ['Qwen3ASRForConditionalGeneration'] failed")
    for cause, words in said.items():
        monkeypatch.setattr(families, "import_module", Mock(side_effect=cause))
        assert words in str(families.unloadable(refused))
    assert families.unloadable(ValueError("No KV cache.")) is None


def test_vllms_dialect_changes_one_member_and_leaves_the_others() -> None:
    codec = VllmCodec(opening(WHISPER))
    update = '{"type":"session.update","model":"","%s":%s}'
    assert configured(codec, update % ("language", '"fr"')).guidance == Guidance("fr")
    assert configured(codec, update % ("prompt", '"Ada"')).guidance == Guidance("fr", "Ada")
    assert configured(codec, update % ("language", "null")).guidance == Guidance(prompt="Ada")


@pytest.mark.parametrize(
    ("served", "field"),
    [(WHISPER, "hotwords"), (FUNASR, "prompt"), (FUNASR, "temperature"), (Served(), "language")],
)
def test_vllms_dialect_refuses_by_name_what_the_model_does_not_take(
    served: Served, field: str
) -> None:
    with pytest.raises(UnsupportedOption, match=field):
        VllmCodec(opening(served)).decode(
            '{"type":"session.update","model":"","' + field + '":"en"}'
        )


def test_words_are_refused_where_the_model_does_not_time_them() -> None:
    with pytest.raises(UnsupportedOption, match="words"):
        VllmCodec(opening(WHISPER)).decode(
            '{"type":"session.update","model":"","include":["words"]}'
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "x" * 4_097},
        {"prompt": 1},
        {"temperature": -1},
        {"temperature": "hot"},
        {"language": ["en"]},
    ],
)
def test_a_value_of_the_wrong_kind_names_its_field(fields: dict[str, Any]) -> None:
    [name] = fields
    with pytest.raises(InvalidEvent, match=name):
        changed(NO_GUIDANCE, fields, WHISPER)


def test_hotwords_are_a_list_or_a_string_with_commas() -> None:
    for value in (["Ada", "Grace"], "Ada, Grace"):
        told = changed(NO_GUIDANCE, {"hotwords": value}, FUNASR)
        assert told.hotwords == ("Ada", "Grace")


@pytest.mark.parametrize(
    "told", [NO_GUIDANCE, Guidance("fr"), Guidance("en", "Ada", ("Grace",), 0.5)]
)
def test_what_a_client_is_told_to_send_holds_whatever_held_before(told: Guidance) -> None:
    everything = Served(frozenset(NAMES), frozenset({"en", "fr"}))
    before = Guidance("fr", "Mary", ("Ada",), 1.0)
    assert changed(before, to_wire(told), everything) == told


def test_openais_wishes_are_followed_where_they_can_be() -> None:
    assert wished(WHISPER, "en-US", "Ada", ("Grace",)) == Guidance("en", "Ada")
    assert wished(WHISPER, "tlh", None, None) == NO_GUIDANCE
    assert wished(FUNASR, None, "Ada", ("Grace",)) == Guidance(hotwords=("Grace",))


def test_openais_dialect_takes_language_and_prompt_from_the_session() -> None:
    codec = OpenAICodec(opening(WHISPER))
    event = configured(
        codec,
        '{"type":"session.update","session":{"type":"transcription","audio":{"input":'
        '{"transcription":{"language":"fr","prompt":"Ada","keywords":["Grace"]}}}}}',
    )
    assert event.guidance == Guidance("fr", "Ada")


def test_mistrals_dialect_takes_language_and_context_bias_before_audio() -> None:
    codec = MistralCodec(opening(FUNASR))
    update = '{"type":"session.update","session":{"language":"zh","context_bias":["Ada"]}}'
    assert configured(codec, update).guidance == Guidance("zh", hotwords=("Ada",))
    codec.decode('{"type":"input_audio.append","audio":"AAAA"}')
    with pytest.raises(InvalidEvent, match="cannot be changed"):
        codec.decode('{"type":"session.update","session":{"language":"en"}}')


def test_mistrals_hints_have_no_effect_where_the_model_does_not_take_them() -> None:
    update = '{"type":"session.update","session":{"language":"zh","context_bias":["Ada"]}}'
    assert configured(MistralCodec(opening(WHISPER)), update).guidance is UNSET
    assert configured(MistralCodec(opening(Served())), update).guidance is UNSET
