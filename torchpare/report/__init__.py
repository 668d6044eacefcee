"""What came of it: counts, times, and the report of dense against small as a table, a file and a page."""

from __future__ import annotations

from torchpare.report.comparison import (
    Amount,
    Curve,
    Layer,
    Proof,
    Report,
    Row,
    latency_row,
    read_report,
    shares_row,
)
from torchpare.report.counts import count_flops_params
from torchpare.report.html import render_html, write_html
from torchpare.report.measure import Measurement, describe_machine, measure
from torchpare.report.tables import comparison_table

__all__ = [
    "Amount",
    "Curve",
    "Layer",
    "Measurement",
    "Proof",
    "Report",
    "Row",
    "comparison_table",
    "count_flops_params",
    "describe_machine",
    "latency_row",
    "measure",
    "read_report",
    "render_html",
    "shares_row",
    "write_html",
]
