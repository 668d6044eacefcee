from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from tests.support.reports import example_report
from torchpare.report import Proof, comparison_table


def printed(report, width=80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(comparison_table(report))
    return console.file.getvalue()


def test_the_table_says_every_row_and_every_proof():
    report = example_report()
    told = printed(report)
    for row in report.rows:
        assert f" {row.name} " in told
        assert row.say(row.dense) in told
        assert row.say(row.small) in told
        assert " ".join(row.change) in told
        assert row.note in told
    for proof in report.proofs:
        assert proof.statement in told
    assert "FAILS" not in told


def test_the_table_fits_a_terminal_of_eighty_columns():
    assert max(len(line) for line in printed(example_report()).splitlines()) <= 80


def test_a_proof_that_fails_is_not_hidden():
    assert "FAILS" in printed(replace(example_report(), proofs=(Proof("small to masked", 1.0, 1e-10),)))
