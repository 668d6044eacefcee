"""torchpare makes PyTorch models physically smaller, and proves that the small one computes the same.

    from torchpare.pruning import L1FilterPruner
    from torchpare import ModelSpeedup, save, load

Names are handed on when they are first asked for, so that `import torchpare` costs little beyond torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchpare.files.pretrained import save_pretrained
    from torchpare.quantization.checkpoint import load, save
    from torchpare.recipe.compress import compress
    from torchpare.runtimes.bench import benchmark
    from torchpare.speedup import ModelSpeedup, Plan, apply_compression_results, plan

__all__ = [
    "ModelSpeedup",
    "Plan",
    "__version__",
    "apply_compression_results",
    "benchmark",
    "compress",
    "load",
    "plan",
    "save",
    "save_pretrained",
]

__version__ = "0.1.0"

_HOME = {
    "ModelSpeedup": "torchpare.speedup",
    "Plan": "torchpare.speedup",
    "apply_compression_results": "torchpare.speedup",
    "benchmark": "torchpare.runtimes.bench",
    "compress": "torchpare.recipe.compress",
    "load": "torchpare.quantization.checkpoint",
    "plan": "torchpare.speedup",
    "save": "torchpare.quantization.checkpoint",
    "save_pretrained": "torchpare.files.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'torchpare' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
