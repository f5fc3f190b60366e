"""All metrics, declared in one table and read when somebody asks.

Nothing is counted here: the rooms keep plain numbers for themselves, and a scrape turns one
`Reading` of them into Prometheus's text. Names carry units; no label grows with sessions.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from realtimed.distribution import Distribution
from realtimed.ops.reading import Reading

PREFIX: Final = "realtimed_"

_Labelled = Mapping[tuple[str, ...], float]
_Value = Callable[[Reading], float | None]
_Values = Callable[[Reading], _Labelled]


@dataclass(frozen=True, slots=True)
class _Declared:
    """One metric: its name less the prefix (a counter's less `_total`), and where it is read."""

    family: type[CounterMetricFamily | GaugeMetricFamily]
    name: str
    help: str
    value: _Value | None = None
    """`None` from it: there is no such thing now, and no sample."""
    labels: tuple[str, ...] = ()
    values: _Values | None = None

    def collect(self, reading: Reading) -> Metric:
        """The metric with its samples."""
        metric = self.family(PREFIX + self.name, self.help, labels=self.labels)
        samples: _Labelled = {}
        if self.values is not None:
            samples = self.values(reading)
        elif self.value is not None and (value := self.value(reading)) is not None:
            samples = {(): value}
        for labels, value in samples.items():
            metric.add_metric(labels, value)
        return metric


@dataclass(frozen=True, slots=True)
class _Histogram:
    name: str
    help: str
    distribution: Callable[[Reading], Distribution]

    def collect(self, reading: Reading) -> Metric:
        """The metric with its buckets."""
        distribution = self.distribution(reading)
        buckets, seen = [], 0
        bounds = [*map(repr, map(float, distribution.bounds)), "+Inf"]
        for bound, count in zip(bounds, distribution.counts, strict=True):
            seen += count
            buckets.append((bound, float(seen)))
        return HistogramMetricFamily(
            PREFIX + self.name, self.help, buckets=buckets, sum_value=distribution.total
        )


def _by(mapping: Callable[[Reading], Mapping[str, int]]) -> _Values:
    return lambda reading: {(key,): count for key, count in mapping(reading).items()}


def _active(reading: Reading) -> _Labelled:
    # A dialect that was spoken once stays on the graph.
    counts: dict[tuple[str, ...], float] = {(dialect,): 0 for dialect, _ in reading.ended}
    for session in reading.sessions:
        counts[session.dialect,] = counts.get((session.dialect,), 0) + 1
    return counts


def _slow_readers(reading: Reading) -> float:
    return sum(n for (_, outcome), n in reading.ended.items() if outcome == "slow_reader")


_Counter, _Gauge = CounterMetricFamily, GaugeMetricFamily

METRICS: Final[tuple[_Declared | _Histogram, ...]] = (
    _Declared(
        _Gauge,
        "build_info",
        "What runs here; always 1.",
        labels=("version", "vllm", "model"),
        values=lambda r: {(r.build["version"], r.build["vllm"], r.build["model"]): 1},
    ),
    _Declared(
        _Gauge, "ready", "Whether a new session would be accepted.", lambda r: r.unready is None
    ),
    # --- sessions ---
    _Declared(
        _Gauge,
        "sessions_active",
        "Live sessions by dialect.",
        labels=("dialect",),
        values=_active,
    ),
    _Declared(
        _Gauge, "sessions_limit", "Sessions that may be live at once.", lambda r: r.sessions_limit
    ),
    _Declared(
        _Counter,
        "sessions",
        "Sessions that have ended, by dialect and outcome.",
        labels=("dialect", "outcome"),
        values=lambda r: {
            (dialect, outcome): count for (dialect, outcome), count in r.ended.items()
        },
    ),
    _Declared(
        _Counter,
        "refusals",
        "Upgrades refused over HTTP, by the code of the refusal.",
        labels=("reason",),
        values=_by(lambda r: r.refused),
    ),
    _Declared(
        _Counter,
        "handshakes_displaced",
        "Connections closed before their upgrade to make way for newer ones.",
        lambda r: r.handshakes_displaced,
    ),
    _Declared(
        _Gauge, "connections_open", "TCP connections, upgraded or not.", lambda r: r.connections
    ),
    _Declared(
        _Gauge,
        "connections_limit",
        "TCP connections that may be open at once.",
        lambda r: r.connections_limit,
    ),
    _Declared(
        _Counter,
        "slow_readers",
        "Sessions ended because the client did not read.",
        _slow_readers,
    ),
    _Declared(
        _Counter,
        "rejected_messages",
        "Messages and frames of clients that were answered by an error, by its code.",
        labels=("code",),
        values=_by(lambda r: r.rejected),
    ),
    _Declared(_Gauge, "tasks", "Trio tasks of the daemon.", lambda r: r.tasks),
    # --- audio and text ---
    _Declared(_Counter, "audio_seconds", "Audio received.", lambda r: r.audio_s),
    _Declared(
        _Counter,
        "received_bytes",
        "Bytes received on accepted WebSockets.",
        lambda r: r.received_bytes,
    ),
    _Declared(_Counter, "sent_bytes", "Bytes sent on accepted WebSockets.", lambda r: r.sent_bytes),
    _Histogram(
        "lag_seconds",
        "Audio received that the engine has not answered for, of each session that is being "
        "recognised, looked at once a second. The model's own delay is not in it.",
        lambda r: r.lag_s,
    ),
    _Declared(
        _Gauge,
        "lag_max_seconds",
        "The same of the session that is furthest behind now.",
        lambda r: max((session.lag_s for session in r.sessions), default=0.0),
    ),
    _Histogram(
        "first_text_seconds",
        "From the beginning of an utterance to its first text.",
        lambda r: r.first_text_s,
    ),
    _Histogram(
        "final_seconds",
        "From the end of an utterance's audio, a commit or a pause, to its final.",
        lambda r: r.final_s,
    ),
    # --- recognition ---
    _Declared(
        _Counter,
        "cuts",
        "Segments of recognition, by what ended them.",
        labels=("reason",),
        values=_by(lambda r: r.cuts),
    ),
    _Declared(
        _Counter,
        "stalls",
        "Segments begun again because the engine did not answer.",
        lambda r: r.cuts.get("stall", 0),
    ),
    _Declared(
        _Gauge, "engine_up", "Whether the engine is loaded and answers.", lambda r: r.engine_up
    ),
    _Declared(
        _Counter,
        "engine_restarts",
        "Engines started because the one before was lost: it died, or did not answer.",
        lambda r: r.engine_restarts,
    ),
    _Histogram(
        "engine_step_seconds",
        "One engine step, from the step before it or from the first frame after an idle moment.",
        lambda r: r.engine_step_s,
    ),
    _Histogram(
        "engine_step_frames",
        "Frames of 80 ms answered by one engine step: the size of its batch.",
        lambda r: r.engine_step_frames,
    ),
    _Declared(
        _Gauge,
        "engine_frames_in_flight",
        "Frames sent to the engine and not yet answered.",
        lambda r: r.engine_frames_in_flight,
    ),
    _Declared(
        _Gauge,
        "engine_unanswered_seconds",
        "How long frames have been in flight without any engine step.",
        lambda r: r.engine_unanswered_s,
    ),
    _Declared(
        _Gauge,
        "realtime_headroom_ratio",
        "1 less the mean time of an engine step by the 80 ms it answers for, over ten seconds: "
        "1 with no load, 0 where the engine only just keeps up.",
        lambda r: r.headroom,
    ),
    _Declared(
        _Gauge,
        "engine_slots",
        "Segments that run in the engine, and that wait for it.",
        labels=("state",),
        values=lambda r: {("active",): r.slots_active, ("waiting",): r.slots_waiting},
    ),
    _Declared(
        _Gauge,
        "engine_slots_limit",
        "Segments that the engine runs at once.",
        lambda r: r.slots_limit,
    ),
    # --- settings ---
    _Declared(
        _Counter,
        "reloads",
        "Reloads of the settings by SIGHUP.",
        labels=("result",),
        values=lambda r: {("success",): r.reload.succeeded, ("failure",): r.reload.failed},
    ),
    _Declared(
        _Gauge,
        "reload_failed",
        "Whether the last reload failed, so that older settings are in force.",
        lambda r: r.reload.last_failed,
    ),
    _Declared(
        _Gauge,
        "reload_last_success_timestamp_seconds",
        "When the settings in force were read.",
        lambda r: r.reload.last_success,
    ),
    _Declared(
        _Gauge,
        "tls_certificate_expiry_timestamp_seconds",
        "When the certificate that new connections get expires; absent without TLS.",
        lambda r: r.tls_not_after,
    ),
)


class _Collector(Collector):
    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Every declared metric, from one reading."""
        reading = self._read()
        return [metric.collect(reading) for metric in METRICS]

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would read the daemon's state to find names."""
        return []


class Exposition:
    """The daemon's metrics as a scraper wants them."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(read))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, in the format that an Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
