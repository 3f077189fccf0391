"""A finished run on other data and in other ways, and what weights carry. Truth: the same parts put together."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.source import Source
from few_shot_nas.data.sources.image_folder import ImageFolder
from few_shot_nas.episode import tasks
from few_shot_nas.loading import load
from tests.training.photos import write_classes
from training import evaluate, run_experiment
from training.targets import target_of

TINY = (
    "--width=4 --n_way=3 --n_query=4 --meta_batch_size=2 --max_meta_steps=2 --val_every=2 --val_episodes=2 "
    "--test_episodes=4"
).split()
pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Return a function that runs a command and returns its lines on standard error that begin with note or --init."""

    def run(main: Callable[[list[str]], int], *argv: str) -> list[str]:
        capsys.readouterr()
        try:
            assert main(list(argv)) == 0
        except SystemExit as ended:
            assert ended.code == 2
        wanted = ("note:", "--init_from", "error:")
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith(wanted)]

    return run


def train(*flags: str, place: str = "a") -> None:
    assert run_experiment.main([*TINY, *flags, f"--run_dir={place}"]) == 0


def photos(place: str, count: int = 6) -> str:
    """Write a folder with test classes alone, and return the flag for it."""
    write_classes(Path(place) / "test", {f"{place}{c}": c / count for c in range(count)}, 6, (20, 16))
    return f"--data_dir={place}"


def accuracies(place: str, mode: str) -> list[float]:
    rows = csv.DictReader((Path(place) / "episodes.csv").read_text(encoding="utf-8").splitlines())
    return [float(row["accuracy"]) for row in rows if row["bn_mode"] == mode]


def test_test_classes_alone_are_enough_and_normalised_as_in_training(lines: Callable[..., list[str]]) -> None:
    train("--algorithm=ProtoNet")
    source = load("a").inputs
    assert (source.mean, source.std) == ((0.5,), (0.25,))
    card = json.loads(Path("a/model.json").read_text())
    card["inputs"].update(mean=[0.1], std=[0.7])  # another normalisation than that of a folder of images
    Path("a/model.json").write_text(json.dumps(card))
    flags = ["--data_class=ImageFolder", photos("birds"), "--cache_dir=c", "--n_query=3", "--episodes=3"]
    told = lines(evaluate.main, "--run_dir=a", *flags, "--output=out")
    by = "by mean [0.1] and deviation [0.7] of the image in [0, 1]"
    assert told == [f"note: images of ImageFolder are normalised as in training, {by}"]
    other = ImageFolder("birds", "c", image_size=16, image_channels=1)
    other.mean, other.std = (0.1,), (0.7,)
    data = EpisodicDataModule(other, n_way=3, n_query=3)
    learner = load("a").module
    with torch.no_grad():
        expected = [
            float((learner.task_logits(task)["support"].argmax(1) == task.query_y).float().mean())
            for task in tasks(data.episode("test", range(3)))
        ]
    assert accuracies("out", "support") == pytest.approx(expected)


def test_flags_of_the_replaced_source_go_in_one_note(lines: Callable[..., list[str]]) -> None:
    train("--algorithm=ProtoNet")
    config = Path("a/config.yaml")
    # As if it had been trained on Omniglot, whose images are of the same shape.
    text = config.read_text().replace("data_class: Glyphs", "data_class: Omniglot")
    config.write_text(text + "split_scheme: lake\nrotations: none\ndownload: false\n")
    told = lines(
        evaluate.main, "--run_dir=a", "--data_class=ImageFolder", photos("birds"), "--cache_dir=c", "--n_query=3"
    )
    assert told[0] == "note: split_scheme, rotations, download of Omniglot left out: ImageFolder does not take them"
    assert not any(line.startswith("error") for line in told)


def test_a_learner_without_a_head_is_tested_in_any_number_of_ways(lines: Callable[..., list[str]]) -> None:
    train("--algorithm=ProtoNet")
    assert lines(evaluate.main, "--run_dir=a", "--n_way=6", "--output=out") == []
    assert json.loads(Path("out/results.json").read_text())["n_way"] == 6
    assert lines(evaluate.main, "--run_dir=a", "--n_way=2") == []


