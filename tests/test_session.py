"""The rules of a session as the tables of the documentation have them."""

from typing import Any

import pytest

from realtimed.errors import EngineFailed
from realtimed.session import (
    BY_COMMIT,
    BY_SPEECH,
    Action,
    Begin,
    Cancel,
    Cause,
    Emit,
    End,
    Phase,
    Session,
)
from realtimed.wire.events import (
    Cleared,
    Commit,
    Committed,
    Configure,
    ErrorOccurred,
    ServerVad,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Usage,
    UtteranceDone,
    Warned,
    Word,
)

USAGE = Usage(36, 10, 1.0)
BEGIN, FINAL = Commit(final=False), Commit(final=True)
VAD = ServerVad()
WORDS = (Word("one", 0.08, 0.32),)


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


@pytest.mark.parametrize("rules", [BY_COMMIT, BY_SPEECH])
def test_every_phase_has_a_rule_for_every_cause(rules: dict[tuple[Phase, Cause], Any]) -> None:
    assert set(rules) == {(phase, cause) for phase in Phase for cause in Cause}


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


# --- turns of speaking --------------------------------------------------------------------


def detecting(received: int = 0) -> Session:
    """A session with turn detection that has received so many samples."""
    fresh = Session(("demo",))
    fresh.configure(Configure("demo", VAD))
    fresh.audio(received)
    return fresh


def speaking(received: int = 32_000) -> Session:
    """The same, and speech began at its second second: utterance 0, from sample 16,000 on."""
    fresh = detecting(received)
    assert fresh.speech_started(16_000, 0) == [Emit(SpeechStarted(0, 1.0)), Begin(0, 16_000)]
    return fresh


def test_an_utterance_begins_a_prefix_before_the_onset_of_speech() -> None:
    one = detecting(20_000)
    assert one.speech_started(16_000, 4_800) == [Emit(SpeechStarted(0, 1.0)), Begin(0, 11_200)]
    assert one.speaking


def test_an_utterance_ends_where_the_pause_is_known_and_what_follows_is_kept() -> None:
    one = speaking(received=50_000)
    assert one.speech_stopped(32_000, 40_000) == [Emit(SpeechStopped(0, 2.0)), End(0, 40_000)]
    assert one.kept == 10_000
    assert not one.speaking


def test_a_prefix_does_not_reach_into_the_utterance_before() -> None:
    one = speaking(received=50_000)
    one.speech_stopped(32_000, 40_000)
    assert one.speech_started(41_600, 4_800)[1] == Begin(1, 40_000)


def test_a_prefix_does_not_reach_before_the_first_sample() -> None:
    assert detecting(512).speech_started(0, 4_800)[1] == Begin(0, 0)


def test_an_onset_found_late_does_not_reach_behind_a_final() -> None:
    one = detecting(20_000)
    one.commit(FINAL)
    assert one.speech_started(16_000, 4_800)[1] == Begin(1, 20_000)


def test_a_pause_before_a_final_ends_the_turn_and_no_further_utterance() -> None:
    one = speaking(received=40_000)
    one.commit(FINAL)
    assert one.speech_stopped(32_000, 39_000) == [Emit(SpeechStopped(0, 2.0))]
    assert one.unfinished == 1
    assert not one.speaking


def test_silence_that_was_let_go_of_belongs_to_no_utterance() -> None:
    one = detecting(50_000)
    one.forget(45_000)
    one.forget(30_000)
    assert one.kept == 5_000
    assert one.speech_started(46_000, 4_800)[1] == Begin(0, 45_000)


def test_nothing_is_forgotten_of_an_open_utterance() -> None:
    one = speaking()
    one.forget(30_000)
    assert one.claimed == 16_000
    assert one.commit(FINAL) == [End(0, 32_000)]


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.LISTENING, Phase.FAILED])
def test_a_commit_that_is_not_final_means_nothing(phase: Phase) -> None:
    one = session(phase)
    one.configure(Configure("demo", VAD))
    assert one.commit(BEGIN) == []
    assert one.phase is phase
    assert len(one.commit(FINAL)) == {Phase.IDLE: 2, Phase.LISTENING: 1, Phase.FAILED: 0}[phase]


