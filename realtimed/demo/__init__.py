"""The bundled model and its samples; MODEL_CARD.md says what they are and are not."""

from pathlib import Path
from typing import Final

NAME: Final = "realtimed-demo"
"""The name that the bundled model is served under."""

MODEL_DIR: Final = Path(__file__).parent
"""The model in Mistral format: `params.json`, `tekken.json`, `consolidated.safetensors`."""

SAMPLES_DIR: Final = MODEL_DIR / "samples"
"""WAV files (16 kHz, mono) and `manifest.json` with their texts and word times in ms."""
