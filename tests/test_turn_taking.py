"""Turns and commits together: however far detection is behind, all speech has one utterance."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtimed.audio.vad import WINDOW_SAMPLES as W
from realtimed.audio.vad import SpeechModel
from realtimed.server.turn_taking import TurnTaking
from realtimed.server.turns import Turns
from realtimed.session import Action, Begin, Emit, End, Session
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.detection import SpeechDetection
from realtimed.wire.events import (
    Commit,
    Configure,
    ServerVad,
    SpeechStarted,
    SpeechStopped,
    Usage,
)

TAIL = 4 * W
LATE_WINDOWS = 3
"""How many windows after it speech is still taken for going on."""


@dataclass
class Stretch:
    begin: int
    end: int | None = None
    by_itself: bool = True
    """It is not the answer to a commit that found no utterance open."""


@dataclass
class Conversation:
    """A session, the detection of its turns, and audio that `speech` says all of."""

    vad: ServerVad
    by_buffer: bool
    speech: list[bool]
    """Whether somebody speaks, by window."""
    judged: int = 0
    commits: list[int] = field(default_factory=list)
    utterances: list[Stretch] = field(default_factory=list)
    told: list[type] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = Session(("m",), by_buffer=self.by_buffer)
        self.session.configure(Configure("m", self.vad))
        self.turns = Turns(self.session, self.vad)

    def hear(self, samples: int) -> None:
        self.perform(self.session.audio(samples))

    def judge(self, windows: int) -> None:
        while windows and self.session.received - self.judged >= W:
            number, windows = self.judged // W, windows - 1
            self.judged += W
            loud = any(self.speech[max(number - LATE_WINDOWS, 0) : number + 1])
            self.perform(self.turns.window(0.9 if loud else 0.1, self.judged))
            position = self.turns.needed_from(self.judged)
            if position is not None:
                self.session.forget(position)

    def commit(self) -> None:
        self.commits.append(self.session.received)
        self.perform(self.session.commit(Commit(final=True)))

    def recognise(self) -> None:
        """Everything that has ended is done."""
        for number, one in enumerate(self.utterances):
            if one.end is not None and number in self.session._texts:
                self.session.done(number, Usage(0, 0, 0.0))

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Begin(_, at):
                    self.utterances.append(Stretch(at))
                case End(number, at):
                    self.utterances[number].end = at
                    self.utterances[number].by_itself &= not any(
                        isinstance(one, Begin) for one in actions
                    )
                case Emit(SpeechStarted() | SpeechStopped() as event):
                    self.told.append(type(event))

    def says(self, begin: int, end: int) -> bool:
        """Whether somebody speaks in [begin, end)."""
        return begin < end and any(self.speech[begin // W : -(-end // W)])


# A word is no shorter than what detection needs to tell it from the end of the one before.
words = st.lists(st.tuples(st.integers(1, 40), st.integers(6, 30)), min_size=1, max_size=5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("hear"), st.integers(1, 20_000)),
        st.tuples(st.just("judge"), st.integers(1, 40)),
        st.just(("commit", 0)),
        st.just(("recognise", 0)),
    ),
    max_size=30,
)


@settings(max_examples=400)
@given(
    words=words,
    steps=steps,
    prefix_ms=st.sampled_from([0, 300]),
    silence_ms=st.sampled_from([100, 500]),
    by_buffer=st.booleans(),
)
def test_commits_among_turns_lose_no_speech_and_make_no_empty_utterance(
    words: list[tuple[int, int]],
    steps: list[tuple[str, int]],
    prefix_ms: int,
    silence_ms: int,
    by_buffer: bool,
) -> None:
    speech = [one for gap, length in words for one in [False] * gap + [True] * length]
    speech += [False] * 60
    vad = ServerVad(0.5, prefix_ms, silence_ms)
    here = Conversation(vad, by_buffer, speech)
    total = len(speech) * W
    for kind, amount in [*steps, ("hear", total), ("judge", len(speech))]:
        match kind:
            case "hear":
                here.hear(min(amount, total - here.session.received))
            case "judge":
                here.judge(amount)
            case "commit":
                here.commit()
            case _:
                here.recognise()

    assert all(one.end is not None for one in here.utterances)
    assert here.told == [SpeechStarted, SpeechStopped] * (len(here.told) // 2)
    at = 0
    for one in here.utterances:
        assert one.end is not None
        assert at <= one.begin <= one.end
        if one.by_itself:
            assert here.says(one.begin, one.end)
        # Between utterances nobody speaks, but for what may be the end of a word before a commit.
        spared = at + TAIL if at in here.commits else at
        assert not here.says(spared, one.begin)
        at = one.end
    assert not here.says(at + TAIL if at in here.commits else at, total)
    if not here.commits:
        assert len(here.told) == 2 * len(here.utterances)


def test_a_commit_in_the_silence_that_ends_a_turn_gives_no_second_utterance() -> None:
    here = Conversation(ServerVad(), True, [True] * 20 + [False] * 60)
    here.hear(30 * W)
    here.judge(28)
    here.commit()
    here.hear(50 * W)
    here.judge(100)
    assert here.utterances == [Stretch(0, 30 * W)]
    assert here.told == [SpeechStarted, SpeechStopped]


def test_a_commit_in_the_middle_of_speech_goes_on_at_the_same_sample() -> None:
    here = Conversation(ServerVad(), True, [True] * 40 + [False] * 60)
    here.hear(20 * W + 100)
    here.judge(18)
    here.commit()
    here.hear(79 * W)
    here.judge(100)
    [first, second] = here.utterances
    assert (first.begin, first.end, second.begin) == (0, 20 * W + 100, 20 * W + 100)
    assert here.told == [SpeechStarted, SpeechStopped]


# --- switching it on and off ---------------------------------------------------------------


@pytest.mark.parametrize("listens", [True, False])
async def test_turns_are_found_in_what_is_there_and_end_where_other_settings_follow(
    listens: bool,
) -> None:
    session, done = Session(("m",), by_buffer=True), list[Action]()
    buffer = AudioBuffer(100 * W, 1.0, SpeechDetection(SpeechModel()))
    turn_taking = TurnTaking(session, buffer, done.extend, listens=listens)

    def configure(vad: ServerVad | None) -> None:
        session.configure(Configure("m", vad))
        turn_taking.follow()

    session.audio(40 * W)
    buffer.append(np.zeros(40 * W, np.float32))
    configure(ServerVad(0.5, 0, 500))
    for probability in [0.0] * 5 + [1.0] * 10:
        buffer.hearing.push(probability)
    assert Begin(0, 5 * W) in done
    assert buffer.ring.start == 4 * W, "what no turn can begin with is not kept"
    configure(ServerVad(0.5, 0, 500))
    assert End(0, 15 * W) not in done, "nothing has changed"
    configure(ServerVad(0.6, 0, 500))
    assert End(0, 15 * W) in done
    configure(None)
    assert buffer.hearing.always == listens
    before = len(done)
    buffer.hearing.push(1.0)
    assert len(done) == before
