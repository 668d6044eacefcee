"""What came of it: counts, times, and the report of dense against small as a table, a file and a page."""

from __future__ import annotations

from torchpare.report.blocks import (
    Block,
    Cell,
    ChartBlock,
    CodeBlock,
    Column,
    DetailsBlock,
    FactsBlock,
    RowBlock,
    TableBlock,
    TextBlock,
)
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
from torchpare.report.page import Headline, Page, Section, Verdict, render_page, write_page
from torchpare.report.tables import comparison_table

__all__ = [
    "Amount",
    "Block",
    "Cell",
    "ChartBlock",
    "CodeBlock",
    "Column",
    "Curve",
    "DetailsBlock",
    "FactsBlock",
    "Headline",
    "Layer",
    "Measurement",
    "Page",
    "Proof",
    "Report",
    "Row",
    "RowBlock",
    "Section",
    "TableBlock",
    "TextBlock",
    "Verdict",
    "comparison_table",
    "count_flops_params",
    "describe_machine",
    "latency_row",
    "measure",
    "read_report",
    "render_html",
    "render_page",
    "shares_row",
    "write_html",
    "write_page",
]
