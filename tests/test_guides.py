"""The code of docs/add-your-own.md and the first commands of the README work as they are printed.

Truth: the contracts that the package's own classes keep, and the files that a reader is promised.
"""

import csv
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from few_shot_nas.algorithms.settings import InnerLoop
from few_shot_nas.episode import Task
from few_shot_nas.errors import InputError
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.mixed_supernet import MixedSupernet
from few_shot_nas.spaces.supernet import Supernet
from tests.training.photos import write_classes
from training.run_directory import OWN

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = ROOT / "docs" / "add-your-own.md"
BLOCK = re.compile(r"```python\n# (few_shot_nas/\S+\.py)\n(.*?)```", re.DOTALL)
BLOCKS = dict(BLOCK.findall(GUIDE.read_text(encoding="utf-8")))


@pytest.fixture
def guide(tmp_path: Path):
    """Return a function that writes a block of the guide to a file and imports it."""

    def load(path: str) -> ModuleType:
        file = tmp_path / Path(path).name
        file.write_text(BLOCKS[path], encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"guide_{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_every_block_is_checked_here() -> None:
    assert {path.split("/")[1] for path in BLOCKS} == {"data", "models", "algorithms", "spaces", "proxies"}
    assert len(BLOCKS) == 8


def test_the_dataset_packs_folders_and_refuses_an_empty_one(guide, tmp_path: Path) -> None:
    folders = guide("few_shot_nas/data/sources/folders.py").Folders
    for split, name in (("train", "cat"), ("train", "dog"), ("val", "owl")):
        folder = tmp_path / "data" / split / name
        folder.mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (10, 12), (40 * index, 0, len(name))).save(folder / f"{index}.png")
    source = folders(str(tmp_path / "data"), str(tmp_path / "cache"), image_size=8)
    source.prepare()
    train = source.split("train")
    assert train.class_names == ("cat", "dog") and train.starts.tolist() == [0, 3, 6]
    np.testing.assert_array_equal(train.images[:, 0, 0, 0], [0, 40, 80] * 2)
    assert source.has_split("val") and not source.has_split("test")
    with pytest.raises(InputError, match="no images in .*nowhere"):
        folders(str(tmp_path / "nowhere"), str(tmp_path / "cache")).prepare()


def test_the_network_gives_features_and_logits(guide) -> None:
    net = guide("few_shot_nas/models/conv2.py").Conv2(5, 1, 12, width=8)
    x = torch.randn(4, 1, 12, 12)
    assert net.features(x).shape == (4, net.feature_dim)
    torch.testing.assert_close(net(x), net.head(net.features(x)))


def test_the_algorithm_adapts_the_head_and_learns_the_body(guide) -> None:
    net = guide("few_shot_nas/models/conv2.py").Conv2(2, 1, 8, width=4)
    module = guide("few_shot_nas/algorithms/anil.py").ANIL(net, inner=InnerLoop(inner_lr=0.5, inner_steps=2))
    labels = torch.tensor([0, 1])
    task = Task(torch.randn(2, 1, 8, 8), labels, torch.randn(6, 1, 8, 8), labels.repeat(3))
    assert set(module.adapted_head(task, training=True)) == {"head.weight", "head.bias"}
    loss, scalars = module.task_loss(task)
    assert scalars["train/loss"] is loss and 0 <= float(scalars["train/accuracy"]) <= 1
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    assert all(gradient is not None for gradient in gradients)
    with torch.no_grad():
        assert {mode: logits.shape for mode, logits in module.task_logits(task).items()} == {
            "transductive": (6, 2),
            "support": (6, 2),
        }


def test_the_space_goes_there_and_back_and_makes_a_supernet(guide, monkeypatch: pytest.MonkeyPatch) -> None:
    space_class = guide("few_shot_nas/spaces/kernels_only.py").KernelsOnly
    monkeypatch.setitem(SPACES, "kernels_only", space_class)
    space = space_class(channels=4, cells=3)
    assert space.size() == 8
    assert all(space.encode(space.decode(decisions)) == decisions for decisions in space.enumerate())
    net = Supernet(5, 1, 16, space="kernels_only", channels=4, cells=2)
    assert net(torch.randn(3, 1, 16, 16), net.space.decode((0, 1))).shape == (3, 5)
    with pytest.raises(InputError, match="space kernels_only with cells=3 has one edge"):
        space._decisions_of(SPACES["darts_fewshot"](4, 1, 1).decode((0, 0, 0)))


def small_task(size: int = 16) -> Task:
    labels = torch.tensor([0, 1])
    return Task(torch.randn(2, 1, size, size), labels, torch.randn(6, 1, size, size), labels.repeat(3))


def test_the_metric_learner_calls_a_support_image_by_its_own_class(guide) -> None:
    net = guide("few_shot_nas/models/conv2.py").Conv2(2, 1, 16, width=4)
    module, task = guide("few_shot_nas/algorithms/cosine_net.py").CosineNet(net), small_task()
    known = task._replace(query_x=task.support_x, query_y=task.support_y)
    with torch.no_grad():
        logits = module.task_logits(known)["transductive"]
    torch.testing.assert_close(logits.diagonal(), torch.full((2,), 10.0))
    assert module.task_loss(task)[0].requires_grad


