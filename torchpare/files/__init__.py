"""What is written to disk and read back: whole or not at all, and never by running code that a file brings along.

atomic.py       a file appears under its name only once it is complete
masks.py        mask.pth: which channels or weights a pruner chose
checkpoint.py   small.safetensors: a shrunk model, to be loaded into its original class
onnx.py         a model for other runtimes, checked by running it
"""

from __future__ import annotations
