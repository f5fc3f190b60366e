"""Client secrets: who gets one, what it stands for, how long, and that OpenAI's SDK can ask."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio.testing
from echo_server import UPGRADE
from secure_daemon import ORIGIN, SecureDaemon
from speech import load_sample, manifest
from trio_websocket import open_websocket_url

from realtimed.client import Unauthorised, connect
from realtimed.client_access import tls_trust
from realtimed.config import Limits, Settings
from realtimed.errors import Refusal
from realtimed.server.access import AccessPolicy
from realtimed.server.client_secrets import ClientSecrets
from realtimed.server.handshake import Upgrade, read_upgrade
from realtimed.server.keys import ApiKey, generate_key, key_line
from realtimed.wire.events import UtteranceDone

ALICE = ApiKey("alice", bytes(32), 2)
LATER = 4e9


async def upgrade_with(header: str) -> Upgrade:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(UPGRADE + header.encode() + b"\r\n\r\n")
    upgrade = await read_upgrade(ours)
    assert upgrade is not None
    return upgrade


def test_a_secret_stands_for_its_key_until_it_expires() -> None:
    secrets = ClientSecrets()
    value = secrets.issue(ALICE, 100.0, now=40.0, at_most=10)
    assert value.startswith("ek_")
    assert secrets.find(value, 99.9) is ALICE
    assert secrets.find(value, 100.0) is None
    assert secrets.find(value[:-1], 50.0) is None
    assert value not in repr(vars(secrets)), "only its hash is kept"


def test_there_are_no_more_than_may_be_and_expired_ones_make_room() -> None:
    secrets = ClientSecrets()
    first = secrets.issue(ALICE, 100.0, now=0.0, at_most=2)
    secrets.issue(ALICE, 200.0, now=0.0, at_most=2)
    with pytest.raises(Refusal) as refusal:
        secrets.issue(ALICE, 300.0, now=50.0, at_most=2)
    assert (refusal.value.status, refusal.value.code) == (429, "too_many_secrets")
    secrets.issue(ALICE, 300.0, now=150.0, at_most=2)
    assert len(secrets) == 2
    assert secrets.find(first, 50.0) is None


async def test_a_secret_goes_when_its_key_does_and_the_administrators_stays(
    tmp_path: Path,
) -> None:
    keys, key = tmp_path / "keys", generate_key()
    keys.write_text(key_line("alice", key) + "\n")
    settings = Settings(api_keys_file=str(keys), limits=Limits(client_secrets=2))
    policy = AccessPolicy(settings)
    hers, ours = policy.issue_secret(key, LATER), policy.issue_secret(None, LATER)
    for secret, name in ((hers, "alice"), (ours, "admin")):
        for header in (
            f"Authorization: Bearer {secret}",
            f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{secret}",
        ):
            identity = policy.identify(await upgrade_with(header), "here")
            assert identity.log_fields == {"key": name}
    keys.write_text(key_line("bob", generate_key()) + "\n")
    policy.configure(settings)
    with pytest.raises(Refusal) as refusal:
        policy.identify(await upgrade_with(f"Authorization: Bearer {hers}"), "here")
    assert refusal.value.status == 401
    policy.identify(await upgrade_with(f"Authorization: Bearer {ours}"), "here")


def post(daemon: SecureDaemon, body: bytes, **headers: str) -> tuple[int, Any]:
    url = f"{daemon.process.admin}/v1/realtime/client_secrets"
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


async def test_a_browser_connects_with_a_secret_that_openais_sdk_got(
    secure_daemon: SecureDaemon,
) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key=secure_daemon.key, base_url=f"{secure_daemon.process.admin}/v1")
    secret = await trio.to_thread.run_sync(
        lambda: client.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 60},
            session={"type": "transcription", "audio": {"input": {"turn_detection": None}}},
        )
    )
    assert secret.session.type == "transcription"
    speech = load_sample("callsign").astype(np.float32) / 32_768
    async with connect(
        secure_daemon.url, api_key=secret.value, ca_file=str(secure_daemon.certificate.ca)
    ) as session:
        async with session.transcribe([speech]) as events:
            final = [event async for event in events][-1]
    assert isinstance(final, UtteranceDone)
    assert final.text.strip() == manifest()["callsign"].text
    trust = tls_trust(secure_daemon.url, None, str(secure_daemon.certificate.ca))
    protocols = ["realtime", f"openai-insecure-api-key.{secret.value}"]
    async with open_websocket_url(
        f"{secure_daemon.url}/v1/realtime",
        trust,
        subprotocols=protocols,
        extra_headers=[("Origin", ORIGIN)],
    ) as socket:
        assert json.loads(await socket.get_message())["type"] == "session.created"
        assert socket.subprotocol == "realtime"
    assert "key=alice" in secure_daemon.process.log
    assert secret.value not in secure_daemon.process.log


async def test_a_made_up_secret_is_unauthorised(secure_daemon: SecureDaemon) -> None:
    with pytest.raises(Unauthorised):
        async with connect(
            secure_daemon.url, api_key="ek_" + "a" * 43, ca_file=str(secure_daemon.certificate.ca)
        ):
            pass


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{}", {"Authorization": "Bearer unknown"}, 401, "unauthorized"),
        (b"{}", {"Authorization": "Basic abc"}, 401, "unauthorized"),
        (b"{}", {"Origin": "https://evil.example"}, 403, "forbidden_origin"),
        (b'{"expires_after":{"seconds":9}}', {}, 400, "invalid_request"),
        (b'{"expires_after":{"anchor":"now"}}', {}, 400, "invalid_request"),
        (b'{"session":[]}', {}, 400, "invalid_request"),
        (b"[" * 5_000, {}, 400, "invalid_request"),
        (b" " * 70_000, {}, 413, "too_long"),
    ],
)
async def test_a_wrong_request_is_answered_in_openais_words(
    secure_daemon: SecureDaemon, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    found, answer = await trio.to_thread.run_sync(lambda: post(secure_daemon, body, **headers))
    assert (found, answer["error"]["code"]) == (status, code)


async def test_without_a_body_a_secret_lasts_ten_minutes(secure_daemon: SecureDaemon) -> None:
    status, answer = await trio.to_thread.run_sync(lambda: post(secure_daemon, b""))
    assert status == 200
    assert set(answer) == {"value", "expires_at", "session"}
    assert answer["session"]["type"] == "transcription"
