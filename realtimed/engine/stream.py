"""A stream of frames: one resumable request of an engine."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from realtimed.engine.frames import FrameTemplate
from realtimed.errors import EngineFailed

if TYPE_CHECKING:
    from realtimed.engine.core import Engine

OnAnswer = Callable[[Sequence[int], Sequence[float] | None], None]
"""Told the tokens of an answer, and their log probabilities where the stream asked for them."""
OnFailure = Callable[[Exception], None]

GIVEN_UP: Final = "The engine ended this utterance's request: send the audio again."
GIVEN_UP_REASONS: Final = ("abort", "error")
"""vLLM's finish reasons of a request that the engine did not see to its end."""


class EngineStream:
    """One resumable engine request: frames of audio in, one answer of tokens each.

    The caller sends a frame only after the last has been answered. `close` frees the request in
    the engine; it is safe to call at any time and more than once.
    """

    def __init__(
        self,
        engine: "Engine",
        request_id: str,
        on_answer: OnAnswer,
        on_failure: OnFailure,
        *,
        logprobs: bool,
    ) -> None:
        self._engine = engine
        self.request_id = request_id
        self.logprobs = logprobs
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._started = False
        self._closed = False
        self._in_flight = False
        self._template: FrameTemplate | None = None

    def send(self, token_ids: Sequence[int], audio: NDArray[np.float32]) -> None:
        """Send one frame; does not block.

        `audio`: 1-d float32 at the model's rate, not written to again by the caller.

        Raises: `EngineLost` if the engine is gone.
        """
        if not token_ids or not len(audio) or self._closed:
            raise AssertionError("a frame has tokens and audio, and goes to an open stream")
        self._started = True
        self._engine._send_frame(self, token_ids, audio)
        self._in_flight = True
        self._engine.load.sent()

    def close(self) -> None:
        """End the request and free its slot in the engine."""
        if self._closed:
            return
        self._closed = True
        self._engine._close_stream(self, abort=self._started)

    def settle(self) -> None:
        """The frame in flight, if there is one, is answered or will never be."""
        if self._in_flight:
            self._in_flight = False
            self._engine.load.settled()

    def deliver(self, token_ids: Sequence[int], logprobs: Any, finish_reason: object) -> None:
        """The engine's answer to the frame in flight."""
        self.settle()
        # A chunk ends with STOP or LENGTH; anything else means the engine gave the request up.
        try:
            if str(finish_reason) in GIVEN_UP_REASONS:
                self._on_failure(EngineFailed(GIVEN_UP))
            else:
                # A row a token; the first column is that of the token itself.
                told = None if logprobs is None else logprobs.logprobs[:, 0].tolist()
                self._on_answer(token_ids, told)
        except Exception as error:  # noqa: BLE001 - one stream's trouble is not the engine's
            self._on_failure(error)

    def fail(self, error: Exception) -> None:
        """No more answers come."""
        self._on_failure(error)
