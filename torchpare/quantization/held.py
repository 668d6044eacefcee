"""Batches and activations that are needed again and again: in memory as far as a cap allows, beyond it in a file.

The file is a temporary one without a name, in the folder that ``TMPDIR`` says; the system takes it back when it is
closed or the process ends, however it ends. Where that folder lies in memory itself (a tmpfs), nothing is gained: set
``TMPDIR`` to one on a disk. What comes back from it is what went in, bit for bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from torchpare.errors import ConfigError

__all__ = ["Batches", "Held", "Memory", "Samples", "Spilled"]


@dataclass(frozen=True)
class Spilled:
    """A tensor that lies in the file, and how to make it again."""

    memory: Memory
    offset: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def rows(self, start: int, count: int) -> Tensor:
        """Some of its rows, along axis 0."""
        row = self.shape[1:]
        size = row.numel() * self.dtype.itemsize
        return self._made(self.offset + start * size, count * size, torch.Size([count, *row]))

    def whole(self) -> Tensor:
        """All of it."""
        return self._made(self.offset, self.shape.numel() * self.dtype.itemsize, self.shape)

    def _made(self, offset: int, size: int, shape: torch.Size) -> Tensor:
        if not shape.numel():
            return torch.empty(shape, dtype=self.dtype, device=self.device)
        return torch.frombuffer(self.memory.read(offset, size), dtype=self.dtype).reshape(shape).to(self.device)


Held = Tensor | Spilled
"""A tensor in memory or in the file."""


class Memory:
    """Keeps tensors, so many bytes of them in memory.

    Args:
        cap: bytes; None for no limit. Tensors on an accelerator count like others, and come back there.

    Raises:
        ConfigError: it is no number of bytes.
    """

    def __init__(self, cap: int | None) -> None:
        if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 0):
            raise ConfigError(
                f"memory_cap is {cap!r}; it is a whole number of bytes, such as 2 * 2**30, or None for no limit"
            )
        self.cap = cap
        self.used = 0
        """Bytes in memory now."""
        self.spilled = 0
        """Bytes that went into the file, from the beginning."""
        self._file: Any = None
        self._end = 0

    def keep(self, tensor: Tensor) -> Held:
        """Keep a tensor where there is room; itself, unless it is part of what is larger, which would stay too."""
        tensor = tensor.detach()
        size = tensor.numel() * tensor.element_size()
        if self.cap is None or self.used + size <= self.cap or tensor.layout is not torch.strided:
            self.used += size
            part = self.cap is not None and tensor.untyped_storage().nbytes() > size
            return tensor.clone() if part else tensor
        flat = tensor.cpu().contiguous().view(-1).view(torch.uint8)
        offset, self._end = self._end, self._end + size
        self._write(flat.numpy().data, offset)
        self.spilled += size
        return Spilled(self, offset, tensor.shape, tensor.dtype, tensor.device)

    def release(self, held: Iterable[Held]) -> None:
        """Need these no more, which were kept last; the file ends again where it ended before them."""
        for one in held:
            if isinstance(one, Spilled):
                self._end = min(self._end, one.offset)
            else:
                self.used -= one.numel() * one.element_size()

    def read(self, offset: int, size: int) -> bytearray:
        """Bytes of the file."""
        made = bytearray(size)
        self._file.seek(offset)
        left = memoryview(made)
        while left:
            read = self._file.readinto(left)
            if not read:
                raise OSError("a temporary file is shorter than what was written to it")
            left = left[read:]
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: memoryview, offset: int) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="torchpare-", buffering=0)  # noqa: SIM115 - closed by `close`
        self._file.seek(offset)
        while data:
            data = data[self._file.write(data) :]


class Batches:
    """Batches that are gone through several times, each a tensor or a nest of them.

    A model that is set beside its float twin layer by layer needs all of them for every layer.

    Args:
        batches: gone through once, here.
        memory: keeps their tensors.
    """

    def __init__(self, batches: Iterable[Any], memory: Memory) -> None:
        self._kept: list[tuple[list[Any], Any]] = []
        for batch in batches:
            leaves, made_of = pytree.tree_flatten(batch)
            kept = [memory.keep(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            self._kept.append((kept, made_of))

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Any]:
        """The batches, one after the other."""
        for leaves, made_of in self._kept:
            yield pytree.tree_unflatten(
                [leaf.whole() if isinstance(leaf, Spilled) else leaf for leaf in leaves], made_of
            )


class Samples:
    """Rows of tensors of one shape, to be drawn by their numbers.

    Args:
        memory: keeps them.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._chunks: list[Held] = []
        self._starts = [0]

    def __len__(self) -> int:
        return self._starts[-1]

    def add(self, rows: Tensor) -> None:
        """Keep more rows."""
        self._chunks.append(self._memory.keep(rows))
        self._starts.append(self._starts[-1] + len(rows))

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """The rows of these numbers, in their order."""
        chunks = torch.searchsorted(torch.tensor(self._starts), numbers, right=True) - 1
        places = zip(chunks.tolist(), numbers.tolist(), strict=True)
        return torch.cat([self._rows(chunk, at - self._starts[chunk], 1) for chunk, at in places])

    def parts(self, count: int) -> Iterator[Tensor]:
        """All rows in order, so many at a time."""
        for chunk, (start, end) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            for at in range(0, end - start, count):
                yield self._rows(chunk, at, min(count, end - start - at))

    def release(self) -> None:
        """Need them no more."""
        self._memory.release(self._chunks)
        self._chunks, self._starts = [], [0]

    def _rows(self, chunk: int, start: int, count: int) -> Tensor:
        held = self._chunks[chunk]
        return held.rows(start, count) if isinstance(held, Spilled) else held[start : start + count]
