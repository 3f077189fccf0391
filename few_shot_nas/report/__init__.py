"""Reports of runs: tables for the terminal and self-contained HTML pages, made from run directories alone."""

from few_shot_nas.report.contact_sheet import write_contact_sheet
from few_shot_nas.report.contrast_tables import as_json, contrast_table, header, markdown, notes, size_table
from few_shot_nas.report.contrasts import compare_arms
from few_shot_nas.report.html import compare_runs, write_contrasts, write_report
from few_shot_nas.report.run import Run, load_run
from few_shot_nas.report.tables import results_table

__all__ = [
    "Run",
    "as_json",
    "compare_arms",
    "compare_runs",
    "contrast_table",
    "header",
    "load_run",
    "markdown",
    "notes",
    "results_table",
    "size_table",
    "write_contact_sheet",
    "write_contrasts",
    "write_report",
]
