"""Every recipe and what it says must be a configuration that the command line takes, and train."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from few_shot_nas.algorithms.maml_enas import MAMLENAS
from few_shot_nas.algorithms.maml_enas_settings import check_together
from few_shot_nas.algorithms.rfs import RFS
from few_shot_nas.constructor import arguments
from training.cli import parse
from training.recipes import index

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
#: What a smoke run leaves of a recipe: enough for one meta-step, one validation and one test.
SMALL = ["max_meta_steps=1", "val_episodes=2", "test_episodes=2", "eval_inner_steps=2"]
#: The same for searches by gradient, whose published sizes take minutes for a meta-step on a CPU.
SMALLER = {
    "channels": 2, "meta_batch_size": 2, "inner_steps": 1, "inner_batch": 4, "flat_batch_size": 8, "train_query": 2,
    "decode_episodes": 1, "n_query": 1,
}  # fmt: skip
GRADIENT = ("TNAS", "TNASPlusPlus", "AutoMAML", "MetaNAS", "DARTS")
#: Sources whose images a machine may lack; mini-ImageNet takes the same flags.
STAND_IN = {"TieredImagenet": "MiniImagenet", "CIFARFS": "MiniImagenet", "FC100": "MiniImagenet"}


#: What a recipe's file name calls its data.
DATA = {
    "Omniglot": "omniglot",
    "MiniImagenet": "mini_imagenet",
    "TieredImagenet": "tiered_imagenet",
    "CIFARFS": "cifar_fs",
    "FC100": "fc100",
}


def algorithm_in_a_name(written: dict) -> str:
    """MAMLPlusPlus to maml_plus_plus; the first order of MAML, GenotypeNetwork and a teacher are part of the name."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", written["algorithm"]).lower()
    name += "_first_order" * (written["algorithm"] == "MAML" and written.get("first_order", False))
    name += "_genotype" * (written.get("model_class") == "GenotypeNetwork")
    return name + "_distill" * ("teacher" in written)


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 60


def test_the_list_of_recipes_is_up_to_date_and_names_what_was_measured() -> None:
    page = (ROOT / "training" / "recipes" / "README.md").read_text(encoding="utf-8")
    assert page == index.render(), "run python training/recipes/index.py"
    for recipe in RECIPES:
        assert f"| [{recipe.stem}]({recipe.name}) |" in page
    quick = {recipe.stem for recipe in RECIPES if recipe.stem.endswith("_quick")}
    assert quick <= set(index.measured()) <= {recipe.stem for recipe in RECIPES}


def test_of_several_runs_the_one_called_as_the_recipe_is_shown_or_the_best_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, runs = RECIPES[0].stem, tmp_path / "results" / "runs"
    runs.mkdir(parents=True)
    for name, accuracy in (("a", 0.5), ("b", 0.75), ("c", 0.25)):
        run = {"command": f"python a.py --config=training/recipes/{recipe}.yaml", "wall_seconds": 60.0,
               "test": {"running": {"accuracy": accuracy, "ci95": 0.01}}}  # fmt: skip
        (runs / f"{name}.json").write_text(json.dumps(run))
    monkeypatch.setattr(index, "DOCS", tmp_path)
    assert index.measured() == {recipe: ("running 75.0 ± 1.0 (`b`)", "1")}
    (runs / "c.json").rename(runs / f"{recipe}.json")
    assert index.measured() == {recipe: ("running 25.0 ± 1.0", "1")}


