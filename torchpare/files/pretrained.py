"""A shrunk transformers model in that library's own format, for `from_pretrained` of its own, unchanged class.

    torchpare.save_pretrained(model, "small", example_inputs)
    model = LlamaForCausalLM.from_pretrained("small")            # without torchpare

A config has one number where a shrunk model may have one for each layer, and many a class computes further numbers from
it, such as the scale of attention. So the config is searched for, and what was written is read back by the stock class
and compared with the model before the folder gets its name. Where no config says what the model is, an error says why.
"""

from __future__ import annotations

import copy
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.errors import CheckpointError, FileError, MissingExtraError
from torchpare.files.config_fields import dotted, float_fields, value_at
from torchpare.files.config_search import find_configs
from torchpare.files.dropped import STRUCTURE
from torchpare.files.same_outputs import first_difference, outputs
from torchpare.files.signature import Signature, signature
from torchpare.numerics.shards import refuse_sharded

__all__ = ["save_pretrained"]


def save_pretrained(model: nn.Module, directory: str | os.PathLike[str], example_inputs: Any = None) -> None:
    """Writes a shrunk transformers model so that `type(model).from_pretrained(directory)` loads it.

    The model is only read. The folder appears whole or not at all, with a config that has the widths of the model and
    with safetensors. Before it does, it is loaded into the stock class: every tensor, every number with a fraction that
    modules remember, and the outputs on the example inputs must be equal, bit for bit.

    Args:
        model: a transformers model, shrunk or not, without masks.
        directory: the folder to make; it does not exist yet, or is empty.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments to compare outputs on.
            If None, what transformers itself gives for an example, where it has one.

    Raises:
        CheckpointError: it is no transformers model, or no config of its class says what it is: widths differ from
            layer to layer, the class ties two that differ here, or it computes a number anew. Nothing is written, and
            `torchpare.save` is the way to save it.
        FileError: `directory` cannot be written, or holds something.
        MissingExtraError: transformers is not installed.
    """
    kind: Any = type(model)
    if not callable(getattr(kind, "from_pretrained", None)) or not hasattr(getattr(model, "config", None), "to_dict"):
        raise CheckpointError(
            f"{kind.__name__} is no transformers model, so there is no from_pretrained to load it: use torchpare.save"
        )
    refuse_sharded(model, "cannot be saved", CheckpointError)
    attached: dict[str, Any] = {
        name: module for name, module in model.named_modules() if hasattr(type(module), "torchpare_masked")
    }
    if attached:
        name, layer = next(iter(attached.items()))
        what, remedy = ("masks are attached to", "make the model smaller first")
        if not layer.torchpare_masked:
            what, remedy = ("quantizers hang on", "save it before they are put on")
        raise CheckpointError(f"{kind.__name__} cannot be saved while {what} {name!r}: {remedy}")
    with _quiet(), _new_folder(directory) as lent:
        try:
            _write_first_that_fits(model, lent, example_inputs)
        except CheckpointError as error:
            raise CheckpointError(
                f"{kind.__name__} cannot be saved for {kind.__name__}.from_pretrained: {error}. Use "
                "torchpare.save(model, path) and torchpare.load(fresh_model, path), which keep every width"
            ) from error


def _write_first_that_fits(model: nn.Module, folder: Path, example_inputs: Any) -> None:
    """Try configs one after the other: shapes do not tell 2 heads of width 8 from 4 of width 4."""
    first: CheckpointError | None = None
    for config in _configs_of(model):
        try:
            return _write(model, config, folder, example_inputs)
        except CheckpointError as error:
            first = first or error
        for path in folder.iterdir():
            path.unlink()
    if first is not None:
        raise first
    return None


def _write(model: nn.Module, config: Any, folder: Path, example_inputs: Any) -> None:
    try:
        _write_with(model, config, folder)
        loaded = _load(model, folder)
    except (CheckpointError, OSError):
        raise
    except Exception as error:
        raise CheckpointError(f"its library does not accept the config ({type(error).__name__}: {error})") from error
    _compare(model, loaded, example_inputs)


def _configs_of(model: nn.Module) -> list[Any]:
    """Configs of which the stock class builds the shapes of the model, likely ones first."""
    structure = getattr(model, STRUCTURE, None) or {}
    kind: Any = type(model)

    def build(config: Any) -> Signature | None:
        try:
            return signature(_shell(kind, config))
        except Exception:  # noqa: BLE001 - a class says in many ways that it does not like a number
            return None

    sure = {(path, name) for path, values in structure.get("attributes", {}).items() for name in values}
    config: Any = model.config
    return find_configs(config, signature(model), build, dropped=structure.get("dropped", {}), sure=sure)


