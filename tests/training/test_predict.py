"""From a trained model to answers for one's own pictures. Truth: pictures whose classes the test has made."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.sources.image_folder import ImageFolder
from few_shot_nas.loading import load
from tests.training.photos import photo, write_classes
from training import evaluate, predict, run_experiment

SIZE, WAYS, SHOTS = 16, 5, 3
TASK = f"--n_way={WAYS} --k_shot={SHOTS} --n_query=4 --image_size={SIZE} --width=8 --seed=0".split()
SHORT = "--meta_batch_size=2 --max_meta_steps=10 --val_every=10 --val_episodes=2 --test_episodes=3".split()
#: Hues of the user's classes, none of them one of the training classes.
HUES = {"apple": 0.0, "lemon": 0.16, "mint": 0.42, "ocean": 0.6, "plum": 0.85}


class Trained(NamedTuple):
    """A run that was moved, and one of its test episodes as pictures, after its data was deleted."""

    run_dir: Path
    support: Path
    queries: Path
    accuracy: float
    loss: float


def _episode_as_pictures(source: ImageFolder, folder: Path) -> None:
    """Write test episode 0 as pictures; names of support folders sort as the labels, those of queries hold theirs."""
    data = EpisodicDataModule(source, n_way=WAYS, k_shot=SHOTS, n_query=4)
    episode = data.episode("test", [0])
    for part, images, labels in (("support", *episode[:2]), ("queries", *episode[2:4])):
        pixels = ((images[0] * torch.tensor(source.std).view(-1, 1, 1) + 0.5) * 255).round().to(torch.uint8)
        for row, (pixel, label) in enumerate(zip(pixels, labels[0].tolist(), strict=True)):
            file = folder / part / (f"class{label}/{row:02}.png" if part == "support" else f"{row:02}-class{label}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixel.permute(1, 2, 0).numpy()).save(file)


def _trained(place: Path, algorithm: str, *flags: str) -> Trained:
    data, run_dir = place / "data", place / "made" / "run"
    for split, count, start in (("train", 6, 0.03), ("val", 5, 0.09), ("test", 6, 0.11)):
        write_classes(data / split, {f"{split}{c}": (start + c / count) % 1 for c in range(count)}, 8, (20, 20))
    where = [f"--data_dir={data}", f"--cache_dir={place / 'cache'}", "--data_class=ImageFolder"]
    assert run_experiment.main([f"--algorithm={algorithm}", *where, *TASK, *SHORT, *flags, f"--run_dir={run_dir}"]) == 0
    scored = place / "scored"
    assert evaluate.main([f"--run_dir={run_dir}", "--episodes=1", f"--output={scored}"]) == 0
    rows = list(csv.DictReader((scored / "episodes.csv").read_text(encoding="utf-8").splitlines()))
    (row,) = [row for row in rows if row["bn_mode"] == "support"]
    _episode_as_pictures(ImageFolder(str(data), str(place / "cache"), SIZE), place)
    shutil.move(run_dir, place / "elsewhere")
    shutil.rmtree(data)
    shutil.rmtree(place / "cache")
    scores = float(row["accuracy"]), float(row["loss"])
    return Trained(place / "elsewhere", place / "support", place / "queries", *scores)


@pytest.fixture(scope="module")
def proto(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _trained(tmp_path_factory.mktemp("proto"), "ProtoNet", "--distance_scale=0.1")


@pytest.fixture(scope="module")
def maml(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _trained(tmp_path_factory.mktemp("maml"), "MAML")


@pytest.fixture(scope="module")
def good_maml(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Long enough in training for adaptation to tell colours apart that it has not seen."""
    longer = "--zero_head --eval_inner_steps=20 --max_meta_steps=60 --val_every=60 --test_checkpoint=last".split()
    return _trained(tmp_path_factory.mktemp("good_maml"), "MAML", *longer)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs predict, expects code 2, and returns its one line of complaint."""

    def check(*argv: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            predict.main(argv)
        assert ended.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        return line

    return check


def answers(run_dir: Path, support: Path, images: Path, output: Path, *flags: str) -> list[dict[str, str]]:
    argv = [f"--run_dir={run_dir}", f"--support={support}", f"--images={images}", f"--output={output}", *flags]
    assert predict.main(argv) == 0
    return list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))


def own_pictures(folder: Path, shots: int | dict[str, int] = SHOTS) -> tuple[Path, Path]:
    """Write labelled pictures, and unlabelled ones whose names begin with their class; of two sizes."""
    write_classes(folder / "classes", HUES, shots, (24, 20))
    (folder / "new" / "deeper").mkdir(parents=True)
    for name, hue in HUES.items():
        photo(hue, 77, (SIZE, SIZE)).save(folder / "new" / f"{name}-1.png")
        photo(hue, 78, (40, 30)).save(folder / "new" / "deeper" / f"{name}-2.jpg", quality=95)
    return folder / "classes", folder / "new"


# ---- the journey ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["proto", pytest.param("good_maml", marks=pytest.mark.slow)])
def test_five_separable_classes_of_three_photos_are_all_right(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trained: Trained = request.getfixturevalue(name)
    support, images = own_pictures(tmp_path)
    rows = answers(trained.run_dir, support, images, tmp_path / "out" / "predictions.csv")
    assert list(rows[0]) == ["image", "prediction", *sorted(HUES)]
    assert sorted(row["image"] for row in rows) == sorted(
        [f"{name}-1.png" for name in HUES] + [f"deeper/{name}-2.jpg" for name in HUES]
    )
    for row in rows:
        assert Path(row["image"]).name.split("-")[0] == row["prediction"]
        scores = {name: float(row[name]) for name in HUES}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-4)
        assert max(scores, key=lambda name: scores[name]) == row["prediction"]


@pytest.mark.parametrize("name", ["proto", "maml"])
def test_the_scores_are_those_of_evaluate_for_the_same_episode(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trained: Trained = request.getfixturevalue(name)
    rows = answers(trained.run_dir, trained.support, trained.queries, tmp_path / "p.csv")
    truth = [Path(row["image"]).stem.split("-")[1] for row in rows]
    right = [row["prediction"] == label for row, label in zip(rows, truth, strict=True)]
    losses = [-np.log(float(row[label])) for row, label in zip(rows, truth, strict=True)]
    assert np.mean(right) == pytest.approx(trained.accuracy)
    assert np.mean(losses) == pytest.approx(trained.loss, abs=1e-4)


def test_the_weights_alone_give_the_same_answers_as_the_folder(maml: Trained, tmp_path: Path) -> None:
    whole = answers(maml.run_dir, maml.support, maml.queries, tmp_path / "a.csv")
    shutil.copyfile(maml.run_dir / "model.safetensors", tmp_path / "model.safetensors")
    assert answers(tmp_path / "model.safetensors", maml.support, maml.queries, tmp_path / "b.csv") == whole


def test_shots_may_differ_and_there_may_be_more_ways_without_a_head(proto: Trained, tmp_path: Path) -> None:
    hues = {f"class{c}": c / 8 for c in range(8)}
    write_classes(tmp_path / "classes", hues, {name: 1 + c % 3 for c, name in enumerate(hues)}, (SIZE, SIZE))
    for name, hue in hues.items():
        (tmp_path / "new").mkdir(exist_ok=True)
        photo(hue, 5, (SIZE, SIZE)).save(tmp_path / "new" / f"{name}.png")
    rows = answers(proto.run_dir, tmp_path / "classes", tmp_path / "new", tmp_path / "p.csv")
    assert [row["prediction"] for row in rows] == sorted(hues)


def test_one_picture_is_answered_as_among_many(proto: Trained, tmp_path: Path) -> None:
    support, images = own_pictures(tmp_path)
    many = answers(proto.run_dir, support, images, tmp_path / "many.csv")
    (one,) = answers(proto.run_dir, support, images / "mint-1.png", tmp_path / "one.csv")
    assert one == next(row for row in many if row["image"] == "mint-1.png")
    transductive = answers(proto.run_dir, support, images, tmp_path / "all.csv", "--bn_mode=transductive")
    assert transductive != many


# ---- heads ----------------------------------------------------------------------------------------------------------


def test_a_head_serves_fewer_classes_and_says_so(
    maml: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hues = {"red": 0.0, "green": 0.33, "blue": 0.66}
    write_classes(tmp_path / "classes", hues, {"red": 3, "green": 1, "blue": 2}, (SIZE, SIZE))
    (tmp_path / "new").mkdir()
    for name, hue in hues.items():
        photo(hue, 9, (SIZE, SIZE)).save(tmp_path / "new" / f"{name}.png")
    rows = answers(maml.run_dir, tmp_path / "classes", tmp_path / "new", tmp_path / "p.csv")
    assert list(rows[0]) == ["image", "prediction", *sorted(hues)]
    assert all(sum(float(row[name]) for name in hues) == pytest.approx(1, abs=1e-4) for row in rows)
    assert "3 classes and a head that was trained for 5" in capsys.readouterr().err


def test_a_head_has_no_start_for_more_classes(maml: Trained, tmp_path: Path, fails: Callable[..., str]) -> None:
    write_classes(tmp_path / "classes", {f"c{c}": c / 6 for c in range(6)}, 1, (SIZE, SIZE))
    line = fails(f"--run_dir={maml.run_dir}", f"--support={tmp_path / 'classes'}", f"--images={tmp_path / 'classes'}")
    assert "6 classes given, but the head of MAML has 5 outputs" in line and "--n_way=6" in line


# ---- one line each --------------------------------------------------------------------------------------------------


def test_broken_and_resized_pictures_get_one_line_each(
    proto: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support, images = own_pictures(tmp_path)
    (images / "broken.jpg").write_bytes(b"no picture")
    rows = answers(proto.run_dir, support, images, tmp_path / "p.csv")
    assert len(rows) == 10 and not any(row["image"] == "broken.jpg" for row in rows)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "broken.jpg" in line and line.startswith("left out: ")] == lines[:1]
    assert lines[1:] == ["note: 20 of 25 pictures are not 16x16 pixels and are resized as a whole to that"]


def test_a_class_without_a_picture_is_named(proto: Trained, tmp_path: Path, fails: Callable[..., str]) -> None:
    support, images = own_pictures(tmp_path)
    (support / "nothing").mkdir()
    line = fails(f"--run_dir={proto.run_dir}", f"--support={support}", f"--images={images}")
    assert "no picture in nothing" in line


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"run_dir": "absent"}, "absent: has no model.json"),
        ({"support": "absent"}, "--support=absent: is not a folder"),
        ({"images": "empty"}, "--images=empty: has no pictures"),
        ({"images": "absent"}, "--images=absent: does not exist"),
        ({"output": "empty"}, "--output=empty: is a folder"),
        ({"output": "answers.html"}, "--output=answers.html: is the name of the page"),
        ({"output": "broken.png/p.csv"}, "--output=broken.png"),
        ({"bn_mode": "running"}, "bn_mode=running: this learner has transductive, support"),
        ({"checkpoint": "first"}, "--checkpoint=first: first does not exist"),
    ],
)
def test_what_does_not_fit_is_named(
    proto: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str],
    change: dict[str, str], complaint: str,
) -> None:  # fmt: skip
    support, images = own_pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    flags = {"run_dir": proto.run_dir, "support": support, "images": images, **change}
    assert complaint in fails(*(f"--{name}={value}" for name, value in flags.items()))


def test_a_class_called_as_a_column_is_refused(proto: Trained, tmp_path: Path, fails: Callable[..., str]) -> None:
    support, images = own_pictures(tmp_path)
    (support / "mint").rename(support / "prediction")
    line = fails(f"--run_dir={proto.run_dir}", f"--support={support}", f"--images={images}")
    assert "a class is called prediction" in line


def test_a_broken_labelled_picture_is_an_error(proto: Trained, tmp_path: Path, fails: Callable[..., str]) -> None:
    support, images = own_pictures(tmp_path)
    (support / "mint" / "9.png").write_bytes(b"no picture")
    line = fails(f"--run_dir={proto.run_dir}", f"--support={support}", f"--images={images}")
    assert str(Path("mint", "9.png")) in line and "cannot be read as an image" in line


# ---- what a run says of its model -----------------------------------------------------------------------------------


def test_the_run_and_its_weights_carry_the_input_specification(proto: Trained) -> None:
    from safetensors import safe_open

    card = json.loads((proto.run_dir / "model.json").read_text(encoding="utf-8"))
    expected = {"image_size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3, "resample": "LANCZOS", "upright": True}
    assert card["inputs"] == {**expected, "invert": False}
    assert (card["algorithm"], card["n_way"], card["meta_step"]) == ("ProtoNet", WAYS, 10)
    with safe_open(proto.run_dir / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["few_shot_nas"]) == card


def test_the_page_shows_the_least_certain_answer_first(proto: Trained, tmp_path: Path) -> None:
    support, images = own_pictures(tmp_path)
    rows = answers(proto.run_dir, support, images, tmp_path / "p.csv")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    places = {row["image"]: page.index(f">{row['image']}</figcaption>") for row in rows}
    certainty = {row["image"]: max(float(row[name]) for name in HUES) for row in rows}
    shown = sorted(places, key=lambda name: places[name])
    assert [certainty[name] for name in shown] == sorted(certainty.values())
    assert page.count("data:image/jpeg;base64,") == 10 and "http" not in page


def test_the_library_gives_the_same_answers(proto: Trained, tmp_path: Path) -> None:
    support, images = own_pictures(tmp_path)
    rows = answers(proto.run_dir, support, images, tmp_path / "p.csv")
    learner = load(proto.run_dir)
    files = [(place, file) for place, name in enumerate(sorted(HUES)) for file in sorted((support / name).iterdir())]
    adapted = learner.adapt(learner.inputs.read([f for _, f in files]), torch.tensor([label for label, _ in files]))
    predicted = adapted.predict(learner.inputs.read([images / row["image"] for row in rows]))
    assert [sorted(HUES)[label] for label in predicted.tolist()] == [row["prediction"] for row in rows]
