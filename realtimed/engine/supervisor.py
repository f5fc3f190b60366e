"""Keeps an engine running: one `Engine` after another, behind one object that stays.

An engine is *lost* when its process ends, when it says that it dies (an exception in a step), or
when it hangs (`StepWatch`); then it is killed and the next one is started, at once or after a
while (`RestartBudget`). Its streams end with `EngineLost`, and those who had them wait on
`availability`. The next engine is available when it has answered a real inference. An outage,
however many attempts it takes, has one deadline; beyond it, or after too many losses, `run` gives
up.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import numpy as np
import trio
from numpy.typing import NDArray

from realtimed.config import Limits
from realtimed.engine.availability import Availability, EngineState
from realtimed.engine.core import Engine, EngineSpec, Progress
from realtimed.engine.load import EngineLoad
from realtimed.engine.restarts import RestartBudget
from realtimed.engine.spec import Clip, Hypothesis, ModelInfo
from realtimed.engine.stream import EngineStream, OnAnswer, OnFailure
from realtimed.engine.watch import Health, StepWatch
from realtimed.errors import EngineDeadError, EngineLost, EngineStartError, StartError, WireError

log = logging.getLogger("realtimed.engine")

_FIRST_INFERENCE_S: Final = 60.0
"""The first inference may compile kernels; later ones may not take so long."""
_LAST_WORDS_S: Final = 3.0
"""What an engine that has said that it dies gets to do so."""
_KILLED_S: Final = 30.0
"""What the kernel, and the cleaning up behind an engine, may take after SIGKILL."""
_LOOK_S: Final = 0.5
_MARGIN_S: Final = 5.0
"""How late the watch may be before it is itself taken to be stuck."""

Infer = Callable[[Engine], Awaitable[bool]]
"""A real inference on this engine, whatever its availability; False if there was no slot for it.
Raises: `WireError` or `EngineLost` if it failed."""


class EngineSupervisor:
    """The engine, as the rest of the daemon knows it."""

    def __init__(self, spec: EngineSpec, limits: Limits, changed: Callable[[], None]) -> None:
        """`changed`: called on the Trio thread when `availability.up` has changed."""
        self._spec = spec
        self._limits = limits
        self._changed = changed
        self.availability = Availability(EngineState.DOWN)
        self.restarts = 0
        """Engines started after the first."""
        self._budget = RestartBudget(limits.engine_restarts, limits.engine_restart_window_s)
        self.load = EngineLoad()
        self._engine = self._new_engine()
        self._info: ModelInfo | None = None
        self._earlier_steps = 0
        self._stop = trio.Event()
        self._lost_at: float | None = None
        """Trio's time when the last good engine was lost; `None` while there is one."""
        self._outage = trio.CancelScope()
        self._given_up = trio.Event()
        """Set when this engine was killed because it does not work."""
        self._canary_flies = False
        self._looked_at = -math.inf
        self._progress: Progress
        self._infer: Infer

    def use(self, limits: Limits) -> None:
        """Put other limits into force, at once; an outage that goes on keeps its deadline."""
        self._limits = limits
        self._budget.at_most = limits.engine_restarts
        self._budget.window_s = limits.engine_restart_window_s

    # --- what is known of the engine --------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        """The loaded model; only after the first engine has reported it."""
        if self._info is None:
            raise AssertionError("the engine is not loaded")
        return self._info

    @property
    def served_names(self) -> tuple[str, ...]:
        """What the model is called here, loaded or not; the first is its proper name."""
        return self._spec.names

    @property
    def steps(self) -> int:
        """Engine steps answered since the start."""
        return self._earlier_steps + self._engine.steps

    @property
    def stepped_at(self) -> float:
        """Trio's time of the last step of this engine; minus infinity before the first."""
        return self._engine.stepped_at

    @property
    def open_streams(self) -> int:
        """Requests this daemon holds open in the engine."""
        return self._engine.open_streams

    async def request_counts(self) -> tuple[int, int] | None:
        """(running, waiting) requests as the engine counts them; `None` if it does not answer."""
        return await self._engine.request_counts()

    def alive(self) -> bool:
        """Whether the engine works, or is being brought back within its deadline.

        For a watchdog outside: False means that not even the supervision works any more.
        """
        now = trio.current_time()
        if self.availability.up:
            return now < self._looked_at + _LOOK_S + _MARGIN_S
        if self._lost_at is None:
            return self.availability.state is EngineState.DOWN
        return now < self._lost_at + self._limits.engine_restart_deadline_s + _MARGIN_S

    # --- streams --------------------------------------------------------------------------

    def open_stream(
        self, on_answer: OnAnswer, on_failure: OnFailure, *, logprobs: bool = False
    ) -> EngineStream:
        """A new request of the engine there is; see `Engine.open_stream`.

        Its first frame raises `EngineLost` if there is none.
        """
        return self._engine.open_stream(on_answer, on_failure, logprobs=logprobs)

    async def decode(self, clip: Clip, on_tokens: Callable[[], None]) -> Hypothesis:
        """Transcribe one clip with the engine there is; see `ClipDecoder.decode`."""
        return await self._engine.decode(clip, on_tokens)

    async def detect_language(
        self, audio: NDArray[np.float32], on_tokens: Callable[[], None]
    ) -> str:
        """Find out the language of one clip; see `ClipDecoder.detect_language`."""
        return await self._engine.detect_language(audio, on_tokens)

    def detokenizer(self) -> Any:
        """A fresh incremental detokenizer for one segment."""
        return self._engine.detokenizer()

    # --- life -----------------------------------------------------------------------------

    async def run(
        self,
        progress: Progress,
        infer: Infer,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Start an engine, report when it has answered, and keep one running until `stop`.

        Raises: `StartError` if the first one does not come up, `EngineDeadError` if one was lost
        and none could be brought back.
        """
        self._progress, self._infer = progress, infer
        try:
            await self._live(task_status.started)
            while not self._stop.is_set():
                await self._restart()
        finally:
            self._end()

    def stop(self) -> None:
        """Ask the engine to end, or not to be started again; `run` returns."""
        self._stop.set()
        self._engine.stop()

    def kill(self) -> None:
        """SIGKILL the engine, and start no other."""
        self._stop.set()
        self._engine.kill()

    async def _restart(self) -> None:
        """Bring an engine back, and see it to its end.

        Raises: `EngineDeadError` if the outage has lasted too long, or there were too many.
        """
        limits, now = self._limits, trio.current_time()
        assert self._lost_at is not None
        delay_s = self._budget.take(now)
        if delay_s is None:
            raise EngineDeadError(
                f"The engine was lost more than {limits.engine_restarts} times in "
                f"{limits.engine_restart_window_s:g} s: every session was ended. Look at the "
                "engine's log lines above."
            )
        log.warning("restarting the engine", extra={"delay_s": delay_s})
        deadline = self._lost_at + limits.engine_restart_deadline_s
        with trio.CancelScope(deadline=deadline) as self._outage:
            with trio.move_on_after(delay_s):
                await self._stop.wait()
            if self._stop.is_set():
                return
            self.restarts += 1
            self._earlier_steps += self._engine.steps
            self._engine = self._new_engine()
            try:
                await self._live(lambda: None)
            except StartError as error:
                if not self._stop.is_set():
                    log.warning("the engine did not come back: %s", error)
        if self._outage.cancelled_caught:
            raise EngineDeadError(
                f"The engine could not be brought back in {limits.engine_restart_deadline_s:g} s: "
                "every session was ended. Look at the engine's log lines above; if it needs longer "
                "to load, raise limits.engine_restart_deadline_s."
            )

    async def _live(self, started: Callable[[], None]) -> None:
        """See this engine from its start to its end.

        Raises: `StartError` if it does not come up, or does not answer.
        """
        engine, failure = self._engine, None
        self._given_up, self._canary_flies = trio.Event(), False
        # Ends with the engine. It is killed, not cancelled, since the next one may only start
        # when all of it is gone.
        async with trio.open_nursery() as nursery:
            try:
                self._adopt(await nursery.start(engine.run, self._progress))
                await self._prove(engine)
                self._come_up()
                started()
                await self._watch(engine)
            except StartError as error:
                failure = error
                engine.kill()
            await self._see_off(engine)
        if failure is not None:
            raise failure

    def _new_engine(self) -> Engine:
        return Engine(self._spec, self.load, self._on_lost)

    def _adopt(self, info: ModelInfo) -> None:
        if self._info is None:
            self._info = info
        elif self._info != info:
            raise EngineStartError(
                "The engine came back with another model or other limits than before; sessions "
                "cannot go on with it. Is something else using its memory?"
            )

    async def _prove(self, engine: Engine) -> None:
        """One real inference."""
        self._progress("first inference")
        try:
            with trio.fail_after(_FIRST_INFERENCE_S):
                await self._infer(engine)
        except trio.TooSlowError as error:
            raise EngineStartError(
                f"The first inference took longer than {_FIRST_INFERENCE_S:g} s."
            ) from error
        except (WireError, EngineLost) as error:
            raise EngineStartError(f"The first inference failed: {error}") from error

    def _come_up(self) -> None:
        if self._stop.is_set():
            return
        self._looked_at = trio.current_time()
        self._outage.deadline = math.inf
        self.availability.change(EngineState.ANSWERING)
        if self._lost_at is not None:
            seconds = round(trio.current_time() - self._lost_at, 1)
            log.warning("the engine is back", extra={"outage_s": seconds})
        self._lost_at = None
        self._changed()

    def _on_lost(self) -> None:
        """The engine answers no more; sessions wait from here on."""
        if self._stop.is_set():
            self._end()
        elif self.availability.up:
            self._lost_at = trio.current_time()
            self.availability.change(EngineState.DOWN)
            log.error("the engine is lost")
            self._changed()

    def _end(self) -> None:
        self.availability.change(EngineState.ENDED)

    # --- the watch --------------------------------------------------------------------------

    async def _watch(self, engine: Engine) -> None:
        """Look after a running engine until it is lost or given up."""
        watch = StepWatch(self._limits.engine_hang_s, self._limits.canary_s, trio.current_time())
        # Ended below, when the engine is lost or given up.
        async with trio.open_nursery() as nursery:
            while not (engine.lost.is_set() or self._given_up.is_set()):
                now = self._looked_at = trio.current_time()
                watch.hang_s, watch.canary_s = self._limits.engine_hang_s, self._limits.canary_s
                look_s = min(_LOOK_S, self._limits.engine_hang_s / 4)
                match watch.look(now, engine.steps, self.load.frames_in_flight):
                    case Health.HUNG:
                        self._give_up(
                            engine, f"no step for {watch.waited(now):.0f} s while frames wait"
                        )
                    case Health.SILENT:
                        self.availability.change(EngineState.SILENT)
                    case Health.ANSWERING:
                        self.availability.change(EngineState.ANSWERING)
                    case Health.UNPROVEN if not self._canary_flies:
                        self._canary_flies = True
                        nursery.start_soon(self._send_canary, engine)
                with trio.move_on_after(look_s):
                    await engine.lost.wait()
            nursery.cancel_scope.cancel()

    def _give_up(self, engine: Engine, why: str) -> None:
        """Kill an engine that runs but does not work."""
        log.error("the engine hangs: %s", why)
        self._given_up.set()
        self._on_lost()
        engine.kill()

    async def _send_canary(self, engine: Engine) -> None:
        """Let an idle engine recognise a little silence.

        Too slow is only what made no step at all: speech may have come in between.
        """
        steps, answered = engine.steps, False
        try:
            with trio.move_on_after(self._limits.canary_deadline_s):
                await self._infer(engine)
                answered = True
        except WireError as error:
            self._give_up(engine, f"it failed a canary inference: {error}")
        except EngineLost:
            return  # as the watch sees by itself
        else:
            if not answered and engine.steps == steps:
                deadline_s = self._limits.canary_deadline_s
                self._give_up(engine, f"no answer to a canary inference for {deadline_s:g} s")
        finally:
            self._canary_flies = False

    async def _see_off(self, engine: Engine) -> None:
        """Wait until all of a lost engine is gone; kill what does not go by itself.

        Raises: `EngineDeadError` if even that does not help.
        """
        if not self._stop.is_set():
            with trio.move_on_after(_LAST_WORDS_S):
                await engine.ended.wait()
            if not engine.ended.is_set():
                engine.kill()
            with trio.move_on_after(_KILLED_S):
                await engine.ended.wait()
                return
            raise EngineDeadError(
                f"The engine did not end {_KILLED_S:g} s after SIGKILL: its driver hangs, and no "
                "other engine can be started beside it. The machine may need to be restarted."
            )
