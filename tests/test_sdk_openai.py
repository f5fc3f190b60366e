"""The real `openai` SDK against the real daemon: manual commits, server VAD, sync and async."""

import asyncio
import base64
from typing import Any

import numpy as np
import pytest
import soxr
from daemon_process import DaemonProcess
from speech import SAMPLE_RATE, Pcm16, load_sample, manifest, word_errors

openai = pytest.importorskip("openai", reason="the openai SDK is not installed")

ANSWER_S = 60.0
CHUNK = 1_200
TRANSCRIPTION = "conversation.item.input_audio_transcription"


def at_24_khz(audio: Pcm16) -> Pcm16:
    return np.asarray(soxr.resample(audio, SAMPLE_RATE, 24_000), np.int16)


def chunks(audio: Pcm16) -> list[str]:
    return [
        base64.b64encode(audio[at : at + CHUNK].tobytes()).decode()
        for at in range(0, len(audio), CHUNK)
    ]


def session(**audio_input: Any) -> dict[str, Any]:
    transcription = {"model": "gpt-4o-mini-transcribe", "language": "en"}
    defaults = {"format": {"type": "audio/pcm", "rate": 24_000}, "transcription": transcription}
    return {"type": "transcription", "audio": {"input": {**defaults, **audio_input}}}


def quiet(seconds: float) -> Pcm16:
    draw = np.random.Generator(np.random.PCG64(1))
    return (20 * draw.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.int16)


def client(daemon: DaemonProcess, kind: Any) -> Any:
    base = f"http://127.0.0.1:{daemon.port}/v1"
    return kind(api_key="none", base_url=base, websocket_base_url=base.replace("http", "ws"))


async def talk(daemon: DaemonProcess, update: dict[str, Any] | None, parts: list[Any]) -> list[Any]:
    """Send audio (arrays) and commits (`None`); all events up to as many finals as expected."""
    events: list[Any] = []
    async with client(daemon, openai.AsyncOpenAI).realtime.connect(
        extra_query={"intent": "transcription"}
    ) as connection:
        if update is not None:
            await connection.session.update(session=update)
        commits = 0
        for part in parts:
            if part is None:
                await connection.input_audio_buffer.commit()
                commits += 1
                continue
            for chunk in chunks(at_24_khz(part)):
                await connection.input_audio_buffer.append(audio=chunk)
        finals = 0
        async for event in connection:
            events.append(event)
            assert event.type != "error", event
            finals += event.type.endswith("transcription.completed")
            if finals == (commits or 1):
                return events
    raise AssertionError("the server hung up")


def of_type(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type == kind]


def run(coroutine: Any) -> list[Any]:
    events: list[Any] = asyncio.run(asyncio.wait_for(coroutine, ANSWER_S))
    return events


def test_manual_commits_give_one_transcript_each(daemon: DaemonProcess) -> None:
    names = ("digits", "callsign")
    parts = [part for name in names for part in (load_sample(name), None)]
    events = run(talk(daemon, session(turn_detection=None), parts))
    done = of_type(events, "conversation.item.input_audio_transcription.completed")
    assert [
        word_errors(manifest()[n].text, e.transcript) for n, e in zip(names, done, strict=True)
    ] == [0, 0]
    committed = of_type(events, "input_audio_buffer.committed")
    assert [event.item_id for event in committed] == [event.item_id for event in done]
    assert committed[1].previous_item_id == committed[0].item_id
    for event in done:
        deltas = [
            e.delta
            for e in of_type(events, "conversation.item.input_audio_transcription.delta")
            if e.item_id == event.item_id
        ]
        assert "".join(deltas) == event.transcript
    assert events[0].type == "session.created"
    (updated,) = of_type(events, "session.updated")
    assert updated.session.type == "transcription"


def test_server_vad_is_on_without_being_asked_for(daemon: DaemonProcess) -> None:
    events = run(talk(daemon, None, [load_sample("callsign"), quiet(2)]))
    (done,) = of_type(events, "conversation.item.input_audio_transcription.completed")
    assert word_errors(manifest()["callsign"].text, done.transcript) <= 1
    kinds = [event.type for event in events]
    order = ["session.created", "input_audio_buffer.speech_started",
             "input_audio_buffer.speech_stopped", "input_audio_buffer.committed",
             "conversation.item.input_audio_transcription.completed"]  # fmt: skip
    assert [kinds.index(kind) for kind in order] == sorted(kinds.index(kind) for kind in order)
    assert {getattr(event, "item_id", done.item_id) for event in events} == {done.item_id}


def test_a_commit_of_nothing_is_no_error(daemon: DaemonProcess) -> None:
    events = run(talk(daemon, session(turn_detection=None), [None]))
    (done,) = of_type(events, "conversation.item.input_audio_transcription.completed")
    assert done.transcript == ""


