"""Tensors and a JSON record in one safetensors file that carries its own digest; read back whole, or refused.

Any tool that knows safetensors can open the file. What makes it ours is the metadata: `format` says so, `record` is
JSON, `sha256` is the digest of the record and of every tensor's name, dtype, shape and bytes. The digest tells damage
and careless editing; it is no signature, so whoever uses the record still checks every word of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from torchpare.errors import CheckpointError
from torchpare.files.atomic import atomic_write

__all__ = ["Archive", "read_archive", "write_archive"]

_FORMAT = "torchpare"
_VERSION = "1"


class Archive(NamedTuple):
    """What a file holds: tensors by name, on the CPU, and the JSON record that goes with them."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]


def write_archive(path: str | os.PathLike[str], archive: Archive) -> None:
    """Writes `archive` to `path`; the file appears whole or not at all.

    Tensors are written contiguous and must not share memory with one another.

    Raises:
        CheckpointError: a tensor of a kind that safetensors cannot hold, or a record that is not JSON.
        FileError: `path` cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in archive.tensors.items()}
    try:
        record = json.dumps(archive.record, allow_nan=False, sort_keys=True, separators=(",", ":"))
        metadata = {"format": _FORMAT, "version": _VERSION, "record": record, "sha256": _digest(record, tensors)}
        with atomic_write(path) as lent:
            save_file(tensors, lent, metadata)
    except (RuntimeError, SafetensorError, TypeError, ValueError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def read_archive(path: str | os.PathLike[str]) -> Archive:
    """Reads a file of :func:`write_archive`.

    Raises:
        CheckpointError: there is no such file, it is truncated, it is no safetensors file or one of another maker or
            of a later version, or its digest does not match what is in it.
    """
    if not Path(path).exists():
        raise CheckpointError(f"there is no checkpoint {path}")
    if not Path(path).is_file():
        raise CheckpointError(f"{path} is not a file; give the checkpoint itself, such as small.safetensors")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            _check_maker(path, metadata)
            # Copies: the tensors must not change when somebody later writes to the file that was mapped.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} cannot be read: it is truncated, or no safetensors file ({error}). Write it with torchpare.save"
        ) from error
    if metadata.get("sha256") != _digest(metadata.get("record", ""), tensors):
        raise CheckpointError(f"{path} was changed after it was written: its digest does not match; save it anew")
    return Archive(tensors, _parse(path, metadata.get("record", "")))


def _check_maker(path: object, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but not one of torchpare (its format is {metadata.get('format')!r}); if it "
            "is a state_dict, use safetensors.torch.load_file and model.load_state_dict"
        )
    if metadata.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} has version {metadata.get('version')!r} where this torchpare reads {_VERSION!r}: upgrade it"
        )


def _parse(path: object, text: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        record = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its record is not JSON ({error}); save it anew") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: its record is of type {type(record).__name__}, not dict; save it anew")
    return record


def _digest(record: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps([_FORMAT, _VERSION, record]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # lent, not copied
    return digest.hexdigest()
