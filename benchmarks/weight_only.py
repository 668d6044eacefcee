"""A gated MLP as LLaMA's, 2048 wide, of which the weights alone have few bits, in ONNX Runtime and OpenVINO.

    python -m benchmarks.weight_only [--runs 15] [--page]

Inputs and arithmetic are float, so that all forms but the last are PyTorch's own numbers. All of them take turns in one
process, in CPU time of one thread. The last is the same int4 file with ``round_inputs=True``: ONNX Runtime's four-bit
kernel rounds its inputs to eight bits, by block, as they come. So it does if it is left to itself.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from torchpare.files.atomic import atomic_write
from torchpare.files.onnx import export_onnx
from torchpare.quantization import QAT_Quantizer
from torchpare.report import describe_machine, measure
from torchpare.runtimes import build_program, write_qdq
from torchpare.runtimes.onnxruntime import onnx_session, session_runner
from torchpare.runtimes.openvino import openvino_runner
from torchpare.runtimes.verify import snr

WIDTH: Final = 2048
HIDDEN: Final = 2048
BATCHES: Final = (1, 32)
PAGE: Final = Path(__file__).parents[1] / "docs" / "speed.md"
START: Final = "<!-- weight-only: printed by benchmarks/weight_only.py -->"
END: Final = "<!-- end of weight-only -->"
FORMS: Final[dict[str, dict[str, Any]]] = {
    "int8 by row": {"quant_bits": 8, "granularity": "channel"},
    "int8, groups of 32": {"quant_bits": 8, "granularity": "group", "group_size": 32},
    "int4 by row": {"quant_bits": 4, "granularity": "channel"},
    "int4, groups of 128": {"quant_bits": 4, "granularity": "group", "group_size": 128},
    "int4, groups of 32": {"quant_bits": 4, "granularity": "group", "group_size": 32},
}


class GatedMLP(nn.Module):
    """The feed-forward block of Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of ``(batch, WIDTH)`` and back."""
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def compare(runs: int, folder: Path) -> list[dict[str, Any]]:
    """Every form in every runtime, at every batch size."""
    example = torch.randn(2, WIDTH)
    files, models = {}, {}
    for form in ("float", *FORMS):
        torch.manual_seed(0)
        model, files[form] = GatedMLP().eval(), folder / f"{form}.onnx"
        if form == "float":
            export_onnx(model, files[form], example)
        else:
            QAT_Quantizer(model, [{"quant_types": ["weight"], "op_types": ["Linear"], **FORMS[form]}]).compress()
            write_qdq(build_program(model.eval(), example), files[form])
        models[form] = model
    runners = {("ONNX Runtime", form): session_runner(onnx_session(path, threads=1)) for form, path in files.items()}
    runners |= {("OpenVINO", form): openvino_runner(path, threads=1) for form, path in files.items()}
    last = "int4, groups of 32"
    runners["ONNX Runtime", f"{last}, inputs rounded"] = session_runner(
        onnx_session(files[last], threads=1, round_inputs=True)
    )
    rows = []
    for batch in BATCHES:
        x = torch.randn(batch, WIDTH)
        taken = measure({"|".join(key): (lambda run=run, x=x: run([x])) for key, run in runners.items()},
                        runs=runs, warmup=2, threads=1, runtime="all", clock=time.process_time)  # fmt: skip
        for (runtime, form), run in runners.items():
            stem = form.removesuffix(", inputs rounded")
            with torch.no_grad():
                want = models[stem](x)
            rows.append({"runtime": runtime, "form": form, "batch": batch, "bytes": files[stem].stat().st_size,
                         "ms": 1e3 * taken[f"{runtime}|{form}"].median, "snr": snr(want, run([x])[0])})  # fmt: skip
    return rows


def render(rows: list[dict[str, Any]]) -> str:
    """A table in Markdown."""
    lines = ["| runtime | weights | file MB | " + " | ".join(f"CPU ms, batch {batch}" for batch in BATCHES)
             + " | SNR dB against PyTorch |", "|---|---|---|" + "---|" * (len(BATCHES) + 1)]  # fmt: skip
    for runtime, form in dict.fromkeys((row["runtime"], row["form"]) for row in rows):
        own = [row for row in rows if (row["runtime"], row["form"]) == (runtime, form)]
        times = " | ".join(f"{row['ms']:.1f}" for row in own)
        ratio = min(row["snr"] for row in own)
        lines.append(f"| {runtime} | {form} | {own[0]['bytes'] / 1e6:.1f} | {times} | {ratio:.0f} |")
    return "\n".join(lines)


def main(
    runs: Annotated[int, typer.Option(help="runs of each contender")] = 15,
    page: Annotated[bool, typer.Option(help="write the table into docs/speed.md too")] = False,
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(runs, Path(folder))
    table = render(rows)
    typer.echo(table)
    if page:
        text = PAGE.read_text()
        head, rest = text.split(START)
        note = f"Median CPU time of {runs} runs on one thread, random weights, {describe_machine()}."
        with atomic_write(PAGE) as lent:
            lent.write_text(f"{head}{START}\n\n{table}\n\n{note}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    typer.run(main)
