"""What Mistral's dialect tells between one `transcription.done` and the next.

Its clients join deltas and take `done.text` for the same text, so both are spaced by one rule:
nothing before the first word, and a space between utterances that have none of their own.
"""

import msgspec
from msgspec import UNSET, UnsetType

from realtimed.wire.events import TextDelta, UtteranceDone

# --- structs as they stand on the wire ----------------------------------------------------


class Segment(msgspec.Struct, tag_field="type", tag="transcription.segment", gc=False):
    text: str
    start: float | None
    end: float | None


class _SegmentChunk(msgspec.Struct, tag_field="type", tag="transcription_segment", gc=False):
    text: str
    start: float | None
    end: float | None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_audio_seconds: int = 0


class Done(msgspec.Struct, tag_field="type", tag="transcription.done", gc=False):
    model: str
    text: str
    language: str | None
    usage: _Usage
    segments: list[_SegmentChunk] | UnsetType = UNSET


# --- telling -----------------------------------------------------------------------------


class Stretch:
    """What is told from one `transcription.done` to the next: utterances, in order."""

    def __init__(self) -> None:
        self.started: dict[int, float] = {}
        """When speech began, by utterance, in seconds on the session's clock."""
        self.stopped: dict[int, float] = {}
        """When speech ended that an utterance ended with; the same."""
        self._text = ""
        self._speaking: int | None = None
        """The utterance that the last delta was of."""
        self._segments: list[_SegmentChunk] = []
        self._usage = _Usage()
        self._seconds = 0.0

    def following(self) -> "Stretch":
        """The next one, to which speech belongs that is not told in full yet."""
        after = Stretch()
        after.started, after.stopped = self.started, self.stopped
        return after

    def delta(self, event: TextDelta) -> str:
        """The text of a delta such that all deltas together are the text of the `done`."""
        if event.utterance == self._speaking:
            return event.text
        text = _continued(self._text, event.text)
        if text:
            self._speaking = event.utterance
        return text

    def add(self, event: UtteranceDone) -> Segment:
        """Add an utterance that is complete; returns it by itself."""
        self._text += _continued(self._text, event.text)
        usage = self._usage
        usage.prompt_tokens += event.usage.prompt_tokens
        usage.completion_tokens += event.usage.completion_tokens
        usage.total_tokens = usage.prompt_tokens + usage.completion_tokens
        self._seconds += event.usage.audio_seconds
        usage.prompt_audio_seconds = round(self._seconds)
        start, end = self._times(event)
        segment = Segment(event.text.strip(), start, end)
        if segment.text and start is not None and end is not None:
            self._segments.append(_SegmentChunk(segment.text, start, end))
        return segment

    def drop(self, utterance: int) -> None:
        """Forget an utterance that has failed."""
        self.started.pop(utterance, None)
        self.stopped.pop(utterance, None)
        self._speaking = None

    def done(self, model: str, language: str | None) -> Done:
        """The event that tells of all of it; segments only where they have times.

        `language`: that of its last utterance, ISO 639-1.
        """
        return Done(model, self._text, language, self._usage, self._segments or UNSET)

    def _times(self, event: UtteranceDone) -> tuple[float | None, float | None]:
        """When an utterance was spoken, in seconds; words know it better than turns."""
        start = self.started.pop(event.utterance, None)
        end = self.stopped.pop(event.utterance, None)
        if event.words:
            start, end = event.words[0].start, event.words[-1].end
        return _rounded(start), _rounded(end)


def _continued(before: str, text: str) -> str:
    """What an utterance's text looks like after that of others: a space apart, none at first."""
    if not before:
        return text.lstrip()
    return text if not text or text[0].isspace() else f" {text}"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
