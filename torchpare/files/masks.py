"""mask.pth: which channels or weights a pruner chose, as `{layer: {"weight": mask, "bias": mask or None}}`.

A mask is stored as it travels (see types.py): bool, with size 1 along every axis on which it does not vary, so that a
pruned filter costs one byte. Files of the older layout, float zeros and ones as large as the weight, are read and
folded. A file is only ever read as tensors and plain containers: one that asks for code to be run is refused, not run.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.errors import MaskError, MaskFileError
from torchpare.files.atomic import atomic_write
from torchpare.files.wording import listed
from torchpare.types import LayerMasks, Mask, Masks

__all__ = ["compact", "fit_masks", "load_masks", "save_masks"]

_DTYPES = {torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64}
_DTYPES |= {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_FOLDER = 0x10  # the bit by which a zip archive marks a folder
_WRITTEN_BY = "pruner.export_model(model_path, mask_path)"
_LAYOUT = "masks are {layer name: {'weight': mask, 'bias': mask or None}}"


def save_masks(masks: Mapping[str, Mapping[str, Tensor | None]], path: str | os.PathLike[str]) -> None:
    """Writes `masks` to `path`, on the CPU and in the compact form; the file appears whole or not at all.

    Raises:
        MaskError: `masks` is empty, or a mask holds anything but zeros and ones.
        FileError: `path` cannot be written.
    """
    tidy = _tidy(masks, "the masks to save", MaskError)
    # Scripts of the older toolkit index both keys: a layer without a bias mask says so by None. Masks are copied, for
    # torch.save would write the whole storage behind a view.
    on_disk = {
        layer: {"weight": None, "bias": None} | {name: mask.cpu().clone() for name, mask in own.items()}
        for layer, own in tidy.items()
    }
    with atomic_write(path) as lent, lent.open("wb") as file:
        torch.save(on_disk, file)


def load_masks(path: str | os.PathLike[str], map_location: torch.device | str | None = None) -> Masks:
    """Reads the masks of a file written by :func:`save_masks` or by NNI.

    Args:
        path: the file.
        map_location: the device to put masks on; the CPU if None, wherever they were saved.

    Returns:
        Bool masks in the compact form; a parameter whose mask is stored as None has no entry.

    Raises:
        MaskFileError: there is no such file, it is truncated or foreign, it holds something else, or its values are not
            all zeros and ones. No code that the file may bring is run.
    """
    return _tidy(_read(Path(path), map_location or "cpu"), f"mask file {path}", MaskFileError)


def fit_masks(masks: Mapping[str, Mapping[str, Tensor | None]], model: nn.Module) -> Masks:
    """Checks that `masks` fit `model`, and returns them in the compact form on their parameters' devices.

    Any layer with parameters may be named, norms included. The model is only read.

    Raises:
        MaskError: a layer or parameter that the model lacks (with the nearest names), a shape that does not lie along
            its parameter, values other than zero and one, a layer left with nothing, or two names of one shared
            parameter with masks that disagree.
    """
    tidy = _tidy(masks, "the masks", MaskError)
    layers = dict(model.named_modules(remove_duplicate=False))
    first_name: dict[int, tuple[str, Mask]] = {}
    fitted: Masks = {}
    for layer, own in tidy.items():
        if layer not in layers:
            raise MaskError(
                f"there is a mask for {layer!r}, but {type(model).__name__} has no such layer{_nearest(layer, layers)}"
            )
        parameters = dict(layers[layer].named_parameters(recurse=False))
        fitted[layer] = {}
        for name, mask in own.items():
            where = f"{layer}.{name}"
            if name not in parameters:
                raise MaskError(
                    f"there is a mask for {where}, but this {type(layers[layer]).__name__} has no parameter {name!r}; "
                    f"it has {listed(parameters)}"
                )
            parameter = parameters[name]
            _check_shape(where, mask, parameter)
            if name != "bias" and not bool(mask.any()):
                raise MaskError(f"the mask of {where} prunes everything: leave at least one of its channels or weights")
            mask = fitted[layer][name] = mask.to(parameter.device)  # noqa: PLW2901 - the same mask, where it is used
            known, other = first_name.setdefault(id(parameter), (where, mask))
            if not bool((other == mask).all()):
                raise MaskError(
                    f"{known} and {where} are one shared parameter, but their masks disagree; give one mask"
                )
    return fitted


def compact(mask: Tensor) -> Mask:
    """Folds every axis along which a bool mask does not vary to size 1; what it says of its parameter stays the same.

    A fine-grained mask varies along all its axes and keeps its shape. So does a mask of one axis. A mask that varies
    nowhere becomes a vector along its first axis, the output channels.
    """
    if mask.ndim < 2 or not mask.numel():
        return mask
    varying = [axis for axis in range(mask.ndim) if not bool((mask == mask.narrow(axis, 0, 1)).all())] or [0]
    for axis in set(range(mask.ndim)) - set(varying):
        mask = mask.narrow(axis, 0, 1)
    return mask.contiguous()


def _read(path: Path, map_location: torch.device | str) -> object:
    if not path.exists():
        raise MaskFileError(f"there is no mask file {path}")
    if not path.is_file():
        raise MaskFileError(f"{path} is not a file; give the mask file itself, such as {path / 'mask.pth'}")
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch muses about odd archives before it fails on them
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        raise MaskFileError(f"{path} {_complaint(error)}; write it anew: {_WRITTEN_BY}") from error


def _check_archive(path: Path) -> None:
    """Holds torch's zip archive against its own checksums, which torch does not; other layouts are left to torch."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(
            entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries
        ):
            raise ValueError("it is compressed, which torch.save never does")  # and could unpack to any size
        if any(entry.external_attr & _FOLDER for entry in entries):
            raise ValueError("a tensor in it claims to be a folder")  # torch would hand out memory it never filled
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")


