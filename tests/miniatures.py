"""Random-weight checkpoints of Whisper and Qwen3-ASR, small enough for every test machine.

What they say is noise, but noise that the audio, the prompt and every weight have a part in. So two
ways of running one agree only if they do the same thing. Their tokenizers, which know all bytes and
64 words, are made here as well: nothing is downloaded.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CLIP_S: Final = 4
"""The longest clip, in seconds: short, because Whisper's encoder always pays for all of it."""
LENGTH: Final = 128
"""The most tokens of Whisper's prompt and text."""
ENGLISH_ONLY_TOKENS: Final = 51_864
"""By the size of its vocabulary, Whisper for English only is told from the others."""

_SIZE: Final = 64
_BYTES: Final = sorted(pre_tokenizers.ByteLevel.alphabet())
_WORDS: Final = [
    f"Ġ{a}{b}" for a in "bdfgklmn" for b in ("a", "e", "i", "o", "u", "ay", "ee", "ow")
]
# All that vLLM takes: it looks each of them up to have the language detected.
_LANGUAGES: Final = (
    "af ar hy az be bs bg ca zh hr cs da nl en et fi fr gl de el he hi hu is id it ja kn kk ko",
    "lv lt mk ms mr mi ne no fa pl pt ro ru sr sk sl es sw sv tl ta th tr uk ur vi cy",
)
_WHISPER_SPECIAL: Final = [
    *("<|endoftext|>", "<|startoftranscript|>"),
    *(f"<|{language}|>" for language in " ".join(_LANGUAGES).split()),
    *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"),
    "<|notimestamps|>",
]
_QWEN_SPECIAL: Final = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|audio_start|>", "<|audio_pad|>", "<|audio_end|>"),
]
_QWEN_SAYS_FIRST: Final = ["language", "ĠEnglish", "<asr_text>"]


# --- Whisper ------------------------------------------------------------------------------


def make_whisper(directory: Path, seed: int, *, english_only: bool = False) -> Path:
    """Write a multilingual Whisper, or one for English only, to `directory`; return it.

    The same seed gives the same bytes.
    """
    ids = _write_tokenizer(directory, "Whisper", _WHISPER_SPECIAL)
    tokens = ENGLISH_ONLY_TOKENS if english_only else len(ids)
    end = ids["<|endoftext|>"]
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "d_model": _SIZE,
        "num_hidden_layers": 1,
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), _SIZE),
        "num_mel_bins": 80,
        "vocab_size": tokens,
        "max_source_positions": 50 * CLIP_S,
        "max_target_positions": LENGTH,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "torch_dtype": "float32",
    }
    _write(directory, "config.json", config)
    _write(directory, "preprocessor_config.json", _features("WhisperProcessor", 80))
    draw = _Draw(seed)
    draw.table("model.encoder.embed_positions", np.full(50 * CLIP_S, 0.3))
    for number, channels in (("1", 80), ("2", _SIZE)):
        draw.linear(f"model.encoder.conv{number}", _SIZE, channels, 3, gain=2.0)
    _whisper_layer(draw, "model.encoder.layers.0", ["self_attn"])
    draw.norm("model.encoder.layer_norm")
    words = draw.table("model.decoder.embed_tokens", _loudness(ids, tokens, [end]))
    places = draw.table("model.decoder.embed_positions", np.full(LENGTH, 0.6))
    # The farther the text, the likelier its end: without that most texts would have none.
    places += np.linspace(0, 110, LENGTH, dtype=np.float32)[:, None] * words[end]
    _whisper_layer(draw, "model.decoder.layers.0", ["self_attn", "encoder_attn"])
    draw.norm("model.decoder.layer_norm")
    draw.save(directory)
    return directory


def _whisper_layer(draw: "_Draw", name: str, attentions: Sequence[str]) -> None:
    for attention in attentions:
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            draw.linear(f"{name}.{attention}.{part}", _SIZE, _SIZE, bias=part != "k_proj", gain=2.0)
        draw.norm(f"{name}.{attention}_layer_norm")
    draw.linear(f"{name}.fc1", _SIZE, _SIZE)
    draw.linear(f"{name}.fc2", _SIZE, _SIZE)
    draw.norm(f"{name}.final_layer_norm")