def test_a_run_is_read_from_its_file() -> None:
    test = {"support": {"accuracy": 0.384, "ci95": 0.008}}
    alone = index.from_results({"test": test, "wall_seconds": 100.0, "test_seconds": 80.0}, {})
    assert alone == ("38.4 ± 0.8", "3")
    command = "python training/run_experiment.py --config=A.yaml --run_dir=runs/A --max_meta_steps=9 --n_way=5"
    run = {"test": test, "wall_seconds": 60.0, "command": command, "hardware": "1 GPU"}
    beside = index.from_results(run, {"n_way": 5, "max_meta_steps": 3})
    assert beside == ("38.4 ± 0.8 with `--max_meta_steps=9`", "1 on 1 GPU")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_accepted_and_means_what_it_says(recipe: Path) -> None:
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values = parse([f"--config={recipe}"]).values
    for name, value in written.items():
        found = values[name]
        assert (list(found) if isinstance(found, tuple) else found) == value, name
    assert recipe.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_named_after_algorithm_data_and_task_and_says_which_number_it_is_for(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    written = yaml.safe_load(text)
    name = f"{algorithm_in_a_name(written)}_{DATA[written['data_class']]}"
    task = f"{written['n_way']}w{written['k_shot']}s"
    if recipe.stem == "mamlenas_original":
        return  # the setting of an experiment that published no number
    if re.search("not at hand|no few-shot number", text):  # the source's numbers could not be read, or are others
        assert recipe.stem == f"{name}_{task}"
        assert re.match("# (Wang et al. 2022|Elsken et al. 2020|Liu et al. 2019)", text)
        return
    quick = recipe.stem.endswith("_quick")
    size = f"_{written.get('image_size')}" * recipe.stem.endswith(f"_{written.get('image_size')}_quick")
    assert recipe.stem == f"{name}_{task}{size}" + "_quick" * quick
    comment = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    if not quick:
        assert re.search(rf"{written['n_way']}-way {written['k_shot']}-shot: \d\d\.\d+ (\+- \d\.\d+ )?% there", comment)


#: Recipe of flat training -> batches of an epoch, epochs, and the published rate in the epochs around every milestone,
#: counted from 1; drop-path at the end. RFS: the rate falls where epoch > milestone.
SCHEDULES = {
    "rfs_genotype_mini_imagenet_5w1s": (600, 100, {60: 0.02, 61: 0.002, 80: 0.002, 81: 0.0002}, 0.2),
    "rfs_genotype_tiered_imagenet_5w1s": (7010, 60, {30: 0.01, 31: 1e-3, 40: 1e-3, 41: 1e-4, 50: 1e-4, 51: 1e-5}, 0.1),
    "rfs_mini_imagenet_5w5s": (600, 100, {60: 0.05, 61: 0.005, 80: 0.005, 81: 0.0005}, 0.0),
    "rfs_distill_mini_imagenet_5w5s": (600, 100, {60: 0.05, 61: 0.005, 80: 0.005, 81: 0.0005}, 0.0),
    "rfs_tiered_imagenet_5w5s": (7010, 60, {30: 0.05, 31: 5e-3, 40: 5e-3, 41: 5e-4, 50: 5e-4, 51: 5e-5}, 0.0),
    "rfs_cifar_fs_5w5s": (600, 90, {45: 0.05, 46: 5e-3, 60: 5e-3, 61: 5e-4, 75: 5e-4, 76: 5e-5}, 0.0),
    "rfs_fc100_5w5s": (562, 90, {45: 0.05, 46: 5e-3, 60: 5e-3, 61: 5e-4, 75: 5e-4, 76: 5e-5}, 0.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_flat_training_has_the_published_rates_in_the_first_and_last_batch_of_every_epoch(name: str) -> None:
    batches, epochs, rates, drop_path = SCHEDULES[name]
    values = parse([f"--config={ROOT / 'training' / 'recipes' / name}.yaml"]).values
    assert values["max_meta_steps"] == batches * epochs and values["flat_momentum"] == 0.9
    assert values["weight_decay"] == 5e-4 and values["drop_path"] == drop_path
    sgd = arguments(RFS, values, skip=("net", "seed"))["sgd"]
    for epoch, rate in rates.items():
        for meta_step in (batches * (epoch - 1), batches * epoch - 1):
            assert values["outer_lr"] * sgd.decay(meta_step) == pytest.approx(rate, rel=1e-12), (epoch, meta_step)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_and_is_tested(recipe: Path, tmp_path: Path) -> None:
    from training.run_experiment import main

    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    flags = [f"--{flag}" for flag in SMALL if flag.split("=")[0] != "eval_inner_steps" or "eval_inner_steps" in written]
    if written["algorithm"] in GRADIENT:
        taken = parse([f"--config={recipe}"]).values
        flags += [f"--{name}={value}" for name, value in SMALLER.items() if name in taken]
    data = STAND_IN.get(written["data_class"], written["data_class"])
    flags += [f"--data_class={data}", f"--data_dir={os.environ['FEW_SHOT_NAS_DATA']}", f"--run_dir={tmp_path / 'run'}"]
    assert main([f"--config={recipe}", *flags, "--accelerator=cpu"]) == 0
    assert (tmp_path / "run" / "report.html").is_file()


def ladder() -> list[str]:
    """Return the flags of each line of the ladder in docs/maml_enas.md."""
    text = (ROOT / "docs" / "maml_enas.md").read_text(encoding="utf-8").split("## The ladder")[1].split("\n## ")[0]
    rows = [line.split("|")[2] for line in text.splitlines() if line.startswith("|")]
    return [" ".join(re.findall(r"--\S+=[\w.]+", row)) for row in rows if "`--" in row]


def test_every_rung_of_the_ladder_is_a_legal_search() -> None:
    flags = [f"--config={ROOT / 'training' / 'recipes' / 'mamlenas_original.yaml'}"]
    rungs = ladder()
    assert len(rungs) == 15
    for rung in rungs:
        flags += rung.split()
        values = parse(flags).values
        made = arguments(MAMLENAS, values, skip=("net", "seed"))
        check_together(made["loop"], made["shared"], made["scoring"], made["test"])
    assert made["test"].test_reward == "support_views" and made["loop"].task_embedding
