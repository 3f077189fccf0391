"""Reptile against torch's own Adam, what is carried from task to task, and the outer step."""

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.algorithms.reptile import Reptile, mini_batches
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.seeding import generator


def make_episode(tasks_in_batch=1, seed=0, n_query=2):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(3)
    return Episode(
        torch.randn(tasks_in_batch, 6, 1, 16, 16, generator=g, dtype=torch.float64),
        y.repeat(tasks_in_batch, 2),
        torch.randn(tasks_in_batch, 3 * n_query, 1, 16, 16, generator=g, dtype=torch.float64),
        y.repeat_interleave(n_query).repeat(tasks_in_batch, 1),
        torch.arange(tasks_in_batch),
    )


def make_inner(**changes):
    return InnerLoop(
        **{"inner_lr": 0.01, "inner_steps": 3, "first_order": True, "inner_optimizer": "adam", **changes}
    )


def make(inner=None, downsample="pool", **options):
    torch.manual_seed(0)
    net = Conv4(n_way=3, in_channels=1, image_size=16, width=4, downsample=downsample).double()
    outer = OuterLoop(outer_lr=1.0, max_meta_steps=10, outer_schedule="linear")
    return Reptile(net, inner=inner or make_inner(), outer=outer, inner_batch=4, eval_inner_batch=3, **options)


def outer_step(module, episode):
    """What training_step does, without a Trainer."""
    optimizer = module.configure_optimizers()
    optimizer.zero_grad()
    for task in tasks(episode):
        (module.task_loss(task)[0] / episode.support_x.shape[0]).backward()
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * module.schedule()
    optimizer.step()
    module.meta_step += 1


def trained_by_torch(net, optimizer, images, labels, stream):
    """Ordinary training of the module itself, on the same mini-batches."""
    for chosen in mini_batches(images.shape[0], 4, 3, stream):
        optimizer.zero_grad()
        F.cross_entropy(net(images[chosen]), labels[chosen]).backward()
        optimizer.step()


@pytest.mark.parametrize(("train_pool", "downsample"), [("all", "pool"), ("support", "pool"), ("all", "stride")])
def test_all_tasks_at_once_end_where_they_end_one_by_one(train_pool, downsample):
    episode, found = make_episode(tasks_in_batch=3), {}
    for engine in ("unroll", "folded"):
        inner = make_inner(inner_optimizer="sgd", engine=engine, inner_lr=0.1, eval_inner_steps=4)
        module = make(inner, downsample, train_pool=train_pool, per_query_bn=True)
        parts, count = module.parts(episode)
        scalars = 0.0
        for part in parts:
            loss, named = module.task_loss(part)
            (loss / count).backward()
            scalars = scalars + torch.stack([value.detach() for value in named.values()]) / count
        scored = list(module.scored(episode, watched=False))
        assert [int(task.task_id) for task, _, _ in scored] == [0, 1, 2]
        logits = [own[mode] for _, own, _ in scored for mode in module.bn_modes]
        grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        found[engine] = [scalars, *grads, *logits, module.slot_updates]
    assert max(float(value.detach().abs().max()) for value in found["unroll"][1:-1]) > 1e-2
    for one, other in zip(found["folded"], found["unroll"], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("train_pool", ["all", "support"])
@pytest.mark.parametrize("inner_optimizer", ["adam", "sgd"])
def test_rate_one_and_one_task_give_the_weights_of_ordinary_training(train_pool, inner_optimizer):
    module = make(make_inner(inner_optimizer=inner_optimizer), train_pool=train_pool)
    reference = make().net
    adam = torch.optim.Adam(reference.parameters(), lr=0.01, betas=(0.0, 0.999), eps=1e-8)
    optimizer = adam if inner_optimizer == "adam" else torch.optim.SGD(reference.parameters(), lr=0.01)
    episode = make_episode()
    images, labels = episode.support_x[0], episode.support_y[0]
    if train_pool == "all":
        images, labels = torch.cat([images, episode.query_x[0]]), torch.cat([labels, episode.query_y[0]])
    trained_by_torch(reference, optimizer, images, labels, generator(0, "reptile", 0, 1))
    outer_step(module, episode)
    # A bias before BatchNorm has a gradient of rounding alone, which Adam divides by itself: it is left out.
    for (name, ours), theirs in zip(module.net.named_parameters(), reference.parameters(), strict=True):
        if not (name.startswith("body") and name.endswith("bias") and int(name.split(".")[1]) % 4 == 0):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9, msg=name)


def test_the_slots_are_carried_from_task_to_task_as_one_torch_adam_would():
    """The authors reset the weights between tasks, not Adam: its second moments and count go on."""
    module, episode = make(train_pool="support"), make_episode(tasks_in_batch=2)
    net = make().net
    start = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.0, 0.999), eps=1e-8)
    ends = []
    for index in range(2):
        net.load_state_dict(start)
        stream = generator(0, "reptile", 0, index + 1)
        trained_by_torch(net, optimizer, episode.support_x[index], episode.support_y[index], stream)
        ends.append({name: value.detach().clone() for name, value in net.named_parameters()})
    outer_step(module, episode)
    slots = module.slots()
    assert slots.updates == 6
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            mean = (ends[0][name] + ends[1][name]) / 2
            torch.testing.assert_close(module.net.get_parameter(name), mean, rtol=0, atol=1e-9, msg=name)
            theirs = optimizer.state[parameter]["exp_avg_sq"]
            torch.testing.assert_close(slots.moments[1][name], theirs, rtol=1e-9, atol=1e-20, msg=name)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_the_step_on_a_quadratic_has_a_closed_form(num_steps):
    """Gradient descent on 0.5|w - 2|^2 leaves (1 - lr)^T of the distance; phi - W is what the outer step gets."""
    module = make(make_inner(inner_optimizer="sgd", inner_lr=0.1, inner_steps=num_steps))
    module.batch_loss = lambda params, images, labels, step: sum(
        0.5 * (value - 2.0).square().sum() for value in params.values()
    )
    module.task_loss(next(tasks(make_episode())))[0].backward()
    for value in module.net.parameters():
        expected = (1 - 0.9**num_steps) * (value.detach() - 2.0)
        torch.testing.assert_close(value.grad, expected, rtol=0, atol=1e-12)


