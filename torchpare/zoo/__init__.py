"""Every model family we can build, pruned by half, shrunk and checked: how far "any model shrinks" is true.

suites.py       names of models by suite; how each is built
one.py          one model in a process of its own: prunes it, shrinks it, uses it
stages.py       what is asked of it, step by step
sweep.py        many of them: processes, time limits
results.py      what came of each, as a file
page.py         the same as tables

Weights are random, and nothing is downloaded.
"""

from __future__ import annotations
