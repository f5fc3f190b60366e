"""What the recognition of all sessions shares: the engine, its slots, detection, the policy."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Self

from realtimed.config import Limits
from realtimed.engine.spec import ModelInfo, SegmentedModel, StreamingModel
from realtimed.engine.supervisor import EngineSupervisor
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.decoding import SegmentedRecognizer
from realtimed.transcription.detection import SpeechDetection
from realtimed.transcription.policy import CutPolicy
from realtimed.transcription.recognizer import Listener, Recognizer
from realtimed.transcription.segment import CutReason
from realtimed.transcription.slots import SlotPool
from realtimed.transcription.streaming import StreamingRecognizer
from realtimed.transcription.stretch import WindowPolicy
from realtimed.transcription.transcriber import Transcriber


@dataclass(frozen=True, slots=True)
class Recognition:
    """Makes the parts of a session that recognise speech."""

    engine: EngineSupervisor
    detection: SpeechDetection
    limits: Limits
    recognizer: Recognizer[Any]
    slots: SlotPool
    cuts: Counter[CutReason] = field(default_factory=Counter)
    """Segments cut since the start, by reason."""

    @classmethod
    def build(
        cls, engine: EngineSupervisor, detection: SpeechDetection, limits: Limits, *, gate: bool
    ) -> Self:
        """For a loaded engine. `gate`: whether long pauses cost the engine nothing."""
        slots = SlotPool(engine.info.max_num_seqs, limits.queue_s, engine.availability)
        recognizer = _recognizer(engine.info, limits, slots, gate=gate)
        return cls(engine, detection, limits, recognizer, slots)

    def with_limits(self, limits: Limits, *, gate: bool) -> Self:
        """The same for sessions to come, under other limits: engine, slots and counts are shared.

        Who waits for a slot now, waits as long as was said before.
        """
        self.slots.wait_s = limits.queue_s
        recognizer = _recognizer(self.engine.info, limits, self.slots, gate=gate)
        return replace(self, limits=limits, recognizer=recognizer)

    def buffer(self) -> AudioBuffer:
        """The audio of one session."""
        capacity = round(self.limits.ring_s * self.engine.info.sample_rate)
        overflow_s, availability = self.limits.overflow_s, self.engine.availability
        buffer = AudioBuffer(max(capacity, 1), overflow_s, self.detection, availability)
        if self.recognizer.listens:
            buffer.listen(0)
        return buffer

    def transcriber(self, buffer: AudioBuffer, listener: Listener) -> Transcriber:
        """The generation task of one session."""
        stall_s = self.limits.stall_s
        return Transcriber(self.engine, buffer, listener, self.recognizer, self.slots, stall_s)


def _recognizer(
    model: ModelInfo, limits: Limits, slots: SlotPool, *, gate: bool
) -> Recognizer[Any]:
    """The way to recognise speech that the model allows."""
    if isinstance(model, SegmentedModel):
        return SegmentedRecognizer(model, WindowPolicy.build(model, limits), slots)
    assert isinstance(model, StreamingModel)
    return StreamingRecognizer(model, CutPolicy.build(model, limits, gate=gate))
