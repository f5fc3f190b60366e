"""Voxtral Realtime on vLLM: its frame arithmetic and its text (its requests: `frames`).

vLLM's `VoxtralRealtimeBuffer` and `RealtimeConnection` are the behaviour to equal, token for
token; tests/test_differential.py holds this module to it.
"""

from collections.abc import Sequence
from typing import Any

from realtimed.engine.spec import StreamGeometry, StreamingModel
from realtimed.errors import ConfigError


def info(model_config: Any, cls: Any, tokenizer: Any) -> StreamingModel:
    """What the rest of the house needs to know; names and slots are the caller's.

    Raises: `ConfigError` if its length does not suffice to stream.
    """
    frames, length = geometry(tokenizer), model_config.max_model_len
    if length < frames.shortest_model_len:
        raise ConfigError(
            f"engine.max_model_len is {length}: this model needs at least "
            f"{frames.shortest_model_len} to stream. Leave it out for the model's own."
        )
    return StreamingModel(
        model=model_config.model,
        served_names=(model_config.model,),
        architecture=cls.__name__,
        max_model_len=length,
        max_num_seqs=1,
        sample_rate=frames.sample_rate,
        options=frozenset({"words"}),
        geometry=frames,
        max_chunk_tokens=cls.realtime_max_tokens,
    )


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
        word_mark=_special_token(tokenizer, "[STREAMING_WORD]"),
    )


def _special_token(tokenizer: Any, name: str) -> int | None:
    try:
        token: int = tokenizer.instruct.tokenizer.get_special_token(name)
    except ValueError:  # what mistral_common says for "no such token"
        return None
    return token


class Detokenizer:
    """Token ids of one segment to text, incrementally; blanks and the like give none."""

    def __init__(self, tokenizer: Any, silent_ids: frozenset[int], prompt: Sequence[int]) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer

        self._silent_ids = silent_ids
        self._unsaid = 0.0
        """Log probability of the tokens of an unfinished character."""
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

    def scored(
        self, token_ids: Sequence[int], logprobs: Sequence[float]
    ) -> list[tuple[str, float]]:
        """The same token by token, each text with its log probability."""
        said: list[tuple[str, float]] = []
        for token, logprob in zip(token_ids, logprobs, strict=True):
            if token in self._silent_ids:
                continue
            self._unsaid += logprob
            text = self.text([token])
            if text:
                said.append((text, self._unsaid))
                self._unsaid = 0.0
        return said


def silent_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that vLLM leaves out of text: not quite all of the special ones."""
    return frozenset(
        token
        for token in tokenizer.all_special_ids
        if not tokenizer.convert_ids_to_tokens([token], skip_special_tokens=True)
    )
