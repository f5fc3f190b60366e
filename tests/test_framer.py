"""Frames equal those of vLLM's own buffer, whatever the chunks; segments chain without a gap."""

import asyncio

import numpy as np
import pytest
from geometry import BUNDLED, model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from realtimed.audio.ring import AudioRing
from realtimed.config import Limits
from realtimed.transcription.framer import Framer
from realtimed.transcription.hearing import Hearing
from realtimed.transcription.policy import CutPolicy
from realtimed.transcription.segment import CutReason, Segment
from realtimed.transcription.utterance import Next, SegmentChain, Utterance

Audio = NDArray[np.float32]


def upstream_frames(audio: Audio, chunk: int) -> list[Audio]:
    """What vLLM 0.32's VoxtralRealtimeBuffer makes of the same audio."""
    buffers = pytest.importorskip("vllm.model_executor.models.voxtral_realtime")
    from mistral_common.tokens.tokenizers.audio import AudioConfig, AudioSpectrogramConfig

    config = AudioConfig(
        sampling_rate=16_000,
        frame_rate=12.5,
        encoding_config=AudioSpectrogramConfig(128, 160, 400),
        transcription_format="streaming",
        transcription_delay_ms=240.0,
        streaming_look_ahead_ms=2.5,
        streaming_look_back_ms=52.5,
        streaming_n_left_pad_tokens=32,
    )

    async def run() -> list[Audio]:
        buffer = buffers.VoxtralRealtimeBuffer(config, list(BUNDLED.prompt))
        for start in range(0, len(audio), chunk):
            if start == 0:
                await buffer.append_audio(np.zeros(BUNDLED.left_pad, np.float32))
            await buffer.append_audio(audio[start : start + chunk])
        await buffer.append_audio(np.zeros(BUNDLED.right_pad, np.float32))
        await buffer.append_audio(None)
        frames = []
        async for prompt in buffer.get_input_stream():
            frames.append(prompt["multi_modal_data"]["audio"][0])
            await buffer.append_tokens([7])
        return frames

    return asyncio.run(run())


def our_frames(audio: Audio, chunks: list[int], begin: int = 0) -> list[Audio]:
    """The same through the ring and the framer, appended in `chunks`, released as it goes."""
    ring, framer, frames = AudioRing(10**7), Framer(BUNDLED, begin), []
    ring.append(np.full(begin, 9, np.float32))

    def drain() -> None:
        while (frame := framer.take(ring)) is not None:
            frames.append(frame)
            ring.release(framer.needed_from)

    at = 0
    for chunk in chunks:
        ring.append(audio[at : at + chunk])
        at += chunk
        drain()
    ring.append(audio[at:])
    framer.close(ring.end)
    drain()
    assert framer.exhausted
    return frames


def noise(samples: int) -> Audio:
    return np.random.default_rng(samples).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize("samples", [0, 1, 39, 1_239, 1_240, 1_241, 5_160, 16_000, 40_001])
@pytest.mark.parametrize("chunk", [320, 1_281, 16_000])
def test_frames_equal_vllms(samples: int, chunk: int) -> None:
    audio = noise(samples)
    theirs = upstream_frames(audio, chunk)
    ours = our_frames(audio, [chunk] * (samples // chunk))
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert np.array_equal(our, their)


@settings(max_examples=60)
@given(
    samples=st.integers(0, 30_000),
    chunks=st.lists(st.integers(1, 5_000), max_size=30),
    begin=st.integers(0, 5_000),
)
def test_frames_depend_neither_on_chunks_nor_on_the_place_in_the_session(
    samples: int, chunks: list[int], begin: int
) -> None:
    audio = noise(samples)
    whole, cut = our_frames(audio, []), our_frames(audio, chunks, begin)
    assert len(whole) == len(cut)
    for one, other in zip(whole, cut, strict=True):
        assert np.array_equal(one, other)


def make_chain(utterance: Utterance, ring: AudioRing, max_model_len: int = 16_384) -> SegmentChain:
    info = model(max_model_len)
    # The answers have no words, which is not to count here.
    policy = CutPolicy.build(info, Limits(blank_s=1_000), gate=False)
    return SegmentChain(info, utterance, policy, ring, Hearing(ring))


def run_chain(chain: SegmentChain) -> list[tuple[int, int | None, CutReason | None, int]]:
    """Answer every frame at once, and find speech everywhere; what became of each segment."""
    seen = []
    while True:
        segment = chain.current
        while (frame := chain.next_frame()) is not None:
            assert frame.token_ids
            assert len(frame.audio)
            chain.answered([7], "")
            while chain.hearing.pending:
                chain.hearing.push(1.0)
            chain.ring.release(int(min(chain.keep_from, chain.hearing.needed_from)))
        assert segment.finished
        seen.append((segment.begin, segment.cut_at, segment.cut_reason, segment.framer.tokens))
        chain.close_segment()
        if chain.advance() is Next.NOTHING:
            return seen


@settings(max_examples=60)
@given(samples=st.integers(0, 400_000), max_model_len=st.integers(80, 400))
@example(samples=266_280, max_model_len=271)
def test_a_long_utterance_becomes_segments_that_join_and_never_reach_the_models_length(
    samples: int, max_model_len: int
) -> None:
    ring = AudioRing(10**6)
    ring.append(noise(samples + 1_000))
    seen = run_chain(make_chain(Utterance(0, 0, samples), ring, max_model_len))
    assert ring.start <= samples, "the next utterance's audio is still there"
    assert seen[0][0] == 0
    assert seen[-1][1] == samples
    assert [end for _, end, _, _ in seen[:-1]] == [begin for begin, _, _, _ in seen[1:]]
    assert all(tokens < max_model_len for _, _, _, tokens in seen)
    assert all(reason is CutReason.HARD_AGE for _, _, reason, _ in seen[:-1])
    assert seen[-1][2] is CutReason.UTTERANCE_END


def test_an_empty_utterance_needs_no_engine_step() -> None:
    chain = make_chain(Utterance(0, 0, 0), AudioRing(10))
    assert run_chain(chain) == [(0, 0, CutReason.UTTERANCE_END, 0)]
    assert (chain.prompt_tokens, chain.completion_tokens) == (0, 0)


def test_no_second_frame_before_the_first_is_answered() -> None:
    ring = AudioRing(10**6)
    ring.append(noise(32_000))
    segment = Segment(BUNDLED, 0)
    assert segment.next_frame(ring) is not None
    with pytest.raises(AssertionError, match="in flight"):
        segment.next_frame(ring)


def test_recognised_to_follows_the_answers_on_the_sessions_clock() -> None:
    ring = AudioRing(10**6)
    ring.append(noise(64_000))
    segment = Segment(BUNDLED, 1_000)
    assert segment.recognised_to == 1_000
    segment.next_frame(ring)
    assert segment.recognised_to == 1_000
    segment.answered([7])
    first = segment.recognised_to
    segment.next_frame(ring)
    assert segment.recognised_to == first
    segment.answered([7])
    assert segment.recognised_to == first + 1_280
