"""Start, ready, stop: what a supervisor and an operator see of the process."""

import signal
import socket
import subprocess
import sys

import pytest
import trio
from daemon_process import DaemonProcess, alive, wait_gone
from raw_client import raw_client
from speech import load_sample, manifest

from realtimed.client import Unavailable, connect

# The lifeline is tied as soon as vLLM loads its plugins, a few seconds into a process.
GONE_S = 30.0


@pytest.fixture
def fresh() -> DaemonProcess:
    """A daemon of the test's own, killed afterwards if the test has not ended it."""
    process = DaemonProcess("--max-sessions", "8", "--limits.drain-spread-s", "2")
    yield process  # type: ignore[misc]
    process._process.kill()
    process.wait()


async def test_refuses_while_loading_then_serves_then_drains(fresh: DaemonProcess) -> None:
    with pytest.raises(Unavailable, match="loading") as refusal:
        async with connect(fresh.url):
            pass
    assert refusal.value.retry_after_s == 10
    second = DaemonProcess("--port", str(fresh.port))
    assert second.wait() == 1
    assert "it is in use" in second.log
    assert "Traceback" not in second.log

    await trio.to_thread.run_sync(fresh.wait_ready)
    processes = [fresh.pid, *fresh.descendants()]
    assert len(processes) >= 2

    finals: list[str] = []
    draining = trio.Event()

    async def talk(
        name: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with raw_client(fresh.url) as client:
            await client.commit()
            await client.speak(load_sample(name))
            assert (await client.receive())["type"] == "transcription.delta"
            task_status.started()
            await draining.wait()
            while (event := await client.receive())["type"] != "transcription.done":
                assert event["type"] == "transcription.delta"
            finals.append(event["text"].strip())
            with pytest.raises(Exception, match="1001"):
                await client.receive()

    async with trio.open_nursery() as nursery:  # ends when every client has seen its close
        for name in ("digits", "callsign", "espeak"):
            await nursery.start(talk, name)
        fresh.send_signal(signal.SIGTERM)
        await trio.to_thread.run_sync(fresh.wait_for, "SIGTERM: draining")
        with pytest.raises(Unavailable, match="stopping"):
            async with connect(fresh.url):
                pass
        draining.set()
    assert sorted(finals) == sorted(manifest()[n].text for n in ("digits", "callsign", "espeak"))
    assert await trio.to_thread.run_sync(fresh.wait) == 0
    assert wait_gone(processes, GONE_S) == []


async def test_sigkill_leaves_no_process_behind(fresh: DaemonProcess) -> None:
    await trio.to_thread.run_sync(fresh.wait_ready)
    processes = fresh.descendants()
    assert processes
    fresh.send_signal(signal.SIGKILL)
    assert await trio.to_thread.run_sync(wait_gone, processes, GONE_S) == []


async def test_sigkill_while_loading_leaves_no_process_behind(fresh: DaemonProcess) -> None:
    await trio.to_thread.run_sync(fresh.wait_for, "starting the engine and loading weights")
    with trio.fail_after(30):
        while not (processes := fresh.descendants()):
            await trio.sleep(0.05)
    fresh.send_signal(signal.SIGKILL)
    assert await trio.to_thread.run_sync(wait_gone, processes, GONE_S) == []


async def test_sigterm_while_loading_is_a_clean_stop(fresh: DaemonProcess) -> None:
    await trio.to_thread.run_sync(fresh.wait_for, "starting the engine and loading weights")
    fresh.send_signal(signal.SIGTERM)
    assert await trio.to_thread.run_sync(fresh.wait) == 0
    assert not alive(fresh.pid)


async def test_a_second_signal_stops_at_once(fresh: DaemonProcess) -> None:
    await trio.to_thread.run_sync(fresh.wait_ready)
    processes = fresh.descendants()
    async with raw_client(fresh.url) as client:
        await client.commit()
        await client.speak(load_sample("digits")[:16_000])
        fresh.send_signal(signal.SIGTERM)
        fresh.wait_for("draining")
        fresh.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(fresh.wait, 10.0) in (0, 1)
    assert await trio.to_thread.run_sync(wait_gone, processes, GONE_S) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prot", "1"], 2, "--port"),
        (["--engine.max-model-lenn", "8"], 2, "max_model_len"),
        (["--engine.max-model-len", "many"], 2, "max-model-len"),
        (["--engine.max-model-len", "60"], 2, "max_model_len is 60"),
        (["/nonexistent/model"], 3, "model"),
    ],
)
def test_a_wrong_start_is_one_line_and_an_exit_code(
    arguments: list[str], code: int, message: str
) -> None:
    process = DaemonProcess(*arguments)
    assert process.wait(90) == code, process.log
    assert "Traceback" not in process.log
    assert message in process.lines[-1]
    assert process.lines[-1].startswith("realtimed: ")


def test_serving_without_vllm_says_how_to_install_it() -> None:
    """Most clients have none; the rest of the package works without it."""
    program = (
        "import sys; sys.modules.update(vllm=None, zmq=None, torch=None); "
        "from realtimed.cli import main; sys.exit(main(['serve', '--port', '0']))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert run.returncode == 3, run.stderr
    assert b"vLLM is not installed" in run.stderr
    assert b"realtimed[cuda]" in run.stderr
    assert b"Traceback" not in run.stderr


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = DaemonProcess("--port", str(taken.getsockname()[1]))
        assert process.wait(30) == 1
    assert "it is in use" in process.log
    assert "importing vLLM" not in process.log
