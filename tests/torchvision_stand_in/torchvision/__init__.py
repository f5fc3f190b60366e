"""Stands in for torchvision, whose builds on PyPI are for CUDA and fail beside a CPU torch.

vLLM's module of Qwen3-ASR imports, by way of Qwen's vision models, transformers' image processing,
and that these names. Nothing of it has a part in speech, so here they are empty: what calls one
fails. Put on PYTHONPATH of a daemon under test only.
"""

import enum
import sys
from types import ModuleType
from typing import Any, NoReturn

__version__ = "0.28.0"


class InterpolationMode(enum.Enum):
    """The names that transformers translates."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def _absent(*_arguments: Any, **_options: Any) -> NoReturn:
    raise NotImplementedError("This is no torchvision, only its names.")


def _submodule(name: str, **members: Any) -> None:
    module = ModuleType(f"{__name__}.{name}")
    module.__path__ = []
    vars(module).update(members)
    sys.modules[module.__name__] = module
    parent, _, leaf = module.__name__.rpartition(".")
    setattr(sys.modules[parent], leaf, module)


_submodule("io", ImageReadMode=None, decode_image=_absent)
_submodule("transforms", InterpolationMode=InterpolationMode)
_submodule("transforms.functional", pil_to_tensor=_absent)
_submodule("transforms.v2")
_submodule("transforms.v2.functional")
