"""Write README.md beside the weights of a finished run: data, protocol, numbers, terms, and how to load them.

``python benchmarks/model_card.py runs/A``. Everything is read from the run's results.json and config.yaml.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from few_shot_nas.report import load_run
from few_shot_nas.whole_file import write_text
from training.exits import OneLineParser, guarded

#: What the owner of the data asks of those who pass on what was made from it.
TERMS = {
    "MiniImagenet": "ImageNet's terms apply to the images: non-commercial research and education only.",
    "TieredImagenet": "ImageNet's terms apply to the images: non-commercial research and education only.",
    "Omniglot": "Omniglot is published under the MIT licence.",
    "Glyphs": "Characters drawn from the DejaVu fonts, whose licence is free.",
}
UNKNOWN = "Look up the terms of the data before passing the weights on."


def card(results: Mapping[str, Any]) -> str:
    """Return the page; accuracies in per cent with their 95 % t-intervals over episodes."""
    rows = [
        f"| {mode} | {100 * score['accuracy']:.2f} ± {_half(score)} | {score['episodes']} |"
        for mode, score in results["test"].items()
    ]
    split = str(results.get("split", "not recorded"))
    selected = "These are the classes that the checkpoint was selected on: no test accuracies."
    warning = f" {selected}" if split == "val" else ""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"# {results['algorithm']}, {results['model_class']}: {results['data_class']}, {results['n_way']}-way "
        f"{results['k_shot']}-shot",
        "",
        f"- Data: {results['data_class']}, split `{split}`.{warning}",
        f"- Protocol: {results['n_query']} queries a class, seed {results['seed']}, {results['meta_steps']} "
        f"meta-steps, weights of the {results['checkpoint']} checkpoint, regime {results['regime']}.",
        f"- Hardware: {results['hardware']}; {results['wall_seconds']:.0f} s in the last sitting.",
        f"- Versions: {versions}.",
        f"- Terms: {TERMS.get(results['data_class'], UNKNOWN)}",
        "",
        "| queries normalised by | accuracy % | episodes |",
        "|---|---|---|",
        *rows,
        "",
        "```bash",
        str(results["command"]),
        "```",
        "",
        "The weights are in `model.safetensors` and what they belong to in `model.json`:",
        "",
        "```python",
        "from few_shot_nas.loading import load",
        'learner = load("FOLDER")  # the folder of these two files',
        "```",
    ]
    return "\n".join(lines) + "\n"


def _half(score: Mapping[str, Any]) -> str:
    return "-" if score["ci95"] is None else f"{100 * score['ci95']:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    parser = OneLineParser(prog="model_card.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("run_dir", type=Path, help="folder of a finished run")
    own = parser.parse_args(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        target = own.run_dir / "README.md"
        write_text(target, card(load_run(own.run_dir).results))
        print(f"card: {target}")

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
