"""The engine requests of streaming frames, and their encoding.

The audio of a frame is 1-d float32 at the model's rate, and its tokens are what the model feeds on:
the whole prompt with the first frame, one token with each later one.
"""

import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[Any], Sequence[Any]]
"""vLLM's `MsgpackEncoder.encode`: the message, and buffers that travel beside it."""


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
        # With 0, the engine tells the log probability of the token it sampled, and of no other.
        self._sampling = {
            asked: SamplingParams.from_optional(
                temperature=0.0,
                max_tokens=max_tokens,
                output_kind=RequestOutputKind.DELTA,
                logprobs=0 if asked else None,
                skip_clone=True,
            )
            for asked in (False, True)
        }
        self._numbers = count()

    def new_identifier(self) -> str:
        """A name for one frame's audio, of fixed length: vLLM caches what it makes of it by it."""
        return f"{next(self._numbers):020d}"

    def frame(
        self,
        request_id: str,
        token_ids: Sequence[int],
        audio: NDArray[np.float32],
        identifier: str | None = None,
        *,
        logprobs: bool = False,
    ) -> Any:
        """One frame as an `EngineCoreRequest`; `logprobs`: answered with log probabilities.

        `audio` is sent without a copy: the caller must not write to it again.
        """
        inputs = self._inputs
        element = inputs.MultiModalFieldElem(data=self._tensor(audio), field=self._field)
        feature = inputs.MultiModalFeatureSpec(
            data=inputs.MultiModalKwargsItem({"audio_arrays": element}),
            modality="audio",
            identifier=identifier or self.new_identifier(),
            mm_position=inputs.PlaceholderRange(offset=0, length=len(token_ids)),
            mm_hash=None,
        )
        return self._request(
            request_id=request_id,
            prompt_token_ids=list(token_ids),
            mm_features=[feature],
            sampling_params=self._sampling[logprobs],
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
            resumable=True,
        )


_TOKEN_MARK: Final = 0x7A5A5A5A
_IDENTIFIER_MARK: Final = "identifier-goes-here"


def _uint32(value: int) -> bytes:
    """The uint 32 of msgpack, also for numbers that have a shorter form."""
    return b"\xce" + value.to_bytes(4, "big")


class FrameTemplate:
    """One stream's frames as the bytes of vLLM's own encoding, which differ in three places.

    vLLM's encoder makes a dozen Python calls for each frame. After the first, all frames of a
    stream have the same shape, so one of them, with marks in it, is encoded by vLLM and taken
    apart at the marks, and the others are put together from that (docs/performance.md).
    """

    def __init__(
        self,
        requests: FrameRequests,
        encode: Encode,
        request_id: str,
        samples: int,
        *,
        logprobs: bool = False,
    ) -> None:
        """Learn the encoding of frames with one token and `samples` samples."""
        self._requests = requests
        self._samples = samples
        audio = np.arange(samples, dtype=np.float32)
        message = requests.frame(
            request_id, [_TOKEN_MARK], audio, _IDENTIFIER_MARK, logprobs=logprobs
        )
        marks = (_uint32(_TOKEN_MARK), audio.tobytes(), _IDENTIFIER_MARK.encode())
        self._pieces = _take_apart(encode(message), marks)

    def fill(self, token_ids: Sequence[int], audio: NDArray[np.float32]) -> bytes | None:
        """The encoding of a frame, or `None` if it is not of the shape that was learnt."""
        if self._pieces is None or len(token_ids) != 1 or len(audio) != self._samples:
            return None
        to_token, to_audio, to_identifier, tail = self._pieces
        identifier = self._requests.new_identifier().encode()
        token = _uint32(token_ids[0])
        return b"".join((to_token, token, to_audio, audio.data, to_identifier, identifier, tail))


def _take_apart(
    encoded: Sequence[Any], marks: tuple[bytes, bytes, bytes]
) -> tuple[bytes, bytes, bytes, bytes] | None:
    """What stands before, between and behind the marks.

    `None` if they are not there once each, in order: audio can travel beside the message.
    """
    if len(encoded) != 1 or any(encoded[0].count(mark) != 1 for mark in marks):
        return None
    to_token, _, rest = bytes(encoded[0]).partition(marks[0])
    to_audio, _, rest = rest.partition(marks[1])
    to_identifier, found, tail = rest.partition(marks[2])
    return (to_token, to_audio, to_identifier, tail) if found else None
