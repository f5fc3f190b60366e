"""Transcribing one clip on the engine: its requests, from samples to text.

What is slow but not the engine's, feature extraction and tokens, is done on a worker thread
(`ClipModel`). An abandoned decode leaves nothing behind: the request is aborted, and the thread,
which cannot be, holds its place in the limiter until it is done.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.to_thread
import numpy as np
import trio
from numpy.typing import NDArray

from realtimed.engine.load import EngineLoad
from realtimed.engine.segmented import ClipModel
from realtimed.engine.spec import Clip, Hypothesis
from realtimed.engine.stream import GIVEN_UP, GIVEN_UP_REASONS
from realtimed.errors import EngineFailed

log = logging.getLogger("realtimed.engine")

_Made = TypeVar("_Made")

_NOT_TAKEN: Final = (
    "The model does not take this speech with these options: the utterance was ended. Send it "
    "without a prompt, or tell the operator."
)


class Core(Protocol):
    """What of an engine a request needs."""

    @property
    def load(self) -> EngineLoad:
        """Told of what is in flight."""

    def new_request_id(self) -> str:
        """A name that no other request has."""

    def submit(self, request: "ClipRequest") -> None:
        """Send it. Raises: `EngineLost` if the engine is gone."""

    def withdraw(self, request: "ClipRequest") -> None:
        """Forget it, and abort it if it is still `in_flight`."""


@dataclass(slots=True)
class ClipRequest:
    """One engine request that is not a stream: all in at once, tokens out until it is finished."""

    request_id: str
    body: Any
    """vLLM's `EngineCoreRequest`."""
    on_tokens: Callable[[], None]
    """Called on the Trio thread when tokens have come."""
    load: EngineLoad
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Of each of them, if the request asks for that."""
    finish_reason: str = ""
    in_flight: bool = False
    """Whether the engine has still to answer."""
    done: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None

    def sent(self) -> None:
        """The engine has got it."""
        self.in_flight = True
        self.load.sent()

    def deliver(self, token_ids: Sequence[int], logprobs: Any, finish_reason: object) -> None:
        """The engine's tokens of one step, and why they were the last, if they were."""
        self.tokens += token_ids
        if logprobs is not None:
            self.logprobs += logprobs.logprobs[:, 0].tolist()
        self.on_tokens()
        if finish_reason is None:
            return
        self.finish_reason = str(finish_reason)
        if self.finish_reason in GIVEN_UP_REASONS:
            self.error = EngineFailed(GIVEN_UP)
        self._end()

    def fail(self, error: Exception) -> None:
        """No more will come."""
        self.error = error
        self._end()

    def settle(self) -> None:
        """No more tokens will be waited for."""
        if self.in_flight:
            self.in_flight = False
            self.load.settled()

    def _end(self) -> None:
        self.settle()
        self.done.set()


class ClipDecoder:
    """The clips of one engine."""

    def __init__(self, core: Core, model: ClipModel) -> None:
        """Call it where Trio runs."""
        self._core = core
        self._model = model
        self._limiter = anyio.CapacityLimiter(1)

    async def decode(self, clip: Clip, on_tokens: Callable[[], None]) -> Hypothesis:
        """Transcribe a clip; the text begins with what is `said` of it.

        `on_tokens` is called for every step that the engine makes for it; the caller sets the
        deadline.

        Raises: `EngineLost` if the engine is gone, `EngineFailed` if it gives the request up.
        """
        request = await self._run(partial(self._model.encode, clip=clip), on_tokens)
        return await self._on_thread(
            partial(
                self._model.hypothesis,
                request.body,
                clip.said,
                request.tokens,
                request.logprobs,
                complete=request.finish_reason == "stop",
            )
        )

    async def detect_language(
        self, audio: NDArray[np.float32], on_tokens: Callable[[], None]
    ) -> str:
        """The language of a clip, ISO 639-1, of a model that `detects_language`; as `decode`."""
        encode = partial(self._model.encode_detection, audio=audio)
        request = await self._run(encode, on_tokens)
        return await self._on_thread(partial(self._model.language, request.tokens))

    async def _run(
        self, encode: Callable[[str], Any], on_tokens: Callable[[], None]
    ) -> ClipRequest:
        request_id = self._core.new_request_id()
        try:
            body = await self._on_thread(partial(encode, request_id))
        except Exception as error:
            # Of its many kinds of errors only the kind is logged: the text may quote the session.
            log.error("vLLM did not take a clip: %s", type(error).__name__)  # noqa: TRY400
            raise EngineFailed(_NOT_TAKEN) from error
        request = ClipRequest(request_id, body, on_tokens, self._core.load)
        with self._submitted(request):
            await request.done.wait()
        if request.error is not None:
            raise request.error
        return request

    @contextmanager
    def _submitted(self, request: ClipRequest) -> Iterator[None]:
        self._core.submit(request)
        try:
            yield
        finally:
            self._core.withdraw(request)

    async def _on_thread(self, call: Callable[[], _Made]) -> _Made:
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
