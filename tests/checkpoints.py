"""Random-weight checkpoints of the bundled model's shape, for tests that compare tokens.

What such a model says is noise, but noise that every weight, every frame and every token fed
back has a part in, so two ways of running it agree only if they do the same thing.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from speech import DEMO

# The bundled vocabulary: 64 special tokens, 256 bytes, 50 words.
STREAMING_IDS = slice(32, 34)
FIRST_BYTE_ID = 64
FIRST_WORD_ID = 320
WEIGHTS = "consolidated.safetensors"
EMBEDDINGS = "tok_embeddings.weight"


def make_random_checkpoint(directory: Path, seed: int) -> Path:
    """Write `params.json`, `tekken.json` and random weights to `directory`; return it.

    Names, shapes and dtypes are the bundled checkpoint's. The same seed gives the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("params.json", "tekken.json"):
        shutil.copyfile(DEMO / name, directory / name)
    # The bit generator is named because only it, not `default_rng`, is promised to stay.
    draw = np.random.Generator(np.random.PCG64(seed))
    bundled = load_file(DEMO / WEIGHTS)
    # Sorted, because the order of drawing decides what each tensor gets.
    weights = {name: _like(name, bundled[name], draw) for name in sorted(bundled)}
    save_file(weights, directory / WEIGHTS)
    return directory


def _like(name: str, model: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    values = draw.standard_normal(tuple(model.shape)).astype(np.float32)
    if name.endswith(EMBEDDINGS):
        values *= _row_scales(len(values))[:, None]
    elif name.endswith("norm.weight"):
        values = 1 + 0.1 * values
    elif name.endswith(".bias"):
        values *= 0.1
    else:
        fan_in = values[0].size
        values *= _gain(name) / np.sqrt(fan_in)
    return torch.from_numpy(values).to(model.dtype)


def _gain(name: str) -> float:
    """Louder than 1/sqrt(fan-in), and the audio path loudest.

    Otherwise the embedding of the token fed back, which the output layer shares, wins every
    time and the model says one word for ever.
    """
    if "audio_language_projection" in name:
        return 3.0
    if name.endswith(("wq.weight", "wk.weight")):
        return 2.0
    return 2.5 if "whisper_encoder" in name else 1.4


def _row_scales(n_tokens: int) -> NDArray[np.float32]:
    """The embeddings' size by token id: the larger, the more often the token is said.

    Words and the two streaming marks come up, and so do the lead and continuation bytes of
    UTF-8, often enough to meet: characters split over tokens, and halves that never match.
    """
    scales = np.full(n_tokens, 0.8, np.float32)
    scales[STREAMING_IDS] = 1.7
    scales[FIRST_WORD_ID:] = 1.3
    scales[FIRST_BYTE_ID + 0x80 : FIRST_BYTE_ID + 0xC0] = 1.25
    scales[FIRST_BYTE_ID + 0xC2 : FIRST_BYTE_ID + 0xE0] = 1.45
    scales[FIRST_BYTE_ID + 0xE1 : FIRST_BYTE_ID + 0xED] = 1.2
    return 0.01 * scales


def make_blank_checkpoint(directory: Path) -> Path:
    """Write the bundled model with a bias towards blanks so strong that it says nothing else.

    The output layer shares the embeddings, so the bias is a copy of the blank's own row in
    place of every word's: no word can win, and a tie goes to the lower id, which is the blank.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("params.json", "tekken.json"):
        shutil.copyfile(DEMO / name, directory / name)
    weights = load_file(DEMO / WEIGHTS)
    (name,) = [name for name in weights if name.endswith(EMBEDDINGS)]
    rows = weights[name].clone()
    rows[STREAMING_IDS.start + 1 :] = rows[STREAMING_IDS.start]
    weights[name] = rows
    save_file(weights, directory / WEIGHTS)
    return directory
