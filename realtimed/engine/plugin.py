"""What runs inside vLLM's own processes, as an entry point of `vllm.general_plugins`."""

import sys
from typing import Any

from realtimed.engine.window import ARCHITECTURE, IMPLEMENTATION

COUNTS_METHOD = "realtimed_request_counts"


def load() -> None:
    """Called by vLLM in each of its processes; idempotent."""
    # Only the engine core's own process has the module by now; the workers need not pay for it.
    core: Any = sys.modules.get("vllm.v1.engine.core")
    if core is not None:
        setattr(core.EngineCore, COUNTS_METHOD, _request_counts)
    # So has every process that will load a model.
    registry: Any = sys.modules.get("vllm.model_executor.models.registry")
    if registry is not None and ARCHITECTURE not in registry.ModelRegistry.models:
        registry.ModelRegistry.register_model(ARCHITECTURE, IMPLEMENTATION)


def _request_counts(engine_core: Any) -> list[int]:
    """Running and waiting requests of the scheduler; a paused stream counts as waiting."""
    return list(engine_core.scheduler.get_request_counts())
