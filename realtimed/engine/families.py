"""Which of vLLM's models are served, and how: chosen from the model class.

Streaming is for models whose frames the engine takes one by one (Voxtral Realtime). All others that
vLLM can transcribe with are served segmented. Qwen3-ASR's realtime class is one of those: what vLLM
calls realtime there is a cut every five seconds, in the middle of a word or not, with no memory of
what was before.
"""

from enum import Enum
from importlib import import_module
from typing import Any, Final

from realtimed.errors import EngineStartError

STREAMING: Final = ("VoxtralRealtimeGeneration",)
SEGMENTED: Final = (
    "CohereAsrForConditionalGeneration",
    "FireRedASR2ForConditionalGeneration",
    "FunASRForConditionalGeneration",
    "Gemma3nForConditionalGeneration",
    "GlmAsrForConditionalGeneration",
    "GraniteSpeechForConditionalGeneration",
    "GraniteSpeechPlusForConditionalGeneration",
    "MoonshotKimiaForCausalLM",
    "MossTranscribeDiarizeForConditionalGeneration",
    "Qwen3ASRForConditionalGeneration",
    "Qwen3ASRRealtimeGeneration",
    "Qwen3OmniMoeForConditionalGeneration",
    "VoxtralForConditionalGeneration",
    "WhisperForConditionalGeneration",
)
"""Architectures of vLLM 0.32's registry whose class transcribes, for a message: what decides is the
class itself. To ask all of them would import each, with libraries that may not be there."""


# PyPI's builds of it are for CUDA and fail beside a torch for CPUs.
_INSTALL: Final = {
    "torchvision": "pip install torchvision, on a CPU with --index-url "
    "https://download.pytorch.org/whl/cpu, in the version for the torch that is there"
}


class Mode(Enum):
    """How a model recognises speech."""

    STREAMING = "streaming"
    SEGMENTED = "segmented"


def choose(model_config: Any) -> tuple[Mode, Any]:
    """How to serve a model, and its class in vLLM.

    Raises: `EngineStartError` for one that does not recognise speech, with those that do.
    """
    from vllm.model_executor.model_loader import get_model_cls
    from vllm.model_executor.models.interfaces import supports_transcription

    cls = get_model_cls(model_config)
    if any(base.__name__ in STREAMING for base in cls.__mro__):
        return Mode.STREAMING, cls
    if supports_transcription(cls):
        return Mode.SEGMENTED, cls
    raise EngineStartError(
        f"{model_config.model} is a {cls.__name__}, which does not transcribe speech. Expected one "
        f"of {', '.join(STREAMING)} (streaming), {', '.join(SEGMENTED)} (segmented)."
    )


def unloadable(error: Exception) -> str | None:
    """Why vLLM could not load the class of the model that its `error` names; `None`: it could.

    vLLM looks at a class in a process of its own, and tells of it only that this failed.
    """
    from vllm.model_executor.models.registry import ModelRegistry

    for architecture in (*STREAMING, *SEGMENTED):
        model = ModelRegistry.models.get(architecture)
        if model is None or f"'{architecture}'" not in str(error):
            continue
        try:
            import_module(model.module_name)
        except ModuleNotFoundError as missing:
            return (
                f"{architecture} needs the library {missing.name}, which is not installed: "
                f"{_INSTALL.get(str(missing.name), f'pip install {missing.name}')}."
            )
        except Exception as broken:  # noqa: BLE001 - whatever its libraries raise, it is told
            reason = " ".join(str(broken).split())
            return f"{architecture} cannot be loaded: {reason}. See what `pip check` says of it."
    return None


def reason(mode: Mode, architecture: str) -> str:
    """Why a model is served as it is, for the operator."""
    if mode is Mode.STREAMING:
        return f"streaming: {architecture} takes speech frame by frame"
    return f"segmented: {architecture} transcribes whole clips, so a growing window is decoded"
