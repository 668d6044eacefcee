"""A model on disk between stages, whatever hangs on it: structure, weights, masks and quantizers.

A plain model, shrunk or not, is one ``model.safetensors`` of :func:`torchpare.save`. One with masks or quantizers is
the same without these, as ``plain.safetensors``; the state of all that hangs on it; and the words by which a quantizer
is put on again. Each stage's files stand alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchpare.attach import detach, detach_quantizers, is_attached, quantizers_of
from torchpare.errors import CheckpointError, FileError
from torchpare.files.atomic import atomic_write
from torchpare.files.checkpoint import load, save
from torchpare.pruning.export import load_state

__all__ = ["MODEL", "Quantized", "load_weights", "read_artifact", "write_artifact"]

MODEL, PLAIN, STATE, ATTACHED = "model.safetensors", "plain.safetensors", "state.safetensors", "attached.json"


@dataclass(frozen=True)
class Quantized:
    """How a quantizer was put on."""

    quantizer: str
    config_list: tuple[Mapping[str, Any], ...]
    arguments: Mapping[str, Any]


def write_artifact(model: nn.Module, folder: Path, quantized: Quantized | None) -> None:
    """Write a model after a stage.

    Args:
        model: plain, masked or quantized.
        folder: of the stage.
        quantized: how quantizers were put on, where there are some.

    Raises:
        CheckpointError, FileError: as `torchpare.save`.
    """
    if not is_attached(model) and next(quantizers_of(model), None) is None:
        save(model, folder / MODEL)
        return
    plain = copy.deepcopy(model)
    detach_quantizers(plain, bake=False)
    detach(plain, bake=False)
    save(plain, folder / PLAIN)
    state = {key: v.detach().clone().contiguous() for key, v in model.state_dict().items() if isinstance(v, Tensor)}
    with atomic_write(folder / STATE) as lent:
        save_file(state, lent)
    words = None if quantized is None else vars(quantized)
    with atomic_write(folder / ATTACHED) as lent:
        lent.write_text(json.dumps({"quantized": words}) + "\n", encoding="utf-8")


def read_artifact(
    model: nn.Module, folder: Path, put_on: Callable[[nn.Module, Quantized], Any]
) -> tuple[nn.Module, Quantized | None]:
    """Make a freshly built model into the one that was written.

    Args:
        model: as its class builds it; changed in place.
        folder: of the stage.
        put_on: hangs a quantizer on a model.

    Returns:
        the same model, and how its quantizers were put on.

    Raises:
        CheckpointError, FileError: files are missing, spoilt, or of another model.
    """
    if (folder / MODEL).exists():
        return load(model, folder / MODEL), None
    try:
        words = json.loads((folder / ATTACHED).read_text(encoding="utf-8"))["quantized"]
        quantized = None if words is None else Quantized(
            str(words["quantizer"]), tuple(words["config_list"]), dict(words["arguments"])
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{folder}: the stage's model is missing or spoilt ({type(error).__name__}: {error}); delete "
                        "the folder to run the stage anew") from error  # fmt: skip
    load(model, folder / PLAIN)
    try:
        state = load_file(folder / STATE)
        if quantized is not None:
            masks = {key: value for key, value in state.items() if key.endswith("_mask")}
            if masks:
                load_state(model, {**model.state_dict(), **masks})
            put_on(model, quantized)
            model.load_state_dict(state)
        else:
            load_state(model, state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{folder / STATE} does not fit the model ({error}); delete {folder} to run the stage "
                              "anew") from error  # fmt: skip
    return model, quantized


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Give a freshly built model its weights: from a file of torchpare.save, of safetensors, or of ``torch.save``.

    Raises:
        CheckpointError: there is no such file, or it is of another model.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as opened:
                ours = (opened.metadata() or {}).get("format") == "torchpare"
            if ours:
                return load(model, path)
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            for name in ("state_dict", "model"):
                if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
                    state = state[name]
        model.load_state_dict(state)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"checkpoint {path} cannot be loaded into this {type(model).__name__}: "
                              f"{type(error).__name__}: {error}") from error  # fmt: skip
    return model
