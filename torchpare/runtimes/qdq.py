"""The program as an ONNX file with QuantizeLinear and DequantizeLinear, which every runtime reads.

Weights lie in it as int8 with a scale for each channel, so that it is about a quarter of the float file's size, or, of
linear layers whose inputs are floats, as int4 where that holds them (see `torchpare.runtimes.blocks`); biases
stay float, since ONNX Runtime makes int32 of them itself and TensorRT refuses them as integers. What a site rounds to
is a value under the site's own name, by which `verify` finds it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from torchpare.errors import ExportError
from torchpare.files.onnx import OnnxExport, export_onnx
from torchpare.runtimes.blocks import BLOCK_OPSET, write_blocks
from torchpare.runtimes.program import QuantizedProgram, Site
from torchpare.runtimes.results import codes_and_tensors
from torchpare.runtimes.weight_only import with_codes

__all__ = ["check_qdq", "site_value", "write_qdq"]

MIN_OPSET = 13
"""From here on QuantizeLinear knows channels."""


def write_qdq(
    program: QuantizedProgram,
    path: str | os.PathLike[str],
    *,
    opset_version: int | None = None,
    blocks: bool = True,
) -> OnnxExport:
    """Write a program to an ONNX file that appears whole or not at all, and check that it is valid.

    Args:
        program: what to write.
        path: the file.
        opset_version: the ONNX operator set, 13 or more; if None the exporter's own choice, or 21 if weights need it.
        blocks: hold the weights of linear layers whose inputs are floats in few bits, in groups or by row, which takes
            opset 21. Without, and in older operator sets, those in groups are floats and others int8.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        ExportError: the exporter cannot write the program, or the opset has no quantization by channel.
        FileError: ``path`` cannot be written.
    """
    if opset_version is not None and opset_version < MIN_OPSET:
        raise ExportError(f"opset_version is {opset_version}; quantization by channel needs {MIN_OPSET} or more")

    module, codes = program.module, {}
    if blocks and (opset_version is None or opset_version >= BLOCK_OPSET):
        module, codes = with_codes(program.module, program.grouped)
    if codes and opset_version is None:
        opset_version = BLOCK_OPSET

    def edit(model: Any) -> None:
        _name_sites(model, program.sites)
        write_blocks(model, codes)
        for node in list(model.graph.all_nodes()):
            _pool_globally(node)

    made = export_onnx(codes_and_tensors(module), path, program.example, opset_version=opset_version, edit=edit)
    check_qdq(path)
    return made


def check_qdq(path: str | os.PathLike[str]) -> None:
    """Check that a file is a valid ONNX model whose integers come with their scales.

    Raises:
        ExportError: there is no such file, it is no valid ONNX model, or its operator set is too old.
    """
    import onnx

    if not Path(path).is_file():
        raise ExportError(f"there is no ONNX file {os.fspath(path)}; write it with write_qdq")
    try:
        onnx.checker.check_model(os.fspath(path))
        model = onnx.load(os.fspath(path), load_external_data=False)
    except Exception as error:
        raise ExportError(f"{os.fspath(path)} is no valid ONNX model: {type(error).__name__}: {error}") from error
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise ExportError(f"{os.fspath(path)} is of opset {opset}; quantization by channel needs {MIN_OPSET} or more")


def site_value(site: Site) -> str:
    """The name of the integers of a site in the ONNX file."""
    return f"{site.name} (codes)"


def _name_sites(model: Any, sites: tuple[Site, ...]) -> None:
    """Name the integers of each site, which the file returned first up to here, after it.

    Where the exporter computes two sites once (equal code on equal values, which differed in the program), it returns
    a copy of the integers for the second. The copy stays, read by nobody, so that every site has a value of its name.
    """
    returned = [model.graph.outputs.pop(0) for _ in sites]
    for value, site in zip(returned, sites, strict=True):
        rounding = value.producer()
        while rounding is not None and rounding.op_type == "Identity":
            rounding = rounding.inputs[0].producer()
        if rounding is None or rounding.op_type != "QuantizeLinear":
            raise ExportError(f"the exporter wrote the site {site.name!r} of the program as something other than "
                              "QuantizeLinear")  # fmt: skip
        scale = rounding.inputs[1].const_value
        if scale is not None and np.float32(scale.numpy()) != np.float32(site.step.scale):
            raise ExportError(f"the exporter wrote the site {site.name!r} with the scale {scale.numpy()}, and the "
                              f"program has {site.step.scale}")  # fmt: skip
        value.name = site_value(site)


def _pool_globally(node: Any) -> None:
    """A mean over height and width as the operator that runtimes have an integer kernel for."""
    if node.op_type != "ReduceMean" or len(node.inputs) < 2 or node.inputs[1] is None:
        return
    axes, shape = node.inputs[1].const_value, node.inputs[0].shape
    kept = node.attributes.get("keepdims")
    if axes is None or shape is None or len(shape) != 4 or (kept is not None and kept.as_int() != 1):
        return
    if sorted(int(axis) % 4 for axis in axes.numpy().reshape(-1)) != [2, 3]:
        return
    node.op_type = "GlobalAveragePool"
    node.resize_inputs(1)
    node.attributes.clear()
