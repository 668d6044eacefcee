"""What the runtimes offer themselves to quantize a model: ONNX Runtime's quantize_static, and NNCF for OpenVINO."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from torchpare.runtimes.openvino import openvino_runner

__all__ = ["nncf_runner", "static_file"]


def static_file(path: Path, target: Path, batches: Sequence[Sequence[Tensor]]) -> Path:
    """A float ONNX file quantized by ONNX Runtime as its documentation recommends: prepared, QDQ, by channel."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [value.name for value in onnx.load(str(path), load_external_data=False).graph.input]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([dict(zip(names, (t.numpy() for t in batch), strict=True)) for batch in batches])

        def get_next(self) -> dict[str, Any] | None:  # type: ignore[override]
            return next(self.feeds, None)

    prepared = target.with_suffix(".prepared.onnx")
    logging.disable(logging.WARNING)
    try:
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    return target


def nncf_runner(
    path: Path, batches: Sequence[Sequence[Tensor]], folder: Path, *, transformer: bool
) -> tuple[Callable[[list[Tensor]], list[Tensor]], int]:
    """A float ONNX file quantized by NNCF and run in OpenVINO, with the options of our own files; and its size."""
    import nncf  # type: ignore[reportMissingImports] - installed by `make bench` alone
    import openvino

    model = openvino.Core().read_model(str(path))
    dataset = nncf.Dataset([[tensor.numpy() for tensor in batch] for batch in batches])
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    made = nncf.quantize(model, dataset, model_type=kind, subset_size=len(batches))
    folder.mkdir()
    openvino.save_model(made, str(folder / "model.xml"), compress_to_fp16=False)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return openvino_runner(folder / "model.xml", threads=1, example=batches[0]), size
