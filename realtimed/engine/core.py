"""One vLLM engine core, driven from Trio without an asyncio loop.

In: `add_request` is one non-blocking ZMQ send, called straight from the Trio thread.
Out: one dedicated thread starts the core, blocks on its outputs, and enters Trio once per
engine step with the outputs of all streams. The thread lives exactly as long as the core,
because the engine processes die with the thread that started them (`lifeline`).
"""

import multiprocessing
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio.from_thread
import anyio.to_thread
import numpy as np
import trio
from numpy.typing import NDArray

from realtimed.engine import args as engine_args
from realtimed.engine.plugin import COUNTS_METHOD
from realtimed.engine.spec import ModelInfo
from realtimed.errors import EngineDeadError, EngineFailed, EngineStartError, EngineUnavailable

Progress = Callable[[str], None]
"""Told the name of each phase of start-up, from the Trio thread."""


class _Stop(Exception):
    """Put on the core's output queue to end the pump."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to load: a path or hub name, the names it is served as, vLLM's own arguments."""

    model: str
    served_names: tuple[str, ...] = ()
    engine: Mapping[str, object] = field(default_factory=dict)
    log_level: str = "info"
    environment: Mapping[str, str] = field(default_factory=dict)
    """Defaults for what vLLM reads from the environment."""


class EngineStream:
    """One resumable engine request: frames of audio in, one answer of tokens each.

    At most one frame is in flight. `close` frees the request in the engine; it is safe to call
    at any time and more than once.
    """

    def __init__(self, engine: "Engine", request_id: str) -> None:
        self._engine = engine
        self.request_id = request_id
        self._answer: list[int] | None = None
        self._error: EngineFailed | EngineUnavailable | None = None
        self._arrived = trio.Event()
        self._started = False
        self._closed = False

    async def step(
        self, token_ids: Sequence[int], audio: NDArray[np.float32], deadline_s: float
    ) -> list[int]:
        """Send one frame and wait for the tokens that answer it.

        `audio`: 1-d float32 at the model's rate, not written to again by the caller.

        Raises: `EngineFailed` if the engine ended the request or gave no answer within
        `deadline_s` seconds; `EngineUnavailable` if it is gone.
        """
        if not token_ids or not len(audio) or self._closed:
            raise AssertionError("a frame has tokens and audio, and goes to an open stream")
        self._expect_answer()
        self._engine._send_frame(self.request_id, token_ids, audio)
        with trio.move_on_after(deadline_s):
            await self._arrived.wait()
        if self._error is not None:
            raise self._error
        if self._answer is None:
            raise EngineFailed(
                f"The engine gave no answer for {deadline_s:g} s: the utterance was ended. "
                "Send it again, or tell the operator."
            )
        return self._answer

    def _expect_answer(self) -> None:
        self._answer = None
        self._arrived = trio.Event()
        self._started = True

    def close(self) -> None:
        """End the request and free its slot in the engine."""
        if self._closed:
            return
        self._closed = True
        self._engine._close_stream(self, abort=self._started)

    def _deliver(self, token_ids: list[int], finish_reason: object) -> None:
        # A chunk ends with STOP or LENGTH; anything else means the engine gave the request up.
        if str(finish_reason) in ("abort", "error"):
            self._error = EngineFailed(
                "The engine ended this utterance's request: send the audio again."
            )
        else:
            self._answer = token_ids
        self._arrived.set()

    def _fail(self, error: EngineUnavailable) -> None:
        self._error = error
        self._arrived.set()


