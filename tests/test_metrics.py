"""The table of metrics, and that alerts and dashboard name nothing else."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from realtimed.distribution import SECONDS, Distribution
from realtimed.ops.metrics import METRICS, PREFIX, Exposition
from realtimed.ops.reading import Reading, ReloadReading, SessionReading

CONF = Path(__file__).parent.parent / "conf"
ALERTS = CONF / "prometheus-alerts.yml"
DASHBOARD = CONF / "grafana-dashboard.json"
# Of the process itself, and of Prometheus.
FOREIGN = {
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "up",
}


def reading(**changes: Any) -> Reading:
    values: dict[str, Any] = dict.fromkeys(Reading.__slots__, 0)
    for name in ("lag_s", "first_text_s", "final_s", "engine_step_s", "engine_step_frames"):
        values[name] = Distribution(SECONDS)
    values |= {name: {} for name in ("ended", "refused", "rejected", "cuts")}
    values |= {"unready": None, "sessions": [], "tls_not_after": None}
    values["build"] = {"version": "1", "vllm": "2", "model": "m"}
    values["reload"] = ReloadReading(0, 0, False, 0.0)
    return Reading(**(values | changes))


def exposed(state: Reading) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name and label values, as Prometheus's own parser reads them."""
    body, _ = Exposition(lambda: state).render("")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_sessions_are_counted_by_dialect_and_never_named() -> None:
    sessions = [
        SessionReading("sess-1", "vllm", "listening", 1, 1, 0.5),
        SessionReading("sess-2", "vllm", "idle", 1, 1, 0.0),
        SessionReading("sess-3", "openai", "idle", 1, 1, 2.5),
    ]
    samples = exposed(reading(sessions=sessions, ended={("vllm", "slow_reader"): 2}))
    assert samples["realtimed_sessions_active"] == {("vllm",): 2, ("openai",): 1}
    assert samples["realtimed_sessions_total"] == {("vllm", "slow_reader"): 2}
    assert samples["realtimed_slow_readers_total"] == {(): 2}
    assert samples["realtimed_lag_max_seconds"] == {(): 2.5}
    assert "sess-" not in str(samples)


def test_there_is_no_expiry_without_tls() -> None:
    name = "realtimed_tls_certificate_expiry_timestamp_seconds"
    assert name not in exposed(reading())
    assert exposed(reading(tls_not_after=7.0))[name] == {(): 7}


def test_handshakes_that_made_way_are_counted() -> None:
    state = reading(handshakes_displaced=7)
    assert exposed(state)["realtimed_handshakes_displaced_total"] == {(): 7}


def test_a_label_cannot_break_its_line() -> None:
    samples = exposed(reading(rejected={'a"b\\\n': 1}))
    assert samples["realtimed_rejected_messages_total"] == {('a"b\\\n',): 1}


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_distribution_is_what_prometheus_counts(values: list[float]) -> None:
    distribution = Distribution(SECONDS)
    registry = CollectorRegistry()
    theirs = Histogram("realtimed_lag_seconds", "x", buckets=SECONDS, registry=registry)
    for value in values:
        distribution.add(value)
        theirs.observe(value)
    samples = exposed(reading(lag_s=distribution))
    assert distribution.count == len(values)
    for sample in next(iter(registry.collect())).samples:
        if not sample.name.endswith("_created"):
            ours = samples[sample.name][tuple(sample.labels.values())]
            assert ours == pytest.approx(sample.value)


def names_in(expression: str) -> set[str]:
    """Metric names: words that are neither functions nor keywords nor within braces."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|(by|on)\s*\([^)]*\)", " ", expression)
    words = re.findall(r"[a-z_]{2,}(?!\w|\s*\()", bare)
    return set(words) - {"by", "on", "and", "sum", "max"}


def known_names() -> set[str]:
    names: set[str] = set()
    for metric in METRICS:
        name = PREFIX + metric.name
        names |= {name, f"{name}_total"}
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return names | FOREIGN


def test_alerts_and_dashboard_use_only_metrics_that_exist() -> None:
    alerts = re.findall(r"expr: (?:>-\s+)?(.+)", ALERTS.read_text())
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    panels += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    assert len(alerts) >= 10
    assert len(panels) >= 20
    for expression in (*alerts, *panels):
        names = names_in(expression)
        assert names, expression
        assert names <= known_names(), expression


def test_every_metric_is_on_the_dashboard_but_the_build() -> None:
    text = DASHBOARD.read_text()
    assert [m.name for m in METRICS if PREFIX + m.name not in text] == ["build_info"]


def test_promtool_accepts_the_alerts() -> None:
    if not (promtool := shutil.which("promtool")):
        pytest.skip("promtool is not installed")
    check = subprocess.run(
        [promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout + check.stderr
