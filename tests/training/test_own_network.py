"""A network of the user's own by a dotted path. Truth: its weights, which the test computes with by itself."""

from pathlib import Path

import pytest
import torch
from torch import nn

from few_shot_nas.errors import InputError
from few_shot_nas.loading import load
from training import evaluate, run_experiment
from training.class_tables import user_class

TINY = (
    "--algorithm=ProtoNet --n_way=3 --n_query=4 --meta_batch_size=2 --max_meta_steps=2 --val_every=2 --val_episodes=2 "
    "--test_episodes=3 --hidden=6 --run_dir=a"
).split()
CODE = '''
from torch import nn

class Flat(nn.Module):
    """One hidden layer.

    Args:
        n_way: classes.
        in_channels: channels.
        image_size: height and width.
        hidden: width of the layer.
    """

    def __init__(self, n_way: int, in_channels: int, image_size: int, hidden: int = 8) -> None:
        super().__init__()
        self.feature_dim = hidden
        self.body = nn.Linear(in_channels * image_size**2, hidden)
        self.head = nn.Linear(hidden, n_way)

    def features(self, x):
        return self.body(x.flatten(1)).relu()

    def forward(self, x):
        return self.head(self.features(x))

class Normed(Flat):
    def __init__(self, n_way: int, in_channels: int, image_size: int, hidden: int = 8) -> None:
        super().__init__(n_way, in_channels, image_size, hidden)
        self.norm = nn.BatchNorm1d(hidden)

class Bare(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()

not_a_class = 3
'''
pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def package(tmp_path: Path, workplace: None) -> str:
    """Write a package into the working directory and give its name, another one in every test."""
    name = f"own_{tmp_path.name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(CODE, encoding="utf-8")
    return name


def test_it_is_trained_tested_and_loaded_again(package: str) -> None:
    assert run_experiment.main([*TINY, f"--model_class={package}.Flat"]) == 0
    assert evaluate.main(["--run_dir=a", "--episodes=2"]) == 0
    own = user_class(f"{package}.Flat")
    learner = load("a", model_class=own)
    assert isinstance(learner.module.net, nn.Module) and learner.module.net.feature_dim == 6
    images = torch.rand(7, 1, 16, 16)
    adapted = learner.adapt(images[:4], torch.tensor([0, 0, 1, 1]))
    features = (images.flatten(1) @ learner.module.net.body.weight.T + learner.module.net.body.bias).relu()
    centres = torch.stack([features[:2].mean(0), features[2:4].mean(0)])
    expected = -torch.cdist(features[4:], centres).square()
    torch.testing.assert_close(adapted.logits(images[4:]), expected, rtol=1e-4, atol=1e-4)


def test_no_file_makes_the_loader_import_a_module(package: str) -> None:
    assert run_experiment.main([*TINY, f"--model_class={package}.Flat"]) == 0
    for place in ("a", "a/model.safetensors"):
        with pytest.raises(InputError, match=f"the network is {package}.Flat, a class of your own"):
            load(place)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("Absent", "cannot be imported"),
        ("not_a_class", "is a int, needed is a class"),
        ("Bare", "its constructor takes classes; needed are n_way, in_channels, image_size"),
        ("Normed", "norm is torch's BatchNorm1d"),
    ],
)
def test_what_cannot_be_used_is_named(
    package: str, capsys: pytest.CaptureFixture[str], name: str, complaint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_experiment.main([*TINY, f"--model_class={package}.{name}"])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert complaint in line and not Path("a").exists()
