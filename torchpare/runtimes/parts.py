"""Parts of a QDQ file: each from the integers that it reads to the integers that it makes, as a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from torchpare.runtimes.program import QuantizedProgram
from torchpare.runtimes.qdq import site_value

__all__ = ["Part", "parts_of"]


@dataclass(frozen=True)
class Part:
    """A piece of a program, ready to run."""

    model: bytes
    """ONNX."""

    inputs: tuple[Tensor, ...]
    """What it is run on."""


def parts_of(
    path: Path, program: QuantizedProgram, inputs: Sequence[Tensor], seen: Mapping[str, Tensor]
) -> tuple[Part, list[Part]]:
    """The whole program with the integers of all sites for outputs, and one part for each site and each output.

    Args:
        path: the program's QDQ file.
        program: where its sites are.
        inputs: of the whole program.
        seen: the integers at each site by its name, in PyTorch: what the parts are run on.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    given = dict(zip((value.name for value in graph.input), inputs, strict=True))
    codes = {site_value(site): seen[site.name] for site in program.sites}
    results = [*codes, *(value.name for value in graph.output)]
    makers = {name: node for node in graph.node for name in node.output if name}
    whole = _cut(model, graph.node, results, given)
    known = {**given, **codes}
    parts = []
    for result in results:
        needed = _behind(makers, result, set(known))
        nodes = [node for node in graph.node if any(name in needed for name in node.output)]
        read = {name for node in nodes for name in node.input}
        parts.append(_cut(model, nodes, [result], {name: known[name] for name in known if name in read}))
    return whole, parts


def _behind(makers: Mapping[str, Any], result: str, stops: set[str]) -> set[str]:
    """The values that a result is made from, back to those at which to stop, itself included."""
    found: set[str] = set()
    waiting = [result]
    while waiting:
        name = waiting.pop()
        if name in found or name not in makers or (name in stops and name != result):
            continue
        found.add(name)
        waiting.extend(makers[name].input)
    return found


def _cut(model: Any, nodes: Iterable[Any], results: Sequence[str], inputs: Mapping[str, Tensor]) -> Part:
    """A model of these nodes with these results, its inputs being of the shapes that they have now."""
    import onnx

    nodes = list(nodes)
    read = {name for node in nodes for name in node.input}
    made = onnx.helper.make_graph(
        nodes,
        "part",
        [_described(name, tensor) for name, tensor in inputs.items()],
        [onnx.helper.make_empty_tensor_value_info(name) for name in results],
        [tensor for tensor in model.graph.initializer if tensor.name in read],
    )
    whole = onnx.helper.make_model(
        made, opset_imports=list(model.opset_import), functions=list(model.functions), ir_version=model.ir_version
    )
    return Part(whole.SerializeToString(), tuple(inputs.values()))


def _described(name: str, tensor: Tensor) -> Any:
    import numpy as np
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.numpy().dtype))
    return onnx.helper.make_tensor_value_info(name, kind, list(tensor.shape))
