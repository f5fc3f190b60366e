"""What the rest of the house needs to know of a loaded model, in plain values."""

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from realtimed.wire.events import NO_GUIDANCE, Guidance

OPTIONS: Final = ("words", "language", "prompt", "hotwords", "temperature")
"""What a session may ask for, and only some models give."""


@dataclass(frozen=True, slots=True)
class StreamGeometry:
    """Frame arithmetic of a Voxtral Realtime model, in samples at `sample_rate` (Hz).

    Source: mistral_common's `AudioConfig` of the loaded tokenizer. One token covers
    `samples_per_token`. A frame also carries `look_back` samples before it and `look_ahead`
    after it. A segment's audio is preceded by `left_pad` and followed by `right_pad` samples
    of silence; its first frame covers all of `prompt`, whose last `delay_tokens` tokens are
    the model's transcription delay.
    """

    sample_rate: int
    samples_per_token: int
    look_ahead: int
    look_back: int
    left_pad: int
    right_pad: int
    delay_tokens: int
    prompt: tuple[int, ...]
    word_mark: int | None = None
    """The token by which the model says that it has heard a word, before it writes it."""

    @property
    def first_end(self) -> int:
        """Where the first frame ends on the padded timeline, look-ahead not counted."""
        return len(self.prompt) * self.samples_per_token

    def over_quiet(self, quiet: int) -> Self:
        """The same for a segment whose first `quiet` samples have no speech: `prompt` covers them.

        What the model answers to quiet is known, the blanks that the prompt ends with. So it is
        heard in the one step of the prompt, and only blanks that precede the quiet's end in time
        are laid down.
        """
        covered = self.first_end - self.left_pad - self.delay_tokens * self.samples_per_token
        more = max(0, quiet - covered) // self.samples_per_token
        return replace(self, prompt=self.prompt + self.prompt[-1:] * more)

    @property
    def right_pad_tokens(self) -> int:
        """Frames that the flush of a segment can take: its padding and a partial frame."""
        return self.right_pad // self.samples_per_token + 1

    @property
    def shortest_model_len(self) -> int:
        """The least `max_model_len` that leaves a segment two seconds of audio and its flush."""
        two_seconds = 2 * self.sample_rate // self.samples_per_token
        return len(self.prompt) + two_seconds + self.right_pad_tokens + 2


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model and the limits the engine really has, after its own fitting."""

    model: str
    served_names: tuple[str, ...]
    architecture: str
    max_model_len: int
    max_num_seqs: int
    sample_rate: int
    """In Hz, of the audio it takes; also that of the session's clock."""
    options: frozenset[str] = frozenset()
    """What a session can ask of it, of `OPTIONS`."""
    languages: frozenset[str] = frozenset()
    """ISO 639-1 codes that `language` can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingModel(ModelInfo):
    """It takes frames of audio while they are spoken, and answers each."""

    geometry: StreamGeometry
    max_chunk_tokens: int
    """Tokens the engine samples for one frame: `realtime_max_tokens` of the model class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedModel(ModelInfo):
    """It transcribes whole clips: vLLM's `SupportsTranscription`."""

    max_clip_s: float | None
    """The longest clip it takes, in seconds; `None`: any length."""
    detects_language: bool = False
    """Whether a clip whose language is not given needs a request that finds it out."""
    continues: bool = False
    """Whether it goes on from a beginning of the text, so that only the rest costs a decode."""


@dataclass(frozen=True, slots=True)
class Clip:
    """What a segmented model is to transcribe, and what it is told about it."""

    audio: NDArray[np.float32]
    """1-d, at the model's rate; nobody writes to it any more."""
    guidance: Guidance = NO_GUIDANCE
    language: str | None = None
    """ISO 639-1; `None` for a model that finds out by itself."""
    said: str = ""
    """The beginning of its text, if that is settled, for a model that `continues`."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What a segmented model made of one clip."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    complete: bool = True
    """False: it was cut off at its longest length, and so may have got stuck."""
    tokens: tuple[tuple[int, float], ...] = ()
    """Where in `text` each token ends, and its log probability; none where that is not known."""
    language: str | None = None
    """ISO 639-1, where the model says it with the text."""
