"""Faults of a real engine, for tests that put this directory on PYTHONPATH.

vLLM finds the plugin by the metadata beside this file and loads it in each of its processes. It
changes nothing until a fault is asked for, and then only what raises:

* where a file `step` appears in the directory that ENGINE_FAULTS names, the next step raises, once;
* a frame that holds `POISON` raises in the step that follows it, every time.
"""

import os
import sys
from pathlib import Path
from typing import Any

VARIABLE = "ENGINE_FAULTS"
POISON = -32_768
"""A sample of 16 bit that no speech of the tests has, as a run of `POISON_SAMPLES`."""
POISON_SAMPLES = 400


def load() -> None:
    core: Any = sys.modules.get("vllm.v1.engine.core")
    if core is None or VARIABLE not in os.environ:
        return
    asked = Path(os.environ[VARIABLE], "step")
    preprocess = core.EngineCore.preprocess_add_request
    process = core.EngineCoreProc._process_engine_step

    def preprocess_add_request(self: Any, request: Any) -> Any:
        if _poisoned(request):
            self.poisoned = True
        return preprocess(self, request)

    def process_engine_step(self: Any) -> Any:
        if getattr(self, "poisoned", False):
            raise RuntimeError("a poisoned frame")
        if asked.exists():
            asked.unlink()
            raise RuntimeError("a step that was told to fail")
        return process(self)

    core.EngineCore.preprocess_add_request = preprocess_add_request
    core.EngineCoreProc._process_engine_step = process_engine_step


def _poisoned(request: Any) -> bool:
    audio = [feature.data["audio_arrays"].data for feature in request.mm_features or ()]
    return any(int((piece <= POISON / 32_768).sum()) >= POISON_SAMPLES for piece in audio)
