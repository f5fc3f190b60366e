"""What the recognition of all sessions shares: the engine, its slots, detection, the policy."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Self

from realtimed.config import Limits
from realtimed.engine.supervisor import EngineSupervisor
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.detection import SpeechDetection
from realtimed.transcription.policy import CutPolicy
from realtimed.transcription.segment import CutReason
from realtimed.transcription.slots import SlotPool
from realtimed.transcription.transcriber import Listener, Transcriber


@dataclass(frozen=True, slots=True)
class Recognition:
    """Makes the parts of a session that recognise speech."""

    engine: EngineSupervisor
    detection: SpeechDetection
    limits: Limits
    policy: CutPolicy
    slots: SlotPool
    cuts: Counter[CutReason] = field(default_factory=Counter)
    """Segments cut since the start, by reason."""

    @classmethod
    def build(
        cls, engine: EngineSupervisor, detection: SpeechDetection, limits: Limits, *, gate: bool
    ) -> Self:
        """For a loaded engine. `gate`: whether long pauses cost the engine nothing."""
        policy = CutPolicy.build(engine.info, limits, gate=gate)
        slots = SlotPool(engine.info.max_num_seqs, limits.queue_s, engine.availability)
        return cls(engine, detection, limits, policy, slots)

    def with_limits(self, limits: Limits, *, gate: bool) -> Self:
        """The same for sessions to come, under other limits: engine, slots and counts are shared.

        Who waits for a slot now, waits as long as was said before.
        """
        self.slots.wait_s = limits.queue_s
        return replace(
            self, limits=limits, policy=CutPolicy.build(self.engine.info, limits, gate=gate)
        )

    def buffer(self) -> AudioBuffer:
        """The audio of one session."""
        capacity = round(self.limits.ring_s * self.engine.info.geometry.sample_rate)
        overflow_s, availability = self.limits.overflow_s, self.engine.availability
        buffer = AudioBuffer(max(capacity, 1), overflow_s, self.detection, availability)
        if self.policy.gate is not None:
            buffer.listen(0)
        return buffer

    def transcriber(self, buffer: AudioBuffer, listener: Listener) -> Transcriber:
        """The generation task of one session."""
        stall_s = self.limits.stall_s
        return Transcriber(self.engine, buffer, listener, self.policy, self.slots, stall_s)
