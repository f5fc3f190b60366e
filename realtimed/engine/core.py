"""One vLLM engine core, driven from Trio without an asyncio loop.

Requests go in and engine steps come out through a `CoreChannel`, on the Trio thread; one step
carries the answers of all streams. A dedicated thread starts the core, watches its processes and
ends them. It lives exactly as long as they do, because they die with the thread that started
them (`lifeline`). An engine lives once; `supervisor` starts another when it is lost.
"""

import math
import multiprocessing
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import connection
from typing import Any

import anyio.from_thread
import anyio.to_thread
import numpy as np
import trio
from numpy.typing import NDArray

from realtimed.engine import args as engine_args
from realtimed.engine import families
from realtimed.engine.channel import CoreChannel, EngineCoreDied
from realtimed.engine.clips import ClipDecoder, ClipRequest
from realtimed.engine.families import Mode
from realtimed.engine.frames import FrameRequests, FrameTemplate
from realtimed.engine.load import EngineLoad
from realtimed.engine.plugin import COUNTS_METHOD
from realtimed.engine.processes import EngineProcesses, SocketDirectory
from realtimed.engine.segmented import ClipModel
from realtimed.engine.spec import Clip, Hypothesis, ModelInfo, StreamingModel
from realtimed.engine.stream import EngineStream, OnAnswer, OnFailure
from realtimed.errors import EngineLost, EngineStartError

_SHUTDOWN_S = 5.0
_LAST_WORKERS_S = 10.0
"""What the workers may take to end after the engine core has, which they notice themselves."""

Progress = Callable[[str], None]
"""Told the name of each phase of start-up, from the Trio thread."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to load: a path or hub name, the names it is served as, vLLM's own arguments."""

    model: str
    served_names: tuple[str, ...] = ()
    engine: Mapping[str, object] = field(default_factory=dict)
    log_level: str = "info"
    environment: Mapping[str, str] = field(default_factory=dict)
    """Defaults for what vLLM reads from the environment."""
    encoder_window_s: int | None = None
    """Of Whisper, in seconds, if it is to be another than its own."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the model is called here; the first is its proper name."""
        return self.served_names or (self.model,)


