"""The switches of MAMLENAS: weights in place, phases, shared architectures, task embedding, ProMP, meta-test."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.controller_search import MARGINAL_PATHS
from few_shot_nas.algorithms.maml_enas import MAMLENAS
from few_shot_nas.algorithms.maml_enas_settings import (
    ControllerLoop,
    MetaTest,
    SharedWeights,
)
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop, Scoring
from few_shot_nas.episode import SupportSet
from few_shot_nas.errors import InputError
from few_shot_nas.meta.control_variates import MovingAverage
from few_shot_nas.meta.skip_prior import skip_prior_kl
from few_shot_nas.runtime.choices_csv import ChoicesCSV
from few_shot_nas.search.two_draws import two_draws
from few_shot_nas.seeding import generator
from few_shot_nas.spaces.supernet import Supernet
from tests.three_way import make_task


def make_search(space="chain", scoring=None, shared=None, test=None, **policy):
    torch.manual_seed(0)
    net = Supernet(3, 1, 28, space=space, channels=4, cells=3)
    return MAMLENAS(
        net,
        inner=InnerLoop(inner_lr=0.1, inner_steps=2, first_order=True),
        scoring=Scoring(**(scoring or {})),
        loop=ControllerLoop(**policy),
        shared=SharedWeights(**(shared or {})),
        test=MetaTest(**(test or {})),
        outer=OuterLoop(),
        seed=5,
    ).double()


def fixed(monkeypatch, search, tried, chosen):
    monkeypatch.setattr(search, "draw", lambda params, task, phase, count: tried if phase == "inner" else chosen)


def descended(net, own, task, genotype):
    """Two plain SGD steps on the support set, of the parameters on the path, as a dict of all parameters."""
    own = dict(own)
    names = net.active_params(genotype)
    for _ in range(2):
        fast = {name: own[name].detach().requires_grad_() for name in names}
        loss = F.cross_entropy(functional_call(net, {**own, **fast}, (task.support_x, genotype)), task.support_y)
        for (name, value), g in zip(fast.items(), torch.autograd.grad(loss, list(fast.values())), strict=True):
            own[name] = (value - 0.1 * g).detach()
    return own


def test_persistent_weights_are_those_after_every_childs_steps_in_order_and_get_no_outer_gradient(monkeypatch):
    search = make_search(shared={"weights": "persistent"}, inner_baseline="none", outer_baseline="none")
    task = make_task()
    tried, chosen = [(0, 1, 2), (3, 1, 0)], [(2, 1, 4)]
    fixed(monkeypatch, search, tried, chosen)
    own = {name: value.detach().clone() for name, value in search.supernet.named_parameters()}
    loss, scalars = search.task_loss(task)
    loss.backward()
    first, second = two_draws(task)
    rewards = []
    for decisions, part in [(tried[0], first), (tried[1], first), (chosen[0], second)]:
        genotype = search.supernet.space.decode(decisions)
        own = descended(search.supernet, own, part, genotype)
        logits = functional_call(search.supernet, own, (part.query_x, genotype))
        rewards.append(float((logits.argmax(1) == part.query_y).double().mean()))
    for name, value in search.supernet.named_parameters():
        torch.testing.assert_close(value.detach(), own[name], rtol=0, atol=1e-12, msg=name)
        assert value.grad is None
    assert float(scalars["controller/inner_reward"]) == pytest.approx(sum(rewards[:2]) / 2)
    assert float(scalars["controller/reward"]) == pytest.approx(rewards[2])
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in search.controller.parameters())


def test_evaluation_and_derivation_leave_persistent_weights_alone():
    search = make_search(shared={"weights": "persistent"}, inner_archs=1, outer_baseline="none")
    before = copy.deepcopy(search.state_dict())
    search.supernet_children.reward((0, 1, 2), make_task())
    search.task_logits(make_task())
    assert all(torch.equal(value, before[key]) for key, value in search.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"inner_archs": 2, "outer_baseline": "none"}, "inner_baseline=leave_one_out"),
        ({"inner_baseline": "self_critical"}, "inner_baseline=self_critical"),
        ({"inner_baseline": "none", "outer_baseline": "leave_one_out", "outer_archs": 2}, "outer_baseline=leave_one"),
        ({"inner_baseline": "none", "scoring": {"head": "prototype"}}, "head=prototype"),
        ({"inner_baseline": "none", "scoring": {"reward": "naswot"}}, "query_accuracy or negative_query_loss"),
    ],
)
def test_what_weights_in_place_would_bias_or_not_train_is_refused(settings, named):
    with pytest.raises(InputError, match=f"{named}"):
        make_search(shared={"weights": "persistent"}, **settings)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: make_search(inner_reward="negative_query_loss"), "outer_baseline=per_task.*=negative_query_loss"),
        (lambda: ControllerLoop(promp_epochs=2), "promp_epochs=2.*estimator=naive"),
        (lambda: ControllerLoop(share_archs=True, task_embedding=True), "share_archs=true.*task_embedding=true"),
        (lambda: ControllerLoop(skip_target=1.0), "skip_target=1.0"),
        (lambda: SharedWeights(weights="slow"), "weights=slow"),
        (lambda: SharedWeights(warmup_steps=-1), "warmup_steps=-1"),
        (lambda: SharedWeights(warmup_steps=9, weights_until=5), "weights_until=5.*warmup_steps=9"),
        (
            lambda: make_search(test={"test_reward": "naswot"}, inner_baseline="moving_average"),
            "test_reward=naswot.*inner_baseline=moving_average",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_named(make, named):
    with pytest.raises(InputError, match=named):
        make()


def test_weights_in_place_refuse_several_processes(monkeypatch):
    search = make_search(shared={"weights": "persistent"}, inner_archs=1, outer_baseline="none")
    monkeypatch.setattr(EpisodicModule, "setup", lambda self, stage: None)
    monkeypatch.setattr("few_shot_nas.algorithms.maml_enas.world", lambda: (0, 2))
    with pytest.raises(InputError, match="weights=persistent.*devices=1"):
        search.setup("fit")


def test_the_controller_rests_in_the_warm_up_and_the_weights_after_their_end():
    search = make_search(shared={"warmup_steps": 2, "weights_until": 4, "strict_fairness": True})
    phases = []
    for step in range(6):
        search.meta_step = step
        search.zero_grad(set_to_none=True)
        loss, scalars = search.task_loss(make_task())
        loss.backward()
        weights, policy = (
            any(p.grad is not None for p in part.parameters()) for part in (search.supernet, search.controller)
        )
        phases.append((search.phase(), weights, policy, len(scalars)))
    warm, both, alone = ("warmup", True, False, 2), ("joint", True, True, 8), ("policy", False, True, 8)
    assert phases == [warm] * 2 + [both] * 2 + [alone] * 2
    assert search.rewards_spent(4) == 3 * 4 * 3


def test_shared_architectures_are_the_same_for_all_tasks_of_a_step_alone():
    search = make_search(share_archs=True)
    own = dict(search.controller.named_parameters())
    first = search.draw(own, make_task(task_id=1), "inner", 8)
    assert search.draw(own, make_task(task_id=2), "inner", 8) == first
    assert search.draw(own, make_task(task_id=1), "outer", 8) != search.draw(own, make_task(task_id=2), "outer", 8)
    search.meta_step = 1
    assert search.draw(own, make_task(task_id=1), "inner", 8) != first


@pytest.mark.parametrize("estimator", ["emaml", "dice_full"])
@pytest.mark.parametrize(
    ("inner_reward", "inner_baseline", "subtracted"),
    [
        ("support_loo_loss", "leave_one_out", (0.6, 0.6)),  # the average outer reward
        ("support_loo_loss", "none", (0.0, 0.0)),
        ("query_accuracy", "leave_one_out", (-1.5, -2.5)),  # the same kind by its name, and by default
        (None, "leave_one_out", (-1.5, -2.5)),
    ],
)
def test_the_correction_subtracts_a_number_of_the_outer_rewards_kind(
    monkeypatch, estimator, inner_reward, inner_baseline, subtracted
):
    tried, chosen, task, gradients = [(0, 1, 2), (3, 3, 0)], [(2, 0, 4)], make_task(shots=2), []
    for name in (estimator, "naive"):
        search = make_search(
            scoring={"head": "prototype"}, estimator=name, inner_reward=inner_reward, inner_baseline=inner_baseline,
            outer_baseline="none", controller_inner_lr=2.0,
        )  # fmt: skip
        fixed(monkeypatch, search, tried, chosen)
        monkeypatch.setattr(search, "inner_reward", lambda decisions, task: -2.5 if decisions == tried[0] else -1.5)
        search.outer_average = MovingAverage(0.3, 0.5)
        loss, scalars = search.task_loss(task)
        own = list(search.controller.parameters())
        gradients.append(torch.autograd.grad(loss, own))
    reward = float(scalars["controller/reward"])
    term = sum(
        (reward - b) * search.controller.log_prob(torch.tensor(a)) for b, a in zip(subtracted, tried, strict=True)
    )
    for corrected, naive, g in zip(*gradients, torch.autograd.grad(term, own), strict=True):
        torch.testing.assert_close(corrected - naive, -g, rtol=0, atol=1e-6)  # rewards are float32
        assert float(g.abs().max()) > 1e-4


@pytest.mark.parametrize("space", ["chain", "conv4_chain"])
def test_a_task_embedding_conditions_the_policy_on_the_support_set_alone(space):
    search = make_search(space, task_embedding=True)
    one, other = make_task(seed=0), make_task(seed=1)
    context = search.on_task(one).context
    stem = getattr(search.supernet.body, "stem", torch.nn.Identity())
    maps = F.adaptive_avg_pool2d(stem(one.support_x), 4).mean(0).flatten()
    torch.testing.assert_close(context, maps / len(maps) ** 0.5)
    assert not context.requires_grad
    assert torch.equal(search.on_task(one._replace(query_x=other.query_x)).context, context)
    params = dict(search.controller.named_parameters())
    logs = [float(search.on_task(task).log_probs(params, [(0, 1, 2)]).sum().detach()) for task in (one, other)]
    assert abs(logs[0] - logs[1]) > 1e-9
    search.task_loss(one)[0].backward()
    assert float(search.controller.task.weight.grad.abs().max()) > 0
    search._average_embeddings()
    torch.testing.assert_close(search.mean_embedding, context)


def test_choices_of_a_policy_that_knows_the_task_are_recorded_at_the_mean_embedding(tmp_path):
    search = make_search(task_embedding=True)
    search.mean_embedding.fill_(0.3)
    search._trainer, search.meta_step = SimpleNamespace(loggers=[ChoicesCSV(tmp_path / "choices.csv")]), 3
    assert search.end_window() == {}
    row = (tmp_path / "choices.csv").read_text().splitlines()[1].split(",")
    expected = search.controller.marginals(generator(5, "choices"), MARGINAL_PATHS, search.mean_embedding)
    assert [float(cell) for cell in row] == pytest.approx([3.0, *torch.cat(expected).tolist()], abs=1e-6)
    with pytest.raises(ValueError, match="got context None"):
        search.controller.marginals(generator(5, "choices"), MARGINAL_PATHS)


def test_the_skip_prior_of_the_clone_joins_the_loss(monkeypatch):
    losses, chosen = [], [(0, 1, 1, 2, 0, 1), (3, 0, 0, 1, 1, 1)]
    for weight in (0.0, 0.7):
        search = make_search("enas_macro", skip_weight=weight, skip_target=0.3, outer_archs=2)
        kinds = search.kinds
        chosen = [tuple(0 if kind == "op" else place % 2 for place, kind in enumerate(kinds)), (1,) * len(kinds)]
        fixed(monkeypatch, search, chosen, chosen)
        # Equal rewards: the clone is theta.
        monkeypatch.setattr(search.supernet_children, "reward", lambda decisions, task, reward_function=None: 0.5)
        losses.append(float(search.task_loss(make_task())[0].detach()))
    rollouts = [search.controller(torch.tensor(a)) for a in chosen]
    expected = sum(float(skip_prior_kl(r.log_probs, r.decisions, kinds, 0.3).detach()) for r in rollouts) / 2
    assert losses[1] - losses[0] == pytest.approx(0.7 * expected, rel=1e-9) and expected > 0.01


def test_promps_first_step_is_lvcs_and_later_ones_reuse_the_rewards(monkeypatch):
    tried, chosen, task = [(0, 1, 2), (3, 3, 0)], [(2, 0, 4)], make_task()
    search = make_search(estimator="lvc", promp_epochs=3, controller_inner_lr=5.0, entropy_weight=0.0)
    fixed(monkeypatch, search, tried, chosen)
    calls, steps = [], []
    monkeypatch.setattr(
        search.supernet_children,
        "reward",
        lambda decisions, task, reward_function=None: calls.append(decisions) or 0.1 * len(calls),
    )
    optimizer = torch.optim.SGD([{"params": list(search.parameters()), "base_lr": 0.5}], lr=0.5)
    monkeypatch.setattr(search, "optimizers", lambda: optimizer)
    monkeypatch.setattr(search, "manual_backward", lambda loss: loss.backward())
    gradient = lambda: torch.cat([p.grad.flatten() for p in search.controller.parameters()])  # noqa: E731
    search.task_loss(task)[0].backward()
    lvc = gradient()
    old = {name: value.detach().clone() for name, value in search.controller.named_parameters()}
    monkeypatch.setattr(optimizer, "step", lambda: steps.append(gradient()))
    search._promp_step(old)
    torch.testing.assert_close(steps[0], lvc, rtol=0, atol=1e-10)
    assert float(lvc.abs().max()) > 1e-5 and len(calls) == 2
    with torch.no_grad():  # away from the policy that drew the architectures, the gradient is another
        for value in search.controller.parameters():
            value.sub_(5.0 * value.grad)
    search._promp_step(old)
    assert float((steps[1] - steps[0]).abs().max()) > 1e-6 and len(calls) == 2
    assert all(p.grad is None for p in search.supernet.parameters())


def test_the_clone_of_a_test_task_takes_the_step_of_its_support_rewards(monkeypatch):
    search = make_search(
        scoring={"head": "prototype"}, test={"test_reward": "support_loo"}, inner_archs=3, controller_inner_lr=40.0,
        inner_reward="support_loo", outer_baseline="none",
    )  # fmt: skip
    task, seen = make_task(shots=2), []
    values = {}

    def scored(decisions, support, reward_function):
        assert type(support) is SupportSet
        seen.append(decisions)
        return values.setdefault(decisions, 0.1 * len(values))

    monkeypatch.setattr(search.supernet_children, "support_reward", scored)
    chosen = search.genotype_for(task)
    own, rewards = dict(search.controller.named_parameters()), [values[a] for a in seen]
    assert len(seen) == 3
    surrogate = 0.0
    for k, a in enumerate(seen):
        others = sum(r for j, r in enumerate(rewards) if j != k) / 2
        surrogate = surrogate + (rewards[k] - others) * search.controller.log_prob(torch.tensor(a)) / 3
    step = torch.autograd.grad(surrogate, list(own.values()))
    clone = {name: value + 40.0 * g for (name, value), g in zip(own.items(), step, strict=True)}
    greedy = tuple(functional_call(search.controller, clone, (), {"greedy": True}).decisions.tolist())
    assert greedy != search.incumbent() and chosen == search.supernet.space.decode(greedy)


def test_without_a_test_reward_every_task_gets_the_derived_architecture():
    search = make_search()
    assert search.genotype_for(make_task()) == search.supernet.space.decode(search.incumbent())
    search.genotype = search.supernet.space.decode((4, 4, 1))
    assert search.genotype_for(make_task()) == search.genotype


def test_an_oracle_cannot_be_asked_about_images_without_labels():
    search = make_search(test={"test_reward": "query_accuracy", "oracle_adaptation": True})
    with torch.no_grad():
        assert search.task_logits(make_task())["support"].isfinite().all()
        with pytest.raises(InputError, match="test_reward=query_accuracy: needs the labels of the queries, which"):
            search.task_logits(make_task().unlabelled())


@pytest.mark.parametrize("oracle", [False, True])
def test_adaptation_at_meta_test_is_counted_and_an_oracle_is_labelled(caplog, oracle):
    reward = "query_accuracy" if oracle else "support_views"
    search = make_search(test={"test_reward": reward, "oracle_adaptation": oracle}, inner_archs=4)
    search.search_summary = {"reward_calls": 30, "reward_calls_search": 20, "reward_calls_derive": 10, "p_max": 0.5}
    for task_id in (0, 1):
        search.genotype_for(make_task(task_id=task_id))
    search.on_test_epoch_end()
    assert search.search_summary == {
        "reward_calls": 38, "reward_calls_search": 20, "reward_calls_derive": 10, "p_max": 0.5,
        "reward_calls_test": 8, "test_reward": reward, "oracle_adaptation": oracle,
    }  # fmt: skip
    assert ("upper bound" in caplog.text) is oracle
