"""Whisper with an encoder window shorter than the 30 seconds that it was trained with.

However short a clip is, Whisper's encoder hears 30 seconds, the rest of it silence. A window of ten
seconds costs a third, at each decode of growing speech. All it takes is a model with fewer
positions: those are sines, so the first ones stay what they are.

vLLM finds the class by its name (`ARCHITECTURE`), which the daemon registers for itself and the
plugin for vLLM's own processes. Importing this module imports vLLM's model code.
"""

from collections.abc import Iterable
from copy import copy
from functools import cached_property
from typing import Any

from transformers import ProcessorMixin
from vllm.config import ModelConfig, SpeechToTextConfig
from vllm.model_executor.models.whisper import (
    WhisperDummyInputsBuilder,
    WhisperForConditionalGeneration,
    WhisperMultiModalProcessor,
    WhisperProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from realtimed.engine.window import POSITIONS_A_SECOND

_POSITIONS = "encoder.embed_positions.weight"


class _ShortWindowInfo(WhisperProcessingInfo):  # type: ignore[misc]
    """Makes features of as many frames as the encoder has room for."""

    @cached_property
    def _processor(self) -> ProcessorMixin:
        # vLLM keeps the processor that it gives out for others.
        processor = copy(self.ctx.get_hf_processor())
        extractor = processor.feature_extractor = copy(processor.feature_extractor)
        extractor.chunk_length = self.get_num_audio_tokens() // POSITIONS_A_SECOND
        extractor.n_samples = extractor.chunk_length * extractor.sampling_rate
        extractor.nb_max_frames = extractor.n_samples // extractor.hop_length
        return processor

    def get_hf_processor(self, **_kwargs: object) -> ProcessorMixin:
        return self._processor


@MULTIMODAL_REGISTRY.register_processor(
    WhisperMultiModalProcessor, info=_ShortWindowInfo, dummy_inputs=WhisperDummyInputsBuilder
)
class WhisperWithShortWindow(WhisperForConditionalGeneration):  # type: ignore[misc]
    """Has `max_source_positions` of its configuration, whatever the checkpoint has."""

    @classmethod
    def get_speech_to_text_config(
        cls, model_config: ModelConfig, task_type: str
    ) -> SpeechToTextConfig:
        config: Any = super().get_speech_to_text_config(model_config, task_type)
        config.max_audio_clip_s = model_config.hf_config.max_source_positions / POSITIONS_A_SECOND
        return config

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> set[str]:
        loaded: set[str] = super().load_weights(map(self._fitted, weights))
        return loaded

    def _fitted(self, named: tuple[str, Any]) -> tuple[str, Any]:
        name, weight = named
        positions = self.config.max_source_positions
        return name, weight[:positions] if name.endswith(_POSITIONS) else weight