# --- Qwen3-ASR ----------------------------------------------------------------------------


def make_qwen3_asr(directory: Path, seed: int, *, realtime: bool = False) -> Path:
    """Write a Qwen3-ASR, or one of vLLM's realtime class for it, to `directory`; return it.

    As trained ones do, it says `language English<asr_text>` first unless it is told the language.
    The same seed gives the same bytes.
    """
    names = {"audio_bos_token": 3, "audio_token": 4, "audio_eos_token": 5}
    marks = {name: _QWEN_SPECIAL[at] for name, at in names.items()}
    ids = _write_tokenizer(directory, "Qwen2", _QWEN_SPECIAL, marks, _QWEN_SAYS_FIRST)
    end = ids["<|im_end|>"]
    thinker = {
        "audio_config": {
            "num_mel_bins": 128,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": _SIZE,
            "d_model": _SIZE,
            "n_window": 50,
            "n_window_infer": 100,
            "output_dim": _SIZE,
            "downsample_hidden_size": 8,
        },
        "text_config": {
            "vocab_size": len(ids),
            "hidden_size": _SIZE,
            "intermediate_size": _SIZE,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": 4 * LENGTH,
            "rope_theta": 10_000.0,
            "rope_scaling": {"rope_type": "default", "mrope_section": [6, 5, 5]},
        },
        "audio_token_id": ids["<|audio_pad|>"],
        "audio_start_token_id": ids["<|audio_start|>"],
    }
    served = "Qwen3ASRRealtimeGeneration" if realtime else "Qwen3ASRForConditionalGeneration"
    config = {"architectures": [served], "model_type": "qwen3_asr", "thinker_config": thinker}
    _write(directory, "config.json", {**config, "torch_dtype": "float32"})
    _write(directory, "generation_config.json", {"eos_token_id": end})
    _write(directory, "preprocessor_config.json", _features("Qwen3ASRProcessor", 128))
    draw = _Draw(seed)
    _qwen_ears(draw)
    _qwen_words(draw, ids, end)
    draw.save(directory)
    return directory


def _qwen_ears(draw: "_Draw") -> None:
    name = "thinker.audio_tower"
    for number, channels in ((1, 1), (2, 8), (3, 8)):
        draw.linear(f"{name}.conv2d{number}", 8, channels, 3, 3, gain=2.0)
    draw.linear(f"{name}.conv_out", _SIZE, 8 * 16, bias=False, gain=2.0)
    layer = f"{name}.layers.0"
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        draw.linear(f"{layer}.self_attn.{part}", _SIZE, _SIZE, gain=2.0)
    for part in ("fc1", "fc2"):
        draw.linear(f"{layer}.{part}", _SIZE, _SIZE)
    for part in ("self_attn_layer_norm", "final_layer_norm"):
        draw.norm(f"{layer}.{part}")
    draw.norm(f"{name}.ln_post")
    for part in ("proj1", "proj2"):
        draw.linear(f"{name}.{part}", _SIZE, _SIZE, gain=2.0)


