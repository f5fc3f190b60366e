"""Models that transcribe whole clips, by vLLM's own interface for them (`SupportsTranscription`).

The calls are those of vLLM's transcription server, in its order, so that a clip gives here what it
gives there; tests/test_segmented.py holds this module to it. Two prompts are built here,
since vLLM 0.32 builds them wrongly:

* Whisper's prompt of previous text begins with `<|startofprev|>`; vLLM writes `<|prev|>`, which is
  no token of it, and puts the token that starts a transcript before it.
* A Whisper checkpoint for English only knows neither languages nor tasks; asked for them it answers
  with nothing.

vLLM's multimodal processor must not run on two threads at once, so a limiter of one stands before
it. It takes about 10 ms a clip.
"""

import re
from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from realtimed.engine.spec import Clip, Hypothesis, SegmentedModel
from realtimed.errors import ConfigError

_TOKENS_A_SECOND: Final = 8
_TOKENS_A_CLIP: Final = 16
"""The longest text of a clip: twice what fast speech takes. A recogniser that got stuck would go on
to the end of the model's length, which takes a core for seconds."""
_TASKS: Final = ("generate", "transcription")

# What of a session's guidance the prompts of vLLM's model classes make use of. Not a property of
# the classes: read from their `get_generation_prompt` in vLLM 0.32.
_TAKES_PROMPT: Final = (
    "KimiAudioForConditionalGeneration",
    "MossTranscribeDiarizeForConditionalGeneration",
    "Qwen3ASRForConditionalGeneration",
    "Qwen3OmniMoeThinkerForConditionalGeneration",
    "WhisperForConditionalGeneration",
)
_TAKES_HOTWORDS: Final = ("FunASRForConditionalGeneration",)
_SAYS_LANGUAGE: Final = ("Qwen3ASRForConditionalGeneration",)


