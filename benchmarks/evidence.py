"""The tables of the documents, rendered from the small files under docs/results.

``python benchmarks/evidence.py`` lists what each table was made with and what that costs; ``--write`` renders the
tables into the documents again, after collect.py has put new files there. A table stands between
``<!-- evidence: NAME -->`` and ``<!-- end -->``. A test holds that every table of measured numbers does.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import run_tables, tables  # noqa: E402
from benchmarks.captions import ARMS, NETWORK_RUNGS, RUNGS, SEVERAL, SINGLE  # noqa: E402

BLOCK = re.compile(r"(<!-- evidence: ([a-z0-9_]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


class Table(NamedTuple):
    """A table of a document.

    Attributes:
        render: returns its lines from the files.
        files: what it is rendered from, under docs/results.
        command: what makes these files; the document has it in full.
        cost: of the command, in words.
    """

    render: Callable[[], list[str]]
    files: tuple[str, ...]
    command: str
    cost: str


ARM_FILES = {"Omniglot": "compare_omniglot_arms.json", "Mixed": "compare_mixed_arms.json"}
MINI_FILES = {"42x42": "compare_mini_arms.json", "84x84": "compare_minibig_arms.json"}
EXPERIMENT = "the code block of docs/does_maml_enas_work.md, whose last line is benchmarks/collect.py"
ANALYSIS_COST = "half a minute of a core per supernet, after its tables"
ARM_COST = "3 s of a core per arm and supernet, after the tables (5 minutes of a core per supernet)"
#: Single runs under docs/results/runs: those whose learning curves are shown, all, and those of README.md.
CURVES = (
    "maml_mini42", "maml_mini_imagenet_5w1s_quick", "maml_mini_imagenet_5w1s_h100", "anil_mini_imagenet_5w5s_quick",
    "anil_mini_imagenet_5w5s_h200", "maml_plus_plus_omniglot_20w1s_h200", "maml_plus_plus_mini42_h200",
    "maml_plus_plus_mini84_h200", "maml_plus_plus_mini84_longer_h200", "maml_plus_plus_mini84_longest_h200",
    "maml_plus_plus_mini84_crops", "proto_mini42", "proto_net_mini_imagenet_5w5s_quick", "rfs_mini42",
    "rfs_mini_imagenet_5w5s_quick", "rfs_mini84_longer", "matching_net_mini_imagenet_5w5s_quick",
    "baseline_mini_imagenet_5w5s_quick", "baseline_plus_plus_mini_imagenet_5w5s_quick",
)  # fmt: skip
RUNS = (
    *CURVES, "rfs_copies", "rfs_longer_copies", "maml_omniglot_5w1s_quick", "maml_omniglot_20w1s_quick",
    "meta_sgd_omniglot_5w1s_quick", "proto_net_omniglot_5w1s", "reptile_omniglot_5w5s_quick",
    "maml_plus_plus_omniglot_5w1s_quick", "boil_omniglot_5w1s_quick", "mamlenas_omniglot_5w1s_quick",
    "random_search_omniglot_5w1s", "tnas_omniglot_5w1s_quick", "meta_nas_omniglot_5w1s_quick",
    "darts_mini_imagenet_5w1s_42_quick", "maml_mini_imagenet_5w1s_42_quick", "meta_ntknas_mini_imagenet_5w1s_quick",
    "rfs_genotype_mini_imagenet_5w5s_quick", "proto_net_glyphs_5w1s",
)  # fmt: skip
FIRST = (
    "maml_omniglot_5w1s_quick", "reptile_omniglot_5w5s_quick", "boil_omniglot_5w1s_quick",
    "maml_plus_plus_omniglot_5w1s_quick", "maml_plus_plus_omniglot_20w1s_h200", "anil_mini_imagenet_5w5s_h200",
    "maml_mini_imagenet_5w1s_h100", "proto_net_mini_imagenet_5w5s_quick", "rfs_mini84_longer",
)  # fmt: skip
#: What the runs of docs/overfitting.md changed, by their folders.
OVERFITTING = {
    "plain": "nothing",
    "plain_last": "nothing, `--checkpoint=last`",
    "crop_flip": "`--augment=crop_flip`",
    "jitter": "`--augment=crop_flip_jitter`",
    "decay": "`--weight_decay=5e-4`",
    "decay_last": "the same, `--checkpoint=last`",
    "smooth": "`--label_smoothing=0.1`",
    "smooth_last": "the same, `--checkpoint=last`",
    "narrow": "`--width=16`",
    "patience": "`--patience=2`",
    "all_classes": "all 64 classes",
}
RUN_COMMAND = "the command of each row is in its file and in docs/results.md"
#: What three searches on Omniglot decoded, by seed.
DECODED = tuple(f"decoded_chain{seed}.json" for seed in range(3))

#: Every table with a file, by its name in the documents.
TABLES: dict[str, Table] = {
    "variance": Table(tables.variance_table, ("stage0.json",), EXPERIMENT, "5 minutes of a core per supernet"),
    "rules": Table(lambda: tables.rules_table(SEVERAL), ("stage0.json",), EXPERIMENT, ANALYSIS_COST),
    "rules_mini": Table(lambda: tables.rules_table(SINGLE), ("stage0.json",), EXPERIMENT, ANALYSIS_COST),
    "arms_mini": Table(
        lambda: tables.contrasts_table(MINI_FILES, ARMS), tuple(MINI_FILES.values()), EXPERIMENT,
        "30 and 40 minutes of a core with their supernets and tables",
    ),
    "arms": Table(lambda: tables.contrasts_table(ARM_FILES, ARMS), tuple(ARM_FILES.values()), EXPERIMENT, ARM_COST),
    "adaptation": Table(
        lambda: tables.contrasts_table(
            {"Omniglot": "compare_omniglot_adaptation.json", "Mixed": "compare_mixed_adaptation.json"},
            ARMS, reference="D",
        ),
        ("compare_omniglot_adaptation.json", "compare_mixed_adaptation.json"), EXPERIMENT, ARM_COST,
    ),
    "step": Table(
        lambda: tables.contrasts_table(
            {"Omniglot": "compare_omniglot_step.json", "Mixed": "compare_mixed_step.json"},
            ARMS, reference="no step",
        ),
        ("compare_omniglot_step.json", "compare_mixed_step.json"), EXPERIMENT, ARM_COST,
    ),
    "order": Table(tables.order_table, ("stage0.json",), EXPERIMENT, ANALYSIS_COST),
    "ranks": Table(tables.ranks_table, ("stage0.json",), EXPERIMENT, "40 s of a core per architecture"),
    "lstm": Table(
        lambda: tables.contrasts_table(
            {"Omniglot": "compare_omniglot_lstm.json", "Mixed": "compare_mixed_lstm.json"}, ARMS
        ),
        ("compare_omniglot_lstm.json", "compare_mixed_lstm.json"), EXPERIMENT, ARM_COST,
    ),
    "ladder_tables": Table(
        lambda: tables.contrasts_table({"Mixed": "compare_mixed_ladder.json"}, RUNGS, arm="rung"),
        ("compare_mixed_ladder.json",), EXPERIMENT, ARM_COST,
    ),
    "ladder_without": Table(
        lambda: tables.contrasts_table(
            {"Mixed": "compare_mixed_without.json"}, RUNGS, arm="rung", reference="all remedies"
        ),
        ("compare_mixed_without.json",), EXPERIMENT, ARM_COST,
    ),
    "ladder_networks": Table(
        lambda: tables.contrasts_table(
            {"accuracy": "compare_ladder.json"}, NETWORK_RUNGS, arm="rung", reference="random search"
        ),
        ("compare_ladder.json",), "the code block below it", "20 minutes of a core per seed",
    ),
    "ladder_uniform": Table(
        lambda: tables.contrasts_table(
            {"accuracy": "compare_ladder_uniform.json"}, NETWORK_RUNGS, arm="rung", reference="no controller"
        ),
        ("compare_ladder_uniform.json",), "the code block below it", "the same runs",
    ),
    "planted_source": Table(
        lambda: tables.planted_table("plant", (5, 10)),
        ("compare_plant5.json", "compare_plant10.json"), EXPERIMENT, ARM_COST,
    ),
    "planted_task_mixed": Table(
        lambda: tables.planted_table("mixed_task", (5, 10)),
        ("compare_mixed_task5.json", "compare_mixed_task10.json"), EXPERIMENT, ARM_COST,
    ),
    "planted_task_omniglot": Table(
        lambda: tables.planted_table("omniglot_task", (10,)), ("compare_omniglot_task10.json",), EXPERIMENT, ARM_COST
    ),
    "searched_metantk": Table(
        lambda: tables.searched_table("compare_searched_metantk.json", {"searched": "MetaNTK-NAS"}),
        ("compare_searched_metantk.json",), "the code block of Found against random in docs/training_free.md",
        "22 minutes of a core for the search, 2 for each of 13 networks",
    ),
    "searched_tnas": Table(
        lambda: tables.searched_table(
            "compare_searched_tnas.json",
            {"searched": "T-NAS, 200 meta-steps", "conv4": "Conv4-32", "auto_maml_2": "`AUTO_MAML_2`"},
        ),
        ("compare_searched_tnas.json",), "the code block above it in docs/gradient_nas.md",
        "32 minutes of a core for the search, 4 for each of 11 networks",
    ),
    "decoded_chain": Table(
        lambda: tables.decoded_table(DECODED), DECODED, "the code block above it in docs/gradient_nas.md",
        "70 s of a core for each of 3 searches, 3 minutes for the networks of each",
    ),
    "rank_trained": Table(
        lambda: tables.rank_table("rank_trained.json"),
        ("rank_trained.json",), "the same code block", "2 minutes of a core",
    ),
    "omniglot_proxies": Table(
        lambda: tables.proxies_table("rank_omniglot.json", "compare_omniglot_proxies.json"),
        ("rank_omniglot.json", "compare_omniglot_proxies.json"), "the code block below it in docs/training_free.md",
        "110 s of a core per supernet, after its tables",
    ),
    "runs": Table(
        lambda: run_tables.runs_table(RUNS), tuple(f"runs/{name}.json" for name in RUNS), RUN_COMMAND,
        "24 minutes of a GPU; 6 hours of a core",
    ),
    "curves": Table(
        lambda: run_tables.curves_table(CURVES), tuple(f"runs/{name}.json" for name in CURVES), RUN_COMMAND,
        "the same runs",
    ),
    "first_runs": Table(
        lambda: run_tables.runs_table(FIRST), tuple(f"runs/{name}.json" for name in FIRST), RUN_COMMAND, "the same runs"
    ),
    "overfitting": Table(
        lambda: run_tables.overfitting_table(OVERFITTING),
        ("compare_overfitting.json", *(f"runs/overfitting_{name}.json" for name in OVERFITTING)),
        "the code block above it in docs/overfitting.md", "4 minutes of a core for each of 8 runs",
    ),
    "demo": Table(
        run_tables.demo_table, ("demo.json",), "the code block below it in docs/results.md",
        "2 minutes of two cores for each of 5 seeds",
    ),
    "head": Table(
        lambda: tables.contrasts_table(
            {"Omniglot": "compare_head.json"}, {"head_false": "random", "head_true": "from 0"}, arm="head",
            reference="random",
        ),
        ("compare_head.json",), "the code block below it in docs/results.md", "2 minutes of a core for each of 10 runs",
    ),
    "rank_glyphs": Table(
        lambda: tables.rank_table("rank_glyphs.json"),
        ("rank_glyphs.json",), "the code block below it in docs/training_free.md", "3 minutes of a core",
    ),
    "rank_mixed": Table(
        lambda: tables.rank_table("rank_mixed.json"),
        ("rank_mixed.json",), "the code block below it in docs/training_free.md",
        "1 minute of a core, after a supernet and its table",
    ),
}  # fmt: skip


# ---- the documents --------------------------------------------------------------------------------------------------


def documents() -> list[Path]:
    """Return README.md and the pages of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rendered(text: str) -> str:
    """Return a document with every table rendered again.

    Raises:
        KeyError: for a table that nothing renders.
    """
    return BLOCK.sub(lambda found: found[1] + "\n".join(TABLES[found[2]].render()) + "\n" + found[4], text)


def main(argv: Sequence[str] | None = None) -> int:
    """List the tables, or write them."""
    parser = argparse.ArgumentParser(prog="evidence.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help="render the tables into the documents")
    own = parser.parse_args(argv)
    for page in documents():
        text = page.read_text(encoding="utf-8")
        for _, name, _, _ in BLOCK.findall(text):
            table = TABLES[name]
            print(f"{page.relative_to(ROOT)}: {name}\n  files: {', '.join(table.files)}\n  command: {table.command}\n"
                  f"  cost: {table.cost}")  # fmt: skip
        if own.write and rendered(text) != text:
            page.write_text(rendered(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
