"""What ``torchpare plan`` does: what would go from a model, before anything is touched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchpare.commands.telling import tell
from torchpare.errors import ConfigError
from torchpare.recipe.named import build_model, read_inputs
from torchpare.speedup import Plan, plan

__all__ = ["run"]


def run(model: str, inputs: Sequence[str], config_list: list[dict[str, Any]] | Path, target: Path | None) -> Plan:
    """Print the plan of a model, and write it as JSON.

    Args:
        model: as ``package.module:callable``.
        inputs: as for `read_inputs`.
        config_list: entries, or a JSON file that holds them.
        target: where the JSON goes; None for nowhere.

    Raises:
        ConfigError: the model, the inputs or the entries cannot be used.
        CaptureError: the model does not run on the inputs.
        FileError: a file cannot be read or written.
    """
    if isinstance(config_list, Path):
        config_list = _read(config_list)
    found = plan(build_model(model), config_list, read_inputs(inputs))
    tell(found, target)
    return found


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a config_list: {error}; it is a JSON list of objects") from error
