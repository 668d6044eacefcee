"""Without a library its callback is one clear error; loops need none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
for name in ("lightning", "pytorch_lightning", "transformers", "accelerate"):
    sys.modules[name] = None
import torchpare.integrations
from torchpare.errors import MissingExtraError
try:
    import torchpare.integrations.{room}
except MissingExtraError as error:
    print(error)
"""


@pytest.mark.parametrize("room", ["lightning", "transformers"])
def test_a_missing_library_is_named_with_the_extra_that_brings_it(room):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(room=room)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"pip install 'torchpare[{room}]'" in done.stdout


def test_importing_the_room_loads_none_of_them():
    script = "import sys, torchpare.integrations; print(sorted({'lightning', 'transformers'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_pytorch_lightning_alone_will_do():
    script = (
        "import sys; sys.modules['lightning'] = None\n"
        "from tests.support.vision import torchvision_models; torchvision_models()\n"
        "import pytorch_lightning; from torchpare.integrations.lightning import CompressionCallback\n"
        "print(issubclass(CompressionCallback, pytorch_lightning.Callback))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
