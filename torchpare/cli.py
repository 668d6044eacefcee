"""The command `torchpare`: one function a word, each of which calls into a room.

Exit codes: 0 all is well, 1 something asked for could not be done, 2 the command was not understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from torchpare.errors import TorchpareError

__all__ = ["app"]

app = typer.Typer(
    help="Makes PyTorch models physically smaller, and proves that the small one computes the same.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _torchpare() -> None:
    """Keeps the name of a command in front of its options, also while there is only one."""


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="package.module:callable, such as torchvision.models:resnet18")],
    *,
    inputs: Annotated[
        list[str],
        typer.Option("--input", help="shape of an example input: 1x3x224x224, 2x16:int64, or name=2x16:int64"),
    ],
    sparsity: Annotated[float, typer.Option(help="the share to remove", min=0.0, max=0.99)] = 0.5,
    structures: Annotated[str, typer.Option(help="what to remove, with commas: all, channels, heads, ...")] = "all",
    names: Annotated[str | None, typer.Option(help="only of these modules, with commas")] = None,
    round_to: Annotated[int | None, typer.Option(help="keep multiples of this number", min=1)] = None,
    config: Annotated[Path | None, typer.Option(help="a config_list as JSON, in place of the options above")] = None,
    json: Annotated[Path | None, typer.Option(help="write the plan here")] = None,
) -> None:
    """Show what would go from a model: every group, what stays and why, what is saved, where the function changes."""
    from torchpare.commands import plan as command

    entry: dict[str, object] = {"sparsity": sparsity, "structures": structures.split(",")}
    if names is not None:
        entry["op_names"] = names.split(",")
    if round_to is not None:
        entry["round_to"] = round_to
    with _usage_errors():
        command.run(model, inputs, [entry] if config is None else config, json)


@app.command()
def bench(
    dense: Annotated[str, typer.Argument(help="package.module:callable, the model before it was compressed")],
    compressed: Annotated[list[str], typer.Argument(help="[name=]package.module:callable, one or more")],
    *,
    inputs: Annotated[
        list[str],
        typer.Option("--input", help="shape of an example input: 1x3x224x224, 2x16:int64, or name=2x16:int64"),
    ],
    runtimes: Annotated[
        str, typer.Option("--runtime", help="with commas: onnxruntime, openvino, inductor, executorch, tensorrt")
    ] = "onnxruntime",
    batch: Annotated[str, typer.Option(help="batch sizes, with commas")] = "1",
    calibration: Annotated[str | None, typer.Option(help="package.module:callable that gives batches")] = None,
    runs: Annotated[int, typer.Option(help="timed rounds", min=2)] = 30,
    threads: Annotated[int | None, typer.Option(help="within one operator", min=1)] = None,
    json: Annotated[Path | None, typer.Option(help="write the figures here")] = None,
) -> None:
    """Time compressed models beside the dense one, in the same runtimes; exit code 1 if one of them is not faster."""
    from torchpare.commands import deploy

    sizes = batch.split(",")
    if not all(size.isdigit() for size in sizes):
        raise typer.BadParameter(f"--batch is {batch!r}; give sizes with commas between them, such as 1,8")
    with _usage_errors():
        found = deploy.bench(
            dense, compressed, inputs, runtimes=runtimes.split(","), batch_sizes=[int(size) for size in sizes],
            calibration=calibration, runs=runs, threads=threads, target=json,
        )  # fmt: skip
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="package.module:callable that gives a quantized model")],
    *,
    inputs: Annotated[
        list[str],
        typer.Option("--input", help="shape of an example input: 1x3x224x224, 2x16:int64, or name=2x16:int64"),
    ],
    runtime: Annotated[
        str, typer.Option(help="onnxruntime, openvino, inductor, executorch or tensorrt")
    ] = "onnxruntime",
    calibration: Annotated[str | None, typer.Option(help="package.module:callable that gives batches")] = None,
    json: Annotated[Path | None, typer.Option(help="write the figures here")] = None,
) -> None:
    """Compare a runtime's numbers with fake quantization in PyTorch, layer by layer; exit code 1 if they differ."""
    from torchpare.commands import deploy

    with _usage_errors():
        found = deploy.prove(model, inputs, runtime=runtime, calibration=calibration, target=json)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def zoo(
    files: Annotated[
        list[Path] | None, typer.Argument(help="with --render: files of --json", show_default=False)
    ] = None,
    *,
    suite: Annotated[str, typer.Option(help="torchvision, timm, timm-all, transformers or custom")] = "torchvision",
    models: Annotated[str | None, typer.Option(help="only these, with commas between them")] = None,
    chunk: Annotated[str | None, typer.Option(help="only a part: 2/5 for the second of five")] = None,
    ratio: Annotated[float, typer.Option(help="the share of every group that is to go", min=0.01, max=0.99)] = 0.5,
    json: Annotated[Path | None, typer.Option(help="write results here; with --models or --chunk, add them")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write the suite's page here")] = None,
    render: Annotated[Path | None, typer.Option(help="run nothing: write the page of FILES here")] = None,
    jobs: Annotated[int, typer.Option(help="models at a time, of one thread each", min=1)] = 1,
    limit_seconds: Annotated[float, typer.Option(help="for each model", min=1)] = 600,
    onnx: Annotated[bool, typer.Option("--onnx/--no-onnx", help="whether models are exported and run")] = True,
) -> None:
    """Prune, shrink, check and use every model of a suite; tell how many come through, and why the others do not."""
    from torchpare.zoo import command
    from torchpare.zoo.sweep import Settings

    with _usage_errors():
        if render is not None or files:
            if render is None or not files:
                raise typer.BadParameter("--render and FILES go together: torchpare zoo --render zoo.md zoo/*.json")
            command.render(files, render)
            return
        asked = command.chosen(suite, models, chunk)
        settings = Settings(ratio=ratio, onnx=onnx, limit=limit_seconds, jobs=jobs)
        merge = models is not None or chunk is not None
        results = command.run(suite, asked, settings, json=json, merge=merge, markdown=markdown)
    if not all(result.ok for result in results.results):
        raise typer.Exit(1)


@contextmanager
def _usage_errors() -> Iterator[None]:
    """What the user can put right is told in a sentence, without a traceback."""
    try:
        yield
    except TorchpareError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    app()
