"""On the site, links lead to where a file of the repository is shown; broken ones are left for mkdocs to tell."""

from __future__ import annotations

import importlib.util

import pytest

from tests.support.pages import ROOT


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@pytest.mark.parametrize(
    ("page", "link", "on_the_site"),
    [
        ("docs/tutorial.md", "../examples/digits_resnet20.py", "project/examples/digits_resnet20.py.md"),
        ("docs/tasks/bert-int8.md", "../../CONTRIBUTING.md#add-a-pruner", "../project/CONTRIBUTING.md#add-a-pruner"),
        ("docs/tasks/bert-int8.md", "../speed.md#measured", "../speed.md#measured"),
        ("CONTRIBUTING.md", "docs/zoo.md", "../zoo.md"),
        ("README.md", "docs/concepts/proof.md", "../concepts/proof.md"),
        ("docs/tutorial.md", "../examples/no_such_file.py", "../examples/no_such_file.py"),
        ("docs/tutorial.md", "https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_a_link_is_turned_to_where_the_site_shows_the_file(page, link, on_the_site):
    assert loaded("links").rewritten(f"see [it]({link}) there", page) == f"see [it]({on_the_site}) there"


def test_a_role_in_a_docstring_becomes_a_link_to_the_whole_name():
    turned = loaded("roles").on_page_content("as :class:<code>~torchpare.search.SearchPruner</code>", None, None, None)
    assert (
        turned == 'as <autoref identifier="torchpare.search.SearchPruner" optional><code>SearchPruner</code></autoref>'
    )
    assert 'identifier="torchpare.search.SearchPruner"' in loaded("roles").on_page_content(
        ":class:<code>SearchPruner</code>", None, None, None
    )
