"""What validations watch: the gap to training classes and early stopping; neither touches training, both survive it."""

import numpy as np
import pytest
import torch
from torch import nn

from few_shot_nas.data.episodic import OWN_TASKS
from few_shot_nas.data.sampler import draw_task, image_tensor, materialise
from few_shot_nas.episode import tasks
from few_shot_nas.errors import InputError
from few_shot_nas.forward_context import forward_context
from few_shot_nas.runtime.checkpoint import load_checkpoint

#: One of each kind: through an inner loop, by features, flat, a search.
SOME = pytest.mark.parametrize("name", ["MAML", "ProtoNet", "RFS", "MAMLENAS"])


def fit(make_trainer, module, data, folder="run", **options):
    """Train and return the rows that were logged."""
    rows = []
    module.log_row = lambda row: rows.append({"meta_step": module.meta_step, **row})
    trainer, checkpoint = make_trainer(folder, **options.pop("trainer", {}))
    trainer.fit(module, datamodule=data, **options)
    return rows, checkpoint


def validations(rows):
    return [row for row in rows if "val/accuracy" in row]


@SOME
def test_gap_episodes_are_fixed_tasks_of_training_classes_scored_as_in_validation(
    name, make_module, make_data, make_trainer, blobs
):
    plain, watched = make_module(name), make_module(name)
    rows, _ = fit(make_trainer, plain, make_data(), "plain")
    data = make_data(gap_episodes=3)
    seen, _ = fit(make_trainer, watched, data, "watched")
    for key, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[key]), key
    for row, other in zip(rows, seen, strict=True):
        same = {key for key in row if key not in ("train/seconds", "val/gap")}
        assert {key: other[key] for key in same} == {key: row[key] for key in same}
        assert "train/eval_accuracy" not in row

    split, shape = blobs.split("train"), {"n_way": 3, "k_shot": 1, "n_query": 5}
    plans = [draw_task(split, seed=3, split_name="train", task_id=OWN_TASKS + i, **shape) for i in range(3)]
    watched.eval()
    accuracies, losses = [], []
    with torch.no_grad():
        for task in tasks(materialise(plans, image_tensor(split), blobs.mean, blobs.std)):
            logits = watched.task_logits(task)[watched.outer.bn_mode]
            accuracies.append((logits.argmax(1) == task.query_y).double().mean().item())
            losses.append(-logits.log_softmax(1)[torch.arange(15), task.query_y].mean().item())
    last = validations(seen)[-1]
    assert last["meta_step"] == 6
    assert last["train/eval_accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert last["train/eval_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    for row in validations(seen):
        assert row["val/gap"] == row["train/eval_accuracy"] - row["val/accuracy"]


@SOME
def test_without_gap_episodes_nothing_more_is_scored_and_the_gap_is_that_to_the_training_tasks(
    name, make_module, make_data, make_trainer
):
    module, data = make_module(name), make_data()

    def gap_loader():
        raise AssertionError("gap episodes were asked for")

    data.gap_loader = gap_loader
    rows, _ = fit(make_trainer, module, data)
    trained = {row["meta_step"]: row["train/accuracy"] for row in rows if "train/accuracy" in row}
    for row, steps in zip(validations(rows), ((1, 2, 3, 4), (5, 6)), strict=True):
        if name == "RFS":
            assert "val/gap" not in row
        else:
            expected = np.mean([trained[step] for step in steps]) - row["val/accuracy"]
            assert row["val/gap"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["MAML"])
def test_accuracies_by_inner_step_are_means_over_the_validation(name, make_module, make_data, make_trainer):
    module = make_module(name)
    rows, _ = fit(make_trainer, module, make_data())
    steps = range(module.inner.steps(training=False) + 1)
    for row in validations(rows):
        assert [key for key in row if "step" in key] == ["meta_step", *(f"val/accuracy_step{s}" for s in steps)]
        assert row[f"val/accuracy_step{steps[-1]}"] == row["val/accuracy"]
    module.eval()
    with torch.no_grad():
        found = [module.watched_logits(task)[1] for task in tasks(make_data().episode("val", range(3)))]
    for key in found[0]:
        assert validations(rows)[-1][f"val/{key}"] == pytest.approx(np.mean([one[key] for one in found]), abs=1e-12)


@pytest.mark.parametrize("name", ["ProtoNet"])
def test_tasks_of_another_number_of_ways_are_not_compared(name, make_module, make_data, make_trainer):
    rows, _ = fit(make_trainer, make_module(name), make_data(train_way=5))
    assert validations(rows) and not any("val/gap" in row for row in rows)
    rows, _ = fit(make_trainer, make_module(name), make_data(train_way=5, gap_episodes=2), "gap")
    assert all("val/gap" in row for row in validations(rows))


def constant(module):
    """Make every validation score alike."""
    module.task_logits = lambda task: {mode: torch.eye(3)[task.query_y] for mode in module.bn_modes}
    module.watched_logits = lambda task: (module.task_logits(task), {})
    return module


def with_patience(make_module, patience, max_meta_steps=20):
    module = constant(make_module("MAML", max_meta_steps))
    object.__setattr__(module.outer, "patience", patience)
    return module


@pytest.mark.parametrize(("patience", "stopped"), [(1, 4), (2, 6), (None, 12)])
def test_training_stops_after_so_many_validations_without_a_better_one(
    patience, stopped, make_module, make_data, make_trainer
):
    module = with_patience(make_module, patience, 12)
    rows, checkpoint = fit(make_trainer, module, make_data(12, val_every=2))
    assert module.meta_step == stopped
    assert module.stopped_early is (stopped < 12)
    assert [row["meta_step"] for row in validations(rows)] == list(range(2, stopped + 1, 2))
    assert load_checkpoint(checkpoint.last_path)["few_shot_nas"]["meta_step"] == stopped


def test_better_validations_start_the_count_anew(make_module, make_data, make_trainer):
    module, scores = make_module("MAML", 20), iter([0.1, 0.5, 0.5, 0.3, 0.6, 0.2, 0.2, 0.6, 0.9])
    object.__setattr__(module.outer, "patience", 3)
    end = type(module).on_validation_epoch_end

    def scripted():
        score = next(scores)
        module.task_scores.take = lambda: [
            {"task_id": 0, "bn_mode": mode, "accuracy": score, "loss": 1.0, "finite": True}
            for mode in module.bn_modes
        ]
        end(module)

    module.on_validation_epoch_end = scripted
    fit(make_trainer, module, make_data(20, val_every=2))
    assert module.meta_step == 2 * 8


@pytest.mark.parametrize("save_every", [1, 3, 4])
def test_a_killed_run_stops_where_the_whole_one_does_and_logs_the_same(
    save_every, make_module, make_data, make_trainer
):
    """With save_every=4 the checkpoint falls on a validation, whose outcome must be in it."""
    options = {"val_every": 2, "gap_episodes": 2}
    whole = with_patience(make_module, 2)
    rows, _ = fit(make_trainer, whole, make_data(20, **options), "whole")
    assert whole.meta_step == 6

    part = with_patience(make_module, 2)
    step = part.training_step

    def training_step(batch, batch_idx):
        if part.meta_step == 5:
            raise RuntimeError("killed")
        return step(batch, batch_idx)

    part.training_step = training_step
    trainer, checkpoint = make_trainer("part", save_every)
    with pytest.raises(RuntimeError, match="killed"):
        trainer.fit(part, datamodule=make_data(20, **options))
    start = load_checkpoint(checkpoint.last_path)["few_shot_nas"]["meta_step"]
    assert start == {1: 5, 3: 3, 4: 4}[save_every]

    rest = with_patience(make_module, 2)
    again, _ = fit(make_trainer, rest, make_data(20, **options), "rest", ckpt_path=checkpoint.last_path)
    assert rest.meta_step == 6
    for row in (*rows, *again):
        row.pop("train/seconds", None)
    assert again == [row for row in rows if row["meta_step"] > start]
    assert all(torch.equal(value, rest.state_dict()[key]) for key, value in whole.state_dict().items())


def test_the_mean_training_accuracy_since_a_validation_survives_a_kill(make_module, make_data, make_trainer):
    rows, _ = fit(make_trainer, make_module("MAML"), make_data(), "whole")
    trainer, checkpoint = make_trainer("part")
    part = make_module("MAML")

    def killed():
        raise RuntimeError("killed in the validation")

    part.on_validation_epoch_end = killed
    with pytest.raises(RuntimeError, match="killed"):
        trainer.fit(part, datamodule=make_data())
    assert load_checkpoint(checkpoint.last_path)["few_shot_nas"]["meta_step"] == 3
    again, _ = fit(make_trainer, make_module("MAML"), make_data(), "rest", ckpt_path=checkpoint.last_path)
    assert [row["val/gap"] for row in validations(again)] == [row["val/gap"] for row in validations(rows)]


def test_a_run_that_stopped_early_trains_on_only_with_more_patience(make_module, make_data, make_trainer):
    short = with_patience(make_module, 1)
    _, checkpoint = fit(make_trainer, short, make_data(20, val_every=2), "short")
    assert short.meta_step == 4
    same = with_patience(make_module, 1)
    fit(make_trainer, same, make_data(20, val_every=2), "same", ckpt_path=checkpoint.last_path)
    assert same.meta_step == 4
    more = with_patience(make_module, 3)
    fit(make_trainer, more, make_data(20, val_every=2), "more", ckpt_path=checkpoint.last_path)
    assert more.meta_step == 8


def test_the_best_accuracy_of_a_validation_is_in_the_checkpoint_of_its_meta_step(make_module, make_data, make_trainer):
    """A run continued there must not take a worse later validation for the best."""
    module = make_module("MAML", 5)
    step = module.training_step

    def training_step(batch, batch_idx):
        if module.meta_step == 4:
            raise RuntimeError("killed")
        return step(batch, batch_idx)

    module.training_step = training_step
    trainer, checkpoint = make_trainer("run", 4)
    with pytest.raises(RuntimeError, match="killed"):
        trainer.fit(module, datamodule=make_data(5))
    last, best = (torch.load(path, weights_only=True) for path in (checkpoint.last_path, checkpoint.best_path))
    assert last["few_shot_nas"]["meta_step"] == best["few_shot_nas"]["meta_step"] == 4
    # Lightning keeps logged values in single precision.
    assert last["callbacks"]["MetaCheckpoint"]["best_accuracy"] == pytest.approx(module.val_accuracy, rel=1e-6)


@pytest.mark.parametrize("name", ["SimpleShot"])
def test_the_mean_feature_is_that_of_every_training_image_by_the_weights_of_the_latest_validation(
    name, make_module, make_data, make_trainer, blobs
):
    module, data = make_module(name), make_data()
    fit(make_trainer, module, data)
    module.eval()
    images = image_tensor(blobs.split("train")).permute(0, 3, 1, 2).float() / 255
    images = (images - blobs.mean[0]) / blobs.std[0]
    with torch.no_grad(), forward_context(running=True):
        features = module.net.features(images)
    assert len(features) == 12 * 8 and float(module.mean_feature.abs().max()) > 1e-3
    torch.testing.assert_close(module.mean_feature, features.mean(0), rtol=1e-4, atol=1e-5)
    checkpoint = load_checkpoint(make_trainer()[1].last_path)["state_dict"]
    assert torch.equal(checkpoint["net.mean_feature"], module.mean_feature)


class Remembering(nn.Module):
    """A pass-through that remembers the mean of what it was trained on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("middle", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.middle.lerp_(x.detach().mean(), 0.1)
        return x


@pytest.mark.parametrize("name", ["MAML", "Reptile", "AutoMAML"])
def test_a_learner_with_an_inner_loop_refuses_a_network_that_remembers_in_buffers(
    name, make_module, make_data, make_trainer
):
    module = make_module(name)
    module.net.head = nn.Sequential(Remembering(), module.net.head)
    with pytest.raises(InputError, match=r"1 buffers such as head\.0\.middle, and an inner loop drops"):
        make_trainer()[0].fit(module, datamodule=make_data())
