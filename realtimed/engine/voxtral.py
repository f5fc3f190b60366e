"""Voxtral Realtime on vLLM: its frame arithmetic, its requests, its text.

vLLM's `VoxtralRealtimeBuffer` and `RealtimeConnection` are the behaviour to equal, token for
token; tests/test_differential.py holds this module to it.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realtimed.engine.spec import StreamGeometry
from realtimed.errors import EngineStartError


def require_voxtral(model_config: Any) -> Any:
    """Return the model class.

    Raises: `EngineStartError` if the model is not of the Voxtral Realtime family.
    """
    from vllm.model_executor.model_loader import get_model_cls
    from vllm.model_executor.models.voxtral_realtime import VoxtralRealtimeGeneration

    cls = get_model_cls(model_config)
    if not issubclass(cls, VoxtralRealtimeGeneration):
        raise EngineStartError(
            f"{model_config.model} is a {cls.__name__}, which does not stream: expected a model of"
            " the class VoxtralRealtimeGeneration, such as mistralai/Voxtral-Mini-4B-Realtime-2602."
        )
    return cls


def geometry(tokenizer: Any) -> StreamGeometry:
    """Read the frame arithmetic from a loaded Mistral tokenizer."""
    encoder = tokenizer.instruct.audio_encoder
    config = encoder.audio_config
    left, right = encoder.get_padding_audio()

    def samples(ms: float) -> int:
        count: int = round(config.sampling_rate * ms / 1000)
        return count

    return StreamGeometry(
        sample_rate=config.sampling_rate,
        samples_per_token=config.raw_audio_length_per_tok,
        look_ahead=samples(config.streaming_look_ahead_ms),
        look_back=samples(config.streaming_look_back_ms),
        left_pad=len(left.audio_array),
        right_pad=len(right.audio_array),
        delay_tokens=config.get_num_delay_tokens(),
        prompt=tuple(tokenizer.instruct.start() + encoder.encode_streaming_tokens()),
    )


class FrameRequests:
    """Builds the engine requests of streaming frames."""

    def __init__(self, max_tokens: int) -> None:
        """`max_tokens`: tokens sampled for one frame."""
        from torch import from_numpy
        from vllm.multimodal import inputs
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        # Bound once: an import statement on the hot path costs as much as the request itself.
        self._tensor: Any = from_numpy
        self._inputs: Any = inputs
        self._request: Any = EngineCoreRequest
        self._field = inputs.MultiModalBatchedField()
        self._sampling = SamplingParams.from_optional(
            temperature=0.0,
            max_tokens=max_tokens,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )
        self._count = 0

    def frame(self, request_id: str, token_ids: Sequence[int], audio: NDArray[np.float32]) -> Any:
        """One frame as an `EngineCoreRequest`.

        `audio` is 1-d float32 and is sent without a copy: the caller must not write to it again.
        """
        self._count += 1
        inputs = self._inputs
        element = inputs.MultiModalFieldElem(data=self._tensor(audio), field=self._field)
        feature = inputs.MultiModalFeatureSpec(
            data=inputs.MultiModalKwargsItem({"audio_arrays": element}),
            modality="audio",
            identifier=f"{request_id}.{self._count}",
            mm_position=inputs.PlaceholderRange(offset=0, length=len(token_ids)),
            mm_hash=None,
        )
        return self._request(
            request_id=request_id,
            prompt_token_ids=list(token_ids),
            mm_features=[feature],
            sampling_params=self._sampling,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
            resumable=True,
        )


class Detokenizer:
    """Token ids of one segment to text, incrementally; blanks and the like give none."""

    def __init__(self, tokenizer: Any, silent_ids: frozenset[int], prompt: Sequence[int]) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer

        self._silent_ids = silent_ids
        self._inner: Any = IncrementalDetokenizer.from_new_request(
            tokenizer,
            EngineCoreRequest(
                request_id="",
                prompt_token_ids=list(prompt),
                mm_features=None,
                sampling_params=SamplingParams(),
                pooling_params=None,
                arrival_time=0.0,
                lora_request=None,
                cache_salt=None,
                data_parallel_rank=None,
            ),
        )

    def text(self, token_ids: Sequence[int]) -> str:
        """The text these tokens add. An unfinished UTF-8 character waits for its rest."""
        # Nine of ten tokens are blanks; vLLM's detokenizer costs 30 µs for each.
        spoken = [token for token in token_ids if token not in self._silent_ids]
        if not spoken:
            return ""
        self._inner.update(spoken, False)
        delta: str = self._inner.get_next_output_text(False, True)
        return delta


def silent_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that vLLM leaves out of text: not quite all of the special ones."""
    return frozenset(
        token
        for token in tokenizer.all_special_ids
        if not tokenizer.convert_ids_to_tokens([token], skip_special_tokens=True)
    )
