"""How much memory a program takes: its file is loaded and run in a process of its own, and its peak is read there.

What the process holds before (the interpreter, PyTorch, the runtime's libraries) is not counted; what it needs at most
while it loads the file and runs it is. Linux tells both; elsewhere nothing is told.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchpare.errors import ExportError

__all__ = ["peak_memory"]

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RUNS = 3
_LIBRARIES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "executorch": "executorch.runtime"}


def peak_memory(runtime: str, path: Path, inputs: Sequence[Tensor], threads: int) -> int | None:
    """The most memory that a program took beyond what its process held before, in bytes.

    Args:
        runtime: by the name that the command line knows.
        path: what ``export_quantized_model`` wrote.
        inputs: in the order in which the program takes them.
        threads: within one operator.

    Returns:
        None where the system does not tell.

    Raises:
        ExportError: the program does not run in a process of its own.
    """
    if not _STATUS.exists() or not _RESET.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "inputs.safetensors"
        save_file({str(number): each.detach().contiguous() for number, each in enumerate(inputs)}, given)
        code = "from torchpare.runtimes.peak_memory import _measure; _measure()"
        words = [runtime, str(path), str(given), str(threads), json.dumps(sys.path)]
        command = [sys.executable, "-c", f"import sys, json; sys.path[:] = json.loads(sys.argv[5]); {code}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it ended without a word"]
        raise ExportError(f"the program does not run in a process of its own, where its memory is measured: {last[0]}")
    return int(done.stdout.strip().splitlines()[-1])


def _measure() -> None:
    """What the process of its own does: prints the bytes."""
    from importlib import import_module

    from torchpare.runtimes import RUNTIMES

    runtime, path, given, threads = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    if runtime in _LIBRARIES:
        import_module(_LIBRARIES[runtime])
    inputs = tuple(tensor for _, tensor in sorted(load_file(given).items(), key=lambda item: int(item[0])))
    made = RUNTIMES[runtime](nn.Identity(), dummy_input=inputs, threads=int(threads))
    _RESET.write_text("5")  # what was needed to get here is no peak of the program
    before = _read("VmRSS")
    made.load_quantized_model(path)
    run = made.runner(inputs)
    for _ in range(_RUNS):
        run()
    sys.stdout.write(f"{max(_read('VmHWM') - before, 0)}\n")


def _read(name: str) -> int:
    """A line of the process's status, in bytes."""
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
