"""The rules of a session as properties: any interleaving of client, speech and recognition."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import UNSET, UnsetType

from realtimed.errors import EngineFailed
from realtimed.session import Action, Begin, Emit, End, Session
from realtimed.wire.events import (
    Commit,
    Configure,
    ErrorOccurred,
    ServerVad,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Usage,
    UtteranceDone,
    Warned,
    Word,
)

USAGE = Usage(36, 10, 1.0)
WORD = Word("w", 0.1, 0.2)
RATE = 16_000


@dataclass
class NaiveSession:
    """The rules told once more, as plainly as they can be; gives where utterances begin and end.

    `("begin", n, at)`, `("end", n, at)`, and `("started" | "stopped", n, at)` of speech.
    """

    vad: bool = False
    configured: bool = False
    received: int = 0
    floor: int = 0
    begun: int = 0
    open: bool = False
    failed: bool = False
    speaking: bool = False
    again: bool = False

    def configure(self, vad: bool) -> None:
        if vad != self.vad:
            self.speaking = self.again = False
        self.vad, self.configured = vad, True

    def begin(self, at: int) -> list[tuple[str, int, int]]:
        self.open, self.floor = True, at
        self.begun += 1
        return [("begin", self.begun - 1, at)]

    def end(self, at: int) -> list[tuple[str, int, int]]:
        self.open, self.floor = False, at
        return [("end", self.begun - 1, at), *self.next()]

    def next(self) -> list[tuple[str, int, int]]:
        wanted, self.again = self.again, False
        return self.begin(self.floor) if wanted else []

    def commit(self, final: bool, unfinished: int) -> list[tuple[str, int, int]]:
        if not self.configured or (self.vad and not final):
            return []
        if not final and (self.open or self.failed):
            self.again = True
            return []
        if not final:
            return self.begin(self.floor)
        if self.failed:
            self.failed, self.floor = False, self.received
            return self.next()
        if self.open:
            return self.end(self.received)
        if self.received > self.floor or not unfinished:
            return self.begin(self.floor) + self.end(self.received)
        return []

    def speech_started(self, at: int, prefix: int) -> list[tuple[str, int, int]]:
        if not self.vad or self.failed or (self.open and self.speaking):
            return []
        begun = [] if self.open else self.begin(max(self.floor, at - prefix))
        told = [] if self.speaking else [("started", self.begun - 1, at)]
        self.speaking = True
        return [*told, *begun]

    def speech_stopped(self, at: int, upto: int) -> list[tuple[str, int, int]]:
        if not self.vad:
            return []
        told = [("stopped", self.begun - 1, at)] if self.open or self.speaking else []
        self.speaking = False
        if self.failed:
            self.failed, self.floor = False, self.received
        return told + (self.end(max(self.floor, upto)) if self.open else [])

    def fails(self, number: int) -> list[tuple[str, int, int]]:
        if not self.open or number != self.begun - 1:
            return []
        self.open, self.failed = False, True
        return [("end", number, self.received)]

    def forget(self, position: int) -> None:
        if not self.open:
            self.floor = max(self.floor, position)

    @property
    def goes_on(self) -> bool:
        """Whether a turn goes on behind a commit."""
        return self.speaking and self.configured and self.kept > 0

    @property
    def kept(self) -> int:
        return 0 if self.open or self.failed else self.received - self.floor


@dataclass
class Stretch:
    """What the test knows of one utterance."""

    begin: int
    end: int | None = None
    text: str = ""
    terminals: list[str] = field(default_factory=list)


def edges(actions: list[Action]) -> list[tuple[str, int, int]]:
    """The actions in the words of `NaiveSession`, without text and errors."""
    told: list[tuple[str, int, int]] = []
    for action in actions:
        match action:
            case Begin(number, at):
                told.append(("begin", number, at))
            case End(number, at):
                told.append(("end", number, at))
            case Emit(SpeechStarted(number, seconds)):
                told.append(("started", number, round(seconds * RATE)))
            case Emit(SpeechStopped(number, seconds)):
                told.append(("stopped", number, round(seconds * RATE)))
    return told


class SessionMachine(RuleBasedStateMachine):
    """What clients send, what detection and recognition report, all at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(("demo",))
        self.naive = NaiveSession()
        self.utterances: list[Stretch] = []
        self.include: frozenset[str] = frozenset()
        self.only_commits = True

    # --- what comes out ---------------------------------------------------------------------

    def perform(self, actions: list[Action], expected: list[tuple[str, int, int]]) -> None:
        assert edges(actions) == expected
        for action in actions:
            match action:
                case Begin(number, at):
                    assert number == len(self.utterances)
                    assert all(one.end is not None for one in self.utterances)
                    self.utterances.append(Stretch(at))
                case End(number, at):
                    assert self.utterances[number].end is None
                    self.utterances[number].end = at
                case Emit(event):
                    self.told(event)

    def told(self, event: object) -> None:
        match event:
            case ErrorOccurred(_, _, None):
                pass
            case ErrorOccurred(_, _, int(number)):
                self.utterances[number].terminals.append("error")
            case UtteranceDone(number, text, _, words):
                self.utterances[number].terminals.append("done")
                assert text == self.utterances[number].text
                assert words == ((WORD,) if "words" in self.include else None)
            case TextDelta(number, text, start, end):
                assert text
                assert not self.utterances[number].terminals
                assert (start, end) == ((0.1, 0.2) if "words" in self.include else (None, None))
                self.utterances[number].text += text
            case SpeechStarted() | SpeechStopped():
                assert self.session.turn_detection is not None
            case Warned():
                assert "warnings" in self.include

    def first_unfinished(self) -> int | None:
        for number, one in enumerate(self.utterances):
            if not one.terminals:
                return number
        return None

    # --- what the client does ---------------------------------------------------------------

    @rule(
        model=st.sampled_from(["demo", "", "unknown"]),
        vad=st.sampled_from([UNSET, None, ServerVad(), ServerVad(0.7)]),
        include=st.sampled_from(
            [UNSET, frozenset[str](), frozenset({"words"}), frozenset({"words", "warnings"})]
        ),
    )
    def configure(
        self, model: str, vad: ServerVad | UnsetType | None, include: frozenset[str] | UnsetType
    ) -> None:
        if model != "unknown":
            self.naive.configure(self.naive.vad if vad is UNSET else vad is not None)
            self.include = self.include if include is UNSET else include
            self.only_commits &= not self.naive.vad
        self.perform(self.session.configure(Configure(model, vad, include)), [])

    @rule(final=st.booleans())
    def commit(self, final: bool) -> None:
        unfinished = sum(not one.terminals for one in self.utterances)
        self.perform(self.session.commit(Commit(final)), self.naive.commit(final, unfinished))

    @rule(samples=st.integers(1, 5_000))
    def audio(self, samples: int) -> None:
        self.naive.received += samples
        self.perform(self.session.audio(samples), [])

    # --- what detection reports -------------------------------------------------------------

    @rule(back=st.integers(0, 8_000), prefix=st.integers(0, 6_000))
    def speech_started(self, back: int, prefix: int) -> None:
        at = max(0, self.naive.received - back)
        expected = self.naive.speech_started(at, prefix)
        self.perform(self.session.speech_started(at, prefix), expected)

    @rule(back=st.integers(0, 8_000), silence=st.integers(0, 8_000))
    def speech_stopped(self, back: int, silence: int) -> None:
        at = max(0, self.naive.received - back)
        upto = min(at + silence, self.naive.received)
        expected = self.naive.speech_stopped(at, upto)
        self.perform(self.session.speech_stopped(at, upto), expected)

    @rule(back=st.integers(-500, 8_000))
    def forget(self, back: int) -> None:
        position = self.naive.received - max(back, 0)
        self.only_commits = False
        self.naive.forget(position)
        self.session.forget(position)

    # --- what recognition reports -----------------------------------------------------------

    @rule(text=st.text(min_size=1, max_size=5))
    @precondition(lambda self: self.first_unfinished() is not None)
    def text(self, text: str) -> None:
        number = self.first_unfinished()
        assert number is not None
        self.perform(self.session.text(number, text, 0.1, 0.2), [])

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
        self.perform(self.session.done(number, USAGE, (WORD,)), [])

    @rule()
    @precondition(lambda self: self.first_unfinished() is not None)
    def failed(self) -> None:
        number = self.first_unfinished()
        assert number is not None
        expected = self.naive.fails(number)
        self.perform(self.session.failed(number, EngineFailed("broken")), expected)

    @rule()
    def warned(self) -> None:
        actions = self.session.warn("queued", "Wait.")
        assert len(actions) == ("warnings" in self.include)
        self.perform(actions, [])

    # --- what always holds ------------------------------------------------------------------

    @invariant()
    def no_audio_is_used_twice(self) -> None:
        at = 0
        for one in self.utterances:
            assert at <= one.begin <= self.session.received
            at = one.begin if one.end is None else one.end
            assert one.begin <= at <= self.session.received

    @invariant()
    def no_audio_is_lost_where_commits_alone_count(self) -> None:
        if self.only_commits:
            for before, one in zip([None, *self.utterances], self.utterances, strict=False):
                swallowed = before is not None and before.terminals == ["error"]
                assert swallowed or one.begin == (before.end if before else 0)

    @invariant()
    def the_clock_and_what_is_kept_are_those_of_the_plain_rules(self) -> None:
        assert self.session.received == self.naive.received
        assert self.session.kept == self.naive.kept
        assert self.session.speaking == self.naive.speaking

    @invariant()
    def at_most_one_terminal_event_an_utterance_and_in_order(self) -> None:
        finished = [len(one.terminals) for one in self.utterances]
        assert finished == sorted(finished, reverse=True)
        assert max(finished, default=0) <= 1
        assert self.session.unfinished == finished.count(0)

    def teardown(self) -> None:
        """Whatever happened, a drain leaves only utterances that can finish, each once."""
        begun = self.naive.begin(self.naive.floor) if self.naive.goes_on else []
        last = self.naive.begun - 1
        ended = [("end", last, self.naive.received)] if self.naive.open else []
        self.perform(self.session.drain(), [*begun, *ended])
        self.perform(self.session.speech_started(self.naive.received, 0), [])
        while (number := self.first_unfinished()) is not None:
            assert self.utterances[number].end is not None
            self.perform(self.session.done(number, USAGE, (WORD,)), [])
        assert all(len(one.terminals) == 1 for one in self.utterances)


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(
    max_examples=500,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
