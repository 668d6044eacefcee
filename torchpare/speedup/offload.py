"""The way back on disk: what a shrink replaces waits in files, so that its memory is free before the proof is done."""

# ruff: noqa: SLF001 - hooks of tensors, and how many hold a storage, are told where torch keeps them

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef, WeakIdKeyDictionary

from torchpare.errors import ShrinkError

__all__ = ["Offload"]

_SMALL = 2**14  # bytes: what is smaller stays in memory


class Offload:
    """Remembers tensors, in files of a folder or, without one, in memory.

    Use as a context manager: the files are gone when it ends.

    Law: what is remembered comes back equal in value, type, strides and gradient; as the very same object, if anybody
    still holds that.

    Args:
        folder: where the files go, made if it is not there; None for memory.

    Raises:
        ShrinkError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._room: tempfile.TemporaryDirectory[str] | None = None
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()  # a tied tensor is remembered once
        self._count = 0
        if folder is not None:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                self._room = tempfile.TemporaryDirectory(prefix="torchpare-", dir=folder, ignore_cleanup_errors=True)
            except OSError as error:
                raise ShrinkError(f"offload_folder={os.fspath(folder)!r} cannot be used: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._room is not None:
            self._room.cleanup()

    def remember(self, tensor: Tensor) -> Callable[[], Tensor]:
        """What gives the tensor back; until it is called, nothing here holds a large one.

        Raises:
            ShrinkError: it cannot be written, for want of space say.
        """
        if self._room is None or not _can_be_made_anew(tensor):
            return lambda: tensor
        known = self._known.get(tensor)
        if known is None:
            known = self._known[tensor] = _OnDisk(tensor, self, self._next_file(self._room.name))
        return known

    def _next_file(self, room: str) -> Path:
        self._count += 1
        return Path(room) / f"{self._count}.bin"


class _OnDisk:
    """A tensor whose bytes are in a file, with all else that there is to it."""

    def __init__(self, tensor: Tensor, offload: Offload, path: Path) -> None:
        self._alive: Callable[[], Tensor | None] = TensorWeakRef(tensor)  # it may be a graph that still holds it
        self._path = path
        self._bytes = tensor.untyped_storage().nbytes()
        self._dtype, self._device = tensor.dtype, tensor.device
        self._shape, self._strides = tensor.shape, tensor.stride()
        self._parameter = isinstance(tensor, nn.Parameter)
        self._requires_grad = tensor.requires_grad
        self._notes = dict(vars(tensor))
        self._grad = None if tensor.grad is None else offload.remember(tensor.grad)
        flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
        try:
            path.write_bytes(flat.cpu().numpy().data)  # numpy's own tofile says nothing of a full disk
        except OSError as error:
            raise ShrinkError(
                f"the dense weights cannot be written to the offload_folder: {error}. The model is as it was before; "
                "give a folder on a disk with room for them, or none to hold them in memory"
            ) from error

    def __call__(self) -> Tensor:
        """The tensor; the one that was remembered, if it is alive."""
        tensor = self._alive()
        if tensor is None:
            tensor = self._read()
            self._alive = lambda: tensor  # from now on there is one again, for every place that it had
        return tensor

    def _read(self) -> Tensor:
        flat = torch.from_file(str(self._path), shared=False, size=self._bytes, dtype=torch.uint8).clone()
        storage = flat.to(self._device).untyped_storage()
        plain = torch.empty(0, dtype=self._dtype, device=self._device).set_(storage, 0, self._shape, self._strides)
        tensor = nn.Parameter(plain, requires_grad=self._requires_grad) if self._parameter else plain
        for name, value in self._notes.items():
            setattr(tensor, name, value)
        if self._grad is not None:
            tensor.grad = self._grad()
        return tensor


def _can_be_made_anew(tensor: Tensor) -> bool:
    """Whether its bytes and a few numbers tell all of it, and nothing else lies in its storage."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_meta
    if not plain or (tensor.requires_grad and not isinstance(tensor, nn.Parameter)):
        return False
    size = tensor.numel() * tensor.element_size()
    hooked = tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None)
    shared = tensor.device.type == "cpu" and tensor.is_shared()
    seen_otherwise = tensor.is_conj() or tensor.is_neg() or tensor.is_quantized or tensor.is_inference()
    alone = size >= _SMALL and tensor.untyped_storage().nbytes() == size and _holders(tensor) == _holders(_BY_ITSELF)
    return alone and not hooked and not shared and not seen_otherwise


_BY_ITSELF = torch.zeros(1)


def _holders(tensor: Tensor) -> int:
    """How many hold a tensor's storage: another parameter made of the same ``data``, a ``state_dict`` of the user's."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