class ClipModel:
    """Makes engine requests of clips, and text of their tokens.

    `encode`, `encode_detection` and the constructor take milliseconds to seconds: call them on a
    worker thread, one at a time. The rest is quick.
    """

    def __init__(self, config: Any, cls: Any) -> None:
        """`config`: vLLM's `VllmConfig`; `cls`: the model class."""
        from vllm.config.speech_to_text import SpeechToTextParams
        from vllm.renderers import renderer_from_config
        from vllm.renderers.inputs.preprocess import parse_model_prompt
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer
        from vllm.v1.engine.input_processor import InputProcessor

        self._cls = cls
        self._model_config = config.model_config
        self._stt = cls.get_speech_to_text_config(self._model_config, "transcribe")
        self._renderer = renderer_from_config(config)
        self._processor = InputProcessor(config, self._renderer)
        self._tokenizer = self._renderer.get_tokenizer()
        self._parse, self._params = parse_model_prompt, SpeechToTextParams
        self._sampling, self._deltas = SamplingParams.from_optional, RequestOutputKind.DELTA
        self._detokenizer = IncrementalDetokenizer
        self._whisper = _is_a(cls, ("WhisperForConditionalGeneration",))
        self._english_only = self._whisper and _is_english_only(self._model_config)
        self._says_language = _is_a(cls, _SAYS_LANGUAGE)
        self._codes = {name: code for code, name in cls.supported_languages.items()}
        detects = bool(cls.supports_explicit_language_detection)
        self.detects_language = detects and not self._english_only

    @classmethod
    def load(cls, config: Any, model_class: Any) -> Self:
        """Load what stands before the engine: tokenizer, feature extraction.

        Raises: `ConfigError` for a model that takes audio at another rate than 16 kHz.
        """
        loaded = cls(config, model_class)
        if loaded.sample_rate != 16_000:
            raise ConfigError(
                f"{config.model_config.model} takes audio at {loaded.sample_rate} Hz: expected a "
                "model for 16000 Hz, as speech detection is."
            )
        return loaded

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return int(self._stt.sample_rate)

    @property
    def info(self) -> SegmentedModel:
        """What the rest of the house needs to know; names and limits are the caller's."""
        config = self._model_config
        options = {"temperature"}
        languages = frozenset(self._cls.supported_languages)
        if self._english_only:
            languages = frozenset({"en"})
        if languages:
            options.add("language")
        if _is_a(self._cls, _TAKES_PROMPT):
            options.add("prompt")
        if _is_a(self._cls, _TAKES_HOTWORDS):
            options.add("hotwords")
        return SegmentedModel(
            model=config.model,
            served_names=(config.model,),
            architecture=self._cls.__name__,
            max_model_len=config.max_model_len,
            max_num_seqs=1,
            sample_rate=self.sample_rate,
            options=frozenset(options),
            languages=languages,
            max_clip_s=self._stt.max_audio_clip_s,
            detects_language=self.detects_language,
            continues=self._whisper,
        )

    # --- to the engine ----------------------------------------------------------------------

    def encode(self, request_id: str, clip: Clip) -> Any:
        """The `EngineCoreRequest` that transcribes a clip, or the rest of it behind what is `said`.

        That is for a model that `continues`. Where it leaves no room within the model's length, the
        clip is transcribed whole; previous text gives way to it.
        """
        # No more than the sampled token's own: 0 beside it.
        request = self._request(
            request_id, self._prompt(clip), temperature=clip.guidance.temperature, logprobs=0
        )
        longest, task = self._model_config.max_model_len, list(request.prompt_token_ids)
        room = longest - len(task) - _TOKENS_A_CLIP
        said = self._text_ids(clip.said)
        if len(said) > room:
            said = []
        previous: list[int] = []
        if self._whisper:
            previous = self._previous_text(clip.guidance.prompt, room - len(said))
        request.prompt_token_ids = [*previous, *task, *said]
        wanted = round(len(clip.audio) / self.sample_rate * _TOKENS_A_SECOND) + _TOKENS_A_CLIP
        left = longest - len(request.prompt_token_ids)
        request.sampling_params.max_tokens = max(1, min(wanted - len(said), left))
        return request

    def encode_detection(self, request_id: str, audio: NDArray[np.float32]) -> Any:
        """The `EngineCoreRequest` whose one token tells the language of a clip."""
        return self._request(
            request_id,
            self._cls.get_language_detection_prompt(audio, self._stt),
            temperature=0.0,
            max_tokens=1,
            allowed_token_ids=self._cls.get_language_token_ids(self._tokenizer),
        )

    def _prompt(self, clip: Clip) -> Any:
        """What the model class asks its model, but for what stands before and behind it here."""
        guidance = clip.guidance
        prompt = self._cls.get_generation_prompt(
            self._params(
                audio=clip.audio,
                stt_config=self._stt,
                model_config=self._model_config,
                language="en" if self._english_only else clip.language,
                hotwords=", ".join(guidance.hotwords) or None,
                request_prompt="" if self._whisper else guidance.prompt,
            )
        )
        if self._english_only:
            prompt = {**prompt, "decoder_prompt": {"prompt": _ENGLISH_ONLY}}
        return prompt

    def _request(self, request_id: str, prompt: Any, **sampling: Any) -> Any:
        (rendered,) = self._renderer.render_cmpl([self._parse(self._model_config, prompt)])
        params = self._sampling(output_kind=self._deltas, **sampling)
        return self._processor.process_inputs(request_id, rendered, params, _TASKS)

    def _previous_text(self, prompt: str, room: int) -> list[int]:
        """Whisper's tokens for text that was said before; the last of them, if it is long.

        With the token that begins it, at most `room` and half of the model's length, as Whisper was
        trained.
        """
        ids = self._text_ids(" ".join(prompt.split()))
        most = min(self._model_config.max_model_len // 2, room) - 1
        if not ids or most < 1:
            return []
        return [self._tokenizer.convert_tokens_to_ids("<|startofprev|>"), *ids[-most:]]

    def _text_ids(self, text: str) -> list[int]:
        """Whisper's tokens for text as it writes it, with a space before the first word."""
        if not text:
            return []
        ids = self._tokenizer.encode(" " + text, add_special_tokens=False)
        # Behind the end-of-text token there are special ones only, which a text may not bring.
        return [token for token in ids if token < self._tokenizer.eos_token_id]

    # --- from the engine --------------------------------------------------------------------

    def language(self, token_ids: Sequence[int]) -> str:
        """The language that a detection has found, ISO 639-1."""
        found: str = self._cls.parse_language_detection_output(list(token_ids), self._tokenizer)
        return found

    def hypothesis(
        self,
        request: Any,
        said: str,
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        *,
        complete: bool,
    ) -> Hypothesis:
        """What a transcription's tokens say, cleaned as the model class cleans it.

        `said`: the beginning that the tokens go on from, if the request has it. `complete`: the
        last token is the one that ended it, which is no text.
        """
        beginning = self._text_ids(said)
        if beginning and list(request.prompt_token_ids[-len(beginning) :]) != beginning:
            said = ""
        written, ends = said, []
        detokenizer = self._detokenizer.from_new_request(self._tokenizer, request)
        for token in token_ids[:-1] if complete else token_ids:
            detokenizer.update([token], False)
            written = said + detokenizer.get_next_output_text(True, False)
            ends.append(len(written))
        text = self._cls.post_process_output(written).strip()
        begin = written.rfind(text)  # what a class takes off stands before it, and may hold it
        # Where the class changes the text itself, nobody can tell which token wrote what.
        known = zip(ends, logprobs, strict=False) if begin >= 0 else ()
        return Hypothesis(
            text,
            len(request.prompt_token_ids),
            len(token_ids),
            complete,
            tuple((end - begin, logprob) for end, logprob in known),
            self._said_language(written),
        )

    def _said_language(self, written: str) -> str | None:
        """The language that a model wrote before its text, ISO 639-1, if it is one that does.

        vLLM's interface has no call for it; it takes it off the text.
        """
        found = re.match(r"\s*language (\w+)<asr_text>", written) if self._says_language else None
        return self._codes.get(found[1]) if found else None


_ENGLISH_ONLY: Final = "<|startoftranscript|><|notimestamps|>"


def _is_a(cls: Any, names: Sequence[str]) -> bool:
    return any(base.__name__ in names for base in cls.__mro__)


def _is_english_only(model_config: Any) -> bool:
    """Whether a Whisper checkpoint has no tokens for languages: it has one token less."""
    english_only_vocabulary = 51_864
    return bool(model_config.hf_config.vocab_size == english_only_vocabulary)