def test_epsilon_falls_linearly_from_outer_lr_to_zero():
    module, factors = make(), []
    for module.meta_step in (0, 5, 10):
        factors.append(module.schedule())
    assert factors == [1.0, 0.5, 0.0]
    assert OuterLoop().outer_schedule == "constant"


def test_the_slots_are_in_the_state_dict_and_evaluation_starts_from_them_and_leaves_them():
    module = make()
    task = next(tasks(make_episode(seed=5)))
    with torch.no_grad():
        fresh = module.task_logits(task)["support"]
    outer_step(module, make_episode())
    weights = {name: value.clone() for name, value in module.net.state_dict().items()}
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert sum(name.startswith("slot") for name in state) == 2 * len(weights) + 1
    with torch.no_grad():
        carried = module.task_logits(task)["support"]
        assert torch.equal(carried, module.task_logits(task)["support"])
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    again = make()
    again.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(again.task_logits(task)["support"], carried)
    unslotted = make()
    unslotted.net.load_state_dict(weights)
    with torch.no_grad():
        assert not torch.allclose(unslotted.task_logits(task)["support"], carried)
    assert not torch.allclose(fresh, carried)


def test_the_authors_inductive_protocol_normalises_each_query_with_the_support_set():
    module, task = make(per_query_bn=True), next(tasks(make_episode()))
    with torch.no_grad():
        logits = module.task_logits(task)
        assert set(logits) == {"transductive", "support", "per_query"}
        alone = module.task_logits(task._replace(query_x=task.query_x[4:5], query_y=task.query_y[4:5]))
    torch.testing.assert_close(alone["per_query"], logits["per_query"][4:5], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone["transductive"].shape, torch.Size([1, 3]))


def test_validation_by_the_authors_protocol_needs_it_to_be_asked_for():
    outer = OuterLoop(bn_mode="per_query")
    with pytest.raises(InputError, match="bn_mode=per_query: Conv4 has transductive, support here; only per_query_bn"):
        Reptile(make().net, outer=outer)
    assert Reptile(make().net, outer=outer, per_query_bn=True).bn_modes == ("transductive", "support", "per_query")


def test_mini_batches_use_every_image_once_a_pass():
    drawn = mini_batches(6, 4, 3, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 4)
    passes = drawn.flatten().view(2, 6).sort(dim=1).values
    assert torch.equal(passes, torch.arange(6).repeat(2, 1))
    assert torch.equal(drawn, mini_batches(6, 4, 3, torch.Generator().manual_seed(0)))
    assert mini_batches(6, 8, 2, torch.Generator()).shape == (2, 8)
    assert mini_batches(6, 8, 0, torch.Generator()).shape == (0, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner": make_inner(first_order=False)}, "first_order=False"),
        ({"inner": make_inner(engine="sweep")}, "engine=sweep"),
        ({"inner": make_inner(engine="folded")}, "engine=folded with inner_optimizer=adam and a Conv4"),
        ({"train_pool": "query"}, "train_pool=query"),
    ],
)
def test_what_reptile_cannot_do_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_an_empty_mini_batch_is_refused():
    with pytest.raises(InputError, match="inner_batch=0"):
        Reptile(make().net, inner_batch=0)


def test_a_learner_may_give_every_parameter_a_rate_of_its_own():
    class Frozen(Reptile):
        def rate(self, name, step):
            return 0.0 if name.startswith("head.") or step == 1 else 2 * super().rate(name, step)

    torch.manual_seed(0)
    module = Frozen(Conv4(3, 1, 16, width=4).double(), inner=make_inner(inner_optimizer="sgd"), inner_batch=4)
    task = next(tasks(make_episode()))
    stream = generator(1, "images")
    trajectory = module.train_on(task.support_x, task.support_y, batch=4, steps=3, streams=[stream]).trajectory
    for one, other, moves in zip(trajectory[:-1], trajectory[1:], (True, False, True), strict=True):
        moved = {name for name, value in one.items() if not torch.equal(value, other[name])}
        assert bool(moved) is moves and not any(name.startswith("head.") for name in moved)
    chosen = mini_batches(6, 4, 3, generator(1, "images"))[0]
    loss = F.cross_entropy(module.net(task.support_x[chosen]), task.support_y[chosen])
    (gradient,) = torch.autograd.grad(loss, [module.net.get_parameter("body.0.weight")])
    moved = trajectory[0]["body.0.weight"] - 2 * 0.01 * gradient
    torch.testing.assert_close(trajectory[1]["body.0.weight"], moved, rtol=0, atol=1e-12)
