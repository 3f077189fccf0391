"""Every recipe and what it says must be a configuration that the command line takes."""

import re
from pathlib import Path

import pytest
import yaml

from few_shot_nas.algorithms.maml_enas import MAMLENAS
from few_shot_nas.algorithms.maml_enas_settings import check_together
from training.cli import parse
from training.flags import arguments

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 8


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_accepted_and_means_what_it_says(recipe: Path) -> None:
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values = parse([f"--config={recipe}"]).values
    for name, value in written.items():
        found = values[name]
        assert (list(found) if isinstance(found, tuple) else found) == value, name
    setting = f"{written['n_way']}w{written['k_shot']}s"
    assert recipe.stem.endswith(("quick", "original", setting))
    assert recipe.read_text(encoding="utf-8").startswith("# ")


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
        check_together(made["policy"], made["shared"], made["scoring"], made["test"])
    assert made["test"].test_reward == "support_views" and made["policy"].task_embedding
