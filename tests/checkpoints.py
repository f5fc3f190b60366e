"""Random-weight checkpoints of the bundled model's shape, for tests that compare tokens.

What such a model says is noise, but noise that every weight, every frame and every token fed
back has a part in, so two ways of running it agree only if they do the same thing.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from speech import DEMO

FIRST_TEXT_ID = 64
WEIGHTS = "consolidated.safetensors"
EMBEDDINGS = "tok_embeddings.weight"


def make_random_checkpoint(directory: Path, seed: int) -> Path:
    """Write `params.json`, `tekken.json` and random weights to `directory`; return it.

    Names, shapes and dtypes are the bundled checkpoint's. The same seed gives the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("params.json", "tekken.json"):
        shutil.copyfile(DEMO / name, directory / name)
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
    return 1.0


def _row_scales(n_tokens: int) -> np.ndarray:
    return np.full(n_tokens, 0.1, np.float32)
