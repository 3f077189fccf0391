"""Compare arms with a reference, task by task on their common test tasks: ``python training/compare.py runs/A runs/B``.

An arm is a run directory, or a folder (or a quoted glob) of run directories that repeat one experiment with other
seeds. With --output, compare.json, compare.md and compare.html are written as well. Differences are percentage points.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from few_shot_nas.ranges import Positive, Size
from training.exits import OneLineParser, guarded, output_folder


def compare(
    arms: Sequence[str], reference: str | None, bn_mode: str | None, margin: float, resamples: int, output: Path | None
) -> None:
    """Print protocol, warnings and the table of differences, and write the files.

    Args:
        arms: run directories, folders of run directories, or globs; the first is the reference.
        reference: another arm to be the reference.
        bn_mode: of the scores; None takes the first that all runs were tested in.
        margin: of the equivalence test, in percentage points.
        resamples: of the bootstrap.
        output: folder for the files; None only prints.

    Raises:
        InputError: if a run is missing or damaged, or the test tasks differ.
    """
    from few_shot_nas import report
    from few_shot_nas.whole_file import write_text
    from training.results import console, write_json

    found = report.compare_arms(arms, reference=reference, bn_mode=bn_mode, margin=margin, resamples=resamples)
    screen = console()
    for line in report.header(found):
        screen.print(line, markup=False, highlight=False)
    for warning in found.warnings:
        screen.print(f"warning: {warning}", style="bold red", markup=False, highlight=False)
    screen.print(report.contrast_table(found))
    for note in report.notes(found):
        screen.print(note, style="dim", markup=False, highlight=False)
    sizes = report.size_table(found)
    if sizes is not None:
        screen.print(sizes)
    if output is not None:
        output_folder(output)
        write_json(output / "compare.json", report.as_json(found))
        write_text(output / "compare.md", report.markdown(found))
        print(f"report: {report.write_contrasts(found, output / 'compare.html')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    parser = OneLineParser(prog="compare.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("arms", nargs="+", metavar="ARM", help="folder of a run, or a folder or glob of runs per seed")
    parser.add_argument("--reference", help="the arm that the others are compared with; default the first")
    parser.add_argument("--bn_mode", help="of the scores; default the first that all runs were tested in")
    parser.add_argument("--margin", type=Positive, default=0.5, help="of the equivalence test, in percentage points")
    parser.add_argument("--resamples", type=Size, default=10_000, help="of the bootstrap")
    parser.add_argument("--output", type=Path, help="folder for compare.json, compare.md and compare.html")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: compare(args.arms, args.reference, args.bn_mode, args.margin, args.resamples, args.output))


if __name__ == "__main__":
    sys.exit(main())
