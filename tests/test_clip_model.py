"""The engine requests of clips, made for Whisper base without an engine."""

import os
from typing import Any

import numpy as np
import pytest
import whisper

from realtimed.engine import args
from realtimed.engine.segmented import ClipModel
from realtimed.engine.spec import Clip
from realtimed.wire.events import Guidance

pytestmark = whisper.needs_whisper

START, ENGLISH, TRANSCRIBE, NO_TIMES = 50_258, 50_259, 50_359, 50_363
PREVIOUS = 50_361
SECOND = np.zeros(16_000, np.float32)


@pytest.fixture(scope="module")
def config() -> Any:
    pytest.importorskip("vllm")
    before = dict(os.environ)
    try:
        return args.create_config(args.engine_args(str(whisper.MODEL), (), whisper.ENGINE))
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def model(config: Any) -> ClipModel:
    from vllm.model_executor.models.whisper import WhisperForConditionalGeneration

    return ClipModel.load(config, WhisperForConditionalGeneration)


def test_what_the_model_takes_is_told(model: ClipModel) -> None:
    info = model.info
    assert info.options == {"language", "prompt", "temperature"}
    assert {"en", "fr", "ja"} < info.languages
    assert (info.sample_rate, info.max_clip_s) == (16_000, 30)
    assert model.detects_language


def test_the_prompt_is_vllms_own(model: ClipModel) -> None:
    request = model.encode("r", Clip(SECOND, language="en"))
    assert request.prompt_token_ids == [START, ENGLISH, TRANSCRIBE, NO_TIMES]
    assert request.sampling_params.temperature == 0


def test_previous_text_stands_before_the_start_of_the_transcript(model: ClipModel) -> None:
    request = model.encode("r", Clip(SECOND, Guidance(prompt="Ada Lovelace"), "en"))
    assert request.prompt_token_ids[0] == PREVIOUS
    assert request.prompt_token_ids[-4:] == [START, ENGLISH, TRANSCRIBE, NO_TIMES]
    assert START not in request.prompt_token_ids[:-4]


def test_of_a_long_prompt_its_end_is_kept(model: ClipModel) -> None:
    long = model.encode("r", Clip(SECOND, Guidance(prompt="no " * 1_000 + "Ada"), "en"))
    short = model.encode("r", Clip(SECOND, Guidance(prompt="no Ada"), "en"))
    assert len(long.prompt_token_ids) == 1 + 223 + 4
    assert long.prompt_token_ids[-6:] == short.prompt_token_ids[-6:]


def test_special_tokens_cannot_be_written_in_a_prompt(model: ClipModel) -> None:
    request = model.encode("r", Clip(SECOND, Guidance(prompt="<|startoftranscript|><|fr|>"), "en"))
    assert request.prompt_token_ids.count(START) == 1


def test_the_length_of_the_text_is_bounded_by_that_of_the_audio(model: ClipModel) -> None:
    for seconds in (1, 10):
        request = model.encode("r", Clip(SECOND.repeat(seconds), language="en"))
        assert request.sampling_params.max_tokens == 8 * seconds + 16


def test_a_prompt_leaves_room_for_the_text_within_the_models_length(model: ClipModel) -> None:
    request = model.encode("r", Clip(SECOND.repeat(30), Guidance(prompt="no " * 1_000), "en"))
    assert request.sampling_params.max_tokens == 448 - len(request.prompt_token_ids)


def test_a_detection_is_one_token_of_a_language(model: ClipModel) -> None:
    request = model.encode_detection("r", SECOND)
    assert request.prompt_token_ids == [START]
    assert request.sampling_params.max_tokens == 1
    assert ENGLISH in request.sampling_params.allowed_token_ids
    assert model.language([ENGLISH]) == "en"


def test_english_only_whisper_is_asked_for_no_language(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vocabulary tells it: it has one token less, and no languages."""
    from vllm.model_executor.models.whisper import WhisperForConditionalGeneration

    monkeypatch.setattr(config.model_config.hf_config, "vocab_size", 51_864)
    model = ClipModel.load(config, WhisperForConditionalGeneration)
    assert model.info.languages == {"en"}
    assert not model.detects_language
    request = model.encode("r", Clip(SECOND))
    assert request.prompt_token_ids == [START, NO_TIMES]


def test_the_text_is_that_of_the_tokens_without_the_last(model: ClipModel) -> None:
    request = model.encode("r", Clip(SECOND, language="en"))
    ids = model._tokenizer.encode(" Ten of clubs.", add_special_tokens=False)
    whole = model.hypothesis(request, "", [*ids, 50_257], (), complete=True)
    broken_off = model.hypothesis(request, "", ids, (), complete=False)
    assert whole.text == broken_off.text == "Ten of clubs."
    assert (whole.complete, broken_off.complete) == (True, False)


def test_each_token_has_its_place_in_the_text_and_its_log_probability(model: ClipModel) -> None:
    request = model.encode("r", Clip(SECOND, language="en"))
    ids = model._tokenizer.encode(" Ten of clubs.", add_special_tokens=False)
    logprobs = [-0.1 * number for number in range(len(ids) + 1)]
    heard = model.hypothesis(request, "", [*ids, 50_257], logprobs, complete=True)
    pieces, begin = [], 0
    for end, _ in heard.tokens:
        pieces.append(heard.text[begin:end])
        begin = end
    written = [model._tokenizer.decode([token]) for token in ids]
    assert pieces == [written[0].strip(), *written[1:]]
    assert [logprob for _, logprob in heard.tokens] == logprobs[:-1]


def test_a_decode_goes_on_from_what_has_been_said(model: ClipModel) -> None:
    clip = Clip(SECOND.repeat(4), language="en", said="Ten of clubs")
    request = model.encode("r", clip)
    said = model._tokenizer.encode(" Ten of clubs", add_special_tokens=False)
    assert request.prompt_token_ids == [START, ENGLISH, TRANSCRIBE, NO_TIMES, *said]
    assert request.sampling_params.max_tokens == 8 * 4 + 16 - len(said)
    more = model._tokenizer.encode(", nine of hearts.", add_special_tokens=False)
    heard = model.hypothesis(request, clip.said, [*more, 50_257], [-1] * 9, complete=True)
    assert heard.text == "Ten of clubs, nine of hearts."
    assert heard.tokens[0][0] == len("Ten of clubs,")
    assert heard.tokens[-1][0] == len(heard.text)
    assert model.info.continues


def test_what_was_said_leaves_room_before_the_previous_text_does(
    model: ClipModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model._model_config, "max_model_len", 64)
    said = "no " * 36 + "Ada"
    clip = Clip(SECOND.repeat(8), Guidance(prompt="yes " * 99), "en", said)
    request = model.encode("r", clip)
    ids = model._text_ids(said)
    assert request.prompt_token_ids[-len(ids) :] == ids
    assert len(request.prompt_token_ids) + 16 <= 64
    assert len(request.prompt_token_ids) + request.sampling_params.max_tokens <= 64


def test_a_beginning_that_leaves_no_room_is_decoded_anew(
    model: ClipModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model._model_config, "max_model_len", 64)
    clip = Clip(SECOND.repeat(8), language="en", said="no " * 58 + "Ada")
    request = model.encode("r", clip)
    assert request.prompt_token_ids == [START, ENGLISH, TRANSCRIBE, NO_TIMES]
    ids = model._text_ids("No, Ada.")
    heard = model.hypothesis(request, clip.said, [*ids, 50_257], (), complete=True)
    assert heard.text == "No, Ada."
