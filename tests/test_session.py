"""The rules of a session, first as the table of the documentation, then as properties."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realtimed.errors import EngineFailed
from realtimed.session import (
    TRANSITIONS,
    Action,
    Begin,
    Cause,
    Emit,
    End,
    Phase,
    Session,
)
from realtimed.wire.events import Commit, Configure, ErrorOccurred, TextDelta, Usage, UtteranceDone

USAGE = Usage(36, 10, 1.0)
BEGIN, FINAL = Commit(final=False), Commit(final=True)


def session(phase: Phase = Phase.IDLE) -> Session:
    fresh = Session(("demo", "alias"))
    if phase is not Phase.UNCONFIGURED:
        fresh.configure(Configure("demo"))
    if phase in (Phase.LISTENING, Phase.FAILED):
        fresh.commit(BEGIN)
    if phase is Phase.FAILED:
        fresh.failed(0, EngineFailed("no"))
    assert fresh.phase is phase
    return fresh


def code(actions: list[Action]) -> str | None:
    [action] = actions
    assert isinstance(action, Emit)
    assert isinstance(action.event, ErrorOccurred)
    return action.event.code


def test_every_phase_has_a_rule_for_every_cause() -> None:
    assert set(TRANSITIONS) == {(phase, cause) for phase in Phase for cause in Cause}


@pytest.mark.parametrize("commit", [BEGIN, FINAL])
def test_commit_before_a_model_is_refused_and_starts_nothing(commit: Commit) -> None:
    fresh = session(Phase.UNCONFIGURED)
    fresh.audio(100)
    assert code(fresh.commit(commit)) == "model_not_validated"
    assert fresh.unfinished == 0
    fresh.configure(Configure("demo"))
    assert fresh.commit(BEGIN) == [Begin(0, 0)]


@pytest.mark.parametrize("phase", list(Phase))
def test_an_unknown_model_changes_nothing(phase: Phase) -> None:
    one = session(phase)
    assert code(one.configure(Configure("other"))) == "model_not_found"
    assert one.phase is phase


@pytest.mark.parametrize("name", ["demo", "alias", ""])
def test_every_served_name_and_the_empty_one_are_valid(name: str) -> None:
    assert session(Phase.UNCONFIGURED).configure(Configure(name)) == []


def test_audio_before_commit_belongs_to_the_utterance_that_starts_next() -> None:
    one = session()
    one.audio(500)
    assert one.commit(BEGIN) == [Begin(0, 0)]
    one.audio(300)
    assert one.commit(FINAL) == [End(0, 800)]


def test_non_final_commits_while_listening_collapse_into_one_next_utterance() -> None:
    one = session(Phase.LISTENING)
    assert one.commit(BEGIN) == []
    assert one.commit(BEGIN) == []
    one.audio(400)
    assert one.commit(FINAL) == [End(0, 400), Begin(1, 400)]
    one.audio(100)
    assert one.commit(FINAL) == [End(1, 500)]
    assert one.phase is Phase.IDLE


def test_final_without_an_utterance_transcribes_what_is_kept() -> None:
    one = session()
    one.audio(700)
    assert one.commit(FINAL) == [Begin(0, 0), End(0, 700)]


def test_final_with_nothing_kept_and_nothing_running_is_one_empty_utterance() -> None:
    one = session()
    assert one.commit(FINAL) == [Begin(0, 0), End(0, 0)]
    assert one.done(0, USAGE) == [Emit(UtteranceDone(0, "", USAGE))]


def test_a_second_final_while_the_utterance_finishes_is_ignored() -> None:
    one = session(Phase.LISTENING)
    one.audio(10)
    one.commit(FINAL)
    assert one.commit(FINAL) == []
    assert one.unfinished == 1


def test_audio_after_final_is_kept_for_the_next_utterance() -> None:
    one = session(Phase.LISTENING)
    one.audio(100)
    one.commit(FINAL)
    one.audio(50)
    assert one.kept == 50
    one.done(0, USAGE)
    assert one.commit(BEGIN) == [Begin(1, 100)]


def test_pipelined_utterances_follow_each_other() -> None:
    one = session()
    seen: list[Action] = []
    for samples in (100, 200):
        seen += one.commit(BEGIN)
        one.audio(samples)
        seen += one.commit(FINAL)
    assert seen == [Begin(0, 0), End(0, 100), Begin(1, 100), End(1, 300)]


def test_done_carries_the_joined_deltas() -> None:
    one = session(Phase.LISTENING)
    assert one.text(0, " alpha") == [Emit(TextDelta(0, " alpha"))]
    one.text(0, " bravo")
    one.commit(FINAL)
    assert one.done(0, USAGE) == [Emit(UtteranceDone(0, " alpha bravo", USAGE))]


def test_an_utterance_that_fails_while_listening_swallows_its_audio_and_its_final() -> None:
    one = session(Phase.LISTENING)
    one.audio(100)
    end, error = one.failed(0, EngineFailed("broken"))
    assert end == End(0, 100)
    assert isinstance(error, Emit)
    assert error.event == ErrorOccurred("engine_error", "broken", 0)
    one.audio(50)
    assert one.commit(FINAL) == []
    assert one.phase is Phase.IDLE
    assert one.kept == 0
    assert one.commit(BEGIN) == [Begin(1, 150)]


def test_a_begin_after_a_failure_starts_at_the_failed_utterances_final() -> None:
    one = session(Phase.FAILED)
    one.audio(30)
    assert one.commit(BEGIN) == []
    assert one.commit(FINAL) == [Begin(1, 30)]


def test_an_utterance_that_fails_while_finishing_touches_nothing_else() -> None:
    one = session(Phase.LISTENING)
    one.commit(FINAL)
    one.commit(BEGIN)
    assert [type(action) for action in one.failed(0, EngineFailed("broken"))] == [Emit]
    assert one.phase is Phase.LISTENING


def test_drain_ends_the_open_utterance_and_begins_none() -> None:
    one = session(Phase.LISTENING)
    one.commit(BEGIN)
    one.audio(10)
    assert one.drain() == [End(0, 10)]
    assert one.drain() == []


@dataclass
class Stretch:
    """What the test knows of one utterance."""

    begin: int
    end: int | None = None
    text: str = ""
    terminals: list[str] = field(default_factory=list)


class SessionMachine(RuleBasedStateMachine):
    """Any interleaving of what clients send and what recognition reports."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(("demo",))
        self.utterances: list[Stretch] = []
        self.received = 0

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Begin(number, at):
                    assert number == len(self.utterances)
                    assert all(one.end is not None for one in self.utterances)
                    self.utterances.append(Stretch(at))
                case End(number, at):
                    assert self.utterances[number].end is None
                    self.utterances[number].end = at
                case Emit(ErrorOccurred(_, _, None)):
                    pass
                case Emit(ErrorOccurred(_, _, number)):
                    assert number is not None
                    self.utterances[number].terminals.append("error")
                case Emit(UtteranceDone(number, text, _)):
                    self.utterances[number].terminals.append("done")
                    assert text == self.utterances[number].text
                case Emit(TextDelta(number, text)):
                    assert text
                    assert not self.utterances[number].terminals
                    self.utterances[number].text += text

    def first_unfinished(self) -> int | None:
        for number, one in enumerate(self.utterances):
            if not one.terminals:
                return number
        return None

    @rule(model=st.sampled_from(["demo", "", "unknown"]))
    def configure(self, model: str) -> None:
        self.perform(self.session.configure(Configure(model)))

    @rule(final=st.booleans())
    def commit(self, final: bool) -> None:
        self.perform(self.session.commit(Commit(final)))

    @rule(samples=st.integers(1, 5_000))
    def audio(self, samples: int) -> None:
        self.received += samples
        self.perform(self.session.audio(samples))

    @rule(text=st.text(min_size=1, max_size=5))
    @precondition(lambda self: self.first_unfinished() is not None)
    def text(self, text: str) -> None:
        number = self.first_unfinished()
        assert number is not None
        self.perform(self.session.text(number, text))

    @rule()
    @precondition(
        lambda self: (
            (number := self.first_unfinished()) is not None
            and self.utterances[number].end is not None
        )
    )
    def done(self) -> None:
        number = self.first_unfinished()
        assert number is not None
        self.perform(self.session.done(number, USAGE))

    @rule()
    @precondition(lambda self: self.first_unfinished() is not None)
    def failed(self) -> None:
        number = self.first_unfinished()
        assert number is not None
        self.perform(self.session.failed(number, EngineFailed("broken")))

    @invariant()
    def no_audio_is_lost_or_used_twice(self) -> None:
        at = 0
        for before, one in zip([None, *self.utterances], self.utterances, strict=False):
            swallowed = before is not None and before.terminals == ["error"]
            assert one.begin >= at if swallowed else one.begin == at
            at = one.begin if one.end is None else one.end
            assert at >= one.begin

    @invariant()
    def the_clock_counts_what_came(self) -> None:
        assert self.session.received == self.received

    @invariant()
    def at_most_one_terminal_event_an_utterance_and_in_order(self) -> None:
        finished = [len(one.terminals) for one in self.utterances]
        assert finished == sorted(finished, reverse=True)
        assert max(finished, default=0) <= 1
        assert self.session.unfinished == finished.count(0)

    def teardown(self) -> None:
        """Whatever happened, a drain leaves only utterances that can finish, each once."""
        self.perform(self.session.drain())
        while (number := self.first_unfinished()) is not None:
            assert self.utterances[number].end is not None
            self.perform(self.session.done(number, USAGE))
        assert all(len(one.terminals) == 1 for one in self.utterances)


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
