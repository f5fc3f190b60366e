"""The ZeroMQ channel to vLLM's engine core, read and written straight from the Trio thread.

vLLM's own synchronous client reads on a thread and hands over through a queue; to get from there
to Trio takes a second thread and two more switches an engine step. This one is vLLM's base client,
which starts the engine and makes the sockets, with the reading done by Trio: it halves what the
daemon spends on a frame (docs/performance.md).
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from realtimed.errors import EngineStartError

_CONTEXT_S: Final = 1.0


class EngineCoreDied(Exception):
    """The engine core said so itself, on its way out."""


class CoreChannel:
    """Requests in, engine steps out. Made on the engine's thread, used from Trio's alone."""

    def __init__(self, config: Any) -> None:
        """Start the engine processes and load the model; blocks until that is done.

        Raises: whatever vLLM raises, and `EngineStartError` for data parallelism.
        """
        import zmq
        from vllm.v1.engine import EngineCoreRequestType
        from vllm.v1.engine.core import EngineCoreProc
        from vllm.v1.engine.core_client import MPClient
        from vllm.v1.executor import Executor

        if config.parallel_config.data_parallel_size > 1:
            raise EngineStartError(
                "engine.data_parallel_size must be 1: streams are independent, so run one daemon "
                "a GPU instead."
            )

        class Client(MPClient):  # type: ignore[misc]
            def start_engine_core_monitor(self) -> None:
                """Left out: the engine's thread watches, and closes nothing under Trio's feet."""

        self._client: Any = Client(
            asyncio_mode=False,
            vllm_config=config,
            executor_class=Executor.get_class(config),
            log_stats=False,
        )
        self._zmq: Any = zmq  # comes with vLLM, and so as late as vLLM
        self._types = EngineCoreRequestType
        self._dead: bytes = EngineCoreProc.ENGINE_CORE_DEAD
        self._input: Any = self._client.input_socket
        self._output: Any = self._client.resources.output_socket
        self._calls: dict[int, tuple[trio.Event, list[Any]]] = {}
        self._next_call = 0

    @property
    def sentinels(self) -> list[int]:
        """What `multiprocessing.connection.wait` waits on: ready when a process has ended."""
        return list(self._client.resources.engine_manager.sentinels())

    @property
    def pids(self) -> list[int]:
        """The engine core's processes."""
        return [process.pid for process in self._client.resources.engine_manager.processes]

    def add(self, request: Any) -> None:
        """Send one `EngineCoreRequest`; does not block."""
        self._send(self._types.ADD, request)

    def encode(self, request: Any) -> Sequence[Any]:
        """Encode a request as vLLM does: the message, and buffers that travel beside it."""
        encoded: Sequence[Any] = self._client.encoder.encode(request)
        return encoded

    def add_encoded(self, message: bytes) -> None:
        """Send one request that is already encoded, in one piece; does not block."""
        self._send_parts(self._types.ADD, (message,))

    def abort(self, request_ids: list[str]) -> None:
        """Free these requests; unknown ones are no error. Does not block."""
        self._send(self._types.ABORT, request_ids)

    async def call(self, method: str) -> Any:
        """Call a method of the engine core; `None` if it failed. The caller sets the deadline."""
        self._next_call += 1
        number, done, answer = self._next_call, trio.Event(), [None]
        self._calls[number] = (done, answer)
        try:
            self._send(self._types.UTILITY, (0, number, method, ()))
            await done.wait()
        finally:
            del self._calls[number]
        return answer[0]

    def fail_calls(self) -> None:
        """Answer every call with `None`: no answers come any more."""
        for done, _ in self._calls.values():
            done.set()

    async def pump(self, dispatch: Callable[[Any], None]) -> None:
        """Hand every engine step's outputs to `dispatch`, until cancelled.

        Raises: `EngineCoreDied` if the core reports its own end.
        """
        descriptor = self._output.getsockopt(self._zmq.FD)
        while True:
            # ZeroMQ's descriptor tells of changes, not of states: read until nothing is left.
            while (outputs := self._receive()) is not None:
                if outputs.utility_output is not None:
                    self._answer(outputs.utility_output)
                else:
                    dispatch(outputs)
            await trio.lowlevel.wait_readable(descriptor)

    def close(self, timeout_s: float) -> None:
        """End the engine processes; blocks for up to about `timeout_s` seconds."""
        self._client.shutdown(timeout=timeout_s)
        # vLLM leaves its ZeroMQ context to the garbage collector, and with it three threads.
        # Its end is not waited for without a bound: libzmq 4.3.5 waits for ever, now and then, for
        # the end of a connection to a process that was killed with messages still to read.
        ending = threading.Thread(
            target=self._client.ctx.destroy, kwargs={"linger": 0}, daemon=True
        )
        ending.start()
        ending.join(_CONTEXT_S)

    def _send(self, kind: Any, message: Any) -> None:
        self._send_parts(kind, self.encode(message))

    def _send_parts(self, kind: Any, encoded: Sequence[Any]) -> None:
        parts = (self._client.core_engine, kind.value, *encoded)
        # Copied at once: for a frame that is cheaper than tracking who still holds it.
        self._input.send_multipart(parts, self._zmq.NOBLOCK)

    def _receive(self) -> Any:
        # Asked first: an exception for "nothing there" costs more than most steps do.
        if not self._output.getsockopt(self._zmq.EVENTS) & self._zmq.POLLIN:
            return None
        frames = self._output.recv_multipart(self._zmq.NOBLOCK, copy=False)
        if len(frames) == 1 and frames[0].buffer == self._dead:
            raise EngineCoreDied
        return self._client.decoder.decode(frames)

    def _answer(self, output: Any) -> None:
        call = self._calls.get(output.call_id)
        if call is not None:
            done, answer = call
            answer[0] = None if output.result is None else output.result.result
            done.set()
