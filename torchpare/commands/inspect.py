"""What ``torchpare inspect`` does: says what a file holds, without trusting it and without its model.

Nothing of a file is run: pickles are read as tensors and plain containers, or refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchpare.commands.inspected import Inspected
from torchpare.commands.telling import tell
from torchpare.errors import FileError, MissingExtraError, TorchpareError
from torchpare.files.archive import read_archive
from torchpare.files.calibration import load_calibration
from torchpare.files.masks import load_masks
from torchpare.files.structure import read_record
from torchpare.recipe import read_recipe
from torchpare.recipe.kept import stage_names
from torchpare.recipe.reading import read_result
from torchpare.report import numbers

__all__ = ["inspect"]

_LONGEST = 200  # characters of a value that are shown


def inspect(path: Path, target: Path | None) -> Inspected:
    """Print what a file or the folder of a run holds.

    Args:
        path: a checkpoint, masks, a calibration, ONNX, a recipe, a journal, or a folder of ``torchpare run``.
        target: where the JSON goes; None for nowhere.

    Raises:
        FileError: it cannot be read, is spoilt, or none of these.
    """
    found = _inspected(path)
    tell(found, target)
    return found


def _inspected(path: Path) -> Inspected:
    if path.is_dir():
        return _run_folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if path.suffix in (".yaml", ".yml"):
        return _recipe(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".onnx":
        return _onnx(path)
    if path.suffix in (".json", ".jsonl"):
        return _json(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _pickled(path)
    raise FileError(f"{path}: is none of the files that torchpare knows: .safetensors, a .pth of masks, weights or a "
                    "calibration, .onnx, a recipe (.yaml), a journal (.jsonl), or the folder of a run")  # fmt: skip


def _run_folder(path: Path) -> Inspected:
    result = read_result(path)
    columns = result.columns()
    rows = tuple(
        (stage.name, *(f"{stage.metrics[name]:.6g}" if name in stage.metrics else "" for name in columns),
         "ok" if stage.ok else "stopped here")
        for stage in result.stages
    )  # fmt: skip
    return Inspected(str(path), f"a run of the recipe {result.name}", {"verdict": result.verdict, **result.environment},
                     ("stage", *columns, ""), rows)  # fmt: skip


def _recipe(path: Path) -> Inspected:
    said = read_recipe(path)
    rows = tuple((name, item.kind, "; ".join(budget.text for budget in item.stage.budget))
                 for name, item in zip(stage_names(said), said.stages, strict=True))  # fmt: skip
    model = "given in Python" if said.model is None else said.model.callable
    return Inspected(str(path), f"the recipe {said.name}", {"model": model, "seed": str(said.seed)},
                     ("stage", "kind", "budgets"), rows)  # fmt: skip


def _safetensors(path: Path) -> Inspected:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            ours = (file.metadata() or {}).get("format") == "torchpare"
            rows = [_row(name, file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118 - it is no dict
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FileError(f"{path}: is no safetensors file, or cut short: {error}") from error
    if not ours:
        return _tensors(path, "a safetensors file of another maker: a state dict", rows)
    record = read_record(read_archive(path).record, str(path))
    facts = {"class": record.model}
    if record.structure is not None:
        shrunk = record.structure
        facts["shrunk"] = (
            f"{len(shrunk.kept)} parameters and buffers were cut, {len(shrunk.attributes)} attributes follow"
        )
        if shrunk.dropped:
            facts["blocks taken out"] = ", ".join(f"{of}: {list(gone)}" for of, gone in shrunk.dropped.items())
    return _tensors(path, "a model of torchpare.save; torchpare.load puts it into a freshly built one", rows, facts)


@dataclass(frozen=True)
class _Row:
    """What a table tells of a tensor, which itself need not stay in memory."""

    name: str
    size: int
    cells: tuple[str, ...]


def _row(name: str, tensor: Tensor) -> _Row:
    shape = "x".join(map(str, tensor.shape)) or "a number"
    return _Row(name, tensor.numel(), (name, shape, str(tensor.dtype).removeprefix("torch."), _zeros(tensor)))


def _zeros(tensor: Tensor) -> str:
    """The share of zeros; nothing where it cannot be told, or is not worth the memory.

    A file of some bytes may hold a tensor of a thousand billion values, that are all the same one.
    """
    whole = tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not whole or not tensor.numel() or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return ""
    try:
        return f"{1 - int(tensor.count_nonzero()) / tensor.numel():.1%}"
    except RuntimeError:  # types of few bits, which torch only stores
        return (
            f"{1 - int(tensor.float().count_nonzero()) / tensor.numel():.1%}" if tensor.dtype.is_floating_point else ""
        )


def _tensors(path: Path, what: str, rows: Sequence[_Row], facts: Mapping[str, str] | None = None) -> Inspected:
    own = {**(facts or {}), "tensors": str(len(rows)), "values": f"{sum(row.size for row in rows):,}",
           "file": numbers.file_size(path.stat().st_size)}  # fmt: skip
    return Inspected(str(path), what, own, ("name", "shape", "type", "zeros"), tuple(row.cells for row in rows))


def _pickled(path: Path) -> Inspected:
    """Masks, a calibration, or weights: by what it turns out to be."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise FileError(f"{path}: cannot be read as tensors and plain containers, and nothing else is read "
                        f"({type(error).__name__}: {str(error).splitlines()[0]})") from error  # fmt: skip
    try:
        return _masks(path)
    except TorchpareError:
        pass
    try:
        config = load_calibration(path)
    except TorchpareError:
        pass
    else:
        rows = tuple((layer, ", ".join(f"{key} {_short(value)}" for key, value in own.items()))
                     for layer, own in config.items())  # fmt: skip
        return Inspected(str(path), "a calibration of quantized layers", {"layers": str(len(rows))}, ("layer", "grids"),
                         rows)  # fmt: skip
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return _tensors(path, "a state dict", [_row(str(name), tensor) for name, tensor in content.items()])
    kinds = sorted({type(value).__name__ for value in content.values()}) if isinstance(content, Mapping) else []
    return Inspected(str(path), f"a {type(content).__name__} of {', '.join(kinds) or 'something'} that torchpare does "
                     "not write", {})  # fmt: skip