@pytest.mark.parametrize("detected", [True, False])
def test_commits_among_turns_lose_no_word_and_make_no_empty_item(
    daemon: DaemonProcess, detected: bool
) -> None:
    """`detected`: a commit comes when the turn that it ends has been found, or long before."""
    parts = (load_sample("digits"), quiet(1), load_sample("callsign"), quiet(1.5))
    audio = np.concatenate(parts)
    # In the pause after a word, between two words without one, and at the end of what is said.
    cuts = [round(seconds * SAMPLE_RATE) for seconds in (2.5, 4.05, 5.3)]

    async def talk_and_commit() -> list[Any]:
        events: list[Any] = []
        ended: set[str] = set()
        async with client(daemon, openai.AsyncOpenAI).realtime.connect(
            extra_query={"intent": "transcription"}
        ) as connection:
            for part in np.split(audio, cuts):
                for chunk in chunks(at_24_khz(part)):
                    await connection.input_audio_buffer.append(audio=chunk)
                if len(part) == len(audio) - cuts[-1]:
                    continue
                if detected:
                    async for event in connection:
                        events.append(event)
                        if (
                            event.type.endswith("transcription.delta")
                            and event.item_id not in ended
                        ):
                            ended.add(event.item_id)
                            break
                await connection.input_audio_buffer.commit()
            async for event in connection:
                events.append(event)
                assert event.type != "error", event
                # The turn that follows shows that nothing came before it.
                if len(of_type(events, "conversation.item.done")) > len(cuts):
                    return events
        raise AssertionError("the server hung up")

    events = run(talk_and_commit())
    done = of_type(events, "conversation.item.input_audio_transcription.completed")
    assert len(done) == len(cuts) + 1
    assert all(event.transcript for event in done)
    heard = " ".join(event.transcript for event in done)
    spoken = f"{manifest()['digits'].text} {manifest()['callsign'].text}"
    assert word_errors(spoken, heard) <= 1, heard
    told = [event.type for event in events if "speech_st" in event.type]
    assert told == ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"] * (
        len(told) // 2
    )


def test_log_probabilities_are_those_of_the_tokens_of_the_text(daemon: DaemonProcess) -> None:
    asked = session(turn_detection=None)
    asked["include"] = ["item.input_audio_transcription.logprobs"]
    events = run(talk(daemon, asked, [load_sample("digits"), None]))
    done = events[-1]
    assert done.transcript == manifest()["digits"].text
    for event in (*of_type(events, f"{TRANSCRIPTION}.delta"), done):
        text = event.transcript if event is done else event.delta
        assert "".join(one.token for one in event.logprobs) == text
        assert bytes(byte for one in event.logprobs for byte in one.bytes) == text.encode()
    values = [one.logprob for one in done.logprobs]
    assert max(values) <= 0
    # Every word is right, so the model was sure of most of its tokens, and of none very unsure.
    assert np.median(values) > -0.1
    assert min(values) > -3
    plain = run(talk(daemon, session(turn_detection=None), [load_sample("callsign"), None]))
    assert all(getattr(event, "logprobs", None) is None for event in plain)


def test_g711_is_understood(daemon: DaemonProcess) -> None:
    text, audio = manifest()["digits"].text, load_sample("digits")
    narrow = np.asarray(soxr.resample(audio, SAMPLE_RATE, 8_000), np.int16)
    magnitude = np.log1p(255 * np.abs(narrow / 32768.0)) / np.log(256)
    law = (~(np.where(narrow < 0, 0x80, 0) | (magnitude * 127.999).astype(int)) & 0xFF).astype(
        np.uint8
    )

    async def talk_narrow() -> list[Any]:
        events: list[Any] = []
        async with client(daemon, openai.AsyncOpenAI).realtime.connect(
            extra_query={"intent": "transcription"}
        ) as connection:
            update = session(format={"type": "audio/pcmu"}, turn_detection=None)
            await connection.session.update(session=update)
            for at in range(0, len(law), 400):
                chunk = base64.b64encode(law[at : at + 400].tobytes()).decode()
                await connection.input_audio_buffer.append(audio=chunk)
            await connection.input_audio_buffer.commit()
            async for event in connection:
                events.append(event)
                if event.type.endswith("completed"):
                    return events
        return events

    # A telephone's bandwidth costs the small model words; that most come shows it is audio.
    done = run(talk_narrow())[-1]
    assert word_errors(text, done.transcript) <= 4, done.transcript


def test_the_synchronous_client_and_clear(daemon: DaemonProcess) -> None:
    with client(daemon, openai.OpenAI).realtime.connect(
        extra_query={"intent": "transcription"}
    ) as connection:
        connection.session.update(session=session(turn_detection=None))
        for chunk in chunks(at_24_khz(load_sample("digits"))):
            connection.input_audio_buffer.append(audio=chunk)
        connection.input_audio_buffer.clear()
        for chunk in chunks(at_24_khz(load_sample("callsign"))):
            connection.input_audio_buffer.append(audio=chunk)
        connection.input_audio_buffer.commit()
        kinds = []
        for event in connection:
            kinds.append(event.type)
            if event.type.endswith("transcription.completed"):
                break
    assert event.transcript == manifest()["callsign"].text
    assert "input_audio_buffer.cleared" in kinds


def test_the_beta_shape_is_spoken_to_those_who_ask_for_it(daemon: DaemonProcess) -> None:
    async def talk_beta() -> list[Any]:
        events: list[Any] = []
        async with client(daemon, openai.AsyncOpenAI).beta.realtime.connect(
            model="gpt-4o-transcribe", extra_query={"intent": "transcription"}
        ) as connection:
            await connection.transcription_session.update(
                session={
                    "input_audio_format": "pcm16",
                    "input_audio_transcription": {"model": "gpt-4o-transcribe"},
                    "turn_detection": None,
                }
            )
            for chunk in chunks(at_24_khz(load_sample("callsign"))):
                await connection.input_audio_buffer.append(audio=chunk)
            await connection.input_audio_buffer.commit()
            async for event in connection:
                events.append(event)
                if event.type.endswith("transcription.completed"):
                    break
        return events

    events = run(talk_beta())
    assert events[0].type == "transcription_session.created"
    assert of_type(events, "transcription_session.updated")
    assert events[-1].transcript == manifest()["callsign"].text
