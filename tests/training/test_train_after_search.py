"""A search whose architecture is trained afterwards by a recipe, from one command line."""

import json
from pathlib import Path

import pytest
import yaml

from few_shot_nas.spaces.genotype import Genotype
from training import run_experiment


def load_config(folder: str) -> dict[str, object]:
    return yaml.safe_load(Path(folder, "config.yaml").read_text(encoding="utf-8"))


def recipe(algorithm: str = "ProtoNet") -> str:
    lines = ["n_way: 3", "n_query: 2", "max_meta_steps: 2", "val_episodes: 2", "test_episodes: 3"]
    Path("recipe.yaml").write_text("\n".join([f"algorithm: {algorithm}", *lines]), encoding="utf-8")
    return "--train_after_search=recipe.yaml"


def test_what_a_search_found_is_trained_in_a_folder_of_its_own(tiny_search: list[str]) -> None:
    again = [word for word in tiny_search if not word.startswith("--run_dir")]
    assert run_experiment.main([*again, "--run_dir=t", "--pad=left", recipe()]) == 0
    found, trained = (json.loads(Path(folder, "results.json").read_text()) for folder in ("t", "t/trained"))
    assert found["algorithm"] == "RandomSearch" and "search" in found
    assert (trained["algorithm"], trained["model_class"]) == ("ProtoNet", "GenotypeNetwork")
    assert Genotype.load("t/trained/genotype.json") == Genotype.load("t/genotype.json")
    assert load_config("t/trained")["pad"] == load_config("t")["pad"] == "left"
    assert trained["regime"] == "scratch" and trained["parameters"] == found["parameters"]


@pytest.mark.parametrize(
    ("words", "algorithm", "complaint"),
    [
        (["--algorithm=MAML"], "ProtoNet", "--train_after_search=recipe.yaml: MAML searches no architecture"),
        (["--algorithm=RandomSearch", "--space=chain"], "ProtoNett", "Did you mean ProtoNet"),
    ],
)
def test_it_is_refused_before_anything_is_searched(words, algorithm, complaint, tiny_search, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run_experiment.main([*words, "--run_dir=u", recipe(algorithm)])
    assert ended.value.code == 2 and complaint in capsys.readouterr().err
    assert not Path("u").exists()
