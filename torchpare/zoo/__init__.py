"""Every model family we can build, pruned by half, shrunk and checked: how far "any model shrinks" is true.

suites.py       the suites by name, and how a model of one is built
*_suite.py      the suites: torchvision, timm, transformers (with transformers_*.py), custom (with custom_*.py)
randomise.py    random values everywhere, so that a proof means something
vision.py       torchvision, also where its compiled operators are missing
outputs.py      the tensors in what a model returns
stages.py       what is asked of a small model, a question a function
one.py          one model in a process of its own, through all stages
sweep.py        many of them: processes and time limits
results.py      what came of each, and the file of it
page.py         the same as tables
command.py      what `torchpare zoo` does with all that

Weights are random, and nothing is downloaded.
"""

from __future__ import annotations
