"""Turns alternate and never end early; the track remembers what a list of all windows would."""

import math
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtimed.audio.levels import level_dbfs, quietest
from realtimed.audio.turns import (
    SpeechStarted,
    SpeechStopped,
    SpeechTrack,
    TurnDetection,
    TurnDetector,
)

W = 512

# Values at and beside the thresholds are the ones that decide.
probability = st.one_of(
    st.sampled_from([0.0, 0.009, 0.01, 0.34, 0.35, 0.36, 0.49, 0.5, 0.51, 1.0]),
    st.floats(0, 1, width=32),
)
# Mostly whole windows on end, as the daemon has them; now and then a short one or a gap.
window = st.tuples(probability, st.one_of(st.just(W), st.just(W), st.integers(1, 4 * W)))
windows = st.lists(window, max_size=60).map(
    lambda steps: list(
        zip([p for p, _ in steps], accumulate(length for _, length in steps), strict=True)
    )
)


def judged(steps: list[tuple[float, int]], threshold: float) -> list[tuple[int, int, bool]]:
    """Begin, end and whether it is speech, of each window, by the definition of hysteresis."""
    found: list[tuple[int, int, bool]] = []
    leave = min(max(threshold - 0.15, 0.01), threshold)
    for value, end in steps:
        previous = found[-1] if found else (0, 0, False)
        speech = value >= threshold or (previous[2] and value >= leave)
        found.append((max(end - W, previous[1]), end, speech))
    return found


# --- settings -------------------------------------------------------------------------------


