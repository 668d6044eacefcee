"""A recipe as a YAML file: read with the line of everything, so that an error can say where it is.

The file is data: YAML 1.2, no tags, no duplicate keys, no more than a megabyte.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from torchpare.errors import ConfigError, FileError, MissingExtraError
from torchpare.recipe.schema import Recipe

__all__ = ["read_recipe", "recipe_of", "schema"]

_LARGEST = 1_000_000  # bytes
_MOST = 100_000  # values, aliases counted as often as they are used
_DEEPEST = 50  # levels of lists and mappings in each other


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        FileError: there is no such file, or it is no YAML; names the line.
        ConfigError: it is no recipe; names the line, the key, and the nearest one that is known.
        MissingExtraError: ruamel.yaml is not installed.
    """
    path = Path(path)
    tree = _parsed(path)
    return recipe_of(tree, source=str(path))


def recipe_of(value: Any, *, source: str = "the recipe") -> Recipe:
    """A recipe out of what says one: a dict, a list of stages, or a :class:`Recipe`.

    Args:
        value: as YAML or JSON would hold it.
        source: what errors call it.

    Raises:
        ConfigError: it is no recipe; names the place, and where it was read from a file its line.
    """
    if isinstance(value, Recipe):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = {"stages": value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{source} is a {type(value).__name__}; it is a mapping with 'stages', or a list of stages")
    try:
        return Recipe.model_validate(_plain(value, source))
    except ValidationError as error:
        told = sorted((_told(problem, value, source) for problem in error.errors()), key=lambda each: each[0])
        raise ConfigError("\n".join(words for _, words in told)) from error


def schema() -> dict[str, Any]:
    """The JSON schema of recipe files, with which editors complete and check them."""
    made = Recipe.model_json_schema(mode="validation")
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    item = made["$defs"]["StageItem"]
    kinds = list(item["properties"])
    for kind, settings in item["properties"].items():  # a bare `shrink:` is a null, and a stage of its own
        settings.pop("default", None)
        settings["description"] = made["$defs"][_model_of(kind).__name__].get("description", "")
    item["minProperties"] = item["maxProperties"] = 1
    made["properties"]["stages"]["items"] = {"anyOf": [{"$ref": "#/$defs/StageItem"}, {"enum": kinds}]}
    return made


def _parsed(path: Path) -> Any:
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
    except ImportError as error:
        raise MissingExtraError(
            "recipe files need ruamel.yaml, which is not installed: pip install 'torchpare[recipe]'"
        ) from error
    try:
        if path.stat().st_size > _LARGEST:
            raise FileError(f"{path}: {path.stat().st_size:,} bytes are no recipe; a recipe is a short YAML file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read ({error}); give the path of a recipe, a YAML file") from error
    try:
        tree = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        raise FileError(f"{where}: not YAML: {str(error.problem or error.context).strip()}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    if tree is None:
        raise ConfigError(f"{path} is empty; a recipe has 'stages', and what they need: see docs/recipe.md")
    return tree


def _plain(value: Any, source: str) -> Any:
    """A tree without what the parser keeps beside the values.

    Raises:
        FileError: anchors unfold it beyond all measure.
    """
    left = _MOST

    def plain(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise FileError(f"{source}: unfolds to more than {_MOST:,} values, or deeper than {_DEEPEST} levels; a "
                            "recipe is a short file")  # fmt: skip
        if isinstance(value, Mapping):
            return {_scalar(key): plain(each, depth + 1) for key, each in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return [plain(each, depth + 1) for each in value]
        return _scalar(value)

    return plain(value, 0)


def _scalar(value: Any) -> Any:
    """Numbers and words as Python's own, not as the parser's subclasses of them."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _told(problem: Any, tree: Any, source: str) -> tuple[int, str]:
    """One of pydantic's errors: its line; and with the line, its key and the nearest known key, in words."""
    place = tuple(part for part in problem["loc"] if not _is_inner(part))
    message = problem["msg"].removeprefix("Value error, ")
    line = _line(tree, place)
    where = f"{source}:{line}" if line is not None else source
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if problem["type"] != "extra_forbidden":
        return line or 0, f"{where}: {path}: {message}" if path else f"{where}: {message}"
    key, known = str(place[-1]), _known(place[:-1])
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return line or 0, f"{where}: {path}: there is no key {key!r} here; {hint}"


def _is_inner(part: Any) -> bool:
    """Whether a part of a place is of pydantic's making: the names of validators and of types."""
    return isinstance(part, str) and ("(" in part or "[" in part)


def _line(tree: Any, place: Sequence[Any]) -> int | None:
    """The line of a key, from 1; of the nearest thing around it that has one. None where nothing was read from a file.

    A key's line is kept by the mapping that holds it, an entry's by its list.
    """
    found: int | None = None
    for part in place:
        kept = getattr(tree, "lc", None)
        if kept is not None and kept.data is not None and part in kept.data:
            found = kept.data[part][0] + 1
        elif kept is not None and found is None:
            found = kept.line + 1
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            break
    if not place and getattr(tree, "lc", None) is not None:
        return tree.lc.line + 1
    return found


def _known(place: Sequence[Any]) -> list[str]:
    """The keys that may stand at a place."""
    model: type[BaseModel] | None = Recipe
    for part in place:
        if model is None or isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        model = None if field is None else _inner_model(field.annotation)
    return [] if model is None else list(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner_model, get_args(annotation))), None)


def _model_of(kind: str) -> type[BaseModel]:
    from torchpare.recipe.schema import StageItem

    model = _inner_model(StageItem.model_fields[kind].annotation)
    assert model is not None
    return model
