"""RFS, Baseline and Baseline++: the training step against plain torch, the test classifiers on known clusters."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from few_shot_nas.algorithms.baseline import Baseline, BaselinePlusPlus, HeadTuning
from few_shot_nas.algorithms.flat_sgd import FlatSGD
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.rfs import RFS
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.algorithms.simple_shot import SimpleShot
from few_shot_nas.data.flat import FlatBatch
from few_shot_nas.episode import Task
from few_shot_nas.errors import InputError
from few_shot_nas.meta.probe import HeadSGD
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.stats.statistics import accuracy

LEARNERS = pytest.mark.parametrize("learner", [RFS, Baseline, BaselinePlusPlus, SimpleShot])
CLASSES = 6


def conv4():
    torch.manual_seed(0)
    return Conv4(n_way=3, in_channels=1, image_size=28, width=8)


def ready(learner, **settings):
    """A learner whose head is for the training classes, as at the start of a fit."""
    module = learner(conv4(), **settings)
    module._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(kind="flat", num_classes=CLASSES, done=0),
        loggers=[],
        should_stop=False,
        sanity_checking=False,
    )
    module.setup("fit")
    return module


def draw_batch(seed=0, size=12):
    g = torch.Generator().manual_seed(seed)
    return FlatBatch(torch.randn(size, 1, 28, 28, generator=g), torch.randint(CLASSES, (size,), generator=g))


def squares(labels, seed=0):
    """Images of noise with a bright square whose place is the class: easy to tell apart."""
    x = 0.1 * torch.randn(len(labels), 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    for image, label in zip(x, labels.tolist(), strict=True):
        row, column = divmod(label, 3)
        image[0, 9 * row : 9 * row + 9, 9 * column : 9 * column + 9] += 3
    return x


def train(module, batches):
    """Run training steps without a Trainer."""
    optimizer = module.configure_optimizers()
    module.optimizers = lambda: optimizer
    module.manual_backward = lambda loss: loss.backward()
    module.train()
    for index, batch in enumerate(batches):
        module.training_step(batch, index)
    return module


def test_rfs_trains_as_torch_sgd_with_step_decay_and_torch_batch_norm_do():
    settings = OuterLoop(outer_lr=0.05, weight_decay=5e-4, log_every=1)
    module = ready(RFS, sgd=FlatSGD(lr_milestones=(2, 3), lr_decay=0.1), outer=settings)
    plain = copy.deepcopy(module.net)
    for index, layer in enumerate(plain.body):
        if isinstance(layer, BatchNorm2d):
            plain.body[index] = nn.BatchNorm2d(8)
    batches = [draw_batch(seed) for seed in range(4)]
    train(module, batches)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    decay = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3], 0.1)
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(plain(batch.images), batch.labels).backward()
        optimizer.step()
        decay.step()
    expected = plain.state_dict()
    for name, value in module.net.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_the_rate_decays_after_each_milestone_or_along_the_cosine():
    module = ready(RFS, sgd=FlatSGD(lr_milestones=(2, 5)))
    rates = []
    for module.meta_step in range(7):
        rates.append(module.schedule())
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    cosine = ready(RFS, outer=OuterLoop(outer_schedule="cosine", max_meta_steps=4))
    cosine.meta_step = 2
    assert cosine.schedule() == pytest.approx(0.5)


@LEARNERS
def test_the_loss_is_the_mean_over_the_images_however_they_are_divided(learner):
    module = ready(learner).eval()
    batch = draw_batch(size=10)
    with torch.no_grad():
        whole, scalars = module.task_loss(batch)
        right = scalars["train/accuracy"]
    pieces = [FlatBatch(batch.images[a:b], batch.labels[a:b]) for a, b in ((0, 4), (4, 10))]
    assert [module.parts(piece)[1] for piece in pieces] == [4, 6]
    with torch.no_grad():
        logits = torch.cat([module.net(piece.images) for piece in pieces])
        total = sum(float(module.task_loss(piece)[0]) for piece in pieces)
    assert total / 10 == pytest.approx(float(F.cross_entropy(logits, batch.labels)), rel=1e-5)
    assert float(whole) / 10 == pytest.approx(float(F.cross_entropy(module.net(batch.images), batch.labels)), rel=1e-5)
    assert 0 <= float(right) <= 10 and float(right) == round(float(right))


@LEARNERS
def test_training_lowers_the_loss_on_a_batch_seen_again_and_moves_the_running_statistics(learner):
    module = ready(learner, outer=OuterLoop(outer_lr=0.01, log_every=1))
    losses = []
    module.log_row = lambda row: losses.append(row["train/loss"])
    train(module, [draw_batch()] * 20)
    assert losses[-1] < 0.7 * losses[0]
    assert float(module.net.state_dict()["body.1.running_mean"].abs().max()) > 1e-3


class Flattened(nn.Module):
    """Features are the input, behind a batch normalisation that running statistics leave alone."""

    def __init__(self):
        super().__init__()
        self.norm, self.feature_dim = BatchNorm2d(2, eps=1e-12, affine=False), 2
        self.head = nn.Linear(2, 5)

    def features(self, x):
        return self.norm(x).flatten(1)


def on_a_circle(classes, shots, queries, spread, seed=0):
    """Directions at equal angles with Gaussian angular noise, and lengths that say nothing."""
    g = torch.Generator().manual_seed(seed)

    def images(labels):
        angle = 2 * math.pi * labels / classes + spread * torch.randn(len(labels), generator=g)
        length = torch.rand(len(labels), generator=g) + 0.5
        return (length * torch.stack([angle.cos(), angle.sin()])).T.reshape(-1, 2, 1, 1)

    support, query = torch.arange(classes).repeat(shots), torch.arange(classes).repeat(queries)
    return Task(images(support), support, images(query), query, torch.tensor(3))


@pytest.mark.parametrize(("learner", "margin"), [(RFS, 0.01), (Baseline, 0.05), (BaselinePlusPlus, 0.05)])
def test_the_test_classifier_reaches_the_analytic_accuracy_on_gaussian_directions(learner, margin):
    spread = 0.4
    task = on_a_circle(4, 100, 1000, spread)
    settings = {"tuning": HeadTuning(head_epochs=20)} if issubclass(learner, Baseline) else {}
    module = learner(Flattened(), **settings).eval()
    analytic = math.erf(math.pi / 4 / spread / math.sqrt(2))  # the angle is within an eighth turn
    with torch.no_grad():
        logits = module.task_logits(task)
    assert set(logits) == {"transductive", "support", "running"}
    assert float(accuracy(logits["running"], task.query_y)) == pytest.approx(analytic, abs=margin)


@LEARNERS
def test_running_and_support_modes_judge_each_query_alone_and_renaming_classes_changes_no_answer(learner):
    labels = torch.arange(CLASSES).repeat(2)
    batches = [FlatBatch(squares(labels, seed), labels) for seed in range(20)]
    module = train(ready(learner, outer=OuterLoop(outer_lr=0.01)), batches).eval()
    y = torch.arange(3).repeat(4)
    x = squares(y + CLASSES, seed=100), squares(y + CLASSES, seed=101)
    task, order = Task(x[0], y, x[1], y, torch.tensor(0)), torch.tensor([4, 9, 1, 0, 11])
    with torch.no_grad():
        whole = module.task_logits(task)
        some = module.task_logits(task._replace(query_x=x[1][order], query_y=y[order]))
        new_name = torch.tensor([1, 2, 0])
        renamed = module.task_logits(task._replace(support_y=new_name[y], query_y=new_name[y]))
    for mode in ("running", "support"):
        torch.testing.assert_close(some[mode], whole[mode][order], rtol=0, atol=1e-3)
        assert renamed[mode].argmax(1).tolist() == new_name[whole[mode].argmax(1)].tolist()
        assert float(accuracy(whole[mode], y)) == 1.0
    assert (some["transductive"] - whole["transductive"][order]).abs().max() > 1e-3


def test_the_rfs_classifier_ignores_the_lengths_of_features():
    module = RFS(Flattened())
    task = on_a_circle(4, 5, 10, 0.6)
    features, query = task.support_x.flatten(1), task.query_x.flatten(1)
    logits = module.classifier(features, task.support_y, task)(query)
    scaled = module.classifier(50 * features, task.support_y, task)(0.02 * query)
    torch.testing.assert_close(scaled, logits, rtol=0, atol=1e-4)


@LEARNERS
def test_evaluation_in_every_mode_leaves_parameters_and_running_statistics_as_they_are(learner):
    module = ready(learner).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    g = torch.Generator().manual_seed(5)
    y = torch.arange(3).repeat(2)
    x = torch.randn(2, 6, 1, 28, 28, generator=g)
    with torch.no_grad():
        module.task_logits(Task(x[0], y, x[1], y, torch.tensor(0)))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@LEARNERS
def test_the_head_for_the_training_classes_is_made_once_from_the_seed_and_comes_back_with_a_checkpoint(learner):
    torch.manual_seed(1)
    one = ready(learner, seed=4)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = ready(learner, seed=4)
    torch.set_rng_state(state)
    for name, value in one.net.head.state_dict().items():
        assert value.shape[0] == CLASSES and torch.equal(value, other.net.head.state_dict()[name])
    head = one.net.head
    one.setup("fit")
    assert one.net.head is head
    checkpoint = {"state_dict": one.state_dict()}
    one.on_save_checkpoint(checkpoint)
    fresh = learner(conv4())
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"])


def test_making_a_head_leaves_the_global_generator_alone():
    module = ready(RFS)
    before = torch.get_rng_state()
    module._fit_head_to(CLASSES + 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_batches_of_another_kind_are_refused():
    def attach(module, **attributes):
        module._trainer = SimpleNamespace(datamodule=SimpleNamespace(**attributes) if attributes else None)
        return module

    with pytest.raises(InputError, match="RFS is trained on flat, but SimpleNamespace gives episodes"):
        attach(RFS(conv4()), kind="episodes").setup("fit")
    with pytest.raises(InputError, match="MAML is trained on episodes, but SimpleNamespace gives flat"):
        attach(MAML(conv4()), kind="flat").setup("fit")
    with pytest.raises(InputError, match="RFS is trained on flat batches: it needs a FlatDataModule"):
        attach(RFS(conv4())).setup("fit")
    attach(RFS(conv4()), kind="episodes").setup("test")


def test_a_bn_mode_that_the_network_does_not_have_is_refused():
    with pytest.raises(InputError, match="bn_mode=running: Conv4 has transductive, support here; only flat"):
        MAML(conv4(), outer=OuterLoop(bn_mode="running"))
    assert RFS(conv4()).outer.bn_mode == "running"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RFS(conv4(), probe_c=0.0), "probe_c=0.0"),
        (lambda: FlatSGD(flat_momentum=1.0), "flat_momentum=1.0"),
        (lambda: FlatSGD(lr_milestones=(5, 2)), r"lr_milestones=\[5, 2\]: must ascend"),
        (lambda: FlatSGD(lr_decay=0.0), "lr_decay=0.0"),
        (lambda: HeadTuning(head_epochs=0), "head_epochs=0"),
        (lambda: HeadTuning(head_dampening=1.0), "head_dampening=1.0"),
        (lambda: RFS(nn.Linear(2, 2)), "Linear has no batch normalisation"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_flags_of_a_head_reach_the_descent_by_name():
    tuning = HeadTuning(head_lr=0.1, head_momentum=0.2, head_dampening=0.3, head_weight_decay=0.4, head_epochs=5)
    expected = HeadSGD(lr=0.1, momentum=0.2, dampening=0.3, weight_decay=0.4, epochs=5, batch_size=4)
    assert tuning.sgd() == expected


def test_simple_shot_takes_the_nearest_mean_of_centred_features_on_the_sphere():
    module = ready(SimpleShot).eval()
    mean = torch.randn(module.net.feature_dim, generator=torch.Generator().manual_seed(5))
    module.mean_feature.copy_(mean)
    features = torch.randn(9, module.net.feature_dim, generator=torch.Generator().manual_seed(6))
    support, query, labels = features[:6], features[6:], torch.arange(3).repeat(2)
    logits = module.classifier(support, labels, None)(query)
    for row, x in enumerate(query):
        for label in range(3):
            on_sphere = [(one - mean) / (one - mean).norm() for one in support[labels == label]]
            apart = (x - mean) / (x - mean).norm() - sum(on_sphere) / 2
            assert float(logits[row, label]) == pytest.approx(-float(apart @ apart), rel=1e-5)
    plain = ready(SimpleShot, transform="un").classifier(support, labels, None)(query)
    torch.testing.assert_close(plain[0, 1], -(query[0] - support[labels == 1].mean(0)).square().sum())
    assert not torch.allclose(ready(SimpleShot, transform="l2n").classifier(support, labels, None)(query), logits)
