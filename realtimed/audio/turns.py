"""From probabilities of speech to turns of speaking. Sans-IO.

Both machines here are fed the probability of each window in turn and the position at which the
window ends: samples since the session began, a clock that never resets. A window covers the
512 samples before its end, or fewer where the window before reaches into them. Audio that no
window covers counts as not speech.

What is speech has hysteresis, as in Silero's own iterator: a window opens speech at
`threshold` and the ones after it keep it open down to `threshold - 0.15`, at least 0.01.
"""

from collections import deque
from dataclasses import dataclass

from realtimed.audio.vad import SAMPLE_RATE, WINDOW_SAMPLES

_LEAVE_BELOW = 0.15
_LOWEST_LEAVE = 0.01
_MAX_PREFIX_MS = 5_000
_MAX_SILENCE_MS = 10_000
_SAMPLES_PER_MS = SAMPLE_RATE // 1_000


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """When a turn begins and ends; the defaults are those of the Realtime API's server VAD.

    Raises: `ValueError` for a value out of range.
    """

    threshold: float = 0.5
    """Probability from which a window is speech, above 0 and up to 1."""
    prefix_padding_ms: int = 300
    """Audio before the onset that belongs to the turn, 0 to 5,000; applied by the caller."""
    silence_duration_ms: int = 500
    """Time without speech that ends the turn, 0 to 10,000."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {self.threshold}")
        _check_ms("prefix_padding_ms", self.prefix_padding_ms, _MAX_PREFIX_MS)
        _check_ms("silence_duration_ms", self.silence_duration_ms, _MAX_SILENCE_MS)

    @property
    def prefix_padding_samples(self) -> int:
        """The same in samples."""
        return self.prefix_padding_ms * _SAMPLES_PER_MS

    @property
    def silence_duration_samples(self) -> int:
        """The same in samples."""
        return self.silence_duration_ms * _SAMPLES_PER_MS


def _check_ms(name: str, value: int, highest: int) -> None:
    if not 0 <= value <= highest:
        raise ValueError(f"{name} must be between 0 and {highest}, got {value}")


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """A turn began."""

    at: int
    """Session position (samples) where its first window of speech begins, without padding."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """A turn ended."""

    at: int
    """Session position (samples) where its last window of speech ends."""


class _Windows:
    """The windows of one session: where each begins, and whether it is speech."""

    __slots__ = ("_enter", "_leave", "end", "speech")

    def __init__(self, threshold: float) -> None:
        self._enter = threshold
        self._leave = min(max(threshold - _LEAVE_BELOW, _LOWEST_LEAVE), threshold)
        self.end = 0
        self.speech = False

    def push(self, probability: float, end: int) -> int:
        """Judge the window that ends at `end`; sets `speech` and returns where it begins."""
        if end <= self.end:
            raise ValueError(f"a window must end after {self.end}, got {end}")
        begin = max(end - WINDOW_SAMPLES, self.end)
        self.end = end
        self.speech = probability >= (self._leave if self.speech else self._enter)
        return begin


class TurnDetector:
    """Begin and end of a speaker's turns.

        state     window of speech           other window
        quiet     SpeechStarted -> speaking  -
        speaking  its end is remembered      once silence_duration_ms have passed since the
                                             remembered end: SpeechStopped -> quiet

    A single window of speech is enough for an onset.
    """

    def __init__(self, detection: TurnDetection) -> None:
        self._windows = _Windows(detection.threshold)
        self._silence_samples = detection.silence_duration_samples
        self._speaking = False
        self._last_speech_end: int | None = None

    @property
    def speaking(self) -> bool:
        """Whether a turn has begun and not ended."""
        return self._speaking

    @property
    def last_speech_end(self) -> int | None:
        """Position (samples) where the last window of speech ends; `None` before the first."""
        return self._last_speech_end

    def push(self, probability: float, end: int) -> SpeechStarted | SpeechStopped | None:
        """Take the window that ends at session position `end`; what it begins or ends.

        Raises: `ValueError` unless `end` is after all windows before.
        """
        begin = self._windows.push(probability, end)
        if self._windows.speech:
            self._last_speech_end = end
            if self._speaking:
                return None
            self._speaking = True
            return SpeechStarted(begin)
        last = self._last_speech_end
        if not self._speaking or last is None or end - last < self._silence_samples:
            return None
        self._speaking = False
        return SpeechStopped(last)


class SpeechTrack:
    """Which of the session's last windows were speech: a bounded record.

    It reaches back `capacity_windows` * 512 samples. Speech is kept as runs of windows on end,
    so memory and the cost of a question grow with the pauses in what is remembered.
    """

    def __init__(self, capacity_windows: int, threshold: float = 0.5) -> None:
        """`threshold`: probability from which a window is speech.

        Raises: `ValueError` unless `capacity_windows` is positive.
        """
        if capacity_windows <= 0:
            raise ValueError(f"capacity_windows must be positive, got {capacity_windows}")
        self._windows = _Windows(threshold)
        self._capacity = capacity_windows * WINDOW_SAMPLES
        self._runs: deque[tuple[int, int]] = deque()
        """[begin, end) of whole windows of speech without a gap, or of one shorter window."""
        self._begin: int | None = None
        self._last_speech_end: int | None = None

    @property
    def end(self) -> int:
        """Session position (samples) up to which windows have been judged."""
        return self._windows.end

    @property
    def start(self) -> int:
        """The oldest remembered position: the first window's begin, or as far as it reaches."""
        return max(self._begin or 0, self.end - self._capacity)

    @property
    def last_speech_end(self) -> int | None:
        """Where the last window of speech ended, remembered for ever; `None` if none was."""
        return self._last_speech_end

    def push(self, probability: float, end: int) -> None:
        """Record the window that ends at session position `end`.

        Raises: `ValueError` unless `end` is after all windows before.
        """
        begin = self._windows.push(probability, end)
        if self._begin is None:
            self._begin = begin
        if self._windows.speech:
            self._last_speech_end = end
            self._extend(begin, end)
        while self._runs and self._runs[0][1] <= self.start:
            self._runs.popleft()

    def quiet_before(self, position: int) -> int:
        """Where the stretch without speech begins that lasts up to `position`, as remembered.

        It is `position` itself in the middle of speech.
        """
        for first, last in reversed(self._runs):
            if first < position:
                return min(last, position)
        return min(self.start, position)

    def speech_samples(self, begin: int, end: int) -> int:
        """How many of the samples [`begin`, `end`) are remembered as speech."""
        begin = max(begin, self.start)
        return sum(max(0, min(last, end) - max(first, begin)) for first, last in self._runs)

    def first_speech(self, begin: int) -> int | None:
        """Where the first remembered window of speech begins that ends after `begin`."""
        begin = max(begin, self.start)
        for first, last in self._runs:
            if last > begin:
                whole = max(begin - first, 0) // WINDOW_SAMPLES
                return max(first + whole * WINDOW_SAMPLES, self.start)
        return None

    def _extend(self, begin: int, end: int) -> None:
        """Add a window of speech, to the last run if it goes on there in whole windows."""
        first, last = self._runs[-1] if self._runs else (end, end)
        whole = (last - first) % WINDOW_SAMPLES == 0 and end - begin == WINDOW_SAMPLES
        if last == begin and whole:
            self._runs[-1] = (first, end)
        else:
            self._runs.append((begin, end))
