"""What the admin listener of the real daemon tells an operator."""

import json
import re
import shutil
from typing import Any

import pytest
import trio
from daemon_process import DaemonProcess
from raw_client import raw_client
from speech import load_sample, manifest

from realtimed.ops.metrics import METRICS, PREFIX


async def get(daemon: DaemonProcess, path: str, status: int = 200) -> Any:
    found, body = await trio.to_thread.run_sync(daemon.get, path)
    assert found == status, body
    return json.loads(body)


async def samples(daemon: DaemonProcess) -> dict[str, float]:
    """Every sample of /metrics by its name and labels."""
    _, text = await trio.to_thread.run_sync(daemon.get, "/metrics")
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def test_a_ready_daemon_is_alive_and_ready_and_says_what_it_serves(
    daemon: DaemonProcess,
) -> None:
    assert await get(daemon, "/livez") == {"status": "alive"}
    assert await get(daemon, "/readyz") == {"status": "ready"}
    models = await get(daemon, "/v1/models")
    assert [model["id"] for model in models["data"]] == ["realtimed-demo"]
    assert (await get(daemon, "/version"))["model"] == "realtimed-demo"


async def test_a_live_session_is_listed_without_anything_that_was_said(
    daemon: DaemonProcess,
) -> None:
    async with raw_client(daemon.url) as client:
        await client.commit()
        await client.speak(load_sample("digits")[:32_000])
        delta = await client.receive()
        listed = await get(daemon, "/sessions")
    [session] = listed["sessions"]
    assert listed["active"] == 1
    assert listed["limit"] >= 1
    assert re.fullmatch(r"sess-[0-9a-f]{16}", session["id"])
    assert (session["dialect"], session["state"]) == ("vllm", "listening")
    assert session["audio_s"] == 2.0
    assert 0 <= session["lag_s"] <= 2.0
    assert 0 < session["age_s"] < 60
    assert delta["delta"].strip() not in json.dumps(listed)


async def test_a_session_moves_the_metrics_that_it_should(daemon: DaemonProcess) -> None:
    speech = load_sample("callsign")
    before = await samples(daemon)
    async with raw_client(daemon.url) as client:
        await client.send(type="nonsense")
        assert (await client.receive())["code"] == "unknown_event"
        done = await client.utterance(speech, paced=True)
        during = await samples(daemon)
    assert done["text"].strip() == manifest()["callsign"].text
    ended = 'realtimed_sessions_total{dialect="vllm",outcome="client_left"}'
    with trio.fail_after(10):
        while (after := await samples(daemon)).get(ended, 0) == before.get(ended, 0):
            pass

    def moved(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert during['realtimed_sessions_active{dialect="vllm"}'] == 1
    assert moved("realtimed_audio_seconds_total") == pytest.approx(len(speech) / 16_000, abs=1e-3)
    assert moved("realtimed_received_bytes_total") > 2 * len(speech), "base64 of 16-bit samples"
    assert moved("realtimed_sent_bytes_total") > len(done["text"])
    assert moved('realtimed_rejected_messages_total{code="unknown_event"}') == 1
    assert moved("realtimed_first_text_seconds_count") == 1
    assert moved("realtimed_final_seconds_count") == 1
    assert moved("realtimed_lag_seconds_count") >= 2
    assert moved("realtimed_engine_step_seconds_count") > 10
    assert moved("realtimed_engine_step_frames_sum") > 50, "a frame each 80 ms but for the first"
    assert moved('realtimed_cuts_total{reason="utterance_end"}') == 1
    assert after["realtimed_engine_frames_in_flight"] == 0
    assert after["realtimed_ready"] == after["realtimed_engine_up"] == 1
    assert after["realtimed_realtime_headroom_ratio"] <= 1


async def test_every_declared_metric_is_exposed_and_promtool_has_no_complaint(
    daemon: DaemonProcess,
) -> None:
    _, text = await trio.to_thread.run_sync(daemon.get, "/metrics")
    exposed = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    declared = {PREFIX + metric.name for metric in METRICS}
    assert declared <= {name.removesuffix("_total") for name in exposed}
    if not (promtool := shutil.which("promtool")):
        pytest.skip("promtool is not installed")
    ours = text.partition("# HELP process_")[0]
    check = await trio.run_process(
        [promtool, "check", "metrics"],
        stdin=ours.encode(),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")


async def test_openmetrics_is_served_to_who_asks_for_it(daemon: DaemonProcess) -> None:
    def ask() -> str:
        return daemon.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")[1]

    assert (await trio.to_thread.run_sync(ask)).endswith("# EOF\n")


async def test_a_web_page_cannot_drain_the_daemon_and_nobody_can_by_get(
    daemon: DaemonProcess,
) -> None:
    def post() -> tuple[int, str]:
        return daemon.get("/drain", method="POST", Origin="http://evil.example")

    assert (await trio.to_thread.run_sync(post))[0] == 403
    assert daemon.get("/drain")[0] == 405
    assert daemon.get("/nothing")[0] == 404
    assert await get(daemon, "/readyz") == {"status": "ready"}
