"""A table of a tiny search, from the command line: complete, continued bit for bit, and one line for what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from few_shot_nas.data.replicates import draw_replicates
from few_shot_nas.data.sampler import image_tensor, materialise
from few_shot_nas.episode import tasks
from few_shot_nas.tabular.reward_table import SCORES, RewardTable, load_table
from training import assemble, run_experiment
from training.tabular import stage0

FILL = "--run_dir=s --tasks=5 --replicates=2".split()


pytestmark = pytest.mark.usefixtures("tiny_search")


def arrays(table: RewardTable) -> dict[str, bytes]:
    return {name: getattr(table, name).tobytes() for name in (*SCORES, "embedding", "source", "decisions")}


def test_a_table_is_complete_and_comes_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage0.main(FILL) == 0
    table = load_table(Path("s/stage0/table_val.npz"))
    assert table.shape == (25, 5, 2) and np.isfinite([getattr(table, name) for name in SCORES]).all()
    assert table.decisions[7].tolist() == [1, 2] and np.isfinite(table.embedding).all()
    facts = json.loads(Path("s/stage0/stage0_val.json").read_text(encoding="utf-8"))
    assert facts["embedding_dim"] == table.embedding.shape[1]
    assert (facts["split"], facts["architectures"], facts["head"], facts["tasks"]) == ("val", 25, "prototype", 5)
    # killed within the third task, and run again
    monkeypatch.setattr(stage0, "CHUNK", 2)
    entries, calls = stage0.Filler.entries, [0]

    def killed(filler: stage0.Filler, task: object) -> object:
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return entries(filler, task)  # type: ignore[arg-type]

    monkeypatch.setattr(stage0.Filler, "entries", killed)
    with pytest.raises(KeyboardInterrupt):
        stage0.main([*FILL, "--output=again"])
    assert load_table(Path("again/table_val.npz"), complete=False).done == 2
    assert stage0.main([*FILL, "--output=again"]) == 0
    assert calls[0] == 6 + 6  # the two tasks before the last write are not run again
    assert arrays(load_table(Path("again/table_val.npz"))) == arrays(table)


def test_the_linear_head_is_the_child_of_the_search() -> None:
    assert stage0.main([*FILL, "--tasks=1", "--replicates=1", "--head=linear", "--split=test"]) == 0
    table = load_table(Path("s/stage0/table_test.npz"))
    assert np.isfinite(table.loss).all() and np.isnan(table.loo_loss).all()
    checkpoint = Path("s/checkpoints/last.ckpt")
    parts = stage0.build(Path("s"), checkpoint, stage0.flags_of_run(Path("s"), []))
    assemble.load_weights(parts.net, str(checkpoint))
    batch = draw_replicates(parts.source, "test", seed=0, task_id=0, n_way=3, k_shot=2, n_query=2, replicates=1)
    images = image_tensor(parts.source.split("test"))
    episode = materialise(batch, images, parts.source.mean, parts.source.std)
    task = next(tasks(episode))
    genotype = parts.net.space.decode((1, 2))
    params = parts.module.supernet_children.fast_weights(task, genotype, training=False, second_order=False)
    logits = parts.module.supernet_children.logits(
        task, task.query_x, genotype, params, training=False, bn_mode="transductive"
    )
    loss = torch.nn.functional.cross_entropy(logits, task.query_y)
    assert table.loss[7, 0, 0] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("head", ["prototype", "ridge"])
def test_a_linear_table_of_a_closed_form_is_refused(
    tiny_search: list[str], head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_experiment.main([*tiny_search, f"--head={head}", "--run_dir=closed"]) == 0
    with pytest.raises(SystemExit) as ended:
        stage0.main(["--run_dir=closed", "--tasks=1", "--replicates=1", "--head=linear"])
    assert ended.value.code == 2
    assert f"closed was trained with head={head}; give --head=prototype, or" in capsys.readouterr().err
    assert not Path("closed/stage0").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--run_dir=gone"], "--run_dir=gone: has no config.yaml"),
        ([*FILL, "--output=/proc/x"], "--output=/proc/x: cannot be written to"),
        ([*FILL, "--tasks=0"], "--tasks=0: must be at least 1"),
        ([*FILL, "--n_query=3"], "2 replicates of 2 + 3 images per class"),
        ([*FILL, "--n_way=4"], "was trained for 3 ways"),
        ([*FILL, "--checkpoint=gone"], "--checkpoint=gone: gone does not exist"),
    ],
)
def test_a_mistake_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        stage0.main(argv)
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and message in lines[0]


def test_a_gpu_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        stage0.main([*FILL, "--device=cuda"])
    assert ended.value.code == 2
    assert "--device=cuda: this machine has no GPU that torch can use" in capsys.readouterr().err


def test_more_tasks_go_on_from_fewer_and_fewer_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage0.main([*FILL, "--tasks=2", "--output=whole"]) == 0
    assert stage0.main([*FILL, "--tasks=1", "--output=grown"]) == 0
    drawn: list[int] = []
    whole = stage0.Filler.episode
    monkeypatch.setattr(
        stage0.Filler, "episode", lambda self, task_id: drawn.append(task_id) or whole(self, task_id)  # type: ignore
    )
    assert stage0.main([*FILL, "--tasks=2", "--output=grown"]) == 0
    assert drawn == [0, 1]  # task 0 for the length of the embedding only
    assert arrays(load_table(Path("grown/table_val.npz"))) == arrays(load_table(Path("whole/table_val.npz")))
    with pytest.raises(SystemExit):
        stage0.main([*FILL, "--tasks=1", "--output=grown"])
    assert "table_val.npz holds another table (tasks=2 there, 1 here)" in capsys.readouterr().err


def test_a_space_that_is_too_large_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("few_shot_nas.tabular.reward_table.MAX_ARCHITECTURES", 24)
    with pytest.raises(SystemExit):
        stage0.main(FILL)
    assert "space chain with cells=2 has 25 architectures, a table holds at most 24" in capsys.readouterr().err
