"""Scripts written for each version of NNI run in processes of their own, with one added line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = Path(__file__).parent / "scripts"
ADDED = "import torchpare.compat.nni  # noqa: F401 - the added line\n"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, SCRIPTS)))}


def run(script, folder, *options):
    command = [sys.executable, *options, str(script)]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v22", "v23_pruning", "v23_quantization", "v25", "v29", "v30"])
def test_a_script_of_the_time_runs_with_one_added_line(name, tmp_path):
    done = run(SCRIPTS / f"{name}.py", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "done"


def test_scripts_have_one_added_line_and_no_other_word_of_torchpare():
    scripts = sorted(SCRIPTS.glob("v*.py"))
    assert len(scripts) == 6
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert text.count(ADDED) == 1
        assert "torchpare" not in text.replace(ADDED, "")


def test_without_the_added_line_there_is_no_nni(tmp_path):
    script = tmp_path / "script.py"
    script.write_text((SCRIPTS / "v22.py").read_text(encoding="utf-8").replace(ADDED, ""), encoding="utf-8")
    done = run(script, tmp_path)
    assert "ModuleNotFoundError: No module named 'nni'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_tutorial", "test_tutorial_quantization"])
def test_the_tutorial_runs_with_the_import_paths_of_nni(name, tmp_path):
    """The test of the tutorial, each import of torchpare written as NNI's, and the added line before them."""
    text = (ROOT / "tests" / f"{name}.py").read_text(encoding="utf-8")
    theirs = {
        r"from torchpare import (ModelSpeedup, apply_compression_results)": r"from nni.compression.pytorch import \1",
        r"from torchpare\.pruning import": "from nni.algorithms.compression.pytorch.pruning import",
        r"from torchpare\.quantization import": "from nni.algorithms.compression.pytorch.quantization import",
        rf"from tests\.{name} import": f"from {name}_with_nni import",
    }
    for ours, other in theirs.items():
        text = re.sub(ours, other, text)
    text = text.replace("from __future__ import annotations\n", f"from __future__ import annotations\n{ADDED}")
    text = text.replace("import sys, torch\n", f"import sys, torch\n{ADDED}")
    text = text.replace(
        "Path(__file__).resolve().parents[1])}", f"'{ROOT}{os.pathsep}' + str(Path(__file__).parent))}}"
    )
    assert "nni" in text
    assert "from torchpare" not in text
    (tmp_path / f"{name}_with_nni.py").write_text(text, encoding="utf-8")
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path),
               "-W", "ignore::torchpare.compat.nni.NNIChangeWarning", f"{name}_with_nni.py"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
