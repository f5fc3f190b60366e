"""Sessions that pause, stall and go on for ever, on a real daemon and engine."""

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from checkpoints import make_blank_checkpoint
from daemon_process import DaemonProcess
from raw_client import RawClient, raw_client
from speech import SAMPLE_RATE, Pcm16, load_sample, manifest, word_errors

from realtimed.client import Unavailable, connect

SLOTS = 2
OPTIONS = {"include": ["words", "warnings"]}
CLEAN = ("callsign", "digits", "espeak")


@pytest.fixture(scope="module")
def small() -> Iterator[DaemonProcess]:
    """A daemon with two engine slots, young segments, and little patience."""
    process = DaemonProcess(
        *("--engine.max-num-seqs", str(SLOTS)),
        *("--limits.soft-age-s", "6", "--limits.hard-age-s", "9", "--limits.stall-s", "1.5"),
    )
    try:
        yield process.wait_ready()
    finally:
        assert process.stop() == 0, process.log


async def configure(client: RawClient, **options: Any) -> None:
    await client.send(type="session.update", model="realtimed-demo", **OPTIONS, **options)


def silence(seconds: float) -> Pcm16:
    """Nearly: the noise of a quiet room."""
    draw = np.random.Generator(np.random.PCG64(int(seconds * 1000)))
    return (20 * draw.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.int16)


def spoken(name: str) -> tuple[str, Pcm16]:
    return manifest()[name].text, load_sample(name)