def test_the_search_by_gradient_learns_alphas_of_the_cells_of_the_guide(guide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "three_ops", guide("few_shot_nas/spaces/three_ops.py").ThreeOps)
    net = MixedSupernet(2, 1, 16, space="three_ops", channels=2, cells=1, nodes=1)
    module = guide("few_shot_nas/algorithms/alpha_maml.py").AlphaMAML(net)
    gradients = torch.autograd.grad(module.task_loss(small_task())[0], list(net.alphas.values()))
    assert all(gradient.any() for gradient in gradients) and module.searches
    with torch.no_grad():
        for own in net.alphas.values():
            own.zero_()[:, 2] = 5.0  # none comes first
    assert {edge.op for _, edges in module.decoded(None)[0].edges for edge in edges} == {"sep_conv_3x3"}


def test_the_proxy_is_the_spread_of_the_features(guide) -> None:
    net, task = guide("few_shot_nas/models/conv2.py").Conv2(2, 1, 16, width=4).eval(), small_task()
    proxy = guide("few_shot_nas/proxies/feature_spread.py").FEATURE_SPREAD
    assert proxy.reward(net, task) == pytest.approx(float(net.features(task.support_x).std()))


def test_the_readme_lists_every_file_of_a_run() -> None:
    table = README.split("A run leaves in its folder:")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    listed = {name.split("/")[0] for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert set(OWN) | {".lock"} <= listed


#: What makes commands short, by the program's name.
SHORT = {
    "run_experiment": "--image_size=16 --meta_batch_size=2 --max_meta_steps=4 --val_every=2 --val_episodes=4 "
    "--test_episodes=6 --cache_dir=cache --accelerator=cpu",
    "evaluate": "--episodes=8",
}


def commands(text: str) -> list[list[str]]:
    """Return the words of the programs that the bash blocks of a text start."""
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("python ")]


def run(program: str, *words: str) -> None:
    """Run one command in this process, made short."""
    name = Path(program).stem
    assert importlib.import_module(f"training.{name}").main([*words, *SHORT.get(name, "").split()]) == 0


@pytest.mark.slow
def test_the_five_commands_of_the_readme_work_on_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "photos", {f"class{hue}": hue / 15 for hue in range(15)}, 8, (20, 24))
    write_classes(tmp_path / "my_classes", {"red": 0.0, "green": 0.33, "blue": 0.66}, 3, (30, 20))
    write_classes(tmp_path / "new_photos", {"some": 0.33}, 4, (16, 16))
    five = commands(README.split("## Your own images in five commands")[1].split("\n## ")[0])
    assert [Path(words[0]).stem for words in five] == ["run_experiment", "report", "evaluate", "predict", "compare"]
    second = [word for word in five[0] if not word.startswith(("--algorithm", "--run_dir"))]
    for words in [*five[:4], [*second, "--algorithm=MAML", "--run_dir=runs/maml"], five[4]]:
        run(*words)
    with (tmp_path / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and set(rows[0]) == {"image", "prediction", "blue", "green", "red"}
    for name in ("runs/mine/report.html", "runs/report.html", "predictions.html", "runs/compare/compare.html"):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.slow
def test_the_commands_of_the_tutorial_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        run(*words)
    for name in ("runs/searched/report.html", "runs/report.html", "runs/compare/compare.html"):
        assert (tmp_path / name).stat().st_size > 0
    files = (tmp_path / "runs" / name / "genotype.json" for name in ("search", "searched"))
    found, trained = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    assert found == trained


@pytest.mark.slow
def test_the_commands_for_own_images_and_new_ones_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "photos", {f"class{hue}": hue / 15 for hue in range(15)}, 8, (20, 24))
    write_classes(tmp_path / "my_classes", {"red": 0.0, "green": 0.33, "blue": 0.66}, 3, (30, 20))
    write_classes(tmp_path / "new_photos", {"some": 0.33}, 2, (16, 16))
    pages = [(ROOT / "docs" / "how-to" / name).read_text(encoding="utf-8") for name in ("own-images.md", "predict.md")]
    own, new = map(commands, pages)
    assert [Path(words[0]).stem for words in [*own[3:], *new]] == ["run_experiment", "evaluate", "predict", "export"]
    run(*own[0][:-1], "--run_dir=runs/other")
    for words in [*own, *new]:
        run(*words)
    results = json.loads((tmp_path / "runs/fine/results.json").read_text(encoding="utf-8"))
    assert results["regime"] == "inherited"
    for name in ("predictions.csv", "predictions.html", "embedding.onnx"):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.slow
def test_the_sweep_of_the_page_runs_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the file's program is
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    first, *_ = commands((ROOT / "docs" / "how-to" / "sweeps.md").read_text(encoding="utf-8"))
    assert first == ["training/sweep.py", "training/sweeps/maml_glyphs.yaml", "--count=20"]
    short = SHORT["run_experiment"].replace("cache_dir=cache", f"cache_dir={tmp_path}").split()
    run(*first[:2], "--count=3", f"--output={tmp_path / 'sweep'}", *short)
    with (tmp_path / "sweep" / "sweep.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 3
    assert (tmp_path / "sweep" / "report.html").stat().st_size > 0


@pytest.mark.slow
def test_the_commands_that_resume_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start, again, longer = commands((ROOT / "docs" / "how-to" / "resume.md").read_text(encoding="utf-8"))
    run(*start)
    run(*start)
    run(*again)
    assert longer[-1] == "--max_meta_steps=4000"
    monkeypatch.setitem(SHORT, "run_experiment", SHORT["run_experiment"].replace("steps=4", "steps=6"))
    run(*longer)
    results = json.loads((tmp_path / "runs/long/results.json").read_text(encoding="utf-8"))
    assert results["meta_steps"] == 6 and len(results["legs"]) >= 2
