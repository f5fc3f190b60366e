"""LocalAgreement-2 under made-up hypotheses: what is told is never taken back."""

import re
import string

from hypothesis import given
from hypothesis import strategies as st
from speech import edit_distance

from realtimed.transcription.agreement import (
    LocalAgreement,
    aligned,
    speech,
    units,
    without_loop,
)

_WORDS = st.lists(
    st.text(string.ascii_letters + "'-äßñ한국", min_size=1, max_size=6), max_size=12
).map(" ".join)
_UNSPACED = st.text("今日天气很好我们去公园。、", max_size=16)
_ANYTHING = st.text(max_size=40)
_HYPOTHESES = st.lists(st.one_of(_WORDS, _UNSPACED, _ANYTHING), max_size=8)


def keys(text: str) -> list[str]:
    return [unit.key for unit in units(text)]


def told(hypotheses: list[str], final: str) -> tuple[list[str], LocalAgreement]:
    agreement = LocalAgreement()
    deltas = [agreement.hypothesis(text, 0) for text in hypotheses]
    return [*deltas, agreement.final(final)], agreement


@given(_HYPOTHESES)
def test_every_delta_is_a_slice_of_the_hypothesis_that_brought_it(hypotheses: list[str]) -> None:
    agreement = LocalAgreement()
    for text in hypotheses:
        assert agreement.hypothesis(text, 0) in text


@given(_HYPOTHESES)
def test_only_what_two_hypotheses_in_a_row_say_is_told_before_the_final(
    hypotheses: list[str],
) -> None:
    agreement, earlier = LocalAgreement(), ""
    for text in hypotheses:
        delta = keys(agreement.hypothesis(text, 0))
        joined = "\0".join(keys(earlier))
        assert "\0".join(delta) in joined
        earlier = text


@given(st.lists(st.one_of(_WORDS, _UNSPACED), min_size=1, max_size=4))
def test_hypotheses_that_only_grow_end_in_the_final_as_it_was_written(pieces: list[str]) -> None:
    grown = [" ".join(pieces[: count + 1]).strip() for count in range(len(pieces))]
    deltas, _ = told(grown, grown[-1])
    assert "".join(deltas) == (grown[-1] if keys(grown[-1]) else "")


@given(_WORDS, st.lists(st.integers(0, 12), max_size=8))
def test_windows_that_break_off_anywhere_give_each_word_once(text: str, cuts: list[int]) -> None:
    words = text.split()
    deltas, _ = told([" ".join(words[:cut]) for cut in cuts], text)
    assert keys("".join(deltas)) == keys(text)


@given(_HYPOTHESES, st.one_of(_WORDS, _UNSPACED))
def test_a_final_adds_no_word_that_is_not_in_it(hypotheses: list[str], final: str) -> None:
    deltas, _ = told(hypotheses, final)
    rest = "\0".join(keys(deltas[-1]))
    assert "\0".join(keys(final)).endswith(rest)


@given(st.lists(st.text("ab", max_size=1)), st.lists(st.text("ab", max_size=1)))
def test_an_alignment_is_a_cut_of_least_edit_distance(before: list[str], now: list[str]) -> None:
    cut = aligned(before, now)
    best = min(edit_distance(before, now[:end]) for end in range(len(now) + 1))
    assert edit_distance(before, now[:cut]) == best


def test_a_word_that_was_told_otherwise_is_not_said_again() -> None:
    deltas, _ = told(["the cat sat", "the cat sat on"], "The bat sat on the mat.")
    assert "".join(deltas) == "the cat sat on the mat."


def tokens_of(text: str, unsure: str = "") -> list[tuple[int, float]]:
    """Each word a token, of which the model is sure but for one."""
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    words = text.split()
    return [(end, -2.0 if word == unsure else -0.1) for end, word in zip(ends, words, strict=True)]


def test_a_word_that_the_model_is_not_sure_of_is_told_when_it_was_said_for_two_seconds() -> None:
    agreement = LocalAgreement()
    text = "howdy mary to more"
    deltas = [agreement.hypothesis(text, at, tokens_of(text, "mary")) for at in (1, 1.5, 2.9, 3)]
    assert deltas == ["", "howdy", "", " mary to more"]


def test_two_seconds_begin_anew_when_something_else_was_heard() -> None:
    agreement = LocalAgreement()
    text = "howdy mary"
    for at, heard in ((1, text), (2, "had he married"), (2.5, text), (3, text)):
        assert agreement.hypothesis(heard, at, tokens_of(heard, heard.split()[0])) == ""


def test_both_hypotheses_are_sure_of_a_word_that_is_told() -> None:
    agreement = LocalAgreement()
    text = "had he married"
    agreement.hypothesis(text, 1, tokens_of(text, "had"))
    assert agreement.hypothesis(text, 1.5, tokens_of(text)) == ""
    assert agreement.hypothesis(text, 2, tokens_of(text)) == "had he married"


def test_doubt_about_punctuation_does_not_count() -> None:
    agreement = LocalAgreement()
    text, tokens = "yes, no", [(3, -0.1), (4, -3.0), (7, -0.1)]
    agreement.hypothesis(text, 1, tokens)
    assert agreement.hypothesis(text, 1.5, tokens) == "yes, no"


@given(_HYPOTHESES, st.lists(st.tuples(st.integers(0, 60), st.floats(-5, 0)), max_size=12))
def test_under_doubt_every_delta_is_a_slice_of_the_hypothesis_that_brought_it(
    hypotheses: list[str], tokens: list[tuple[int, float]]
) -> None:
    agreement = LocalAgreement()
    for second, text in enumerate(hypotheses):
        assert agreement.hypothesis(text, second, sorted(tokens)) in text


def test_case_and_punctuation_do_not_count_as_a_contradiction() -> None:
    deltas, _ = told(["hello world", "Hello, World"], "Hello, world! Again?")
    assert "".join(deltas) == "Hello, World! Again?"


def test_punctuation_behind_the_last_word_waits_for_what_follows() -> None:
    agreement = LocalAgreement()
    agreement.hypothesis("It was.", 0)
    assert agreement.hypothesis("It was.", 0) == "It was"
    assert agreement.hypothesis("It was fine today.", 0) == ""
    assert agreement.final("It was fine today.") == " fine today."


def test_a_script_without_spaces_is_compared_by_characters() -> None:
    agreement = LocalAgreement()
    assert agreement.hypothesis("今天天", 0) == ""
    assert agreement.hypothesis("今天天气", 0) == "今天天"
    assert agreement.final("今天天气很好。") == "气很好。"


def test_marks_belong_to_their_letters() -> None:
    assert len(units("हिन्दी भाषा")) == 2
    assert len(units("ที่นี่")) == 2


def test_nothing_more_is_told_if_the_last_hypothesis_is_empty() -> None:
    deltas, _ = told(["one two", "one two three"], "")
    assert "".join(deltas) == "one two"


def test_descriptions_of_sounds_are_no_speech() -> None:
    for text in ("[BLANK_AUDIO]", " (water running)", "♪ ♪", "...", "*coughs*", "（笑）", ""):
        assert speech(text) == ""
    assert speech(" [door] Come in. ") == "[door] Come in."


def test_a_loop_is_told_once() -> None:
    assert without_loop("So I said no, no, no, no, no, no") == "So I said no"
    assert without_loop("well " + "thank you. " * 9 + "thank") == "well thank you"
    assert without_loop("no, no, no") == "no, no, no"


@given(_ANYTHING)
def test_only_the_end_of_a_text_is_ever_taken_for_a_loop(text: str) -> None:
    assert text.startswith(without_loop(text))
