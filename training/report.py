"""Show runs side by side, compared on their common test episodes: ``python training/report.py runs/A runs/B``.

With --output, one self-contained HTML page of the comparison is written as well.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from training.exits import OneLineParser, guarded, output_file, output_folder


def report(run_dirs: Sequence[Path], output: Path | None) -> None:
    """Print one table of all runs, and write the page.

    Args:
        run_dirs: run directories, in the order of the rows.
        output: path of the page, or a folder that gets a report.html; None only prints.

    Raises:
        InputError: naming the file of a run that is missing or damaged.
    """
    from few_shot_nas.report import compare_runs, load_run, results_table
    from training.results import console

    if output is not None:
        (output_file if output.suffix == ".html" else output_folder)(output)
    console().print(results_table([load_run(run_dir) for run_dir in run_dirs]))
    if output is not None:
        page = output if output.suffix == ".html" else output / "report.html"
        print(f"report: {compare_runs(run_dirs, page)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    parser = OneLineParser(prog="report.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="folder of a run")
    parser.add_argument("--output", type=Path, help="HTML file or folder for the comparison")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: report(args.run_dirs, args.output))


if __name__ == "__main__":
    sys.exit(main())
