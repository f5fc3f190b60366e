"""An utterance: what the client delimits, recognised as a chain of segments. Sans-IO."""

from dataclasses import dataclass, field

from realtimed.audio.ring import AudioRing
from realtimed.engine.spec import ModelInfo
from realtimed.transcription.segment import CutReason, Segment


@dataclass(slots=True)
class Utterance:
    """A stretch of the session's audio, [`begin`, `end`) in samples; `end` comes later."""

    id: int
    begin: int
    end: int | None = None


@dataclass(slots=True)
class SegmentChain:
    """Decides where the segments of an utterance end and begin, and counts what they cost.

    Segments join without a gap: each begins at the sample where the last was cut.
    """

    model: ModelInfo
    utterance: Utterance
    prompt_tokens: int = 0
    completion_tokens: int = 0
    current: Segment = field(init=False)

    def __post_init__(self) -> None:
        self.current = Segment(self.model.geometry, self.utterance.begin)

    def follow(self, ring: AudioRing) -> None:
        """Cut the current segment if the utterance has ended or the model's length is near."""
        if self.current.cut_reason is not None:
            return
        if self.utterance.end is not None and not self._must_roll(self.utterance.end):
            self.current.cut(self.utterance.end, CutReason.UTTERANCE_END)
        elif self.current.framer.tokens >= self._longest:
            heard = self.current.framer.position(self.current.framer.frames - 1)
            self.current.cut(min(heard, ring.end), CutReason.MODEL_LENGTH)

    def advance(self) -> bool:
        """Go on to the next segment once the current one is flushed; False at the end."""
        segment = self.current
        if segment.framer.frames:
            self.prompt_tokens += len(segment.geometry.prompt)
        self.completion_tokens += segment.completion_tokens
        if segment.cut_reason is not CutReason.MODEL_LENGTH:
            return False
        assert segment.framer.end is not None
        self.current = Segment(segment.geometry, segment.framer.end)
        return True

    @property
    def _longest(self) -> int:
        """Positions a segment may fill before its flush, which must fit as well."""
        return self.model.max_model_len - self.model.geometry.right_pad_tokens - 2

    def _must_roll(self, end: int) -> bool:
        """Whether the audio up to `end` is longer than what the current segment may hold."""
        geometry = self.model.geometry
        remaining = end - self.current.framer.begin
        return geometry.left_pad + remaining > self._longest * geometry.samples_per_token

    @property
    def audio_seconds(self) -> float:
        """Length of the utterance in seconds, on the session's clock."""
        end = self.utterance.begin if self.utterance.end is None else self.utterance.end
        return (end - self.utterance.begin) / self.model.geometry.sample_rate