def _qwen_words(draw: "_Draw", ids: dict[str, int], end: int) -> None:
    layer, rows = "thinker.model.layers.0", len(ids)
    heard = draw.table("thinker.model.embed_tokens", np.ones(rows))
    for part, size, gain in (("q_proj", 64, 2.0), ("k_proj", 32, 2.0), ("v_proj", 32, 1.0)):
        draw.linear(f"{layer}.self_attn.{part}", size, _SIZE, bias=False, gain=gain)
    draw.linear(f"{layer}.self_attn.o_proj", _SIZE, 64, bias=False, gain=1.2)
    for part in ("q_norm", "k_norm"):
        draw.norm(f"{layer}.self_attn.{part}", 32, bias=False)
    for part in ("gate_proj", "up_proj", "down_proj"):
        draw.linear(f"{layer}.mlp.{part}", _SIZE, _SIZE, bias=False)
    for part in (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"):
        draw.norm(part, bias=False)
    draw.norm("thinker.model.norm", bias=False)
    said = draw.table("thinker.lm_head", _loudness(ids, rows, special=0.15))
    # What is likely to follow what: the language the prompt's last line break, one word another,
    # the end some of them.
    first = [ids["Ċ"], *(ids[piece] for piece in _QWEN_SAYS_FIRST)]
    words = [ids[word] for word in _WORDS]
    for before, after in pairwise(first):
        said[after] = 0.2 * heard[before]
    for before, after in pairwise(words):
        said[after] += 0.08 * heard[before]
    said[end] = 0.12 * sum(heard[words[9::11]])


# --- what both have -----------------------------------------------------------------------


def _loudness(
    ids: dict[str, int], tokens: int, ends: Sequence[int] = (), special: float = 0.5
) -> NDArray[np.float64]:
    """The size of a token's row in the output layer: the larger, the likelier.

    Words come up, and bytes often enough to meet halves of characters; `special` is for the rest.
    """
    sizes = np.zeros(tokens)
    sizes[: len(ids)] = special
    sizes[: len(_BYTES)] = 0.5
    sizes[len(_BYTES) : len(_BYTES) + len(_WORDS)] = 1.0
    sizes[[*ends]] = 0.8
    return 0.2 * sizes


class _Draw:
    """Random tensors by name."""

    def __init__(self, seed: int) -> None:
        # The bit generator is named because only it, not `default_rng`, is promised to stay.
        self._draw = np.random.Generator(np.random.PCG64(seed))
        self._tensors: dict[str, NDArray[np.float32]] = {}

    def linear(self, name: str, *shape: int, bias: bool = True, gain: float = 1.0) -> None:
        """A matrix or a convolution of shape (out, in, ...), and its bias."""
        fan_in = np.sqrt(np.prod(shape[1:]))
        self._tensors[f"{name}.weight"] = self._normal(*shape) * np.float32(gain / fan_in)
        if bias:
            self._tensors[f"{name}.bias"] = self._normal(shape[0]) * np.float32(0.1)

    def norm(self, name: str, size: int = _SIZE, *, bias: bool = True) -> None:
        """Scales about one and, with a `bias`, shifts about zero."""
        self._tensors[f"{name}.weight"] = 1 + self._normal(size) * np.float32(0.1)
        if bias:
            self._tensors[f"{name}.bias"] = self._normal(size) * np.float32(0.1)

    def table(self, name: str, sizes: NDArray[np.float64]) -> NDArray[np.float32]:
        """Embeddings with rows of these sizes; what is returned may be changed."""
        rows = self._normal(len(sizes), _SIZE) * sizes[:, None].astype(np.float32)
        self._tensors[f"{name}.weight"] = rows
        return rows

    def save(self, directory: Path) -> None:
        """Write all of them to `model.safetensors`."""
        tensors = {name: torch.from_numpy(values) for name, values in self._tensors.items()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    def _normal(self, *shape: int) -> NDArray[np.float32]:
        return self._draw.standard_normal(shape, dtype=np.float32)


def _features(processor: str, mel_bins: int) -> dict[str, Any]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": processor,
        "feature_size": mel_bins,
        "sampling_rate": 16_000,
        "chunk_length": CLIP_S,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 16_000 * CLIP_S,
        "nb_max_frames": 100 * CLIP_S,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _write_tokenizer(
    directory: Path,
    family: str,
    special: Sequence[str],
    marks: Mapping[str, str] = MappingProxyType({}),
    plain: Sequence[str] = (),
) -> dict[str, int]:
    """A tokenizer of bytes that can also say words; the ids of all its tokens.

    `marks`: special tokens by the names that the model's processor knows them by. `plain`: further
    pieces of text, of which the last is one that a prompt may spell out.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pieces = [*_BYTES, *_WORDS, *plain[:-1]]
    tokenizer = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in plain[-1:]])
    tokenizer.save(str(directory / "tokenizer.json"))
    ends = ("bos_token", "eos_token", "unk_token", "pad_token")
    config = {
        "tokenizer_class": f"{family}Tokenizer",
        **dict.fromkeys(ends, "<|endoftext|>"),
        "add_prefix_space": False,
        "errors": "replace",
        "clean_up_tokenization_spaces": False,
        **marks,
    }
    _write(directory, "tokenizer_config.json", config)
    ids: dict[str, int] = tokenizer.get_vocab()
    return ids


def _write(directory: Path, name: str, content: Mapping[str, Any]) -> None:
    (directory / name).write_text(json.dumps(content, indent=1))
