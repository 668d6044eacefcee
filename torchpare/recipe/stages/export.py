"""The stage ``export``: files for those who will run the model, each held beside PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import torchpare.runtimes as room
from torchpare.attach import detach, is_attached, plain_state_dict, quantizers_of
from torchpare.errors import ConfigError
from torchpare.files.atomic import atomic_write
from torchpare.files.checkpoint import save
from torchpare.files.onnx import check_onnx, export_onnx
from torchpare.recipe.job import Job, Outcome, on_cpu
from torchpare.recipe.settings import ExportStage

__all__ = ["run", "runtime_of"]

_FILES = {
    "safetensors": "model.safetensors", "torch": "model.pth", "onnx": "model.onnx", "openvino": "model.openvino",
    "inductor": "model.inductor", "executorch": "model.pte", "tensorrt": "model.engine",
}  # fmt: skip


def run(settings: ExportStage, job: Job) -> Outcome:
    """Write the files.

    Raises:
        ExportError: a format cannot hold the model, or a file does not compute what PyTorch does.
        MissingExtraError: a runtime is not installed.
    """
    folder = job.folder / "files"
    folder.mkdir(exist_ok=True)
    model = on_cpu(job.model)
    quantized = next(quantizers_of(model), None) is not None
    if is_attached(model) and not quantized:
        detach(model, bake=True)  # masks that were not cut out are zeros in the file
    rows, failure = [], ""
    for number, form in enumerate(settings.formats):
        job.progress(f"writing {_FILES[form]}", number / len(settings.formats))
        row = _written(form, folder / _FILES[form], model, quantized, job, verify=settings.verify)
        rows.append(row)
        if row.get("first_offending"):
            failure = f"{row['file']}: {row['first_offending']} is not the same numbers as in PyTorch"
    written = [Path(folder / row["file"]) for row in rows]
    metrics = {"size": float(min(path.stat().st_size for path in written))}
    return Outcome(job.model, job.quantized, {"files": rows}, metrics, failure=failure)


def runtime_of(name: str, model: nn.Module, job: Job) -> Any:
    """A model in a runtime, compiled."""
    quantized = next(quantizers_of(model), None) is not None
    runtime = room.RUNTIMES[name](
        model, dummy_input=job.materials.example, threads=job.materials.threads,
        calib_data_loader=job.calibration(16) if quantized else None,
    )  # fmt: skip
    runtime.compress()
    return runtime


def _written(form: str, path: Path, model: nn.Module, quantized: bool, job: Job, *, verify: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"format": form, "file": path.name}
    if form == "torch":
        with atomic_write(path) as lent:
            torch.save(plain_state_dict(model), lent)
    elif form == "safetensors":
        if quantized:
            raise ConfigError("safetensors holds plain models; the quantized one goes to 'onnx' or another runtime's "
                              "format, or put a stage 'export' before 'quantize' as well")  # fmt: skip
        save(model, path)
    elif form == "onnx" and not quantized:
        export_onnx(model, path, job.materials.example)
        if verify:
            row["difference"] = check_onnx(model, path, job.materials.example)
    else:
        runtime = runtime_of("onnxruntime" if form == "onnx" else form, model, job)
        runtime.export_quantized_model(path)
        if verify:
            proof = room.verify(runtime, job.materials.example)
            row["snr"] = proof.to_dict()["model_snr"]
            row["first_offending"] = proof.first_offending.name if proof.first_offending else None
    return {**row, "bytes": path.stat().st_size}
