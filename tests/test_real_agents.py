"""LiveKit Agents and pipecat, as they are: each hears all the words that were spoken.

Their packages clash with vLLM's and with each other's SDKs, so they live in a virtual environment
of their own, and `make test-agents` makes it and runs these tests. `make test` holds the daemon to
the same clients by what they do on the wire (`test_agent_clients.py`).
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess
from speech import SAMPLES, manifest

ROOT = Path(__file__).parent.parent
PYTHON = Path(os.environ.get("AGENTS_PYTHON") or ROOT / ".venv-agents/bin/python")
DRIVER = Path(__file__).parent / "agents" / "drive.py"
SPOKEN = ("digits", "callsign")
WORDS = [word for name in SPOKEN for word in manifest()[name].text.split()]
CLIENTS = (
    "livekit-openai",
    "livekit-openai-local-vad",
    "livekit-mistral",
    "pipecat-openai",
    "pipecat-openai-server-vad",
    "pipecat-mistral",
)
DEADLINE_S = 150.0

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="LiveKit and pipecat are not installed: run `make test-agents`"
)


@pytest.fixture(scope="module")
def running(session_daemon: DaemonProcess) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All clients at once, since each takes as long as the speech lasts."""
    files = [str(SAMPLES / f"{name}.wav") for name in SPOKEN]
    host = f"127.0.0.1:{session_daemon.port}"
    processes = {
        client: subprocess.Popen(
            [str(PYTHON), str(DRIVER), client, host, str(len(WORDS)), *files],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for client in CLIENTS
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_hears_what_was_spoken(
    running: dict[str, subprocess.Popen[str]], client: str
) -> None:
    output, _ = running[client].communicate(timeout=DEADLINE_S)
    assert running[client].returncode == 0
    heard: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(client, heard)
    assert heard["errors"] == []
    assert " ".join(heard["finals"]).split() == WORDS
    assert heard["interims"] > 0
