"""NNI's import paths, for scripts that were written for it: one added line, ``import torchpare.compat.nni``.

After it ``nni.compression.pytorch...``, ``nni.algorithms.compression.pytorch...`` and ``nni.compression...`` can be
imported, with the names and the calls of NNI 2.2 to 3.0. What behaves differently is told once, as an
:class:`NNIChangeWarning` with the reason; what has no counterpart says when it is used what to write instead.

changes.py      what behaves differently, and why
finder.py       who answers ``import nni...``
names*.py       which module has which names, and where each comes from
views.py        NNI's wrappers, as views of layers that nothing wraps
legacy_*.py     the classes of 2.2 to 2.4          v2_*.py    those of 2.5 to 2.10          v3_*.py    those of 3.0
evaluators*.py  training as the later versions are told of it
files.py        files that NNI wrote
"""

from __future__ import annotations

from torchpare.compat.nni.changes import CHANGES, Change, NNIChangeWarning, as_table
from torchpare.compat.nni.finder import install

install()

__all__ = ["CHANGES", "Change", "NNIChangeWarning", "as_table"]
