"""Every encoding and rate comes out as the same sound at 16 kHz, however it is divided."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from realtimed.audio.formats import AudioDecoder, bytes_per_sample, decode
from realtimed.audio.pcm import decode_pcm16, encode_pcm16
from realtimed.wire.events import ENCODINGS

GOLDEN = json.loads((Path(__file__).parent / "golden" / "g711.json").read_text())
RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
SETTLING_SAMPLES = 800
"""Of the resampler's filter at 16 kHz, at either end of a stream."""
LARGEST = np.nextafter(np.float32(1), np.float32(0))

encodings = st.sampled_from(ENCODINGS)
rates = st.sampled_from(RATES) | st.integers(8_000, 48_000)


def tone(rate: int, seconds: float = 1.0, amplitude: float = 0.5) -> NDArray[np.float64]:
    """440 Hz from time 0 on."""
    return amplitude * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)


def divided(decoder: AudioDecoder, data: bytes, sizes: list[int]) -> NDArray[np.float32]:
    """All that comes of `data` in chunks of `sizes` samples over and over."""
    parts, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)] * bytes_per_sample(decoder.encoding)
        parts.append(decoder.decode(data[at : at + size]))
        at, turn = at + size, turn + 1
    return np.concatenate([*parts, decoder.flush()])


def whole(encoding: str, rate: int, data: bytes) -> NDArray[np.float32]:
    return divided(AudioDecoder(encoding, rate), data, [len(data) or 1])


# --- encodings ---------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["pcm_mulaw", "pcm_alaw"])
def test_g711_equals_sox(law: str) -> None:
    assert (decode(bytes(range(256)), law) * 32768).tolist() == GOLDEN[law]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_a_fresh_1d_float32_array(encoding: str) -> None:
    for count in (0, 1, 5):
        samples = decode(bytes(bytes_per_sample(encoding) * count), encoding)
        assert samples.dtype == np.float32
        assert samples.shape == (count,)
        assert samples.flags.writeable
        assert samples.flags.owndata


