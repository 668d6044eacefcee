"""The scripts of docs/scale-out.md are run by torchrun, and print what the page says they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.distributed.launch import torchrun

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "scale-out.md"
SCRIPT = re.compile(
    r"^```py\n# (\w+\.py)\n(.*?)^```\n\n```bash\n(.*?)^```\n\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.mark.slow
def test_the_scripts_print_what_the_page_says(tmp_path):
    scripts = SCRIPT.findall(PAGE.read_text(encoding="utf-8"))
    assert [name for name, *_ in scripts] == ["ddp.py", "fsdp2.py"]
    for name, content, command, expected in scripts:
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert command == f"torchrun --standalone --nproc-per-node 2 {name}\n"
        printed = torchrun(tmp_path / name, folder=tmp_path, path=(tmp_path, ROOT / "examples"))
        assert printed == expected
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model.pth", "mask.pth", "calibration.pth"}
