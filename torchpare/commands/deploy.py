"""What ``torchpare bench`` and ``torchpare verify`` do: a model where it will live, timed, and its numbers proved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from torchpare.commands.telling import check_targets, tell
from torchpare.errors import ConfigError
from torchpare.recipe.named import build_model, called, in_words, read_inputs
from torchpare.recipe.reopen import is_run, model_of_run
from torchpare.recipe.settings import Call
from torchpare.runtimes import RUNTIMES, NumbersProof, verify
from torchpare.runtimes.bench import Benchmark, benchmark
from torchpare.runtimes.bench_page import write_benchmark

__all__ = ["bench", "prove"]


def bench(  # noqa: PLR0913 - one for each option
    dense: str,
    compressed: Sequence[str],
    inputs: Sequence[str],
    *,
    runtimes: Sequence[str],
    batch_sizes: Sequence[int],
    calibration: str | None,
    runs: int,
    threads: int | None,
    memory: bool,
    html: Path | None,
    target: Path | None,
) -> Benchmark:
    """Time models, print the table, and write it as JSON.

    Args:
        dense: as ``package.module:callable``, or the folder of a run, with ``@stage`` if it is not the last one.
        compressed: likewise, each also ``name=package.module:callable``.
        inputs: as for `read_inputs`.
        runtimes: by name.
        batch_sizes: each is timed.
        calibration: a callable that gives batches, as ``package.module:callable``.
        runs: timed rounds.
        threads: within one operator; torch's own number if None.
        memory: whether peak memory is measured too.
        html: where the page goes; None for nowhere.
        target: where the JSON goes; None for nowhere.

    Raises:
        ConfigError: a model, a runtime or the inputs cannot be used, or two models have one name.
        FileError: a file cannot be written.
        MissingExtraError: a runtime is not installed.
        ExportError: a model cannot be one program, or a runtime refuses it.
    """
    check_targets(html, target)
    models: dict[str, Any] = {}
    for word in compressed:
        name, equals, path = word.rpartition("=")
        name = name if equals else path.rpartition(":")[2]
        if not name or name in models:
            why = "has the name of another" if name else "has no name"
            raise ConfigError(f"{word!r} {why}; give each model one of its own: small=nets:small")
        models[name] = _model(path)
    found = benchmark(
        _model(dense),
        models,
        read_inputs(inputs),
        runtimes=runtimes,
        batch_sizes=batch_sizes,
        calibration=_batches(calibration),
        runs=runs,
        threads=threads,
        memory=memory,
    )
    if html is not None:
        write_benchmark(found, html)
    tell(found, target)
    return found


def prove(
    model: str, inputs: Sequence[str], *, runtime: str, calibration: str | None, target: Path | None
) -> NumbersProof:
    """Compare a runtime with fake quantization, layer by layer, print the table, and write it as JSON.

    Args:
        model: quantized, or plain with ``calibration``; as ``package.module:callable``, or the folder of a run.
        inputs: as for `read_inputs`.
        runtime: by name.
        calibration: a callable that gives batches, as ``package.module:callable``.
        target: where the JSON goes; None for nowhere.

    Raises:
        ConfigError: the model, the runtime or the inputs cannot be used.
        FileError: the file cannot be written.
        MissingExtraError: the runtime is not installed.
        ExportError: the model cannot be one program, or the runtime refuses it.
    """
    check_targets(target)
    if runtime not in RUNTIMES:
        raise ConfigError(f"--runtime is {runtime!r}; known are {', '.join(RUNTIMES)}")
    example = read_inputs(inputs)
    made = RUNTIMES[runtime](_model(model), dummy_input=example, calib_data_loader=_batches(calibration))
    made.compress()
    found = verify(made, example)
    tell(found, target)
    return found


def _model(word: str) -> nn.Module:
    """``package.module:callable``, or what a run left behind: ``FOLDER`` or ``FOLDER@STAGE``."""
    return model_of_run(word) if is_run(word) else build_model(word)


def _batches(path: str | None) -> list[Any] | None:
    """What a callable without arguments gives, as a list."""
    if path is None:
        return None
    if ":" not in path:
        raise ConfigError(f"--calibration {path!r} names no batches; say package.module:callable, without arguments")
    made = called(Call(callable=path), what="batches")
    try:
        return list(made)
    except Exception as error:
        raise ConfigError(f"--calibration {path!r} gives no batches: {in_words(error)}") from error
