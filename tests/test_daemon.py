"""Speech in, text out: the real daemon on the real engine over real sockets."""

import pytest
import trio
from daemon_process import Counts, DaemonProcess
from raw_client import raw_client
from speech import load_sample, manifest, word_errors

# Word errors of a whole-file pass per sample, from the model card.
# Long pauses cut these into segments, at places that depend on when the audio came; and where its
# frames lie costs or saves the small model a word or two (docs/performance.md).
ALLOWED_ERRORS = {"noisy": 5, "minute": 6, "mixed": 2, "unseen-voice": 4, "pauses": 1}


async def wait_for_idle_engine(daemon: DaemonProcess) -> None:
    with trio.fail_after(10):
        while await daemon.counts() != Counts(0, 0, 0):
            pass


@pytest.mark.parametrize("batch", [0, 1, 2])
async def test_every_sample_comes_back_as_its_text_at_the_speed_of_speech(
    daemon: DaemonProcess, batch: int
) -> None:
    samples = list(manifest().values())[batch::3]
    heard: dict[str, str] = {}

    async def one(name: str) -> None:
        async with raw_client(daemon.url) as client:
            done = await client.utterance(load_sample(name), paced=True)
        heard[name] = done["text"]

    async with trio.open_nursery() as nursery:  # ends when every sample has its final
        for sample in samples:
            nursery.start_soon(one, sample.name)
    for sample in samples:
        errors = word_errors(sample.text, heard[sample.name])
        assert errors <= ALLOWED_ERRORS.get(sample.name, 0), (sample.name, heard[sample.name])


async def test_deltas_arrive_while_the_speaker_still_speaks(daemon: DaemonProcess) -> None:
    speech, order = load_sample("digits"), []
    async with raw_client(daemon.url) as client:
        await client.commit()

        async def listen() -> None:
            while True:
                event = await client.receive()
                order.append(event["type"])
                if event["type"] == "transcription.done":
                    return
                assert event["delta"]

        async with trio.open_nursery() as nursery:  # ends with the final
            nursery.start_soon(listen)
            await client.speak(speech, paced=True)
            order.append("spoken")
            await client.commit(final=True)
    assert order.index("spoken") >= 5
    assert order[-1] == "transcription.done"


async def test_done_has_the_joined_deltas_and_vllms_usage_with_audio_seconds(
    daemon: DaemonProcess,
) -> None:
    speech = load_sample("callsign")
    async with raw_client(daemon.url) as client:
        await client.commit()
        await client.speak(speech)
        await client.commit(final=True)
        *deltas, done = await client.until_terminal()
    assert "".join(event["delta"] for event in deltas) == done["text"]
    usage = done["usage"]
    assert set(usage) == {
        "prompt_tokens",
        "total_tokens",
        "completion_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "audio_seconds",
        "lag_seconds",
    }
    assert usage["prompt_tokens"] == 36
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["audio_seconds"] == pytest.approx(len(speech) / 16_000, abs=1e-3)


async def test_several_utterances_on_one_connection_each_start_afresh(
    daemon: DaemonProcess,
) -> None:
    names = ("digits", "callsign", "digits")
    async with raw_client(daemon.url) as client:
        texts = [(await client.utterance(load_sample(name)))["text"].strip() for name in names]
    assert texts == [manifest()[name].text for name in names]


async def test_eight_paced_sessions_at_once_all_finish_with_the_right_words(
    daemon: DaemonProcess,
) -> None:
    names = ("digits", "callsign", "espeak", "unseen-voice") * 2
    errors: list[int] = []

    async def one(name: str, delay_s: float) -> None:
        await trio.sleep(delay_s)
        async with raw_client(daemon.url) as client:
            done = await client.utterance(load_sample(name), paced=True)
        allowed = ALLOWED_ERRORS.get(name, 0)
        errors.append(max(0, word_errors(manifest()[name].text, done["text"]) - allowed))

    async with trio.open_nursery() as nursery:  # ends when all eight have their finals
        for number, name in enumerate(names):
            nursery.start_soon(one, name, number * 0.13)
    assert errors == [0] * 8


async def test_a_client_that_vanishes_frees_its_engine_request_and_disturbs_nobody(
    daemon: DaemonProcess,
) -> None:
    await wait_for_idle_engine(daemon)
    async with raw_client(daemon.url) as honest:
        await honest.commit()
        async with raw_client(daemon.url) as victim:
            await victim.commit()
            await victim.speak(load_sample("callsign")[:32_000])
            assert (await victim.receive())["type"] == "transcription.delta"
            await honest.speak(load_sample("digits")[:32_000])
            with trio.fail_after(10):
                while (await daemon.counts()).requests != 2:
                    pass
            await victim.socket._stream.aclose()  # the TCP connection just ends
            with trio.fail_after(10):
                while await daemon.counts() != Counts(1, 1, 1):
                    pass
        await honest.speak(load_sample("digits")[32_000:])
        await honest.commit(final=True)
        done = (await honest.until_terminal())[-1]
        assert done["text"].strip() == manifest()["digits"].text
    await wait_for_idle_engine(daemon)
