"""Real clients against a daemon with TLS and keys: the SDKs of Python, the command, a browser."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from echo_server import ask
from secure_daemon import ORIGIN, SecureDaemon
from speech import load_sample, manifest, word_errors
from test_sdk_openai import at_24_khz, chunks, session

from realtimed import demo
from realtimed.client import Unauthorised, Unavailable, connect

openai = pytest.importorskip("openai", reason="the openai SDK is not installed")
websockets = pytest.importorskip("websockets", reason="websockets is not installed")

ANSWER_S = 60.0
WORDS = manifest()["callsign"].text
MANUAL = session(turn_detection=None)


@pytest.fixture(autouse=True)
def _trust(secure_daemon: SecureDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user does for a certificate authority of their own."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secure_daemon.certificate.ca))


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, ANSWER_S))


def client(secure: SecureDaemon, kind: Any, key: str | None = None) -> Any:
    return kind(api_key=key or secure.key, base_url=f"{secure.https_url}/v1")


# --- OpenAI --------------------------------------------------------------------------------


def test_the_synchronous_openai_client(secure_daemon: SecureDaemon) -> None:
    with client(secure_daemon, openai.OpenAI).realtime.connect(
        extra_query={"intent": "transcription"}
    ) as connection:
        connection.session.update(session=MANUAL)
        for chunk in chunks(at_24_khz(load_sample("callsign"))):
            connection.input_audio_buffer.append(audio=chunk)
        connection.input_audio_buffer.commit()
        for event in connection:
            assert event.type != "error", event
            if event.type.endswith("transcription.completed"):
                break
    assert event.transcript == WORDS


@pytest.mark.parametrize("beta", [False, True])
def test_the_asynchronous_openai_client(secure_daemon: SecureDaemon, beta: bool) -> None:
    async def talk() -> str:
        sdk = client(secure_daemon, openai.AsyncOpenAI)
        query = {"intent": "transcription"}
        opened = (
            sdk.beta.realtime.connect(model="gpt-4o-transcribe", extra_query=query)
            if beta
            else sdk.realtime.connect(extra_query=query)
        )
        async with opened as connection:
            if beta:
                update = {"input_audio_format": "pcm16", "turn_detection": None}
                await connection.transcription_session.update(session=update)
            else:
                await connection.session.update(session=MANUAL)
            for chunk in chunks(at_24_khz(load_sample("callsign"))):
                await connection.input_audio_buffer.append(audio=chunk)
            await connection.input_audio_buffer.commit()
            async for event in connection:
                assert event.type != "error", event
                if event.type.endswith("transcription.completed"):
                    return str(event.transcript)
        raise AssertionError("the server hung up")

    assert run(talk()) == WORDS


def test_the_openai_client_is_told_that_its_key_is_unknown(secure_daemon: SecureDaemon) -> None:
    sdk = client(secure_daemon, openai.OpenAI, key="sk-" + "0" * 40)
    with pytest.raises(Exception, match="HTTP 401"):
        with sdk.realtime.connect(extra_query={"intent": "transcription"}):
            pass


# --- Mistral -------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_the_mistral_client(secure_daemon: SecureDaemon, known: bool) -> None:
    mistral = pytest.importorskip("mistralai.client", reason="the mistralai SDK is not installed")

    async def pieces() -> AsyncIterator[bytes]:
        data = load_sample("callsign").tobytes()
        for at in range(0, len(data), 3_200):
            yield data[at : at + 3_200]

    async def talk() -> str:
        key = secure_daemon.key if known else "0" * 40
        sdk = mistral.Mistral(api_key=key, server_url=secure_daemon.https_url)
        stream = sdk.audio.realtime.transcribe_stream(pieces(), model="any")
        async for event in stream:
            if type(event).__name__ == "TranscriptionStreamDone":
                return str(event.text)
        raise AssertionError("the stream ended without a transcript")

    if known:
        assert word_errors(WORDS, run(talk())) == 0
    else:
        with pytest.raises(Exception, match="401"):
            run(talk())


# --- ours ----------------------------------------------------------------------------------


def transcribe(secure: SecureDaemon, *options: str, **environ: str) -> Any:
    command = [sys.executable, "-m", "realtimed", "transcribe", "--fast", "--url", secure.url]
    environment = {k: v for k, v in os.environ.items() if k != "SSL_CERT_FILE"} | environ
    sample = str(demo.SAMPLES_DIR / "callsign.wav")
    return subprocess.run(
        [*command, *options, sample], capture_output=True, text=True, timeout=60, env=environment
    )


def test_transcribe_takes_the_authority_and_the_key(secure_daemon: SecureDaemon) -> None:
    ca = ("--ca-file", str(secure_daemon.certificate.ca))
    done = transcribe(secure_daemon, *ca, REALTIMED_API_KEY=secure_daemon.key)
    assert (done.returncode, done.stdout.strip()) == (0, WORDS), done.stderr
    no_key = transcribe(secure_daemon, *ca)
    assert no_key.returncode == 4
    assert "HTTP 401: An API key is needed" in no_key.stderr
    no_trust = transcribe(secure_daemon, REALTIMED_API_KEY=secure_daemon.key)
    assert no_trust.returncode == 3
    assert "not trusted" in no_trust.stderr
    for run_ in (done, no_key, no_trust):
        assert run_.stderr.count("\n") == (run_.returncode != 0)


async def test_a_key_with_one_session_has_no_second_until_the_first_is_over(
    secure_daemon: SecureDaemon,
) -> None:
    def ours() -> Any:
        return connect(secure_daemon.url, api_key=secure_daemon.single_key)

    async with ours():
        with pytest.raises(Unavailable, match=r"HTTP 429.*all of its 1 sessions") as refusal:
            async with ours():
                pass
        assert refusal.value.retry_after_s == 5
        async with connect(secure_daemon.url, api_key=secure_daemon.key):
            pass
    with trio.fail_after(10):
        while True:
            try:
                async with ours():
                    break
            except Unavailable:
                await trio.sleep(0.05)


async def test_the_log_names_the_key_of_each_session_and_shows_none(
    secure_daemon: SecureDaemon,
) -> None:
    async with connect(secure_daemon.url, api_key=secure_daemon.key) as ours:
        session_id = ours.id
    with pytest.raises(Unauthorised):
        async with connect(f"{secure_daemon.url}/v1/realtime?api_key={secure_daemon.key}"):
            pass
    process = secure_daemon.process
    await trio.to_thread.run_sync(
        process.wait_for, f"session begins session={session_id} key=alice"
    )
    await trio.to_thread.run_sync(process.wait_for, f"session ends session={session_id} key=alice")
    assert secure_daemon.key not in process.log
    assert secure_daemon.single_key not in process.log
    assert "api_key" not in process.log


# --- browsers ------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["openai-insecure-api-key.", "rt_"])
def test_a_web_page_brings_its_key_in_a_subprotocol(
    secure_daemon: SecureDaemon, prefix: str
) -> None:
    async def talk() -> tuple[str | None, str]:
        async with websockets.connect(
            f"{secure_daemon.url}/v1/realtime",
            origin=ORIGIN,
            subprotocols=["realtime", prefix + secure_daemon.key],
        ) as socket:
            return socket.subprotocol, json.loads(await socket.recv())["type"]

    assert run(talk()) == ("realtime", "session.created")


async def test_another_web_page_is_refused_whatever_key_it_has(secure_daemon: SecureDaemon) -> None:
    context = ssl.create_default_context(cafile=str(secure_daemon.certificate.ca))
    async with await trio.open_ssl_over_tcp_stream(
        "localhost", secure_daemon.process.port, ssl_context=context
    ) as stream:
        key = f"Authorization: Bearer {secure_daemon.key}"
        status, told = await ask(stream, key, "Origin: https://evil.example")
    assert status == 403
    assert b'"code":"forbidden_origin"' in told
