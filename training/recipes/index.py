"""Write training/recipes/README.md: what each recipe was published with, and what it gave here.

``python training/recipes/index.py`` after a recipe or a file of docs/results/runs has changed; a test compares. The
published number is in a recipe's comment. A run of a recipe is a file of docs/results/runs whose command has it.
"""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from few_shot_nas.whole_file import write_text

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
PUBLISHED = re.compile(r"^(?P<source>.*?), [\w -]+ \d+-way \d+-shot: (?P<number>\d+\.\d+(?: \+- \d+\.\d+)?) % there")
#: Flags that say where and how often, and not what is trained.
HARMLESS = frozenset(
    "config data_dir cache_dir run_dir ckpt_path accelerator devices engine num_workers val_every val_episodes "
    "log_every save_every save_minutes test_episodes gap_episodes wandb".split()
)
HEAD = """# Recipes
Settings by name: `python training/run_experiment.py --config=training/recipes/NAME.yaml --data_dir=DATA`. Further flags
win over the recipe's. Made by `python training/recipes/index.py`.

*Published* is the number of the source in %; *lead* says that it or a setting was not read in the authors' own paper
or code. *Measured* is what the recipe gave here, transductive, by the support set's statistics and, where it says so,
by the running ones, in % with a 95 % interval over test episodes; [docs/results.md](../../docs/results.md) has the
machine and the split. *Minutes* are those of that run. Recipes called `_quick` are settings for two cores and not those
of a publication.
"""


class Measured(NamedTuple):
    """One run of a recipe, as text."""

    accuracy: str
    minutes: str


def comment_of(text: str) -> str:
    """Return the comment at the top of a recipe as one line.

    >>> comment_of("# One,\\n# two.\\nn_way: 5\\n")
    'One, two.'
    """
    lines = text.splitlines()
    top = lines[: next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return " ".join(line.removeprefix("#").strip() for line in top)


def published(comment: str) -> tuple[str, str]:
    """Return the source of a recipe and its number.

    >>> published("Finn et al. 2017, Omniglot 5-way 1-shot: 98.7 +- 0.4 % there, transductive.")
    ('Finn et al. 2017', '98.7 ± 0.4')
    """
    found = PUBLISHED.match(comment)
    if found is None:
        return "-", "-"
    lead = " (lead)" if re.search(r"\bleads?\b", comment) else ""
    return found["source"], found["number"].replace("+-", "±") + lead


def further_flags(command: str, own: dict[str, Any]) -> str:
    """Return the flags of a command that win over its recipe's, ``own``, and may change its result.

    >>> further_flags("python training/run_experiment.py --config=A.yaml --zero_head=true --data_dir=DATA", {})
    '--zero_head=true'
    >>> further_flags("python training/run_experiment.py --config=A.yaml --outer_lr=0.01", {"outer_lr": 0.01})
    ''
    """
    words = [word.lstrip("-").partition("=") for word in shlex.split(command) if word.startswith("--")]
    return " ".join(
        f"--{name}={value}"
        for name, _, value in words
        if name not in HARMLESS and not (name in own and own[name] == yaml.safe_load(value))
    )


def from_results(run: dict[str, Any], own: dict[str, Any]) -> Measured:
    """Return what a results.json holds, with the flags that win over those of its recipe, ``own``, and where it ran."""
    scores = "; ".join(
        f"{words}{100 * run['test'][mode]['accuracy']:.1f} ± {100 * run['test'][mode]['ci95']:.1f}"
        for mode, words in (("transductive", ""), ("support", ""), ("running", "running "))
        if mode in run["test"]
    )
    flags = further_flags(str(run.get("command", "")), own)
    minutes = (run["wall_seconds"] + run.get("test_seconds", 0.0)) / 60
    where = f" on {run['hardware']}" if run.get("hardware") else ""
    return Measured(scores + (f" with `{flags}`" if flags else ""), f"{minutes:.0f}{where}")


def measured() -> dict[str, Measured]:
    """Return the run of each recipe that has one, by the recipe's name.

    A file that is called as the recipe comes first, then the best one, which is named.
    """
    files = sorted((DOCS / "results" / "runs").glob("*.json"))
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for file in files:
        run = json.loads(file.read_text(encoding="utf-8"))
        name = re.search(r"recipes/(\w+)\.yaml", str(run.get("command", "")))
        if name:
            found.setdefault(name[1], []).append((file.stem, run))
    return {recipe: _chosen(recipe, runs) for recipe, runs in found.items()}


def _chosen(recipe: str, runs: list[tuple[str, dict[str, Any]]]) -> Measured:
    """Return what the file of a recipe that is shown holds."""
    own = yaml.safe_load((HERE / f"{recipe}.yaml").read_text(encoding="utf-8"))
    stem, run = max(runs, key=lambda each: (each[0] == recipe, max(t["accuracy"] for t in each[1]["test"].values())))
    shown = from_results(run, own)
    return shown if stem == recipe else shown._replace(accuracy=f"{shown.accuracy} (`{stem}`)")


def render() -> str:
    """Return the page."""
    runs = measured()
    rows = ["| recipe | data, task | source | published | measured | minutes | run |", "|---|---|---|---|---|---|---|"]
    for file in sorted(HERE.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        flags = yaml.safe_load(text)
        source, number = published(comment_of(text))
        task = f"{flags['data_class']} {flags['n_way']}w{flags['k_shot']}s"
        run = runs.get(file.stem)
        cells = [run.accuracy, run.minutes, "yes"] if run else ["-", "-", "no"]
        rows.append("| " + " | ".join([f"[{file.stem}]({file.name})", task, source, number, *cells]) + " |")
    return HEAD + "\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    write_text(HERE / "README.md", render())
    print(f"written: {HERE / 'README.md'}", file=sys.stderr)