def _shell(kind: Any, config: Any) -> nn.Module:
    """A model as its class builds it, without data."""
    with torch.device("meta"):
        return kind(copy.deepcopy(config))


def _write_with(model: nn.Module, config: Any, folder: Path) -> None:
    shell: Any = _shell(type(model), config)
    shell.load_state_dict(model.state_dict(), assign=True)
    shell.tie_weights()
    if getattr(model, "generation_config", None) is not None:
        shell.generation_config = copy.deepcopy(model.generation_config)
    shell.config.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    shell.save_pretrained(folder)
    # The library leaves out what equals its defaults, also where it would then compute something else.
    again = type(config).from_pretrained(folder)
    if any(value_at(again, (name,)) != value for name, value in _plain(shell.config).items()):
        shell.config.to_json_file(folder / "config.json", use_diff=False)


def _plain(config: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if type(value) in (int, float, list, tuple)}


def _load(model: Any, folder: Path) -> nn.Module:
    chosen = getattr(model.config, "_attn_implementation", None)
    loaded = type(model).from_pretrained(folder, **({"attn_implementation": chosen} if chosen else {}))
    return loaded.to(next(model.parameters()).device)


def _compare(model: nn.Module, loaded: Any, example_inputs: Any) -> None:
    """Hold what the stock class loaded against the model; the loaded one may be changed by it."""
    mine, stock = signature(model), signature(loaded)
    for path, name in mine.different_numbers(stock):
        value, other = mine.numbers[path, name], stock.numbers[path, name]
        if isinstance(value, float) or isinstance(other, float):
            fields = [dotted(field) for field, held in float_fields(loaded.config).items() if held == other]
            source = (
                f"has one {fields[0]} for all of them"
                if fields
                else "computes it from its config, as the scale of attention from the width of heads,"
            )
            raise CheckpointError(
                f"{f'{path}.{name}'.lstrip('.')} is {value:g} in the model, but {type(loaded).__name__} {source} and "
                f"comes to {other:g} at these widths"
            )
    have = _all_tensors(loaded)
    for name, tensor in _all_tensors(model).items():
        # A table that the class makes anew is more exact than in a model that was cast to half precision as a whole.
        if name not in have or not torch.equal(tensor, have[name].to(tensor.dtype)):
            raise CheckpointError(
                f"{type(loaded).__name__} does not load {name} as it is in the model, but makes it anew"
            )
        have[name].data = tensor
    ran = _same_outputs(model, loaded, example_inputs)
    structure = getattr(model, STRUCTURE, None) or {}
    for path, values in structure.get("attributes", {}).items() if not ran else ():
        for name in values:
            value, other = mine.numbers.get((path, name)), stock.numbers.get((path, name))
            if value != other:
                raise CheckpointError(
                    f"{f'{path}.{name}'.lstrip('.')} is {value} in the model and {other} in {type(loaded).__name__}; "
                    "whether this matters only example_inputs can tell, so give them"
                )


def _all_tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def _same_outputs(model: Any, loaded: nn.Module, example_inputs: Any) -> bool:
    """Compare outputs in evaluation mode; False if there is nothing to run the models on."""
    given = example_inputs is not None
    try:
        inputs = example_inputs if given else dict(model.dummy_inputs)
        outputs(model, inputs)
    except Exception as error:
        if not given:  # the library's own example is for text, and for some models only
            return False
        raise CheckpointError(f"it does not run on the example inputs ({type(error).__name__}: {error})") from error
    difference = first_difference(model, loaded, inputs)
    if difference is not None:
        raise CheckpointError(f"{type(loaded).__name__} loads it with these widths, but then {difference}")
    return True


@contextmanager
def _new_folder(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Lends a folder beside `directory`; it takes that name when the block ends well, and is removed if it does not."""
    target = Path(os.path.realpath(directory))
    if not target.parent.is_dir():
        raise FileError(f"cannot write {directory}: there is no folder {target.parent}; make it first")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileError(f"cannot write {directory}: it is a file, or a folder with something in it; give a new one")
    lent = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        lent.mkdir()
        yield lent
        lent.replace(target)
    finally:
        shutil.rmtree(lent, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars and its opinions on configs that are only tried out."""
    try:
        logging: Any = import_module("transformers.utils.logging")
    except ImportError as error:
        raise MissingExtraError("transformers is not installed; it comes with: pip install transformers") from error
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
