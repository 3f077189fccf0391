"""Reports of runs: tables for the terminal and self-contained HTML pages, made from run directories alone."""

from few_shot_nas.report.html import compare_runs, write_report
from few_shot_nas.report.run import Run, load_run
from few_shot_nas.report.tables import results_table

__all__ = ["Run", "compare_runs", "load_run", "results_table", "write_report"]