def _complaint(error: Exception) -> str:
    """What is wrong with a file, without torch's own advice to load it unprotected."""
    text = str(error)
    asked = re.search(r"GLOBAL ([\w.]+)", text)
    if asked:
        return f"asks for {asked[1]} to be called; nothing in it was run, for masks are tensors in plain containers"
    first = text.partition("\n")[0].partition(". ")[0][:200]
    return f"cannot be read as a mask file: it is damaged, or no file of torch.save ({type(error).__name__}: {first})"


def _tidy(masks: object, source: str, error: type[MaskError | MaskFileError]) -> Masks:
    """Checks the layout and the values of `masks`, whatever they are; drops None, makes bool, compacts."""
    if not isinstance(masks, Mapping):
        raise error(f"{source}: expected a dict, got {type(masks).__name__}; {_LAYOUT}")
    if not masks:
        raise error(f"{source}: there is no mask in it; {_LAYOUT}")
    tidy: Masks = {}
    for layer, own in masks.items():
        if isinstance(own, Tensor):
            raise error(f"{source}: {layer!r} is a tensor, so this looks like a state_dict; {_LAYOUT}")
        if not isinstance(layer, str) or not isinstance(own, Mapping):
            raise error(f"{source}: expected a layer name and a dict, got {layer!r}: {type(own).__name__}; {_LAYOUT}")
        tidy[layer] = _tidy_layer(layer, own, source, error)
    return tidy


def _tidy_layer(layer: str, own: Mapping[Any, Any], source: str, error: type[MaskError | MaskFileError]) -> LayerMasks:
    tidy: LayerMasks = {}
    for name, mask in own.items():
        where = f"{source}: {layer}.{name}"
        if not isinstance(name, str):
            raise error(f"{source}: {layer} has the key {name!r}, which is no parameter's name; {_LAYOUT}")
        if mask is None:
            continue
        if not isinstance(mask, Tensor):
            raise error(f"{where} is of type {type(mask).__name__}, and not a tensor; {_LAYOUT}")
        tidy[name] = compact(_as_bool(mask.detach(), where, error))
    return tidy


def _as_bool(mask: Tensor, where: str, error: type[MaskError | MaskFileError]) -> Mask:
    if mask.layout is not torch.strided or mask.is_meta or mask.dtype not in _DTYPES:
        raise error(f"{where} is a {mask.dtype} tensor of layout {mask.layout}; make it a dense one of torch.bool")
    # Repeated values take no memory as long as nobody looks: a file of a kilobyte can hold a mask of a terabyte.
    for axis, stride in enumerate(mask.stride()):
        mask = mask.narrow(axis, 0, 1) if stride == 0 and mask.shape[axis] > 1 else mask
    if mask.numel() * mask.element_size() > mask.untyped_storage().nbytes():
        raise error(f"{where} is a view with more values than there is data behind it; store the mask itself")
    if mask.dtype is torch.bool:
        return mask
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise error(
            f"{where} holds values other than 0 and 1; a mask says of each weight whether it stays (1) or goes (0)"
        )
    return mask != 0


def _check_shape(where: str, mask: Mask, parameter: Tensor) -> None:
    fits = mask.ndim == parameter.ndim and all(
        have in (1, want) for have, want in zip(mask.shape, parameter.shape, strict=True)
    )
    if not fits:
        first = [parameter.shape[0], *[1] * (parameter.ndim - 1)] if parameter.ndim else []
        raise MaskError(
            f"the mask of {where} has shape {tuple(mask.shape)}, its parameter {tuple(parameter.shape)}: it must have "
            f"the parameter's shape, or size 1 on some axes, such as {tuple(first)} for one value per output channel"
        )


def _nearest(name: str, names: Mapping[str, object]) -> str:
    near = get_close_matches(name, [known for known in names if known], n=3)
    return f"; the nearest are {', '.join(map(repr, near))}" if near else f"; it has {listed(names)}"