def test_a_final_while_somebody_speaks_loses_no_speech() -> None:
    one = speaking(received=32_000)
    assert one.commit(FINAL) == [End(0, 32_000)]
    one.audio(16_000)
    assert one.speech_started(34_000, 4_800) == [Begin(1, 32_000)]
    assert one.speech_started(35_000, 4_800) == []
    assert one.speech_stopped(40_000, 48_000) == [Emit(SpeechStopped(1, 2.5)), End(1, 48_000)]


def test_a_final_between_turns_transcribes_what_is_kept() -> None:
    one = speaking(received=50_000)
    one.speech_stopped(32_000, 40_000)
    assert one.commit(FINAL) == [Begin(1, 40_000), End(1, 50_000)]


def test_a_final_between_turns_with_nothing_kept_waits_for_what_is_finishing() -> None:
    one = speaking(received=40_000)
    one.speech_stopped(32_000, 40_000)
    assert one.commit(FINAL) == []
    one.done(0, USAGE)
    assert one.commit(FINAL) == [Begin(1, 40_000), End(1, 40_000)]


def test_after_a_failure_audio_goes_by_until_the_pause() -> None:
    one = speaking(received=32_000)
    assert one.failed(0, EngineFailed("broken"))[0] == End(0, 32_000)
    one.audio(16_000)
    assert one.speech_stopped(40_000, 48_000) == [Emit(SpeechStopped(0, 2.5))]
    assert one.kept == 0
    one.audio(16_000)
    assert one.speech_started(48_000, 4_800)[1] == Begin(1, 48_000)


def test_a_final_after_a_failure_goes_on_with_the_speech() -> None:
    one = speaking(received=32_000)
    one.failed(0, EngineFailed("broken"))
    one.audio(1_000)
    assert one.commit(FINAL) == []
    assert one.speech_started(34_000, 4_800) == [Begin(1, 33_000)]


def test_speech_told_twice_is_one_turn() -> None:
    one = speaking()
    assert one.speech_started(20_000, 0) == []
    assert one.speech_stopped(30_000, 31_000)[1] == End(0, 31_000)
    assert one.speech_stopped(31_000, 32_000) == []


def test_without_turn_detection_speech_causes_nothing() -> None:
    for phase in Phase:
        one = session(phase)
        one.audio(20_000)
        assert one.speech_started(16_000, 4_800) == []
        assert one.speech_stopped(16_000, 20_000) == []
        assert one.phase is phase
        assert not one.speaking


def test_turn_detection_switched_off_leaves_the_turn_open_until_its_final() -> None:
    one = speaking(received=32_000)
    assert one.configure(Configure("demo", None)) == []
    assert one.speech_stopped(20_000, 32_000) == []
    assert one.commit(FINAL) == [End(0, 32_000)]
    assert one.phase is Phase.IDLE


def test_turn_detection_switched_on_lets_a_pause_end_what_a_commit_began() -> None:
    one = session(Phase.LISTENING)
    one.commit(BEGIN)  # remembered, and void once turns count
    one.audio(32_000)
    one.configure(Configure("demo", VAD))
    assert one.speech_started(16_000, 4_800) == [Emit(SpeechStarted(0, 1.0))]
    assert one.speech_stopped(24_000, 32_000) == [Emit(SpeechStopped(0, 1.5)), End(0, 32_000)]
    assert one.phase is Phase.IDLE


def test_other_settings_of_turn_detection_leave_the_turn_as_it_is() -> None:
    one = speaking()
    assert one.configure(Configure("demo", ServerVad(0.7))) == []
    assert one.turn_detection == ServerVad(0.7)
    assert one.speaking


def test_drain_ends_the_turn_and_a_late_onset_begins_none() -> None:
    one = speaking(received=32_000)
    assert one.drain() == [End(0, 32_000)]
    assert one.speech_started(31_000, 0) == []


def test_drain_takes_what_goes_on_behind_a_final() -> None:
    one = speaking(received=32_000)
    one.commit(FINAL)
    one.audio(8_000)
    assert one.drain() == [Begin(1, 32_000), End(1, 40_000)]


# --- what is told only to those who asked -------------------------------------------------


