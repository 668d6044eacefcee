"""A picture of the page as a file of its own: its colours come along, for light and for dark."""

from __future__ import annotations

import re

from torchpare.errors import ConfigError
from torchpare.report.template import style_sheet

__all__ = ["standalone"]

_MARGIN = 14


def standalone(picture: str) -> str:
    """An SVG document of an inline ``svg`` element, with the rules of the page's style sheet that concern it.

    Args:
        picture: as :func:`torchpare.report.svg.picture` makes it.

    Raises:
        ConfigError: it is none.
    """
    box = re.match(r'<svg viewBox="0 0 ([\d.]+) ([\d.]+)"', picture)
    if box is None:
        raise ConfigError("this is no picture of torchpare.report.svg: it does not begin with <svg viewBox=")
    width, height = (float(size) + 2 * _MARGIN for size in box.groups())
    rules = style_sheet()
    roots = re.findall(r":root \{[^}]*\}", rules)[:2]
    own = "\n".join(line for line in rules.splitlines() if line.startswith("svg "))
    style = (
        f"{roots[0]}\n@media (prefers-color-scheme: dark) {{ {roots[1]} }}\n{own}\n"
        'svg { background: var(--card); } svg text { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; }'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width:g}" height="{2 * height:g}" '
        f'viewBox="{-_MARGIN} {-_MARGIN} {width:g} {height:g}"'
    )
    rest = picture[box.end() :].replace(">", f"><style>{style}</style>", 1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{rest}\n'
