"""The code of docs/add-your-own.md works as it is printed. Truth: the contracts that the package's own classes keep."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from few_shot_nas.algorithms.settings import InnerLoop
from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.supernet import Supernet

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "add-your-own.md"
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
    assert {path.split("/")[1] for path in BLOCKS} == {"data", "models", "algorithms", "spaces"}
    assert len(BLOCKS) == 4


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
    task = Episode(torch.randn(2, 1, 8, 8), labels, torch.randn(6, 1, 8, 8), labels.repeat(3))
    assert set(module.adapted(task, training=True)) == {"head.weight", "head.bias"}
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
    assert all(space.encode(space.decode(choices)) == choices for choices in space.enumerate())
    net = Supernet(5, 1, 16, space="kernels_only", channels=4, cells=2)
    assert net(torch.randn(3, 1, 16, 16), net.space.decode((0, 1))).shape == (3, 5)
    with pytest.raises(InputError, match="space kernels_only with cells=3 has one edge"):
        space._choices(SPACES["darts_fewshot"](4, 1, 1).decode((0, 0, 0)))
