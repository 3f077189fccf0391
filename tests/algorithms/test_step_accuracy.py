"""Accuracy by inner step in validation, against a plain loop of autograd.grad."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from few_shot_nas.algorithms.anil import ANIL
from few_shot_nas.algorithms.boil import BOIL
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.maml_plus_plus import MAMLPlusPlus
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode, tasks
from few_shot_nas.forward_context import forward_context
from few_shot_nas.models.conv4 import Conv4

MOVED = {
    MAML: lambda name: True,
    ANIL: lambda name: name.startswith("head"),
    BOIL: lambda name: not name.startswith("head"),
}
STEPS = 4


def make(learner, bn_mode="transductive", **inner):
    torch.manual_seed(0)
    net = Conv4(n_way=3, in_channels=1, image_size=16, width=4).double()
    inner = InnerLoop(**{"inner_lr": 0.1, "inner_steps": 2, "eval_inner_steps": STEPS, **inner})
    return learner(net, inner=inner, outer=OuterLoop(bn_mode=bn_mode))


def one_task(shots=3, n_query=30):
    """Classes differ in the brightness of a corner, so that every step changes some answers."""
    g, y = torch.Generator().manual_seed(0), torch.arange(3)
    labels = y.repeat(shots), y.repeat(n_query)
    images = []
    for own in labels:
        x = torch.randn(len(own), 1, 16, 16, generator=g, dtype=torch.float64)
        x[:, 0, :8, :8] += 0.4 * own[:, None, None]
        images.append(x)
    return next(tasks(Episode(images[0][None], labels[0][None], images[1][None], labels[1][None], torch.arange(1))))


def plain_accuracies(net, task, moved, bn_mode):
    """Query accuracy after 0, 1, ... updates and support accuracy after the last."""
    own, rows = dict(net.named_parameters()), len(task.support_y)
    fast = {name: value for name, value in own.items() if moved(name)}

    def right(images, labels, stat_rows=None, skip=0):
        with forward_context(stat_rows=stat_rows):
            logits = functional_call(net, {**own, **fast}, (images,))[skip:]
        return (logits.argmax(1) == labels).double().mean().item()

    def queries():
        if bn_mode == "transductive":
            return right(task.query_x, task.query_y)
        return right(torch.cat([task.support_x, task.query_x]), task.query_y, rows, rows)

    found = [queries()]
    for _ in range(STEPS):
        loss = F.cross_entropy(functional_call(net, {**own, **fast}, (task.support_x,)), task.support_y)
        gradients = torch.autograd.grad(loss, list(fast.values()))
        fast = {n: value.detach() - 0.1 * g for (n, value), g in zip(fast.items(), gradients, strict=True)}
        fast = {n: value.requires_grad_() for n, value in fast.items()}
        found.append(queries())
    return found, right(task.support_x, task.support_y)


@pytest.mark.parametrize("learner", MOVED)
@pytest.mark.parametrize("bn_mode", ["transductive", "support"])
def test_accuracies_by_inner_step_equal_a_plain_loop(learner, bn_mode):
    module, task = make(learner, bn_mode), one_task()
    by_step, support = plain_accuracies(module.net, task, MOVED[learner], bn_mode)
    with torch.no_grad():
        logits, watched = module.watched_logits(task)
        expected = module.task_logits(task)
    assert set(logits) == set(expected) and all(torch.equal(logits[mode], expected[mode]) for mode in logits)
    assert list(watched) == [f"accuracy_step{step}" for step in range(STEPS + 1)] + ["support_accuracy"]
    assert [watched[f"accuracy_step{step}"] for step in range(STEPS + 1)] == by_step
    assert watched["support_accuracy"] == support
    assert len(set(by_step)) > 2


def test_the_passes_by_step_are_left_out_on_request():
    module, task, passes = make(MAML), one_task(), []
    quiet = MAML(module.net, inner=module.inner, outer=OuterLoop(log_inner_steps=False))
    module.net.register_forward_hook(lambda *_: passes.append(1))
    counts = []
    with torch.no_grad():
        for call in (quiet.task_logits, quiet.watched_logits, module.watched_logits):
            passes.clear()
            found = call(task)
            counts.append(len(passes))
    assert counts == [STEPS + 2, STEPS + 2, STEPS + 2 + STEPS + 1]
    assert set(found[1]) and not quiet.watched_logits(task)[1]


def test_without_adaptation_there_is_the_start_alone():
    module, task = make(MAML, eval_inner_steps=0), one_task()
    with torch.no_grad():
        logits, watched = module.watched_logits(task)
    right = (logits["transductive"].argmax(1) == task.query_y).double().mean().item()
    assert watched["accuracy_step0"] == right and set(watched) == {"accuracy_step0", "support_accuracy"}


@pytest.mark.parametrize("bn_mode", ["transductive", "support", "running"])
def test_layers_that_keep_something_per_step_are_at_the_step_of_the_last_update(bn_mode):
    """The accuracies of the first s steps are those of an evaluation with s steps, whatever is kept per step."""
    task, known = one_task(), {}
    for steps in (3, 2, 1, 0):
        module = make(MAMLPlusPlus, bn_mode, inner_steps=3, eval_inner_steps=steps)
        g = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, value in module.state_dict().items():
                if value.ndim == 2 and value.shape[0] == 3 and "body" in name:
                    value += 0.3 * torch.rand(value.shape, generator=g, dtype=value.dtype)
            watched = module.watched_logits(task)[1]
        known = known or watched
        for step in range(steps + 1):
            assert watched[f"accuracy_step{step}"] == known[f"accuracy_step{step}"]


def test_nil_scores_stay_in_rows_of_their_own():
    torch.manual_seed(0)
    net = Conv4(n_way=3, in_channels=1, image_size=16, width=4).double()
    module, task = ANIL(net, inner=InnerLoop(0.1), nil=True), one_task()
    with torch.no_grad():
        logits, watched = module.watched_logits(task)
    assert list(logits) == ["transductive", "support", "nil_transductive", "nil_support"]
    module.task_scores.add(task, logits, {"transductive": watched})
    assert [row["bn_mode"] for row in module.task_scores.rows if "watched" in row] == ["transductive"]
