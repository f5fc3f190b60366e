"""Speech in real time from good clients, and how long its words take, while others do something."""

import threading
import time
from dataclasses import dataclass, field

import numpy as np
import trio
from secure_daemon import SecureDaemon
from speech import SAMPLE_RATE, load_sample, manifest, word_errors

from realtimed.client import Session, connect
from realtimed.wire.events import TextDelta, UtteranceDone

CHUNK = SAMPLE_RATE * 80 // 1000
SPOKEN = ("callsign", "digits", "callsign")
"""A sample for each stream, spoken again and again; the model gets these right."""


@dataclass
class HonestStreams:
    """Three clients in a thread of their own. `time.monotonic` is the clock of all figures."""

    daemon: SecureDaemon
    lags: list[tuple[float, float]] = field(default_factory=list)
    """When a word came, and how long after it had been spoken, in seconds."""
    finals: list[tuple[float, int]] = field(default_factory=list)
    """When a final came, and how many of its words were wrong."""
    failure: BaseException | None = None
    _stopping: bool = False

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        """Wait until every stream has had a final: a first inference takes longer."""
        deadline = time.monotonic() + 60
        while len(self.finals) < len(SPOKEN):
            assert time.monotonic() < deadline, self.failure
            time.sleep(0.1)

    def p95(self, begin: float, end: float) -> float:
        """The 95th percentile of the lags in that stretch of time, in seconds."""
        within = [lag for at, lag in self.lags if begin <= at < end]
        assert len(within) >= 5, f"only {len(within)} words in {end - begin:.1f} s; {self.failure}"
        return float(np.quantile(within, 0.95))

    def stop(self) -> None:
        """Let every stream end its utterance; raises what went wrong with one."""
        self._stopping = True
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            trio.run(self._all)
        except BaseException as failure:  # noqa: BLE001 - raised again by `stop`
            self.failure = failure

    async def _all(self) -> None:
        async with trio.open_nursery() as nursery:  # ends when each stream has after `stop`
            for number, name in enumerate(SPOKEN):
                nursery.start_soon(self._stream, name, number / len(SPOKEN))

    async def _stream(self, name: str, offset_s: float) -> None:
        await trio.sleep(offset_s)
        daemon, spoken_s = self.daemon, 0.0
        async with connect(
            daemon.url,
            api_key=daemon.key,
            ca_file=str(daemon.certificate.ca),
            include={"words"},
        ) as session:
            while not self._stopping:
                await self._utterance(session, name, spoken_s)
                spoken_s += len(load_sample(name)) / SAMPLE_RATE

    async def _utterance(self, session: Session, name: str, spoken_s: float) -> None:
        speech = load_sample(name).astype(np.float32) / 32_768
        pieces = [speech[at : at + CHUNK] for at in range(0, len(speech), CHUNK)]
        began = time.monotonic() - spoken_s
        async with session.transcribe(pieces, pace=1.0) as events:
            async for event in events:
                now = time.monotonic()
                match event:
                    case TextDelta(end=end) if end is not None:
                        self.lags.append((now, now - began - end))
                    case UtteranceDone():
                        self.finals.append((now, word_errors(manifest()[name].text, event.text)))
