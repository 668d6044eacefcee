"""The command `torchpare`: one function a word, each of which calls into a room.

Exit codes: 0 all is well, 1 something asked for is not so (a budget, a speed, a proof), 2 the command or what it names
was not understood, 3 a stage of a recipe failed, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from torchpare.errors import RecipeError, TorchpareError

__all__ = ["app"]

_HELP = (
    "Makes PyTorch models physically smaller, and proves that the small one computes the same.\n\n"
    "A recipe takes a trained model through every stage: [bold]torchpare plan[/] recipe.yaml shows what would happen, "
    "[bold]torchpare run[/] recipe.yaml does it (and goes on where it was, if it was interrupted), [bold]torchpare "
    "report[/] tells it again. The other words do one thing each.\n\n"
    "Exit codes: 0 all is well; 1 something asked for is not so: a budget, a speed, a proof; 2 the command, or what it "
    "names, was not understood; 3 a stage failed, and the ones before it are done."
)

app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)


@app.callback()
def _torchpare() -> None:
    """Keeps the name of a command in front of its options, also while there is only one."""


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="the YAML file; see docs/recipe.md")],
    *,
    folder: Annotated[
        Path | None, typer.Option(help="where every stage keeps what it made; runs/ and the recipe's name if not given")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="run every stage anew, whatever is there")] = False,
    json: Annotated[
        Path | None, typer.Option(help="write the figures here; - prints them in place of the table")
    ] = None,
) -> None:
    """Take a model through every stage of a recipe; go on where an earlier run was interrupted.

    Exit code 1 if a budget is missed or the model is not faster where it should be, 3 if a stage fails. The page
    report.html is left in the folder.

    [dim]torchpare run recipes/digits.yaml --folder runs/digits[/]
    """
    from torchpare.commands import recipe as command

    with _usage_errors():
        try:
            found = command.run(recipe, folder, resume=not fresh, target=json)
        except KeyboardInterrupt as error:
            typer.echo("interrupted; the same command goes on where it was", err=True)
            raise typer.Exit(130) from error
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="of a run, finished or not")],
    *,
    html: Annotated[Path | None, typer.Option(help="the page; report.html in the folder if not given")] = None,
    json: Annotated[
        Path | None, typer.Option(help="write the figures here; - prints them in place of the table")
    ] = None,
) -> None:
    """Tell again what came of a run: the table, and one page that can be sent to anybody.

    [dim]torchpare report runs/digits --html digits.html[/]
    """
    from torchpare.commands import recipe as command

    with _usage_errors():
        command.report(folder, html, json)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="a checkpoint, masks, a calibration, ONNX, a recipe, a run's folder")],
    *,
    json: Annotated[Path | None, typer.Option(help="write it here; - prints it in place of the table")] = None,
) -> None:
    """Say what a file holds, without its model; nothing in it is run.

    [dim]torchpare inspect small.safetensors[/]
    """
    from torchpare.commands import inspect as command

    with _usage_errors():
        command.inspect(file, json)


@app.command()
def schema(
    file: Annotated[Path | None, typer.Argument(help="where it goes; printed if not given", show_default=False)] = None,
) -> None:
    """Write the JSON schema of recipes, with which editors complete and check them.

    [dim]# yaml-language-server: $schema=recipe.schema.json[/]
    """
    from torchpare.commands import recipe as command

    with _usage_errors():
        command.write_schema(file)


@app.command()
def plan(
    model: Annotated[
        str,
        typer.Argument(help="package.module:callable, such as torchvision.models:resnet18; or a recipe's YAML file"),
    ],
    *,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="shape of an example input: 1x3x224x224, 2x16:int64, or name=2x16:int64"),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="of a recipe: where its runs are kept")] = None,
    sparsity: Annotated[float, typer.Option(help="the share to remove", min=0.0, max=0.99)] = 0.5,
    structures: Annotated[str, typer.Option(help="what to remove, with commas: all, channels, heads, ...")] = "all",
    names: Annotated[str | None, typer.Option(help="only of these modules, with commas")] = None,
    round_to: Annotated[int | None, typer.Option(help="keep multiples of this number", min=1)] = None,
    config: Annotated[Path | None, typer.Option(help="a config_list as JSON, in place of the options above")] = None,
    json: Annotated[Path | None, typer.Option(help="write the plan here")] = None,
) -> None:
    """Show what would go from a model: every group, what stays and why, what is saved, where the function changes.

    Of a recipe: its stages, which of them are done, and what the first pruning would take. Nothing is changed.

    [dim]torchpare plan torchvision.models:resnet18 --input 1x3x224x224 --sparsity 0.5[/]

    [dim]torchpare plan recipes/digits.yaml[/]
    """
    if model.endswith((".yaml", ".yml")):
        from torchpare.commands import recipe

        with _usage_errors():
            recipe.plan(Path(model), folder, json)
        return
    from torchpare.commands import plan as command

    entry: dict[str, object] = {"sparsity": sparsity, "structures": structures.split(",")}
    if names is not None:
        entry["op_names"] = names.split(",")
    if round_to is not None:
        entry["round_to"] = round_to
    with _usage_errors():
        command.run(model, inputs or [], [entry] if config is None else config, json)


@app.command()
def bench(
    dense: Annotated[str, typer.Argument(help="the model before: package.module:callable, or a run's FOLDER@dense")],
    compressed: Annotated[list[str], typer.Argument(help="[name=]package.module:callable or [name=]FOLDER of a run")],
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
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="measure peak memory too, each in a process of its own")
    ] = True,
    html: Annotated[Path | None, typer.Option(help="write a page with pictures here")] = None,
    json: Annotated[
        Path | None, typer.Option(help="write the figures here; - prints them in place of the table")
    ] = None,
) -> None:
    """Time compressed models beside the dense one, in the same runtimes; exit code 1 if one of them is not faster.

    [dim]torchpare bench runs/digits@dense int8=runs/digits --input 1x1x8x8[/]

    [dim]torchpare bench nets:dense small=nets:small --input 1x3x224x224 --runtime onnxruntime,openvino --batch 1,8[/]
    """
    from torchpare.commands import deploy

    sizes = batch.split(",")
    if not all(size.isdecimal() for size in sizes):
        raise typer.BadParameter(f"--batch is {batch!r}; give sizes with commas between them, such as 1,8")
    with _usage_errors():
        found = deploy.bench(
            dense, compressed, inputs, runtimes=runtimes.split(","), batch_sizes=[int(size) for size in sizes],
            calibration=calibration, runs=runs, threads=threads, memory=memory, html=html, target=json,
        )  # fmt: skip
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="a quantized model: package.module:callable, or a run's FOLDER[@stage]")],
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
    """Compare a runtime's numbers with fake quantization in PyTorch, layer by layer; exit code 1 if they differ.

    [dim]torchpare verify nets:quantized --input 1x3x224x224 --runtime onnxruntime[/]
    """
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
    except RecipeError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(3) from error
    except TorchpareError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    app()