@given(encoding=encodings, data=st.binary(max_size=400))
def test_any_bytes_are_samples_from_minus_one_to_below_one(encoding: str, data: bytes) -> None:
    samples = decode(data[: len(data) // 4 * 4], encoding)
    assert np.all((samples >= -1) & (samples < 1))


def test_every_half_float_is_decoded_without_a_warning() -> None:
    data = np.arange(65_536, dtype="<u2").tobytes()
    exact = np.frombuffer(data, "<f2")
    with np.errstate(all="raise"):
        samples = decode(data, "pcm_f16le")
    within = np.abs(exact) < 1
    assert np.array_equal(samples[within], exact[within].astype(np.float32))
    assert np.all(samples[~np.isfinite(exact)] == 0)


def test_floats_beyond_the_range_are_clipped_and_what_is_no_number_is_silence() -> None:
    data = np.array([math.nan, math.inf, -math.inf, 2, -2, 1, -1, 0.25], "<f4").tobytes()
    assert decode(data, "pcm_f32le").tolist() == [0, 0, 0, LARGEST, -1, LARGEST, -1, 0.25]


def test_a_nan_leaves_no_trace_after_the_resampler() -> None:
    sound = tone(24_000).astype("<f4")
    sound[5_000] = math.nan
    assert np.isfinite(whole("pcm_f32le", 24_000, sound.tobytes())).all()


def test_32_bit_integers_reach_both_ends() -> None:
    data = np.array([-(2**31), -(2**30), 0, 2**30, 2**31 - 1], "<i4").tobytes()
    assert decode(data, "pcm_s32le").tolist() == [-1, -0.5, 0, 0.5, LARGEST]


@given(st.lists(st.integers(-(2**15), 2**15 - 1), max_size=50))
def test_16_bit_sound_is_the_same_in_every_wider_encoding(values: list[int]) -> None:
    data = np.array(values, "<i2").tobytes()
    expected = decode_pcm16(data)
    assert np.array_equal(decode(data, "pcm_s16le"), expected)
    assert np.array_equal(decode(expected.astype("<f4").tobytes(), "pcm_f32le"), expected)
    wide = np.array(values, "<i4") * 65_536
    assert np.array_equal(decode(wide.tobytes(), "pcm_s32le"), expected)
    assert encode_pcm16(decode(data, "pcm_s16le")) == data


# --- streams -----------------------------------------------------------------------------


@given(
    encoding=encodings,
    rate=rates,
    count=st.integers(0, 9_000),
    sizes=st.lists(st.integers(1, 5_000), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_chunking_does_not_change_the_samples(
    encoding: str, rate: int, count: int, sizes: list[int], seed: int
) -> None:
    data = np.random.default_rng(seed).bytes(count * bytes_per_sample(encoding))
    decoder = AudioDecoder(encoding, rate)
    samples = divided(decoder, data, sizes)
    assert np.array_equal(samples, whole(encoding, rate, data))
    assert np.all((samples >= -1) & (samples < 1))
    assert decoder.consumed == count
    assert decoder.produced == len(samples)


@given(rate=rates, runs=st.lists(st.integers(0, 3_000), max_size=12))
def test_flushes_do_not_let_the_clock_drift(rate: int, runs: list[int]) -> None:
    decoder, total = AudioDecoder("pcm_s16le", rate), 0
    for count in runs:
        total += len(decoder.decode(bytes(2 * count))) + len(decoder.flush())
        assert decoder.produced == total
        assert total == (2 * decoder.consumed * 16_000 + rate) // (2 * rate)


def test_flushing_twice_gives_nothing_more() -> None:
    decoder = AudioDecoder("pcm_s16le", 24_000)
    decoder.decode(bytes(4_800))
    assert len(decoder.flush()) > 0
    assert len(decoder.flush()) == 0


def test_after_a_flush_the_stream_begins_anew() -> None:
    data = encode_pcm16(tone(24_000).astype(np.float32))
    decoder = AudioDecoder("pcm_s16le", 24_000)
    assert np.array_equal(divided(decoder, data, [999]), divided(decoder, data, [1_234]))


@pytest.mark.parametrize("rate", [8_000, 11_025, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("part_of_band", [0.11, 0.5, 0.9])
def test_a_tone_stays_the_tone(rate: int, part_of_band: float) -> None:
    hertz = part_of_band * min(rate, 16_000) / 2
    sound = 0.5 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)
    samples = whole("pcm_f32le", rate, sound.astype("<f4").tobytes())
    assert len(samples) == 16_000
    settled = samples[SETTLING_SAMPLES:-SETTLING_SAMPLES].astype(np.float64)
    angle = 2 * np.pi * hertz * np.arange(16_000)[SETTLING_SAMPLES:-SETTLING_SAMPLES] / 16_000
    waves = np.stack((np.sin(angle), np.cos(angle)), axis=1)
    (sine, cosine), *_ = np.linalg.lstsq(waves, settled)
    assert abs(20 * math.log10(math.hypot(sine, cosine) / 0.5)) < 0.02
    late_s = -math.atan2(cosine, sine) / (2 * np.pi * hertz)
    # Where a period is shorter than twice the delay, the angle is known up to whole periods.
    assert min(abs(late_s), abs(abs(late_s) - 1 / hertz)) < 0.00012
    rest = settled - waves @ (sine, cosine)
    assert 10 * math.log10(np.mean(rest**2) / np.mean(settled**2)) < -100


def test_what_16_khz_cannot_hold_is_not_folded_back() -> None:
    sound = 0.5 * np.sin(2 * np.pi * 9_000 * np.arange(48_000) / 48_000)
    samples = whole("pcm_f32le", 48_000, sound.astype("<f4").tobytes())
    assert np.abs(samples[SETTLING_SAMPLES:-SETTLING_SAMPLES]).max() < 1e-4


@pytest.mark.parametrize(
    ("rate", "held_samples"),
    [(8_000, 480), (11_025, 350), (24_000, 160), (32_000, 120), (44_100, 650), (48_000, 590)],
)
@pytest.mark.parametrize("chunk_ms", [1, 80])
def test_no_more_is_held_back_than_is_said(rate: int, held_samples: int, chunk_ms: int) -> None:
    decoder = AudioDecoder("pcm_s16le", rate)
    while decoder.consumed < 8 * rate:
        decoder.decode(bytes(2 * (rate * chunk_ms // 1000)))
        assert decoder.consumed * 16_000 / rate - decoder.produced <= held_samples


def test_at_the_target_rate_nothing_is_held_back() -> None:
    decoder = AudioDecoder("pcm_s16le", 16_000)
    data = encode_pcm16(tone(16_000).astype(np.float32))
    assert np.array_equal(decoder.decode(data), decode_pcm16(data))
    assert len(decoder.flush()) == 0
    assert decoder.consumed == decoder.produced == 16_000


# --- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [e for e in ENCODINGS if bytes_per_sample(e) > 1])
def test_half_a_sample_is_refused_and_changes_nothing(encoding: str) -> None:
    decoder = AudioDecoder(encoding, 24_000)
    with pytest.raises(ValueError, match="not a whole number"):
        decoder.decode(bytes(bytes_per_sample(encoding) + 1))
    with pytest.raises(ValueError, match="not a whole number"):
        decode(b"\0", encoding)
    assert decoder.consumed == decoder.produced == 0


@pytest.mark.parametrize("encoding", ["", "pcm16", "opus", "PCM_S16LE"])
def test_an_unknown_encoding_is_refused_with_those_that_are_known(encoding: str) -> None:
    known = ", ".join(ENCODINGS)
    with pytest.raises(ValueError, match=f"one of {known}, got '{encoding}'$"):
        AudioDecoder(encoding, 16_000)
    with pytest.raises(ValueError, match=known):
        decode(b"", encoding)
    with pytest.raises(ValueError, match=known):
        bytes_per_sample(encoding)


@pytest.mark.parametrize("rate", [-1, 0, 7_999, 48_001, 96_000])
def test_a_rate_out_of_range_is_refused_with_the_range(rate: int) -> None:
    with pytest.raises(ValueError, match=f"^sample_rate must be from 8000 to 48000 Hz, got {rate}"):
        AudioDecoder("pcm_s16le", rate)
    with pytest.raises(ValueError, match=r"^target_rate"):
        AudioDecoder("pcm_s16le", 16_000, rate)
