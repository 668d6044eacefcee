"""Dense, pruned, int8, and both, in ONNX Runtime and OpenVINO, beside what these offer themselves.

    python -m benchmarks.deploy [--models resnet50,bert] [--runs 20] [--json FILE] [--page]

Half of every group goes from a model with random weights ("pruned"), channels in multiples of 16, which depthwise
kernels are made for; "int8" is the model quantized after training on a few batches of noise, by `build_program`, as
the runtime's class does it (for OpenVINO with rounded queries and keys), from the same calibration batches that ONNX
Runtime's own ``quantize_static`` and, if it is installed, NNCF get. All of them
take turns in one process, in CPU time of one thread, which on an idle core is the latency; what else runs on the
machine counts as little as it can. Right before each timed call comes one that is not, so that each finds its own
weights in the processor's caches, as where it runs alone. SNR is of the outputs for inputs that served for no
calibration, against those of the same float model in PyTorch. With random weights it says how exact the arithmetic is,
not what becomes of an accuracy.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.deploy_page import render
from benchmarks.deploy_rivals import nncf_runner, static_file
from torchpare import plan
from torchpare.files.atomic import atomic_write
from torchpare.files.onnx import export_onnx
from torchpare.graph.capture import call_arguments
from torchpare.report import measure
from torchpare.runtimes import ModelSpeedupONNXRuntime, ModelSpeedupOpenVINO, build_program, write_qdq
from torchpare.runtimes.onnxruntime import onnx_session, session_runner
from torchpare.runtimes.openvino import openvino_runner
from torchpare.runtimes.verify import snr

WIDTHS: Final = {"sparsity": 0.5, "structures": ["all"], "round_to": 16}
HEADS: Final = {"sparsity": 0.5, "structures": ["heads"]}  # counted in heads, whose widths are multiples already
CALIBRATION: Final = 4
JUDGED: Final = 8  # inputs for the SNR: of one alone, a BERT of two logits has any SNR
OUT: Final = Path(__file__).parents[1] / "docs" / "speed" / "deploy.json"
Runner = Callable[[list[Tensor]], list[Tensor]]


def vision(name: str) -> tuple[nn.Module, Callable[[], Any], bool]:
    """One of torchvision's classifiers, with random values everywhere."""
    from torchpare.zoo.randomise import randomise
    from torchpare.zoo.vision import torchvision_models

    model = getattr(torchvision_models(), name)(weights=None)
    randomise(model, torch.Generator().manual_seed(0))  # fresh heads may be zero, and norms do nothing
    return model.eval(), lambda: torch.randn(1, 3, 224, 224), name.startswith("vit")


def bert() -> tuple[nn.Module, Callable[[], Any], bool]:
    """A classifier of 6 layers, 768 wide, on 128 tokens: after its head no width is bound to what it returns."""
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(vocab_size=8000, num_hidden_layers=6))
    return model.eval(), lambda: {"input_ids": torch.randint(0, 8000, (1, 128))}, True


BUILDERS: Final[dict[str, Callable[[], tuple[nn.Module, Callable[[], Any], bool]]]] = {
    "resnet50": lambda: vision("resnet50"),
    "mobilenet_v2": lambda: vision("mobilenet_v2"),
    "bert": bert,
    "vit_b_16": lambda: vision("vit_b_16"),
}