async def until_done(client: RawClient) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The next `done`, and everything before it."""
    events = await client.until_terminal()
    assert events[-1]["type"] == "transcription.done", events[-1]
    return events[-1], events[:-1]


def by_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


async def cuts(daemon: DaemonProcess) -> dict[str, int]:
    """Segments cut since the start, by reason."""
    seen = len(daemon.lines)
    await daemon.counts()
    line = next(line for line in daemon.lines[seen:] if " state " in line)
    return {
        name.removeprefix("cuts_"): int(value)
        for name, _, value in (word.partition("=") for word in line.split())
        if name.startswith("cuts_")
    }


# --- rollover ---------------------------------------------------------------------------------


async def test_a_minute_of_speech_is_one_utterance_however_often_it_is_cut(
    small: DaemonProcess,
) -> None:
    text, audio = spoken("minute")
    before = await cuts(small)
    async with raw_client(small.url, update=False) as client:
        await configure(client)
        await client.commit()
        await client.speak(audio)
        await client.commit(final=True)
        done, before_done = await until_done(client)
    after = await cuts(small)
    assert after["soft_age"] + after["hard_age"] - before["soft_age"] - before["hard_age"] >= 4
    deltas = by_type(before_done, "transcription.delta")
    assert "".join(delta["delta"] for delta in deltas) == done["text"]
    assert "  " not in done["text"]
    # Without any cut 2 to 6 of the 56 words are wrong, depending on where the frames lie.
    assert word_errors(text, done["text"]) <= 9
    assert done["usage"]["audio_seconds"] == pytest.approx(len(audio) / SAMPLE_RATE, abs=1e-3)


# --- times --------------------------------------------------------------------------------------


async def test_words_have_the_times_at_which_they_were_spoken(small: DaemonProcess) -> None:
    errors: list[float] = []
    async with raw_client(small.url, update=False) as client:
        await configure(client)
        clock = 0.0
        for name in (*CLEAN, "pauses"):  # one clock for all utterances of a session
            text, audio = spoken(name)
            done = await client.utterance(audio)
            assert [word["word"] for word in done["words"]] == done["text"].split()
            for before, word in pairwise(done["words"]):
                assert before["end"] <= word["end"]
                assert word["start"] <= word["end"]
            if done["text"].split() == text.split():
                errors += [
                    word["end"] - clock - truth.end_ms / 1000
                    for word, truth in zip(done["words"], manifest()[name].words, strict=True)
                ]
            clock += len(audio) / SAMPLE_RATE
    assert len(errors) >= 20
    assert np.median(np.abs(errors)) <= 0.080
    assert np.quantile(np.abs(errors), 0.95) <= 0.240


async def test_deltas_carry_times_only_where_they_are_asked_for(daemon: DaemonProcess) -> None:
    _, audio = spoken("digits")
    async with raw_client(daemon.url) as client:
        await client.commit()
        await client.speak(audio)
        await client.commit(final=True)
        done, before = await until_done(client)
    assert all(set(event) == {"type", "delta"} for event in before)
    assert set(done) == {"type", "text", "usage"}


# --- silence ------------------------------------------------------------------------------------


async def test_a_silent_session_leaves_the_engine_and_comes_back_with_the_first_word(
    small: DaemonProcess,
) -> None:
    first, second = spoken("callsign"), spoken("digits")
    async with raw_client(small.url, update=False) as client:
        await configure(client)
        await client.commit()
        await client.speak(np.concatenate([first[1], silence(4)]))
        with trio.fail_after(20):
            while (await small.counts()).requests:
                await trio.sleep(0.05)
        await client.speak(second[1])
        await client.commit(final=True)
        done, _ = await until_done(client)
    assert word_errors(f"{first[0]} {second[0]}", done["text"]) <= 1
    returned = len(first[1]) / SAMPLE_RATE + 4
    assert done["words"][len(first[0].split())]["start"] >= returned


async def test_more_sessions_than_slots_are_served_and_told_to_wait(small: DaemonProcess) -> None:
    text, audio = spoken("callsign")
    heard: list[dict[str, Any]] = []
    warnings: list[str] = []

    async def one() -> None:
        async with raw_client(small.url, update=False) as client:
            await configure(client)
            await client.commit()
            await client.speak(audio)
            await client.commit(final=True)
            done, before = await until_done(client)
            heard.append(done)
            warnings.extend(event["code"] for event in by_type(before, "warning"))

    async with trio.open_nursery() as nursery:  # ends when every session has its final
        for _ in range(3 * SLOTS):
            nursery.start_soon(one)
    assert [done["text"].strip() for done in heard] == [text] * 3 * SLOTS
    assert warnings.count("queued") >= SLOTS


async def test_no_session_is_admitted_that_could_not_be_heard_in_time(small: DaemonProcess) -> None:
    # Every slot taken by somebody who speaks, and as many waiting; see SlotPool.crowded.
    _, audio = spoken("minute")
    async with trio.open_nursery() as nursery:  # ended below

        async def talk() -> None:
            async with raw_client(small.url) as client:
                await client.commit()
                await client.speak(audio)
                await trio.sleep_forever()

        for _ in range(2 * SLOTS):
            nursery.start_soon(talk)
        with trio.fail_after(20):
            while not (await waiting(small)) >= SLOTS:
                await trio.sleep(0.05)
        with pytest.raises(Unavailable, match="slot"):
            async with connect(f"{small.url}/v1/realtime"):
                pass
        nursery.cancel_scope.cancel()
    with trio.fail_after(20):
        while (await small.counts()).sessions:
            await trio.sleep(0.05)


async def waiting(daemon: DaemonProcess) -> int:
    seen = len(daemon.lines)
    await daemon.counts()
    line = next(line for line in daemon.lines[seen:] if " state " in line)
    return int(line.partition("slots_waiting=")[2].split()[0])


# --- turns --------------------------------------------------------------------------------------


async def test_turns_begin_and_end_by_themselves(small: DaemonProcess) -> None:
    turns = [spoken(name) for name in ("callsign", "espeak")]
    async with raw_client(small.url, update=False) as client:
        await configure(client, turn_detection={"type": "server_vad", "silence_duration_ms": 900})
        dones, events = [], []
        async with trio.open_nursery() as nursery:  # ends when every turn has been said

            async def speak() -> None:
                for _, audio in turns:
                    await client.speak(np.concatenate([audio, silence(2)]), paced=True)

            nursery.start_soon(speak)
            for _ in turns:
                done, before = await until_done(client)
                dones.append(done)
                events.append(before)
    for (text, _), done, before in zip(turns, dones, events, strict=True):
        assert word_errors(text, done["text"]) <= 1, done
        (started,) = by_type(before, "input_audio_buffer.speech_started")
        (stopped,) = by_type(before, "input_audio_buffer.speech_stopped")
        assert started["audio_start_ms"] < stopped["audio_end_ms"]
    first = manifest()["callsign"].words
    (started,) = by_type(events[0], "input_audio_buffer.speech_started")
    (stopped,) = by_type(events[0], "input_audio_buffer.speech_stopped")
    assert started["audio_start_ms"] == pytest.approx(first[0].start_ms, abs=150)
    assert stopped["audio_end_ms"] == pytest.approx(first[-1].end_ms, abs=200)


async def test_without_turn_detection_speech_alone_says_nothing(daemon: DaemonProcess) -> None:
    async with raw_client(daemon.url) as client:
        await client.speak(spoken("callsign")[1])
        await client.commit(final=True)
        _, before = await until_done(client)
    assert {event["type"] for event in before} == {"transcription.delta"}


# --- never silent -------------------------------------------------------------------------------


async def test_an_engine_that_is_wedged_for_five_seconds_costs_no_word(
    small: DaemonProcess,
) -> None:
    text, audio = spoken("minute")
    audio = audio[: 20 * SAMPLE_RATE]
    words = [word.word for word in manifest()["minute"].words if word.end_ms < 19_500]
    engine = small.descendants()
    async with raw_client(small.url, update=False) as client:
        await configure(client)
        await client.commit()
        async with trio.open_nursery() as nursery:  # ends when all has been said

            async def speak() -> None:
                await client.speak(audio, paced=True)
                await client.commit(final=True)

            nursery.start_soon(speak)
            await trio.sleep(5)
            for pid in engine:
                small.signal_process(pid, signal.SIGSTOP)
            await trio.sleep(5)
            for pid in engine:
                small.signal_process(pid, signal.SIGCONT)
            done, before = await until_done(client)
    assert "resumed" in [event["code"] for event in by_type(before, "warning")]
    assert (await cuts(small))["stall"] >= 1
    assert word_errors(" ".join(words), done["text"]) <= 3, (done["text"], text)


async def test_a_model_that_says_nothing_over_speech_is_begun_again(tmp_path: Path) -> None:
    blank = make_blank_checkpoint(tmp_path / "blank")
    process = DaemonProcess(
        str(blank), "--served-model-name", "realtimed-demo", "--engine.max-num-seqs", "4",
        "--engine.enforce-eager", "--engine.max-model-len", "2048", "--limits.blank-s", "4",
        "--engine.kv-cache-memory-bytes", str(2**27),
    )  # fmt: skip
    try:
        process.wait_ready()
        async with raw_client(process.url, update=False) as client:
            await configure(client)
            done = None
            await client.commit()
            await client.speak(load_sample("minute")[: 30 * SAMPLE_RATE])
            await client.commit(final=True)
            done, before = await until_done(client)
        assert done["text"] == ""
        assert [event["code"] for event in before].count("resumed") >= 1
        assert (await cuts(process))["blanks"] >= 1
        # It helps ever less often, so it is tried ever less often.
        assert (await cuts(process))["blanks"] <= 5
    finally:
        assert process.stop() == 0, process.log
