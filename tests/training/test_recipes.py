"""Every recipe and what it says must be a configuration that the command line takes."""

from pathlib import Path

import pytest
import yaml

from training.cli import parse

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 8


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_accepted_and_means_what_it_says(recipe: Path) -> None:
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values = parse([f"--config={recipe}"]).values
    for name, value in written.items():
        found = values[name]
        assert (list(found) if isinstance(found, tuple) else found) == value, name
    assert recipe.stem.endswith("quick") or recipe.stem.endswith(f"{written['n_way']}w{written['k_shot']}s")
    assert recipe.read_text(encoding="utf-8").startswith("# ")