def compare(name: str, runs: int, folder: Path) -> list[dict[str, Any]]:
    """Every form of one model, in every runtime, timed taking turns."""
    torch.manual_seed(0)
    dense, make, transformer = BUILDERS[name]()
    example, batches = make(), [make() for _ in range(CALIBRATION)]
    judged = [make() for _ in range(JUDGED)]
    small = deepcopy(dense)
    plan(small, [WIDTHS, HEADS] if transformer else [WIDTHS], example).apply(verify=False)
    models = {"dense": dense, "pruned": small.eval()}
    layers: dict[str, str] = {}
    runners: dict[tuple[str, str], tuple[Runner, str, int]] = {}
    for form, model in models.items():
        path = folder / f"{form}.onnx"
        export_onnx(model, path, example)
        for kind in (ModelSpeedupONNXRuntime, ModelSpeedupOpenVINO):
            runners[kind.runtime, form] = _runner(kind, path, example), form, path.stat().st_size
            program = build_program(model, example, calibration=batches, attention=kind.rounds_attention)
            label = "int8" if form == "dense" else "pruned + int8"
            rounded = folder / f"{form}-{kind.runtime}-int8.onnx"
            write_qdq(program, rounded)
            runners[kind.runtime, label] = _runner(kind, rounded, example), form, rounded.stat().st_size
            layers[label] = f"{len(program.integers)} of {len(program.integers) + len(program.floats)}"
    inputs = [_tensors(batch) for batch in batches]
    for form in models:
        label = "quantize_static" if form == "dense" else "pruned + quantize_static"
        path = static_file(folder / f"{form}.onnx", folder / f"{form}-static.onnx", inputs)
        runners["ONNX Runtime", label] = _runner(ModelSpeedupONNXRuntime, path, example), form, path.stat().st_size
        if find_spec("nncf") is not None:
            label = "NNCF" if form == "dense" else "pruned + NNCF"
            run, size = nncf_runner(folder / f"{form}.onnx", inputs, folder / f"{form}-nncf", transformer=transformer)
            runners["OpenVINO", label] = run, form, size
    return _timed(name, models, runners, judged, runs, layers)


def _timed(
    name: str, models: dict[str, nn.Module], runners: dict[tuple[str, str], tuple[Runner, str, int]],
    judged: list[Any], runs: int, layers: dict[str, str],
) -> list[dict[str, Any]]:  # fmt: skip
    tensors = _tensors(judged[0])
    taken = measure(
        {"|".join(key): (lambda run=run: run(tensors)) for key, (run, _, _) in runners.items()},
        runs=runs, warmup=3, settle=1, threads=1, runtime="all", clock=time.process_time,
    )  # fmt: skip
    wanted = {form: torch.cat([_outputs(model, example) for example in judged]) for form, model in models.items()}
    rows = []
    for (runtime, label), (run, form, size) in runners.items():
        one = taken[f"{runtime}|{label}"]
        made = torch.cat([run(_tensors(example))[0] for example in judged])
        ratio = min(snr(wanted[form], made), 200.0)  # infinity is no JSON
        row = {"model": name, "runtime": runtime, "form": label, "file_bytes": size, "snr": ratio}
        rows.append({**row, **one.to_dict(), "runtime": runtime, "in_eight_bits": layers.get(label)})
    return rows


def _runner(kind: type[ModelSpeedupONNXRuntime], path: Path, example: Any) -> Runner:
    """What runs a file in a runtime, on one thread, compiled for inputs such as the example where it is compiled."""
    if kind is ModelSpeedupOpenVINO:
        return openvino_runner(path, threads=1, example=_tensors(example))
    return session_runner(onnx_session(path, threads=1))


def _tensors(example: Any) -> list[Tensor]:
    args, kwargs = call_arguments(example)
    return [*args, *kwargs.values()]


@torch.no_grad()
def _outputs(model: nn.Module, example: Any) -> Tensor:
    args, kwargs = call_arguments(example)
    output = model(*args, **kwargs)
    return output if isinstance(output, Tensor) else next(iter(output.values()))


def main(
    models: Annotated[str, typer.Option(help="which models, separated by commas")] = ",".join(BUILDERS),
    runs: Annotated[int, typer.Option(help="runs of each contender")] = 20,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the figures here too")] = None,
    page: Annotated[bool, typer.Option(help="write docs/speed.md and its JSON too")] = False,
) -> None:
    """Measure and print."""
    from torchpare.zoo.vision import torchvision_models

    torchvision_models()  # before transformers, which imports torchvision too
    torch.set_num_threads(1)
    json_path = OUT if page and json_path is None else json_path
    known: list[dict[str, Any]] = []
    if json_path is not None and json_path.is_file():  # models measured earlier stay
        known = [row for row in json.loads(json_path.read_text()) if row["model"] not in models.split(",")]
    for name in models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            known += compare(name, runs, Path(folder))
        known.sort(key=lambda row: list(BUILDERS).index(row["model"]))
        if json_path is not None:
            with atomic_write(json_path) as lent:
                lent.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else 160).print(render(known, page=page))


if __name__ == "__main__":
    typer.run(main)
