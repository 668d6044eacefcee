"""Links that lead out of docs/ go to a page of the site that shows the file, so that they work here and on GitHub.

`[the demo](../examples/digits_resnet20.py)` stays as it is in the repository. On the site it leads to a page with that
file's text; a Markdown file, such as CONTRIBUTING.md, becomes a page like any other.
"""
# ruff: noqa: INP001

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)]*)?\))")
IN_NAV = ("CONTRIBUTING.md", "CHANGELOG.md")
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".json": "json"}


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every file outside docs/ that some page links to, and for what those link to in turn."""
    texts = [("docs/" + file.src_uri, file.content_string) for file in files.documentation_pages()]
    wanted = list(IN_NAV)
    for path, text in texts:
        wanted += [target for target in targets(path, text) if target not in wanted]
    for path in wanted:  # grows while it is read
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".md"):
            content = rewritten(text, path)
            wanted += [target for target in targets(path, text) if target not in wanted]
        else:
            language = LANGUAGES.get(Path(path).suffix, "text")
            content = f"# {path}\n\n````{language}\n{text.rstrip()}\n````\n"
        inclusion = InclusionLevel.INCLUDED if path in IN_NAV else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, site_path(path), content=content, inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001
    """Turn the links of a page; those of generated pages are turned already."""
    return markdown if page.file.generated_by else rewritten(markdown, "docs/" + page.file.src_uri)


def targets(path: str, text: str) -> list[str]:
    """The files of the repository, outside docs/, that a page links to."""
    found = (repository_path(path, match[2]) for match in LINK.finditer(text))
    return [target for target in found if target and not target.startswith("docs/") and (ROOT / target).is_file()]


def rewritten(text: str, path: str) -> str:
    """The text with every link to a file of the repository as seen from where the page lies on the site."""
    here = posixpath.dirname(site_path(path))

    def turned(match: re.Match[str]) -> str:
        target = repository_path(path, match[2])
        if target is None or not (ROOT / target).is_file():
            return match[0]  # mkdocs says what is wrong with it
        return match[1] + posixpath.relpath(site_path(target), here or ".") + match[3]

    return LINK.sub(turned, text)


def repository_path(path: str, link: str) -> str | None:
    """What a link leads to, as a path in the repository; None for one that leads out of it."""
    if "://" in link or link.startswith(("/", "mailto:")):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return None if target.startswith("..") else target


def site_path(path: str) -> str:
    """Where a file of the repository lies on the site, before Markdown becomes HTML."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"project/{path}" if path.endswith(".md") else f"project/{path}.md"