class Engine:
    """Owns one engine core: starts it, feeds it, and shuts it down."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._client: Any = None
        self._requests: Any = None
        self._tokenizer: Any = None
        self._silent_ids: frozenset[int] = frozenset()
        self._streams: dict[str, EngineStream] = {}
        self._next_id = 0
        self._stopping = False
        self._stopped = threading.Event()
        self._info: ModelInfo | None = None
        self.steps = 0
        """Engine steps answered since the start."""

    # --- life -----------------------------------------------------------------------------

    async def run(
        self,
        progress: Progress,
        *,
        task_status: trio.TaskStatus[ModelInfo] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Load the model, report `ModelInfo` when the core is up, serve until `stop`.

        Cancelling kills the engine processes at once; `stop` is the gentle way.

        Raises: `ConfigError`, `EngineStartError` while starting, `EngineDeadError` later.
        """
        engine_args.prepare_environment(self._spec.log_level, self._spec.environment)
        limiter = anyio.CapacityLimiter(1)
        try:
            await anyio.to_thread.run_sync(
                self._thread_main, progress, task_status, abandon_on_cancel=True, limiter=limiter
            )
        finally:
            if not self._stopped.is_set():
                self.kill()

    def stop(self) -> None:
        """Ask the core to end; `run` returns once its processes are gone."""
        self._stopping = True
        if self._client is None:
            self.kill()
        else:
            self._client.outputs_queue.put_nowait(_Stop())

    def kill(self) -> None:
        """SIGKILL every engine process this daemon started."""
        self._stopping = True
        for process in multiprocessing.active_children():
            with suppress(ProcessLookupError, ValueError):
                process.kill()

    @property
    def info(self) -> ModelInfo:
        """The loaded model; only after `run` has reported it."""
        if self._info is None:
            raise AssertionError("the engine is not loaded")
        return self._info

    # --- streams --------------------------------------------------------------------------

    def open_stream(self) -> EngineStream:
        """A new engine request; nothing is sent before its first frame."""
        self._next_id += 1
        stream = EngineStream(self, f"rt-{self._next_id}")
        self._streams[stream.request_id] = stream
        return stream

    def detokenizer(self) -> Any:
        """A fresh incremental detokenizer for one segment."""
        from realtimed.engine.voxtral import Detokenizer

        return Detokenizer(self._tokenizer, self._silent_ids, self.info.geometry.prompt)

    @property
    def open_streams(self) -> int:
        """Requests this daemon holds open in the engine."""
        return len(self._streams)

    async def request_counts(self, deadline_s: float = 5.0) -> tuple[int, int] | None:
        """(running, waiting) requests as the engine core's scheduler counts them.

        `None` if the core is not up or does not answer within `deadline_s` seconds.
        """
        if self._client is None or self._stopped.is_set():
            return None
        with trio.move_on_after(deadline_s), suppress(Exception):
            running, waiting = await anyio.to_thread.run_sync(
                self._client.call_utility, COUNTS_METHOD, abandon_on_cancel=True
            )
            return running, waiting
        return None

    def _send_frame(
        self, request_id: str, token_ids: Sequence[int], audio: NDArray[np.float32]
    ) -> None:
        try:
            self._client.add_request(self._requests.frame(request_id, token_ids, audio))
        except Exception as error:
            raise _unavailable() from error

    def _close_stream(self, stream: EngineStream, *, abort: bool) -> None:
        if self._streams.pop(stream.request_id, None) is None or not abort:
            return
        # For a paused request the abort does in the scheduler just what the final request of
        # vLLM's own path does, and it cannot create a stray request if it comes late.
        with suppress(Exception):
            self._client.abort_requests([stream.request_id])

    # --- the thread -----------------------------------------------------------------------

    def _thread_main(self, progress: Progress, task_status: trio.TaskStatus[ModelInfo]) -> None:
        try:
            self._start(progress)
            anyio.from_thread.run_sync(task_status.started, self.info)
            self._pump()
        finally:
            self._shut_down()
            self._stopped.set()

    def _start(self, progress: Progress) -> None:
        def phase(name: str) -> None:
            anyio.from_thread.run_sync(progress, name)

        phase("importing vLLM")
        from vllm.tokenizers import cached_tokenizer_from_config
        from vllm.v1.engine.core_client import EngineCoreClient
        from vllm.v1.executor import Executor

        from realtimed.engine import voxtral

        phase("reading the model's configuration")
        spec = self._spec
        args = engine_args.engine_args(spec.model, spec.served_names, spec.engine)
        config = engine_args.create_config(args)
        cls = voxtral.require_voxtral(config.model_config)
        self._tokenizer = cached_tokenizer_from_config(config.model_config)
        self._silent_ids = voxtral.silent_ids(self._tokenizer)
        self._requests = voxtral.FrameRequests(cls.realtime_max_tokens)
        geometry = voxtral.geometry(self._tokenizer)

        phase("starting the engine and loading weights")
        if self._stopping:
            raise EngineStartError("Stopped while the engine was starting.")
        try:
            self._client = EngineCoreClient.make_client(
                multiprocess_mode=True,
                asyncio_mode=False,
                vllm_config=config,
                executor_class=Executor.get_class(config),
                log_stats=False,
            )
        except Exception as error:
            raise EngineStartError(
                f"The engine did not start: {engine_args.one_line(error)} "
                "Run again with --log-level debug to see vLLM's own log."
            ) from error
        self._info = ModelInfo(
            model=spec.model,
            served_names=spec.served_names or (spec.model,),
            architecture=cls.__name__,
            geometry=geometry,
            max_model_len=config.model_config.max_model_len,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            max_chunk_tokens=cls.realtime_max_tokens,
        )

    def _pump(self) -> None:
        while True:
            try:
                outputs = self._client.get_output()
            except _Stop:
                return
            except Exception as error:
                if self._stopping:
                    return
                anyio.from_thread.run_sync(self._fail_all)
                raise EngineDeadError(
                    f"The engine died ({engine_args.one_line(error, 200)}): every session was "
                    "ended. Look at the engine's log lines above, then start the daemon again."
                ) from error
            anyio.from_thread.run_sync(self._dispatch, outputs)

    def _dispatch(self, outputs: Any) -> None:
        """Hand one engine step to its streams; on the Trio thread."""
        self.steps += 1
        for output in outputs.outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None:
                stream._deliver(output.new_token_ids, output.finish_reason)

    def _fail_all(self) -> None:
        for stream in self._streams.values():
            stream._fail(_unavailable())

    def _shut_down(self) -> None:
        if self._client is not None:
            with suppress(Exception):
                self._client.shutdown(timeout=5.0)
        for process in multiprocessing.active_children():
            process.join(1.0)
            if process.is_alive():
                process.kill()


def _unavailable() -> EngineUnavailable:
    return EngineUnavailable("The engine is gone: connect again when the daemon is ready.")
