"""Asking vLLM for a Whisper with a shorter encoder window: see `whisper`."""

from typing import Any, Final

from realtimed.engine import families
from realtimed.errors import EngineStartError

ARCHITECTURE: Final = "RealtimedWhisperWithShortWindow"
IMPLEMENTATION: Final = "realtimed.engine.whisper:WhisperWithShortWindow"
POSITIONS_A_SECOND: Final = 50
"""Of Whisper's encoder: a frame of 10 ms each, and every other one of them."""


def shorten(args: Any, window_s: int) -> None:
    """Have vLLM's `AsyncEngineArgs` ask for an encoder window of `window_s` seconds.

    Raises: `EngineStartError` for a model that is no Whisper, or has a shorter window itself.
    """
    from vllm.model_executor.models.registry import ModelRegistry

    model_config = args.create_model_config()
    cls = families.choose(model_config)[1]
    if cls.__name__ != "WhisperForConditionalGeneration":
        raise EngineStartError(
            f"encoder_window_s is for Whisper, and {model_config.model} is a {cls.__name__}, whose "
            "encoder hears no more than the clip: leave it out."
        )
    positions = window_s * POSITIONS_A_SECOND
    own = model_config.hf_config.max_source_positions
    if positions > own:
        raise EngineStartError(
            f"encoder_window_s is {window_s}, and the encoder of {model_config.model} has room for "
            f"{own // POSITIONS_A_SECOND} seconds: expected at most that."
        )
    # The class itself, not where to find it: for that, vLLM would start a process to look at it.
    from realtimed.engine.whisper import WhisperWithShortWindow

    ModelRegistry.register_model(ARCHITECTURE, WhisperWithShortWindow)
    args.hf_overrides = {
        **args.hf_overrides,
        "architectures": [ARCHITECTURE],
        "max_source_positions": positions,
    }
