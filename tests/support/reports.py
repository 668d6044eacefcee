"""A report to draw, with every kind of thing in it."""

from __future__ import annotations

from torchpare.report import Amount, Curve, Layer, Measurement, Proof, Report, Row, latency_row, shares_row

__all__ = ["example_report"]


def example_report() -> Report:
    """Two runs of a net of three layers, one of whose names must be escaped."""
    dense = Measurement(0.024, 0.023, 0.0255, 60, 2, "PyTorch 2.13.0", "a machine, 2 cores, Linux")
    small = Measurement(0.008, 0.0078, 0.0081, 60, 2, "PyTorch 2.13.0", "a machine, 2 cores, Linux")
    return Report(
        title="A net & its <small> twin",
        summary="Half of the filters are gone.",
        rows=(
            shares_row("Test accuracy", [0.98, 0.99], [0.97, 0.99], "mean of 2 seeds"),
            Row("Parameters", "count", Amount(2435482), Amount(611434), "stored", "fewer", "more"),
            Row("File on disk", "bytes", Amount(9_800_000), Amount(2_500_000), "safetensors"),
            latency_row("PyTorch, batch 32", dense, small),
        ),
        proofs=(Proof("small to masked, float64", 2.1e-16, 1e-10), Proof("reloaded in a new process", 0.0, 0.0)),
        layers=(Layer("conv<1>", 48, 24), Layer("layer1.0.conv1", 96, 48), Layer("fc", 10, 10)),
        curves=(
            Curve("seed 0", (0.5, 0.9, 0.98), 0.1, (0.95, 0.97), 0.97),
            Curve("seed 1", (0.4, 0.8, 0.99), 0.12, (0.93, 0.99), 0.99),
        ),
        headlines=("Parameters", "PyTorch, batch 32", "Test accuracy"),
        measurements={"PyTorch, batch 32": {"dense": dense, "small": small}},
        settings={"Pruner": "L1FilterPruner at 50 %"},
        environment={"Machine": "a machine, 2 cores"},
    )
