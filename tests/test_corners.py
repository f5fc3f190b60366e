"""The table of docs/protocol.md, row by row, over a raw socket to the real daemon.

Once with the bundled checkpoint, which says what was spoken, and once with random weights, which
say the same noise for the same audio: the rules are not those of one model.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from checkpoints import make_random_checkpoint
from daemon_process import DaemonProcess
from raw_client import RawClient, raw_client
from speech import load_sample, manifest

from realtimed.engine.args import BUNDLED_ENVIRONMENT

DIGITS = load_sample("digits")
CALLSIGN = load_sample("callsign")
RANDOM = (
    *("--served-model-name", "realtimed-demo", "--no-silence-gate", "--engine.dtype", "float32"),
    *("--engine.max-model-len", "2048", "--engine.max-num-seqs", "8", "--engine.enforce-eager"),
    *("--engine.kv-cache-memory-bytes", str(2**27), "--engine.distributed-executor-backend", "uni"),
)


@pytest.fixture(scope="module", params=["bundled", "random"])
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DaemonProcess]:
    """The daemon of all tests, then one with a checkpoint of random weights."""
    if request.param == "bundled":
        yield request.getfixturevalue("session_daemon")
        return
    checkpoint = make_random_checkpoint(tmp_path_factory.mktemp("random"), seed=3)
    process = DaemonProcess(str(checkpoint), *RANDOM, environment=dict(BUNDLED_ENVIRONMENT))
    try:
        yield process.wait_ready()
    finally:
        assert process.stop() == 0, process.log


_SAID: dict[tuple[int, str], str] = {}


async def said(daemon: DaemonProcess, name: str) -> str:
    """What the daemon's model makes of a sample in a session by the book."""
    if (daemon.pid, name) not in _SAID:
        async with raw_client(daemon.url) as client:
            done = await client.utterance(load_sample(name))
        _SAID[daemon.pid, name] = done["text"].strip()
        assert _SAID[daemon.pid, name]
    return _SAID[daemon.pid, name]


async def error_code(client: RawClient) -> str:
    event = await client.receive()
    assert event["type"] == "error", event
    text = event["error"]
    assert text
    assert "\n" not in text
    assert not any(trace in text for trace in ("Traceback", "/site-packages", "object at 0x", "b'"))
    code: str = event["code"]
    return code


async def final_text(client: RawClient) -> str:
    done = (await client.until_terminal())[-1]
    assert done["type"] == "transcription.done", done
    text: str = done["text"]
    return text.strip()


async def still_works(client: RawClient, daemon: DaemonProcess) -> None:
    done = await client.utterance(CALLSIGN)
    assert done["text"].strip() == await said(daemon, "callsign")


async def nothing_more_comes(client: RawClient) -> None:
    """The next answer is that of a message sent now, so nothing else was waiting."""
    await client.send(type="no.such.event")
    assert await error_code(client) == "unknown_event"


async def test_audio_before_the_model_and_before_commit_is_used(daemon: DaemonProcess) -> None:
    async with raw_client(daemon.url, update=False) as client:
        await client.speak(DIGITS[:40_000])
        await client.update()
        await client.speak(DIGITS[40_000:60_000])
        await client.commit()
        await client.speak(DIGITS[60_000:])
        await client.commit(final=True)
        assert await final_text(client) == await said(daemon, "digits")


@pytest.mark.parametrize("final", [False, True])
async def test_commit_before_the_model_is_an_error_and_starts_nothing(
    daemon: DaemonProcess, final: bool
) -> None:
    async with raw_client(daemon.url, update=False) as client:
        await client.commit(final=final)
        assert await error_code(client) == "model_not_validated"
        await client.update()
        await still_works(client, daemon)


async def test_commits_while_transcribing_are_the_start_of_one_next_utterance(
    daemon: DaemonProcess,
) -> None:
    async with raw_client(daemon.url) as client:
        await client.commit()
        await client.speak(DIGITS[:50_000])
        await client.commit()
        await client.commit()
        await client.speak(DIGITS[50_000:])
        await client.commit(final=True)
        await client.speak(CALLSIGN)
        await client.commit(final=True)
        assert await final_text(client) == await said(daemon, "digits")
        assert await final_text(client) == await said(daemon, "callsign")
        await nothing_more_comes(client)


async def test_final_without_an_utterance_transcribes_what_is_buffered(
    daemon: DaemonProcess,
) -> None:
    async with raw_client(daemon.url) as client:
        await client.speak(DIGITS)
        await client.commit(final=True)
        assert await final_text(client) == await said(daemon, "digits")


async def test_final_with_nothing_at_all_is_exactly_one_empty_done(daemon: DaemonProcess) -> None:
    async with raw_client(daemon.url) as client:
        await client.commit(final=True)
        done = await client.receive()
        assert (done["type"], done["text"]) == ("transcription.done", "")
        assert done["usage"]["total_tokens"] == 0
        assert done["usage"]["audio_seconds"] == 0.0
        await nothing_more_comes(client)
        await still_works(client, daemon)


async def test_commit_and_final_without_audio_is_one_empty_done(daemon: DaemonProcess) -> None:
    async with raw_client(daemon.url) as client:
        await client.commit()
        await client.commit(final=True)
        assert await final_text(client) == ""
        await nothing_more_comes(client)