def _masks(path: Path) -> Inspected:
    masks = load_masks(path)
    rows = []
    for layer, own in masks.items():
        for name, mask in own.items():
            kept, whole = int(mask.sum()), mask.numel()
            axes = [axis for axis, size in enumerate(mask.shape) if size > 1]
            along = "single weights" if len(axes) > 1 else f"along axis {axes[0]}" if axes else "one for all"
            rows.append((layer, name, along, f"{kept:,}", f"{whole:,}", f"{1 - kept / max(whole, 1):.1%}"))
    return Inspected(str(path), "masks, for ModelSpeedup and apply_compression_results", {"layers": str(len(masks))},
                     ("layer", "parameter", "masked", "kept", "of", "gone"), tuple(rows))  # fmt: skip


def _onnx(path: Path) -> Inspected:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("ONNX files are read by onnx, which is not installed: pip install 'torchpare[onnx]'") \
            from error  # fmt: skip
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise FileError(f"{path}: is no ONNX file, or cut short: {error}") from error
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    weights = {initializer.name for initializer in model.graph.initializer}
    facts = {
        "opset": ", ".join(str(each.version) for each in model.opset_import if not each.domain),
        "inputs": "; ".join(_value(each) for each in model.graph.input if each.name not in weights),
        "outputs": "; ".join(_value(each) for each in model.graph.output),
        "quantized": f"{counts.get('QuantizeLinear', 0)} places" if "QuantizeLinear" in counts else "no",
        "file": numbers.file_size(path.stat().st_size),
    }
    rows = tuple((name, str(count)) for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return Inspected(str(path), "an ONNX program", facts, ("operator", "times"), rows)


def _value(value: Any) -> str:
    sizes = [dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
    return f"{value.name} {'x'.join(sizes)}"


def _json(path: Path) -> Inspected:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] \
            if path.suffix == ".jsonl" else [json.loads(path.read_text(encoding="utf-8"))]  # fmt: skip
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: is no JSON: {error}") from error
    first = lines[0] if lines else None
    if path.suffix == ".jsonl" and isinstance(first, Mapping) and "torchpare_search" in first:
        found = [line.get("score") for line in lines[1:] if isinstance(line, Mapping)]
        scores = [score for score in found if isinstance(score, int | float)]
        facts = {"search": str(first.get("search")), "results": str(len(lines) - 1)}
        if scores:
            facts["scores"] = f"{min(scores):.6g} to {max(scores):.6g}"
        return Inspected(str(path), "the journal of a search; run the search again and it goes on", facts)
    if isinstance(first, Mapping):
        facts = {str(key): _short(value) for key, value in first.items()}
        return Inspected(str(path), "JSON", facts)
    return Inspected(str(path), f"JSON: a {type(first).__name__}", {})


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{float(value):.6g}" if value.numel() == 1 else f"{value.numel()} values"
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    words = f"{value:.6g}" if isinstance(value, float) else str(value)
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}... ({len(words):,} characters)"
