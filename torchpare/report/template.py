"""Pages from templates: values are escaped, one style sheet for all, and what no file may hold is taken out."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from torchpare.errors import MissingExtraError

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["printable", "render_template", "style_sheet"]

# Neither HTML nor XML may hold these, not even escaped: controls, halves of surrogate pairs, and two code points. What
# turns the direction of writing is left out too: it makes a name look like another one.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")

# After an underscore, a slash or a dot, unless the dot is that of a number.
_BREAKS = re.compile(r"(?<=[_/])|(?<=\D\.)|(?<=\d\.)(?!\d)")


def printable(words: str) -> str:
    """The same words, with a replacement character for each that no page may hold."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", words)


def render_template(name: str, **values: Any) -> str:
    """A page.

    Args:
        name: of the template's file, in this folder.
        values: what it shows, by the names it knows. Strings are escaped.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    environment = _environment()
    from markupsafe import Markup, escape

    def breakable(words: str) -> Markup:
        """A name that may go on in the next line after its dots and underscores."""
        parts = _BREAKS.split(printable(words))
        return Markup("<wbr/>").join(escape(part) for part in parts)

    environment.filters["breakable"] = breakable
    return environment.from_string(_read(name)).render(style=Markup(style_sheet()), **values)  # noqa: S704 - ours


def style_sheet() -> str:
    """The rules that all pages and pictures share."""
    return _read("style.css")


def _read(name: str) -> str:
    return files("torchpare.report").joinpath(name).read_text(encoding="utf-8")


def _environment() -> Environment:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtraError(
            "the HTML report needs jinja2, which is not installed: pip install 'torchpare[report]'"
        ) from error
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalized
    )


def _finalized(value: Any) -> Any:
    return printable(value) if type(value) is str else value
