"""Whether a picture that somebody hands in may stand on a page."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from torchpare.errors import ConfigError

__all__ = ["check_picture"]

_ACTIVE = {"script", "foreignobject", "iframe", "image", "use", "a", "style", "animate", "set", "handler"}


def check_picture(svg: str) -> None:
    """See that a picture is shapes and words: nothing that runs, refers or declares.

    Args:
        svg: an inline ``<svg>`` element.

    Raises:
        ConfigError: it is not well-formed, is something else, or holds something that could run or fetch something.
    """
    try:
        root = None if "<!" in svg or "<?" in svg else ET.fromstring(svg)  # noqa: S314 - no declarations, so no entities
    except ET.ParseError as error:
        raise ConfigError(f"ChartBlock: svg is not well-formed ({error}); draw it with torchpare.report.svg") from error
    if root is None or root.tag.rpartition("}")[2] != "svg":
        raise ConfigError("ChartBlock: svg is no single svg element; draw it with torchpare.report.svg")
    for element in root.iter():
        tag = element.tag.rpartition("}")[2].lower()
        bad = next((k for k in element.attrib if k.lower().startswith("on") or k.lower().endswith("href")), None)
        if tag in _ACTIVE or bad is not None:
            raise ConfigError(
                f"ChartBlock: svg holds <{tag}{f' {bad}=' if bad else ''}>, which could run or fetch something; a "
                "picture is shapes and words"
            )
