"""The scripts of docs/scale-out.md are run by torchrun, and print what the page says they print."""

from __future__ import annotations

import re

import pytest

from tests.distributed.launch import torchrun
from tests.support.pages import ROOT, blocks

SCRIPT = re.compile(r"# (\w+\.py)\n")


@pytest.mark.slow
def test_the_scripts_print_what_the_page_says(tmp_path):
    on_page = blocks("docs/scale-out.md")
    scripts = {match[1]: block for block in on_page if (match := SCRIPT.match(block.content))}
    assert list(scripts) == ["ddp.py", "fsdp2.py"]
    shown = dict(block.content.split("\n", 1) for block in on_page if block.kind == "console")
    for name, block in scripts.items():
        (tmp_path / name).write_text(block.content, encoding="utf-8")
        printed = torchrun(tmp_path / name, folder=tmp_path, path=(tmp_path, ROOT / "examples"))
        assert printed == shown[f"$ torchrun --standalone --nproc-per-node 2 {name}"]
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model.pth", "mask.pth", "calibration.pth"}
