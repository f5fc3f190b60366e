"""The Node SDK of OpenAI, which dials nothing but wss://, against a daemon with TLS and keys."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from secure_daemon import SecureDaemon
from speech import load_sample, manifest
from test_sdk_openai import at_24_khz

HERE = Path(__file__).parent / "node"
NODE = shutil.which("node") or ""
# For the browser's class: a global WebSocket, which Node has without a flag from 22 on.
FLAGS = ["--experimental-websocket", "--no-warnings"]
OLDEST = (20, 10)


def why_not() -> str:
    """Why these tests cannot run here; empty if they can."""
    if not NODE:
        return "there is no node on this machine"
    told = subprocess.run([NODE, "--version"], capture_output=True, text=True, timeout=30).stdout
    if tuple(map(int, told.strip("v\n").split(".")[:2])) < OLDEST:
        return f"node {told.strip()} has no WebSocket of its own: 20.10 or later does"
    if not (HERE / "node_modules" / ".installed").is_file():
        return "the npm packages are not installed: make venv does it where npm is"
    return ""


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def transcribe(
    secure: SecureDaemon, kind: str, key: str, sample: str = "callsign"
) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [NODE, *FLAGS, "transcribe.mjs", kind, f"{secure.https_url}/v1", key],
        input=at_24_khz(load_sample(sample)).tobytes(),
        capture_output=True,
        timeout=60,
        cwd=HERE,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": str(secure.certificate.ca)},
    )
    out, err = run.stdout.decode(), run.stderr.decode()
    return subprocess.CompletedProcess(run.args, run.returncode, out, err)


@pytest.mark.parametrize("kind", ["ws", "browser", "beta"])
def test_each_class_of_the_sdk_gets_the_words(secure_daemon: SecureDaemon, kind: str) -> None:
    run = transcribe(secure_daemon, kind, secure_daemon.key)
    assert run.returncode == 0, run.stderr
    assert run.stdout == manifest()["callsign"].text + "\n"


@pytest.mark.parametrize("kind", ["ws", "browser", "beta"])
def test_each_class_reports_a_key_that_is_unknown(secure_daemon: SecureDaemon, kind: str) -> None:
    run = transcribe(secure_daemon, kind, "sk-" + "0" * 40)
    assert run.returncode == 1
    assert run.stdout == ""
    # A browser's WebSocket may not tell a page why it was refused.
    assert "401" in run.stderr or kind == "browser"