def test_times_and_words_are_told_where_they_are_included() -> None:
    one = session(Phase.LISTENING)
    one.configure(Configure("demo", include=frozenset({"words"})))
    assert one.text(0, "one", 0.08, 0.32) == [Emit(TextDelta(0, "one", 0.08, 0.32))]
    one.commit(FINAL)
    assert one.done(0, USAGE, WORDS) == [Emit(UtteranceDone(0, "one", USAGE, WORDS))]


def test_no_words_are_an_empty_list_where_they_are_included() -> None:
    one = session()
    one.configure(Configure("demo", include=frozenset({"words"})))
    one.commit(FINAL)
    assert one.done(0, USAGE) == [Emit(UtteranceDone(0, "", USAGE, ()))]


def test_nobody_else_is_told_of_times_words_and_warnings() -> None:
    one = session(Phase.LISTENING)
    assert one.text(0, "one", 0.08, 0.32) == [Emit(TextDelta(0, "one"))]
    assert one.warn("queued", "Wait.", 0) == []
    one.commit(FINAL)
    assert one.done(0, USAGE, WORDS) == [Emit(UtteranceDone(0, "one", USAGE))]


def test_warnings_are_told_where_they_are_included() -> None:
    one = session()
    one.configure(Configure("demo", include=frozenset({"warnings"})))
    assert one.warn("queued", "Wait.", 3) == [Emit(Warned("queued", "Wait.", 3))]
    bye = Emit(Warned("draining", "Bye.", deadline_s=10.0))
    assert one.warn("draining", "Bye.", deadline_s=10.0) == [bye]


def test_a_session_is_idle_where_its_end_would_lose_nothing() -> None:
    one = session()
    assert one.idle
    one.audio(100)
    assert not one.idle, "audio is kept for the next utterance"
    one.commit(BEGIN)
    one.commit(FINAL)
    assert not one.idle, "its final is still to come"
    one.done(0, USAGE)
    assert one.idle
    one.configure(Configure("demo", VAD))
    one.audio(100)
    assert one.idle, "with turn detection, what is kept is silence"
    one.speech_started(100, 0)
    assert not one.idle


def test_what_an_update_does_not_mention_stays() -> None:
    one = session()
    one.configure(Configure("demo", VAD, frozenset({"words"})))
    one.configure(Configure("demo"))
    assert (one.turn_detection, one.include) == (VAD, {"words"})
    one.configure(Configure("demo", None, frozenset({"warnings"})))
    assert (one.turn_detection, one.include) == (None, {"warnings"})


def test_an_update_with_an_unknown_model_changes_no_option() -> None:
    one = session()
    assert code(one.configure(Configure("other", VAD, frozenset({"words"})))) == "model_not_found"
    assert (one.turn_detection, one.include) == (None, frozenset())


# --- audio that begins an utterance by itself ---------------------------------------------


def buffered() -> Session:
    session = Session(("m",), by_buffer=True)
    session.configure(Configure("m"))
    return session


def test_audio_begins_an_utterance_and_a_commit_ends_it_by_buffer() -> None:
    session = buffered()
    assert session.audio(100) == [Begin(0, 0)]
    assert session.audio(50) == []
    assert session.commit(Commit(final=True)) == [End(0, 150), Emit(Committed(0))]
    assert session.audio(10) == [Begin(1, 150)]


def test_every_commit_is_answered_by_buffer() -> None:
    session = buffered()
    session.audio(100)
    session.commit(Commit(final=True))
    actions = session.commit(Commit(final=True))
    assert actions == [Begin(1, 100), End(1, 100), Emit(Committed(1))]


def test_clear_gives_the_open_utterance_up_and_forgets_what_is_kept() -> None:
    session = buffered()
    session.audio(100)
    assert session.clear() == [Cancel(0, 100), Emit(Cleared())]
    assert session.unfinished == 0
    assert session.clear() == [Emit(Cleared())]
    assert session.audio(20) == [Begin(1, 100)]


def test_clear_with_speech_going_on_begins_the_rest_of_it_anew() -> None:
    session = buffered()
    session.configure(Configure("m", turn_detection=ServerVad()))
    session.audio(1_000)
    session.speech_started(500, 100)
    assert session.clear() == [Cancel(0, 1_000), Emit(Cleared())]
    assert session.speech_started(1_000, 0) == [Begin(1, 1_000)]


def test_updates_are_confirmed_by_buffer() -> None:
    assert buffered().configure(Configure("m")) == [Emit(SessionUpdated())]
