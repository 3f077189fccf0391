"""RFS' drop-path schedule, strengths chosen on validation tasks and distillation, against formulas written out."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.algorithms.distillation import Distillation
from few_shot_nas.algorithms.flat_sgd import FlatSGD
from few_shot_nas.algorithms.rfs import RFS
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.data.flat import FlatBatch
from few_shot_nas.episode import Task
from few_shot_nas.errors import InputError
from few_shot_nas.forward_context import forward_context
from few_shot_nas.meta.distillation import distillation_loss
from few_shot_nas.meta.probe import logistic_regression
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.nn.drop_path import DropPath
from few_shot_nas.nn.norm import keep_running_statistics
from few_shot_nas.spaces.darts_fewshot import DartsFewshot
from few_shot_nas.spaces.supernet import DerivedNetwork

CLASSES = 6


def conv4(seed=0):
    torch.manual_seed(seed)
    return Conv4(n_way=3, in_channels=1, image_size=16, width=4)


def derived():
    torch.manual_seed(0)
    space = DartsFewshot(channels=4, cells=2, nodes=2)
    return DerivedNetwork(3, 1, 16, space.decode(space.sample(torch.Generator().manual_seed(1))))


def ready(module):
    """Set up a learner whose head is for the training classes, as at the start of a fit."""
    module._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(kind="flat", num_classes=CLASSES, done=0),
        loggers=[],
        should_stop=False,
        sanity_checking=False,
        state=SimpleNamespace(fn="fit"),
        is_global_zero=True,
    )
    module.setup("fit")
    optimizer = module.configure_optimizers()
    module.optimizers = lambda: optimizer
    module.manual_backward = lambda loss: loss.backward()
    return module


def batch(seed=0, size=8):
    g = torch.Generator().manual_seed(seed)
    return FlatBatch(torch.randn(size, 1, 16, 16, generator=g), torch.randint(CLASSES, (size,), generator=g))


def task(seed=0, shots=3):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat(shots)
    return Task(torch.randn(len(y), 1, 16, 16, generator=g), y, torch.randn(9, 1, 16, 16, generator=g), y[:9])


# ---- drop-path -------------------------------------------------------------------------------------------------------


def test_the_drop_path_rate_grows_linearly_from_0_and_depends_on_the_meta_step_alone():
    module = ready(RFS(derived(), drop_path=0.4, outer=OuterLoop(max_meta_steps=8, bn_mode="running")))
    rates = []
    for step in range(8):
        module.training_step(batch(step), step)
        rates.append([layer.rate for layer in module.net.modules() if isinstance(layer, DropPath)])
    assert rates == [[pytest.approx(0.4 * step / 8)] * 2 for step in range(8)]  # a layer for each cell


def test_dropped_paths_change_training_and_repeat_with_the_seed():
    found = {}
    for rate, copies in ((0.0, 1), (0.9, 2)):
        for index in range(copies):
            module = ready(RFS(derived(), drop_path=rate, outer=OuterLoop(max_meta_steps=4, bn_mode="running")))
            for step in range(4):
                module.training_step(batch(step), step)
            found[rate, index] = module.net.head.weight.detach().clone()
    assert torch.equal(found[0.9, 0], found[0.9, 1]) and not torch.equal(found[0.9, 0], found[0.0, 0])


# ---- strengths chosen on validation tasks -------------------------------------------------------------------------


def test_the_best_strength_of_the_validation_is_tested_beside_the_fixed_one():
    module = RFS(conv4(), probe_c=1.0, probe_cs=(0.01, 10.0)).eval()
    assert module.chosen() == {"probe_c": 1.0}
    logits, watched = module.watched_logits(task())
    assert set(watched) == {"accuracy_c0.01", "accuracy_c10"}
    assert set(logits) == {f"{p}{m}" for p in ("", "tuned_") for m in ("transductive", "support", "running")}
    module.choose_on_validation({"val/accuracy_c0.01": 0.4, "val/accuracy_c10": 0.6})
    assert module.chosen() == {"probe_c": 10.0}
    with torch.no_grad():
        found = module.task_logits(task())
        module.bn_modes = ("running",)
        assert set(module.task_logits(task())) == {"running", "tuned_running"}
    for prefix, c in (("", 1.0), ("tuned_", 10.0)):
        fixed = RFS(conv4(), probe_c=c).eval()
        with torch.no_grad():
            expected = fixed.task_logits(task())
        assert all(torch.equal(found[f"{prefix}{mode}"], logits) for mode, logits in expected.items())


def test_watched_accuracies_are_those_of_each_strength():
    module = RFS(conv4(), probe_cs=(0.1, 100.0)).eval()
    _, watched = module.watched_logits(task())
    with torch.no_grad(), forward_context(running=True):
        support, query = module.net.features(task().support_x), module.net.features(task().query_x)
    for c in (0.1, 100.0):
        head = logistic_regression(support, task().support_y, c=c)
        right = (head.logits(F.normalize(query.double(), dim=1)).argmax(1) == task().query_y).double().mean()
        assert watched[f"accuracy_c{c:g}"] == pytest.approx(float(right))


def test_the_chosen_strength_is_part_of_the_state_and_of_no_other_learners():
    module = RFS(conv4(), probe_cs=(0.1, 10.0))
    module.choose_on_validation({"val/accuracy_c0.1": 0.5, "val/accuracy_c10": 0.5})
    again = RFS(conv4(), probe_cs=(0.1, 10.0))
    again.load_state_dict(module.state_dict())
    assert again.chosen() == {"probe_c": 0.1}
    assert RFS(conv4()).chosen() == {} and not any("tuned" in name for name in RFS(conv4()).state_dict())


# ---- support augmentation -----------------------------------------------------------------------------------------


def test_tasks_with_copies_are_scored_without_them_too_as_if_there_were_none():
    module = RFS(conv4(), probe_c=1.0, probe_cs=(0.01, 10.0)).eval()
    module.choose_on_validation({"val/accuracy_c0.01": 0.4, "val/accuracy_c10": 0.6})
    plain, noise = task(), torch.randn(3, 9, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    copies = (plain.support_x + noise).flatten(0, 1)
    copied = plain._replace(support_x=copies, support_y=plain.support_y.repeat(3), originals=plain.support_x)
    with torch.no_grad():
        found, alone = module.task_logits(copied), module.task_logits(plain)
        without = module.task_logits(copied._replace(originals=None))
    extra = {f"no_copies_{prefix}running" for prefix in ("", "tuned_")}
    assert set(found) == set(without) | extra and set(alone) == set(without)
    assert all(torch.equal(found[name], without[name]) for name in without)
    assert all(torch.equal(found[name], alone[name.removeprefix("no_copies_")]) for name in extra)
    assert not torch.equal(found["running"], found["no_copies_running"])


# ---- distillation -------------------------------------------------------------------------------------------------


def test_the_divergence_is_the_sum_over_images_and_classes_written_out():
    g = torch.Generator().manual_seed(0)
    own, taught = torch.randn(2, 4, 5, generator=g, dtype=torch.float64)
    total = 0.0
    for student, teacher in zip(own.tolist(), taught.tolist(), strict=True):
        q = [math.exp(value / 3) for value in student]
        p = [math.exp(value / 3) for value in teacher]
        for a, b in zip(p, q, strict=True):
            total += a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
    assert float(distillation_loss(own, taught, 3.0)) == pytest.approx(9 * total, rel=1e-12)


def taught(weights=(0.5, 0.5)):
    distillation = Distillation("teacher", *weights, distill_temperature=2.0)
    module = RFS(conv4(), distillation=distillation, sgd=FlatSGD(), outer=OuterLoop(bn_mode="running"))
    teacher = conv4(seed=1)
    keep_running_statistics(teacher)
    teacher.head = torch.nn.Linear(teacher.feature_dim, CLASSES)
    module.learn_from(teacher)
    return ready(module), teacher


def test_the_loss_is_the_weighted_sum_and_the_teacher_neither_changes_nor_is_saved():
    module, teacher = taught((0.3, 0.7))
    before, student = copy.deepcopy(teacher.state_dict()), copy.deepcopy(module.net)
    images, labels = batch()
    loss, scalars = module.task_loss(batch())
    logits = student(images)
    with torch.no_grad(), forward_context(running=True):
        answers = teacher(images)
    divergence = 4 * F.kl_div(F.log_softmax(logits / 2, 1), F.softmax(answers / 2, 1), reduction="sum")
    expected = 0.3 * F.cross_entropy(logits, labels, reduction="sum") + 0.7 * divergence
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(scalars["train/distill_loss"].detach()) == pytest.approx(float(divergence.detach()), rel=1e-5)
    module.training_step(batch(), 0)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training and not any("teacher" in name for name in module.state_dict())


def test_a_student_of_the_answers_alone_comes_closer_to_them():
    module, teacher = taught((0.0, 1.0))
    module.outer = OuterLoop(outer_lr=0.05, bn_mode="running")
    losses = []
    for step in range(30):
        module.training_step(batch(0, 24), step)
        losses.append(float(module.last_loss))
    assert losses[-1] < 0.5 * losses[0]


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="probe_cs=0.1, -1.0: must be greater than 0"):
        RFS(conv4(), probe_cs=(0.1, -1.0))
    with pytest.raises(InputError, match="drop_path=0.2: Conv4 has no paths to drop"):
        RFS(conv4(), drop_path=0.2)
    with pytest.raises(InputError, match="drop_path=1"):
        RFS(derived(), drop_path=1.0)
    with pytest.raises(InputError, match="label_weight=0 and distill_weight=0"):
        Distillation("t", 0.0, 0.0)
    with pytest.raises(InputError, match="teacher=t: was not loaded"):
        ready(RFS(conv4(), distillation=Distillation("t")))
    other = RFS(conv4(), distillation=Distillation("t"))
    other.learn_from(conv4())
    with pytest.raises(InputError, match="teacher=t: tells 3 classes apart, the training data has 6"):
        ready(other)