class Engine:
    """Owns one engine core: starts it, feeds it, and shuts it down."""

    def __init__(self, spec: EngineSpec, load: EngineLoad, on_lost: Callable[[], None]) -> None:
        """`load` counts on from one engine to the next.

        `on_lost`: called once on the Trio thread when no more answers will come, for whatever
        reason, before the streams are told.
        """
        self._spec = spec
        self.load = load
        self._on_lost = on_lost
        self._channel: CoreChannel | None = None
        self._requests: Any = None
        self._tokenizer: Any = None
        self._silent_ids: frozenset[int] = frozenset()
        self._clip_model: ClipModel | None = None
        self._clips: ClipDecoder | None = None
        self._streams: dict[str, EngineStream | ClipRequest] = {}
        self._next_id = 0
        self._stopping = False
        self._stopped = threading.Event()
        self._stop_seen, self._stop_told = connection.Pipe(duplex=False)
        self._pumping = trio.CancelScope()
        self._pumped = trio.Event()
        self._sockets: SocketDirectory | None = None
        self._processes: EngineProcesses | None = None
        self._info: ModelInfo | None = None
        self.lost = trio.Event()
        """Set when no more answers will come."""
        self.ended = trio.Event()
        """Set when `run` has ended: unless it was cancelled, nothing of this engine is left."""
        self.steps = 0
        """Engine steps answered since the start."""
        self.stepped_at = -math.inf
        """Trio's time of the last of them."""

    # --- life -----------------------------------------------------------------------------

    async def run(
        self,
        progress: Progress,
        *,
        task_status: trio.TaskStatus[ModelInfo] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Load the model, report `ModelInfo` when the core is up, serve until it is gone.

        It may end by itself, by `stop` or by `kill`. Cancelling kills it, too, but does not wait
        for what it leaves behind to be cleared away.

        Raises: `ConfigError`, `EngineStartError` while starting.
        """
        engine_args.prepare_environment(self._spec.log_level, self._spec.environment)
        limiter = anyio.CapacityLimiter(1)
        thread = partial(self._thread_main, progress)
        try:
            # Ends with the thread, which stops the pump first.
            async with trio.open_nursery() as nursery:
                await anyio.to_thread.run_sync(
                    thread, nursery, task_status, abandon_on_cancel=True, limiter=limiter
                )
        finally:
            if not self._stopped.is_set():
                self.kill()
            else:
                self._stop_seen.close()
                self._stop_told.close()
            # It is among what the collector does not look through any more (`gc.freeze`).
            self._channel = None
            self.ended.set()

    def stop(self) -> None:
        """Ask the core to end; `run` returns once its processes are gone."""
        self._stopping = True
        if self._channel is None:
            self.kill()
        else:
            self._stop_told.send_bytes(b"stop")

    def kill(self) -> None:
        """SIGKILL every engine process this daemon started."""
        self._stopping = True
        for process in multiprocessing.active_children():
            with suppress(ProcessLookupError, ValueError):
                process.kill()

    @property
    def info(self) -> ModelInfo:
        """The loaded model; only after `run` has reported it. Stays when the engine is gone."""
        if self._info is None:
            raise AssertionError("the engine is not loaded")
        return self._info

    # --- streams --------------------------------------------------------------------------

    def open_stream(
        self, on_answer: OnAnswer, on_failure: OnFailure, *, logprobs: bool = False
    ) -> EngineStream:
        """A new engine request; nothing is sent before its first frame.

        `on_answer` gets the tokens that answer each frame, with their log probabilities if
        `logprobs`; `on_failure` the `EngineFailed` or `EngineLost` that ends the stream. Both are
        called on the Trio thread.
        """
        name = self.new_request_id()
        stream = EngineStream(self, name, on_answer, on_failure, logprobs=logprobs)
        self._streams[stream.request_id] = stream
        return stream

    def detokenizer(self) -> Any:
        """A fresh incremental detokenizer for one segment."""
        from realtimed.engine.voxtral import Detokenizer

        info = self.info
        assert isinstance(info, StreamingModel)
        return Detokenizer(self._tokenizer, self._silent_ids, info.geometry.prompt)

    # --- clips ----------------------------------------------------------------------------

    async def decode(self, clip: Clip, on_tokens: Callable[[], None]) -> Hypothesis:
        """Transcribe one clip with a segmented model; see `ClipDecoder.decode`."""
        return await self._clip_decoder.decode(clip, on_tokens)

    async def detect_language(
        self, audio: NDArray[np.float32], on_tokens: Callable[[], None]
    ) -> str:
        """Find out the language of one clip; see `ClipDecoder.detect_language`."""
        return await self._clip_decoder.detect_language(audio, on_tokens)

    @property
    def _clip_decoder(self) -> ClipDecoder:
        if self._clips is None:
            assert self._clip_model is not None
            self._clips = ClipDecoder(self, self._clip_model)
        return self._clips

    def new_request_id(self) -> str:
        """A name that no other request of this engine has."""
        self._next_id += 1
        return f"rt-{self._next_id}"

    def submit(self, request: ClipRequest) -> None:
        """Send a clip; does not block.

        Raises: `EngineLost` if the engine is gone.
        """
        if self._channel is None or self._pumped.is_set():
            raise _lost()
        self._channel.add(request.body)
        self._streams[request.request_id] = request
        request.sent()

    def withdraw(self, request: ClipRequest) -> None:
        """Forget a clip, and abort it unless the engine is done with it."""
        abort = request.in_flight
        request.settle()
        self._close_stream(request, abort=abort)

    # --- what is open ---------------------------------------------------------------------

    @property
    def open_streams(self) -> int:
        """Requests this daemon holds open in the engine."""
        return len(self._streams)

    async def request_counts(self, deadline_s: float = 5.0) -> tuple[int, int] | None:
        """(running, waiting) requests as the engine core's scheduler counts them.

        `None` if the core is not up or does not answer within `deadline_s` seconds.
        """
        if self._channel is None or self._pumped.is_set():
            return None
        counts = None
        with trio.move_on_after(deadline_s):
            counts = await self._channel.call(COUNTS_METHOD)
        return None if counts is None else (counts[0], counts[1])

    def _send_frame(
        self, stream: EngineStream, token_ids: Sequence[int], audio: NDArray[np.float32]
    ) -> None:
        channel, template = self._channel, stream._template
        if channel is None or self._pumped.is_set():
            raise _lost()
        encoded = None if template is None else template.fill(token_ids, audio)
        if encoded is not None:
            channel.add_encoded(encoded)
            return
        name, logprobs = stream.request_id, stream.logprobs
        channel.add(self._requests.frame(name, token_ids, audio, logprobs=logprobs))
        if template is None and len(token_ids) == 1:
            stream._template = FrameTemplate(
                self._requests, channel.encode, name, len(audio), logprobs=logprobs
            )

    def _close_stream(self, stream: EngineStream | ClipRequest, *, abort: bool) -> None:
        if self._streams.pop(stream.request_id, None) is None or not abort:
            return
        stream.settle()
        # For a paused request the abort does in the scheduler just what the final request of
        # vLLM's own path does, and it cannot create a stray request if it comes late.
        if self._channel is not None and not self._pumped.is_set():
            self._channel.abort([stream.request_id])

    def _dispatch(self, outputs: Any) -> None:
        """Hand one engine step to its streams."""
        self.steps += 1
        self.load.stepped(len(outputs.outputs))
        self.stepped_at = trio.current_time()
        for output in outputs.outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None:
                stream.deliver(output.new_token_ids, output.new_logprobs, output.finish_reason)

    def _lose(self) -> None:
        """No more answers come: tell first who restarts the engine, then the streams."""
        self._pumped.set()
        self.lost.set()
        if self._channel is not None:
            self._channel.fail_calls()
        self._on_lost()
        for stream in list(self._streams.values()):
            stream.fail(_lost())

    # --- tasks ----------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Read the engine's outputs until told to stop, or until the engine says that it dies."""
        assert self._channel is not None
        with self._pumping, suppress(EngineCoreDied):
            await self._channel.pump(self._dispatch)
        self._lose()

    async def _stop_pump(self) -> None:
        self._pumping.cancel()
        await self._pumped.wait()

    # --- the thread -----------------------------------------------------------------------

    def _thread_main(
        self,
        progress: Progress,
        nursery: trio.Nursery,
        task_status: trio.TaskStatus[ModelInfo],
    ) -> None:
        try:
            self._start(progress)
            anyio.from_thread.run_sync(nursery.start_soon, self._pump)
            anyio.from_thread.run_sync(task_status.started, self.info)
            self._watch()
        finally:
            self._shut_down()
            self._stopped.set()

    def _start(self, progress: Progress) -> None:
        def phase(name: str) -> None:
            anyio.from_thread.run_sync(progress, name)

        phase("importing vLLM")
        try:
            import vllm  # noqa: F401 - the first import is the slow one
        except ModuleNotFoundError as error:
            raise EngineStartError(
                f"vLLM is not installed (no module {error.name}): pip install 'realtimed[cuda]' on "
                "a GPU machine, or see conf/requirements-cpu.txt for a CPU."
            ) from error

        phase("reading the model's configuration")
        spec = self._spec
        args = engine_args.engine_args(spec.model, spec.served_names, spec.engine)
        config = engine_args.create_config(args, spec.engine, spec.encoder_window_s)
        mode, cls = families.choose(config.model_config)
        phase(families.reason(mode, cls.__name__))
        info = self._load_streaming if mode is Mode.STREAMING else self._load_segmented
        loaded = info(config, cls)

        phase("starting the engine and loading weights")
        if self._stopping:
            raise EngineStartError("Stopped while the engine was starting.")
        self._sockets = SocketDirectory()
        self._channel = _open_channel(config)
        self._processes = EngineProcesses(self._channel.pids)
        self._info = replace(
            loaded,
            model=spec.model,
            served_names=spec.names,
            max_num_seqs=config.scheduler_config.max_num_seqs,
        )

    def _load_streaming(self, config: Any, cls: Any) -> ModelInfo:
        from vllm.tokenizers import cached_tokenizer_from_config

        from realtimed.engine import voxtral

        self._tokenizer = cached_tokenizer_from_config(config.model_config)
        self._silent_ids = voxtral.silent_ids(self._tokenizer)
        self._requests = FrameRequests(cls.realtime_max_tokens)
        return voxtral.info(config.model_config, cls, self._tokenizer)

    def _load_segmented(self, config: Any, cls: Any) -> ModelInfo:
        self._clip_model = ClipModel.load(config, cls)
        return self._clip_model.info

    def _watch(self) -> None:
        """Sleep until `stop` is called or an engine process ends."""
        assert self._channel is not None
        if not self._stopping:  # it may have been told while the model was loading
            connection.wait([*self._channel.sentinels, self._stop_seen])
        anyio.from_thread.run(self._stop_pump)

    def _shut_down(self) -> None:
        if self._channel is not None:
            with suppress(Exception):
                self._channel.close(_SHUTDOWN_S)
        for process in multiprocessing.active_children():
            process.join(1.0)
            if process.is_alive():
                process.kill()
                process.join(_LAST_WORKERS_S)
        if self._processes is not None:
            self._processes.end(_LAST_WORKERS_S)
        if self._sockets is not None:
            self._sockets.remove()


def _open_channel(config: Any) -> CoreChannel:
    try:
        return CoreChannel(config)
    except EngineStartError:
        raise
    except Exception as error:
        raise EngineStartError(
            f"The engine did not start: {engine_args.one_line(error)} "
            "Run again with --log-level debug to see vLLM's own log."
        ) from error


def _lost() -> EngineLost:
    return EngineLost("The engine is gone.")