def test_defaults_are_those_of_server_vad() -> None:
    detection = TurnDetection()
    assert (detection.threshold, detection.prefix_padding_ms) == (0.5, 300)
    assert detection.silence_duration_ms == 500
    assert detection.prefix_padding_samples == 4_800
    assert detection.silence_duration_samples == 8_000


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("threshold", 0, "threshold must be above 0 and at most 1, got 0"),
        ("threshold", 1.01, "threshold must be above 0 and at most 1, got 1.01"),
        ("threshold", math.nan, "threshold must be above 0 and at most 1, got nan"),
        ("prefix_padding_ms", -1, "prefix_padding_ms must be between 0 and 5000, got -1"),
        ("prefix_padding_ms", 5_001, "prefix_padding_ms must be between 0 and 5000, got 5001"),
        ("silence_duration_ms", -1, "silence_duration_ms must be between 0 and 10000, got -1"),
        ("silence_duration_ms", 10_001, "silence_duration_ms must be between 0 and 10000, got"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        TurnDetection(**{field: value})


def test_the_ends_of_the_ranges_are_allowed() -> None:
    TurnDetection(1, 0, 0)
    TurnDetection(0.001, 5_000, 10_000)


# --- turns ----------------------------------------------------------------------------------


def run(detector: TurnDetector, values: list[float]) -> list[SpeechStarted | SpeechStopped | None]:
    return [detector.push(value, number * W) for number, value in enumerate(values, 1)]


def test_one_window_of_speech_begins_a_turn_where_the_window_begins() -> None:
    detector = TurnDetector(TurnDetection())
    assert run(detector, [0.1, 0.49, 0.5]) == [None, None, SpeechStarted(2 * W)]
    assert detector.speaking
    assert detector.last_speech_end == 3 * W


def test_a_turn_ends_where_its_speech_ended_once_the_silence_has_lasted() -> None:
    detector = TurnDetector(TurnDetection(silence_duration_ms=64))
    assert run(detector, [0.9, 0.9, 0.1, 0.1]) == [
        SpeechStarted(0),
        None,
        None,
        SpeechStopped(2 * W),
    ]
    assert not detector.speaking
    assert detector.last_speech_end == 2 * W


def test_within_a_turn_less_is_enough_for_speech() -> None:
    detector = TurnDetector(TurnDetection(silence_duration_ms=0))
    values = [0.35, 0.5, 0.35, 0.34, 0.49]
    assert run(detector, values) == [None, SpeechStarted(W), None, SpeechStopped(3 * W), None]


def test_a_short_dip_does_not_end_a_turn() -> None:
    detector = TurnDetector(TurnDetection(silence_duration_ms=96))
    events = run(detector, [0.9, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1])
    assert events == [SpeechStarted(0), None, None, None, None, None, SpeechStopped(4 * W)]


def test_without_a_silence_duration_the_first_other_window_ends_the_turn() -> None:
    detector = TurnDetector(TurnDetection(silence_duration_ms=0))
    assert run(detector, [0.9, 0.1]) == [SpeechStarted(0), SpeechStopped(W)]


def test_time_does_not_go_back() -> None:
    detector, track = TurnDetector(TurnDetection()), SpeechTrack(4)
    for push in (detector.push, track.push):
        push(0.9, W)
        with pytest.raises(ValueError, match="must end after 512, got 512"):
            push(0.9, W)


@given(
    steps=windows,
    threshold=st.one_of(st.just(0.5), st.floats(0.001, 1)),
    silence_ms=st.integers(0, 400),
)
def test_turns_are_those_of_the_definition(
    steps: list[tuple[float, int]], threshold: float, silence_ms: int
) -> None:
    detector = TurnDetector(TurnDetection(threshold, silence_duration_ms=silence_ms))
    events: list[SpeechStarted | SpeechStopped] = []
    last_end: int | None = None
    for (begin, end, speech), (value, _) in zip(judged(steps, threshold), steps, strict=True):
        event = detector.push(value, end)
        was_speaking = bool(events) and isinstance(events[-1], SpeechStarted)
        if speech:
            last_end = end
            assert event == (None if was_speaking else SpeechStarted(begin))
        else:
            due = was_speaking and last_end is not None and end - last_end >= 16 * silence_ms
            assert event == (SpeechStopped(last_end) if due else None)
        if event is not None:
            events.append(event)
        assert detector.speaking == (bool(events) and isinstance(events[-1], SpeechStarted))
        assert detector.last_speech_end == last_end
    assert all(
        isinstance(event, SpeechStopped if number % 2 else SpeechStarted)
        for number, event in enumerate(events)
    )
    for earlier, later in pairwise(events):
        assert earlier.at < later.at or (
            isinstance(later, SpeechStarted) and earlier.at <= later.at
        )


# --- the track ------------------------------------------------------------------------------


@given(
    steps=windows,
    capacity=st.integers(1, 40),
    threshold=st.one_of(st.just(0.5), st.floats(0.001, 1)),
    asked=st.lists(st.tuples(st.integers(-W, 20_000), st.integers(-W, 20_000)), max_size=10),
)
def test_the_track_equals_a_list_of_all_windows(
    steps: list[tuple[float, int]], capacity: int, threshold: float, asked: list[tuple[int, int]]
) -> None:
    track = SpeechTrack(capacity, threshold)
    for value, end in steps:
        track.push(value, end)
    everything = judged(steps, threshold)
    end = everything[-1][1] if everything else 0
    start = max(everything[0][0] if everything else 0, end - capacity * W)
    speech = [(max(first, start), last) for first, last, is_speech in everything if is_speech]
    ever = speech[-1][1] if speech else None

    assert (track.start, track.end) == (start, end)
    assert track.last_speech_end == ever
    assert track.quiet_before(track.end) == (start if ever is None else max(ever, start))
    for begin, until in asked:
        inside = [max(0, min(last, until) - max(first, begin)) for first, last in speech]
        assert track.speech_samples(begin, until) == sum(
            count for count, (_, last) in zip(inside, speech, strict=True) if last > start
        )
        later = [first for first, last in speech if last > max(begin, start)]
        assert track.first_speech(begin) == (later[0] if later else None)
        earlier = [last for first, last in speech if first < begin and last > start]
        quiet = min(earlier[-1], begin) if earlier else min(start, begin)
        assert track.quiet_before(begin) == quiet


def test_a_new_track_knows_nothing() -> None:
    track = SpeechTrack(10)
    assert (track.start, track.end, track.quiet_before(track.end)) == (0, 0, 0)
    assert track.last_speech_end is None
    assert track.first_speech(0) is None
    assert track.speech_samples(0, 10**9) == 0


def test_right_after_speech_it_is_quiet_since_now() -> None:
    track = SpeechTrack(10)
    track.push(0.1, W)
    assert track.quiet_before(track.end) == 0
    track.push(0.9, 2 * W)
    assert track.quiet_before(track.end) == track.end == 2 * W


def test_a_track_that_begins_within_a_session_claims_nothing_before() -> None:
    track = SpeechTrack(10)
    track.push(0.1, 100 * W)
    assert (track.start, track.quiet_before(track.end)) == (99 * W, 99 * W)


def test_memory_is_bounded_by_the_capacity() -> None:
    track = SpeechTrack(100)
    for number in range(10_000):
        track.push(number % 2, (number + 1) * W)
    assert len(track._runs) <= 51
    assert track.end - track.start == 100 * W


def test_a_track_needs_room() -> None:
    with pytest.raises(ValueError, match="capacity_windows must be positive, got 0"):
        SpeechTrack(0)


# --- levels ---------------------------------------------------------------------------------


def quietest_by_hand(steps: list[int], width: int) -> int:
    """Of the least energy: the middle of the longest run of places, the latest of those."""
    if len(steps) <= width:
        return len(steps) // 2
    energy = [
        sum(value * value for value in steps[at : at + width])
        for at in range(len(steps) - width + 1)
    ]
    runs: list[list[int]] = []
    for place in (at for at, value in enumerate(energy) if value == min(energy)):
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    longest = max(reversed(runs), key=len)
    return longest[(len(longest) - 1) // 2] + width // 2


@given(
    steps=st.lists(st.one_of(st.integers(-2, 2), st.integers(-32_768, 32_767)), max_size=80),
    width=st.integers(1, 20),
)
def test_quietest_equals_a_search_by_hand(steps: list[int], width: int) -> None:
    samples = np.array(steps, np.float32) / np.float32(32_768)
    assert quietest(samples, width) == quietest_by_hand(steps, width)


def test_the_cut_is_in_the_middle_of_a_pause_of_zeros() -> None:
    speech = np.random.default_rng(1).standard_normal(16_000).astype(np.float32)
    pause = np.zeros(4_000, np.float32)
    assert quietest(np.concatenate((speech, pause, speech))) == pytest.approx(18_000, abs=1)


def test_the_cut_is_in_the_fainter_of_two_pauses() -> None:
    samples = np.random.default_rng(1).standard_normal(16_000).astype(np.float32)
    samples[4_000:5_000] *= 0.02
    samples[9_000:10_000] *= 0.01
    assert 9_160 <= quietest(samples) <= 9_840


def test_a_short_array_is_one_stretch() -> None:
    assert quietest(np.zeros(0, np.float32)) == 0
    assert quietest(np.ones(320, np.float32)) == 160
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        quietest(np.ones(10, np.float32), 0)


def test_levels_are_relative_to_full_scale() -> None:
    assert level_dbfs(np.ones(100, np.float32)) == 0
    assert level_dbfs(np.full(100, 0.1, np.float32)) == pytest.approx(-20)
    sine = np.sin(np.arange(16_000) * 2 * np.pi * 440 / 16_000).astype(np.float32)
    assert level_dbfs(sine) == pytest.approx(-3.01, abs=0.01)
    assert level_dbfs(np.zeros(100, np.float32)) == -math.inf
    assert level_dbfs(np.empty(0, np.float32)) == -math.inf