@pytest.mark.parametrize("algorithm", ["MAML", "MetaSGD", "MAMLPlusPlus"])
def test_a_head_is_tested_in_fewer_ways_as_it_predicts_and_not_in_more(
    algorithm: str, lines: Callable[..., list[str]], dots: type[Source]
) -> None:
    train(f"--algorithm={algorithm}", "--test_checkpoint=last")
    (line,) = lines(evaluate.main, "--run_dir=a", "--n_way=4")
    assert f"the head of {algorithm} was trained for 3 ways" in line
    (line,) = lines(evaluate.main, "--run_dir=a", "--n_way=2", "--output=out")
    assert line.startswith("note: 2 ways and a head that was trained for 3")
    learner = load("a", checkpoint="last", n_way=2).module
    data = EpisodicDataModule(dots(), n_way=2, n_query=4, test_episodes=4)
    with torch.no_grad():
        expected = [
            float((learner.task_logits(task)["support"].argmax(1) == task.query_y).float().mean())
            for task in tasks(data.episode("test", range(4)))
        ]
    assert accuracies("out", "support") == pytest.approx(expected)


def test_several_targets_are_rows_of_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    train("--algorithm=ProtoNet")
    for place in ("birds", "bugs"):
        photos(place)
    targets = ["--target=Glyphs", "--target=ImageFolder:birds", "--target=ImageFolder:bugs"]
    capsys.readouterr()
    assert evaluate.main(["--run_dir=a", *targets, "--cache_dir=c", "--n_query=3", "--output=out"]) == 0
    printed = capsys.readouterr().out
    for name in ("Glyphs", "ImageFolder-birds", "ImageFolder-bugs"):
        assert name in printed
        assert json.loads((Path("out") / name / "results.json").read_text())["data_class"] == name.split("-")[0]
    assert target_of("Glyphs").words == ("--data_class=Glyphs",)


def test_a_target_that_fails_does_not_lose_those_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    train("--algorithm=ProtoNet")
    photos("birds")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        targets = ["--target=ImageFolder:birds", "--target=ImageFolder:none"]
        evaluate.main(["--run_dir=a", *targets, "--cache_dir=c", "--n_query=3"])
    printed = capsys.readouterr()
    assert "ImageFolder-birds" in printed.out and "none" in printed.err


def test_two_targets_of_one_name_are_refused(lines: Callable[..., list[str]]) -> None:
    train("--algorithm=ProtoNet")
    (line,) = lines(evaluate.main, "--run_dir=a", "--target=ImageFolder:x/birds", "--target=ImageFolder:y/birds")
    assert "two have the name ImageFolder-birds" in line


def test_a_source_of_other_channels_is_refused(lines: Callable[..., list[str]]) -> None:
    train("--algorithm=ProtoNet")
    (line,) = lines(evaluate.main, "--run_dir=a", "--data_class=MiniImagenet", "--data_dir=none")
    assert "MiniImagenet: its images have 3 channel(s), the network takes 1" in line


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["checkpoints/last.ckpt", "model.safetensors"])
def test_inner_rates_and_what_is_kept_per_step_are_inherited(file: str, lines: Callable[..., list[str]]) -> None:
    train("--algorithm=MAMLPlusPlus", "--outer_lr=0.1", "--test_checkpoint=last")
    flags = ["--algorithm=MAMLPlusPlus", f"--init_from=a/{file}", "--max_meta_steps=0", "--run_dir=b"]
    assert lines(run_experiment.main, *TINY, *flags) == []
    first, second = load("a", checkpoint="last").module.state_dict(), load("b/model.safetensors").module.state_dict()
    assert any(name.startswith("rates.") for name in first) and any("running_mean" in name for name in first)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=0)


def test_what_another_learner_has_no_place_for_is_named(lines: Callable[..., list[str]]) -> None:
    train("--algorithm=MAMLPlusPlus", "--test_checkpoint=last")
    flags = ["--algorithm=MAML", "--init_from=a/model.safetensors", "--max_meta_steps=0", "--run_dir=b"]
    (line,) = lines(run_experiment.main, *TINY, *flags)
    assert line.endswith("left out, for MAML has no such: rates, scales and statistics per inner step")


def test_transfer_without_training_scores_the_inherited_features(lines: Callable[..., list[str]]) -> None:
    train("--algorithm=ProtoNet", "--test_checkpoint=last")
    flags = ["--algorithm=MatchingNet", "--init_from=a/model.safetensors", "--max_meta_steps=0", "--run_dir=b"]
    assert lines(run_experiment.main, *TINY, *flags) == []
    results = json.loads(Path("b/results.json").read_text())
    assert (results["meta_steps"], results["regime"]) == (0, "inherited")
    one, other = load("a/model.safetensors").module.net.state_dict(), load("b").module.net.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
