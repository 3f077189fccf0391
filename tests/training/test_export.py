"""Files of embedding networks. Truth: features of the learner itself, and the two runtimes that read the files."""

import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from few_shot_nas.loading import load
from few_shot_nas.meta.features import extract
from tests.training.photos import write_classes
from training import export, run_experiment

TINY = (
    "--n_way=3 --n_query=4 --meta_batch_size=2 --max_meta_steps=2 --val_every=2 --val_episodes=2 --test_episodes=2"
).split()
pytestmark = pytest.mark.usefixtures("workplace")


def trained(*flags: str) -> None:
    assert run_experiment.main([*TINY, *flags, "--run_dir=a"]) == 0
    write_classes(Path("classes"), {"red": 0.0, "blue": 0.6}, 3, (20, 16))


def about(text: str) -> None:
    found = json.loads(text)
    assert found["class_names"] == ["blue", "red"] and found["normalisation"] == "support" and found["n_way"] == 3
    assert found["inputs"]["image_size"] == 16 and found["inputs"]["mean"] == [0.5]


def expected(images: torch.Tensor, **inputs: object) -> torch.Tensor:
    """Features behind the support set, by the learner."""
    learner = load("a")
    files = [file for name in ("blue", "red") for file in sorted(Path("classes", name).iterdir())]
    support = learner.inputs.read(files)
    with torch.no_grad():
        both = extract(learner.module.net, torch.cat([support, images]), stat_rows=len(support), **inputs)
    return both[len(support) :]


@pytest.mark.slow
def test_an_onnx_file_gives_the_features_of_the_network() -> None:
    trained("--algorithm=ProtoNet", "--width=4")
    assert export.main(["--run_dir=a", "--support=classes", "--output=deep/e.onnx"]) == 0
    model = onnx.load("deep/e.onnx")
    onnx.checker.check_model(model)
    about({entry.key: entry.value for entry in model.metadata_props}[export.KEY])
    images = torch.randn(5, 1, 16, 16)
    session = onnxruntime.InferenceSession("deep/e.onnx", providers=["CPUExecutionProvider"])
    (features,) = session.run(["features"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(features), expected(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_pytorch_file_gives_the_features_of_the_network() -> None:
    trained("--algorithm=MAMLPlusPlus", "--width=4")
    assert export.main(["--run_dir=a", "--support=classes", "--format=torch"]) == 0
    extra = {export.KEY: ""}
    program = torch.export.load("a/embedding.pt2", extra_files=extra)
    about(extra[export.KEY])
    images = torch.randn(5, 1, 16, 16)
    torch.testing.assert_close(program.module()(images), expected(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_search_exports_the_architecture_that_it_found() -> None:
    search = "--algorithm=RandomSearch --space=chain --cells=2 --channels=2 --random_archs=2 --derive_candidates=1"
    trained(*search.split(), "--derive_episodes=1", "--rewards_per_task=1")
    assert export.main(["--run_dir=a", "--support=classes", "--format=torch"]) == 0
    images = torch.randn(4, 1, 16, 16)
    features = torch.export.load("a/embedding.pt2").module()(images)
    torch.testing.assert_close(features, expected(images, genotype=load("a").module.genotype), rtol=1e-4, atol=1e-4)


def test_without_pictures_the_layer_is_named_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    trained("--algorithm=ProtoNet", "--width=4")
    with pytest.raises(SystemExit) as ended:
        export.main(["--run_dir=a"])
    assert ended.value.code == 2
    assert "body.1 keeps no running statistics" in capsys.readouterr().err
    assert not list(Path("a").glob("embedding*"))


def test_a_folder_is_no_file_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    write_classes(Path("classes"), {"red": 0.0, "blue": 0.6}, 1, (20, 16))
    with pytest.raises(SystemExit) as ended:
        export.main(["--run_dir=a", "--support=classes", "--output=classes"])
    assert ended.value.code == 2 and "--output=classes: is a folder" in capsys.readouterr().err


def test_features_that_differ_are_a_defect() -> None:
    embedding = torch.nn.Identity()
    images = torch.ones(2, 3)
    export.check_same(images * (1 + 1e-5), embedding, images)
    with pytest.raises(RuntimeError, match="differs .* by 1.0e-03"):
        export.check_same(images * 1.001, embedding, images)
