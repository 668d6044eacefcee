"""Every error torchpare raises on purpose, as one family.

    TorchpareError
    ├── ConfigError            a config_list entry cannot be used        (also a ValueError)
    ├── MaskError              masks that do not fit the model           (also a ValueError)
    │   └── MaskConflictError  masks that disagree where layers share channels
    ├── QuantizationError      a tensor or model that cannot be quantized (also a ValueError)
    ├── CaptureError           the model could not be run and recorded
    ├── ShrinkError            a plan could not be carried out; the model is as it was
    │   └── ProofError         the small model differs from the masked one; the model is as it was
    ├── FileError              a file is not what it should be           (also a ValueError)
    │   ├── MaskFileError
    │   └── CheckpointError
    ├── SearchError            a search cannot go on; what it has found so far is in its journal
    ├── RecipeError            a stage of a recipe failed; the stages before it are done
    ├── ExportError            an exported program is missing, or disagrees with PyTorch
    ├── CompatError            what another toolkit's script asks for has no counterpart here
    └── MissingExtraError      an optional library is not installed      (also an ImportError)

Each message says what was given, where, and what would be right.
"""

from __future__ import annotations

__all__ = [
    "CaptureError",
    "CheckpointError",
    "CompatError",
    "ConfigError",
    "ExportError",
    "FileError",
    "MaskConflictError",
    "MaskError",
    "MaskFileError",
    "MissingExtraError",
    "ProofError",
    "QuantizationError",
    "RecipeError",
    "SearchError",
    "ShrinkError",
    "TorchpareError",
]


class TorchpareError(Exception):
    """Base of the family: catch this to catch everything torchpare raises on purpose."""


class ConfigError(TorchpareError, ValueError):
    """A ``config_list`` entry cannot be used; names the entry, the key and the remedy."""


class MaskError(TorchpareError, ValueError):
    """Masks that do not fit the model they were given for."""


class MaskConflictError(MaskError):
    """Layers that must lose the same channels were given masks that disagree."""


class QuantizationError(TorchpareError, ValueError):
    """A tensor, grid or model that cannot be quantized as asked; the message names it."""


class CaptureError(TorchpareError):
    """The model could not be run and recorded on the dummy input."""


class ShrinkError(TorchpareError):
    """A plan could not be carried out; the model is as it was before."""


class ProofError(ShrinkError):
    """The small model differs from the masked one; the model is as it was before."""


class FileError(TorchpareError, ValueError):
    """A file is truncated, foreign, tampered with, or holds the wrong thing."""


class MaskFileError(FileError):
    """A mask file cannot be used."""


class CheckpointError(FileError):
    """A small checkpoint cannot be used."""


class SearchError(TorchpareError):
    """A search cannot go on; what it has found so far is in its journal, and the model is as it was before."""


class RecipeError(TorchpareError):
    """A stage of a recipe failed; the stages before it are done, and running again goes on after them."""


class ExportError(TorchpareError):
    """An exported program could not be made, or disagrees with PyTorch."""


class CompatError(TorchpareError):
    """What a script written for another toolkit asks for has no counterpart here; says what to write instead."""


class MissingExtraError(TorchpareError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""