async def test_audio_after_final_is_kept_for_the_next_utterance(daemon: DaemonProcess) -> None:
    async with raw_client(daemon.url) as client:
        await client.commit()
        await client.speak(DIGITS)
        await client.commit(final=True)
        await client.speak(CALLSIGN[:45_000])
        assert await final_text(client) == await said(daemon, "digits")
        await client.commit()
        await client.speak(CALLSIGN[45_000:])
        await client.commit(final=True)
        assert await final_text(client) == await said(daemon, "callsign")


async def test_pipelined_utterances_each_have_one_done_in_order(daemon: DaemonProcess) -> None:
    order = [DIGITS, CALLSIGN, DIGITS[:0], CALLSIGN]
    digits, callsign = await said(daemon, "digits"), await said(daemon, "callsign")
    async with raw_client(daemon.url) as client:
        async with trio.open_nursery() as nursery:  # ends when all is sent and answered

            async def send() -> None:
                for speech in order:
                    await client.commit()
                    await client.speak(speech)
                    await client.commit(final=True)

            nursery.start_soon(send)
            texts = [await final_text(client) for _ in order]
        assert texts == [digits, callsign, "", callsign]
        await nothing_more_comes(client)


async def test_an_unknown_model_is_named_and_the_valid_one_stays(daemon: DaemonProcess) -> None:
    async with raw_client(daemon.url) as client:
        await client.update("someone/else")
        assert await error_code(client) == "model_not_found"
        await still_works(client, daemon)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "session.update"}, "invalid_event"),
        ({"type": "session.update", "model": None}, "invalid_event"),
        ({"type": "session.update", "model": 7}, "invalid_event"),
        ({"type": "input_audio_buffer.append"}, "invalid_event"),
        ({"type": "input_audio_buffer.append", "audio": None}, "invalid_event"),
        ({"type": "input_audio_buffer.append", "audio": 5}, "invalid_event"),
        ({"type": "input_audio_buffer.append", "audio": ""}, "invalid_audio"),
        ({"type": "input_audio_buffer.append", "audio": "AAA"}, "invalid_audio"),
        ({"type": "input_audio_buffer.append", "audio": "AA\nAA"}, "invalid_audio"),
        ({"type": "input_audio_buffer.append", "audio": "****"}, "invalid_audio"),
        (
            {"type": "input_audio_buffer.append", "audio": base64.b64encode(b"odd").decode()},
            "invalid_audio",
        ),
        ({"type": "input_audio_buffer.commit", "final": None}, "invalid_event"),
        ({"type": "input_audio_buffer.clear"}, "unknown_event"),
        ({"type": 5}, "unknown_event"),
        ({}, "unknown_event"),
        ([], "invalid_event"),
        (None, "invalid_event"),
        ("text", "invalid_event"),
    ],
)
async def test_what_is_wrong_is_named_and_the_session_goes_on(
    daemon: DaemonProcess, message: Any, code: str
) -> None:
    async with raw_client(daemon.url) as client:
        await client.send_raw(json.dumps(message))
        assert await error_code(client) == code
        await nothing_more_comes(client)
        await client.commit(final=True)
        assert await final_text(client) == ""


@pytest.mark.parametrize("message", ["", "{", "not json", '{"type":"session.update",}'])
async def test_what_is_no_json_is_named(daemon: DaemonProcess, message: str) -> None:
    async with raw_client(daemon.url) as client:
        await client.send_raw(message)
        assert await error_code(client) == "invalid_json"
        await nothing_more_comes(client)


async def test_a_bad_chunk_in_the_middle_is_dropped_and_the_rest_is_used(
    daemon: DaemonProcess,
) -> None:
    async with raw_client(daemon.url) as client:
        await client.commit()
        await client.speak(DIGITS[:50_000])
        await client.send(type="input_audio_buffer.append", audio="!")
        await client.speak(DIGITS[50_000:])
        await client.commit(final=True)
        events = await client.until_terminal()
        while events[-1]["type"] == "error":
            assert events[-1]["code"] == "invalid_audio"
            events = await client.until_terminal()
        assert events[-1]["text"].strip() == await said(daemon, "digits")


async def test_binary_frames_are_raw_pcm(daemon: DaemonProcess) -> None:
    async with raw_client(daemon.url) as client:
        await client.commit()
        data = DIGITS.tobytes()
        for start in range(0, len(data), 4_096):
            await client.send_raw(data[start : start + 4_096])
        await client.commit(final=True)
        assert await final_text(client) == await said(daemon, "digits")
        await client.send_raw(b"odd")
        assert await error_code(client) == "invalid_audio"
        await client.send_raw(b"")
        assert await error_code(client) == "invalid_audio"


async def test_fields_that_ask_for_nothing_are_accepted(daemon: DaemonProcess) -> None:
    async with raw_client(daemon.url, update=False) as client:
        await client.send(
            type="session.update", model="realtimed-demo", language=None, event_id="e1", include=[]
        )
        await client.send(type="input_audio_buffer.commit", event_id="e2")
        await client.send(type="input_audio_buffer.commit", final=True, more={"a": 1})
        assert await final_text(client) == ""


async def test_an_option_that_cannot_be_served_is_named_and_changes_nothing(
    daemon: DaemonProcess,
) -> None:
    async with raw_client(daemon.url, update=False) as client:
        await client.send(type="session.update", model="realtimed-demo", language="en")
        error = await client.receive()
        assert error["code"] == "unsupported_option"
        assert "language" in error["error"]
        await client.commit()
        assert (await client.receive())["code"] == "model_not_validated"


async def test_the_bundled_model_says_what_was_spoken(session_daemon: DaemonProcess) -> None:
    for name in ("digits", "callsign"):
        assert await said(session_daemon, name) == manifest()[name].text
