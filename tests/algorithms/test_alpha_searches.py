"""MetaNAS, and what searches by gradient refuse. Truth: plain loops in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from few_shot_nas.algorithms.alpha_search import AlphaLoop, entropy_fraction, is_alpha
from few_shot_nas.algorithms.auto_maml import AutoMAML
from few_shot_nas.algorithms.darts import DARTS
from few_shot_nas.algorithms.meta_nas import Hardening, MetaNAS
from few_shot_nas.algorithms.reptile import mini_batches
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.algorithms.tnas import TNAS
from few_shot_nas.algorithms.tnas_plus_plus import TNASPlusPlus
from few_shot_nas.errors import InputError
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.spaces.mixed_supernet import MixedSupernet
from few_shot_nas.spaces.pair_mixed_supernet import PairMixedSupernet
from tests.algorithms.alpha_nets import make_net, make_task, meta_batch, one_update, tasks_of

# ---- MetaNAS ---------------------------------------------------------------------------------------------------------


def test_a_task_of_meta_nas_is_a_plain_loop_of_two_adams_at_a_falling_temperature():
    hardening = Hardening(1.0, 0.2)
    module = MetaNAS(
        make_net(PairMixedSupernet),
        inner=InnerLoop(0.02, 3, first_order=True, inner_optimizer="adam"),
        alphas=AlphaLoop(alpha_inner_lr=0.03, alpha_weight_decay=0.1, alpha_lr=0.6),
        hardening=hardening,
        inner_batch=4,
    )
    task = make_task(0)
    images, labels = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
    chosen = mini_batches(9, 4, 6, torch.Generator().manual_seed(1))
    params = {name: value.detach().clone() for name, value in module.net.named_parameters()}
    squares = {name: torch.zeros_like(value) for name, value in params.items()}
    for step, temperature in enumerate((1.0, 0.6, 0.2)):
        for kind in (True, False):
            leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
            drawn = chosen[2 * step + (not kind)]
            logits = functional_call(module.net, leaves, (images[drawn],), {"temperature": temperature})
            loss = F.cross_entropy(logits, labels[drawn])
            grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            for (name, value), gradient in zip(list(params.items()), grads, strict=True):
                if is_alpha(name) == kind:
                    g = (0 if gradient is None else gradient) + (0.1 * value if kind else 0)
                    squares[name] = 0.999 * squares[name] + 0.001 * g * g
                    root = (squares[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                    params[name] = value - (0.03 if kind else 0.02) * g / root
    with torch.no_grad():
        found = module.train_on(images, labels, steps=3, alpha_steps=3, stream=torch.Generator().manual_seed(1))
    for name, value in params.items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-9), name


def test_the_outer_step_of_meta_nas_with_rate_one_ends_at_the_task_and_with_two_tasks_at_their_mean():
    def make():
        return MetaNAS(
            make_net(PairMixedSupernet),
            inner=InnerLoop(0.01, 2, first_order=True, inner_optimizer="adam"),
            alphas=AlphaLoop(alpha_inner_lr=0.01, alpha_lr=1.0),
            inner_batch=4,
        )

    ends = []
    for task in tasks_of(2):
        module = make()
        pool = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
        with torch.no_grad():
            stream = module.task_stream("meta-nas", task)
            ends.append(module.train_on(*pool, steps=2, alpha_steps=2, stream=stream))
    for drawn, target in ((tasks_of(1), ends[:1]), (tasks_of(2), ends)):
        after = one_update(make(), meta_batch(drawn))
        for name, value in after.items():
            assert torch.allclose(value, sum(end[name] for end in target) / len(target), rtol=0, atol=1e-12), name


def test_the_alphas_stay_during_warm_up_and_temperatures_reach_their_ends():
    module = MetaNAS(
        make_net(PairMixedSupernet),
        inner=InnerLoop(0.01, 2, first_order=True, inner_optimizer="adam"),
        hardening=Hardening(alpha_warmup_steps=1),
        inner_batch=4,
    )
    start = {name: value.detach().clone() for name, value in module.net.named_parameters()}
    after = one_update(module, meta_batch(tasks_of(1)))
    assert all(torch.equal(after[name], value) for name, value in start.items() if is_alpha(name))
    assert any(not torch.equal(after[name], value) for name, value in start.items())
    hardening = Hardening(1.0, 0.05)
    assert [hardening.temperature(step, 5) for step in (0, 4)] == pytest.approx([1.0, 0.05])
    assert hardening.temperature(0, 1) == pytest.approx(0.05)


def test_uniform_pairs_give_every_input_of_a_node_the_same_weight():
    net = make_net(PairMixedSupernet, nodes=3)
    with torch.no_grad():
        for value in net.alphas.values():
            value.zero_()
    places = list(net.space.menu()["normal"])
    for weights in net.mixture().values():
        for (_, dst), row in zip(places, weights, strict=True):
            assert float(row.detach().sum()) == pytest.approx(2 / dst)  # of dst inputs


def test_a_pair_mixture_is_the_weighted_sum_over_pairs_and_hardens_into_its_genotype():
    net = make_net(PairMixedSupernet)
    with torch.no_grad():
        for value in net.alphas.values():
            value.normal_(generator=torch.Generator().manual_seed(0)).mul_(3.0)
    mixture = net.mixture_of(dict(net.alphas.items()), 0.7)["normal"]
    rows = {dst: [r for r, (_, d) in enumerate(net.space.menu()["normal"]) if d == dst] for dst in (2, 3)}
    none = torch.tensor([op == "none" for op in net.space.menu()["normal"][0, 2]])
    ops = (net.alphas["normal"] / 0.7).masked_fill(none, -1e30).softmax(-1)
    pairs = net.alphas["normal_pairs"] / 0.7
    expected = torch.zeros_like(ops)
    for dst, own in zip((2, 3), pairs.split([1, 3]), strict=True):
        for pair, weight in zip(itertools.combinations(rows[dst], 2), own.softmax(-1), strict=True):
            for row in pair:
                expected[row] += weight * ops[row]
    assert torch.allclose(mixture, expected, rtol=0, atol=1e-12)
    genotype, x = net.discretise(), torch.randn(4, 1, 12, 12, dtype=torch.float64)
    assert torch.allclose(net(x, temperature=1e-3), net(x, genotype), rtol=0, atol=1e-9)


# ---- what all share --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([[0.25] * 4], 1.0), ([[1.0, 0, 0]], 0.0), ([[0.25] * 4, [1.0, 0]], 0.5), ([[1.0], [0.5, 0.5]], 1.0), ([], 0.0)],
)
def test_the_entropy_fraction_is_one_where_nothing_is_decided_and_zero_where_all_is(weights, expected):
    assert entropy_fraction([torch.tensor(row) for row in weights]) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [MixedSupernet, PairMixedSupernet])
def test_equal_alphas_are_undecided_and_choices_sum_to_one_whatever_the_network_holds(kind):
    """MetaNAS scales edges by its pairs and lacks none: neither may look like a decision."""
    net = kind(3, 1, 12, space="darts_fewshot", channels=2, cells=2, nodes=2)
    for value in net.alphas.values():
        value.data.zero_()
    found = dict(net.choices())
    assert entropy_fraction(found.values()) == pytest.approx(1.0)
    assert all(weights.sum().item() == pytest.approx(1.0) for weights in found.values())
    pairs = {decision.name: decision.choices for decision in found if decision.kind == "pair"}
    if kind is PairMixedSupernet:
        assert pairs["normal/2/inputs"] == ((0, 1),) and pairs["reduce/3/inputs"] == ((0, 1), (0, 2), (1, 2))
    assert bool(pairs) == (kind is PairMixedSupernet)
    assert all(("none" in decision.choices) == (not pairs) for decision in found if decision.kind == "edge")


@pytest.mark.parametrize(
    ("make", "who", "remedy"),
    [
        (lambda net, rate: TNAS(net, alphas=AlphaLoop(alpha_inner_lr=rate)), "TNAS", "alpha_inner_lr"),
        (lambda net, rate: TNASPlusPlus(net, alphas=AlphaLoop(alpha_inner_lr=rate)).double(), "TNASPlusPlus",
         "alpha_inner_lr"),
        (lambda net, rate: AutoMAML(net, alphas=AlphaLoop(alpha_lr=rate)), "AutoMAML", "alpha_lr or alpha_inner_lr"),
    ],
)  # fmt: skip
def test_alphas_that_are_too_far_apart_to_learn_are_told_once(make, who, remedy, caplog):
    for rate, told in ((1.0, 0), (1e18, 1)):
        caplog.clear()
        module = make(make_net(), rate)
        for _ in range(2):
            one_update(module, meta_batch(tasks_of(2)))
            module.recorder.add(module.task_loss(tasks_of(1)[0])[1])
            module.log_row({**module.recorder.close(1)[0], **module.end_window()})
        found = [text for text in caplog.messages if "apart" in text]
        assert len(found) == told, rate
    assert found[0].startswith(f"{who}, meta-step ") and found[0].endswith(f"lower {remedy}")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: TNAS(Conv4(3, 1, 28, width=4)), "model_class is Conv4; use MixedSupernet"),
        (lambda: MetaNAS(make_net()), "model_class is MixedSupernet; use PairMixedSupernet"),
        (lambda: AutoMAML(make_net(), compat="book"), "compat=book: unknown"),
        (lambda: DARTS(make_net(), order="third"), "order=third: unknown"),
        (lambda: AlphaLoop(alpha_inner_lr=-1.0), "alpha_inner_lr=-1.0"),
        (lambda: AlphaLoop(decode_episodes=0), "decode_episodes=0"),
        (lambda: Hardening(temperature_min=2.0), "temperature_min=2.0"),
        (lambda: Hardening(eval_alpha_share=1.5), "eval_alpha_share=1.5 must be"),
        (lambda: Hardening(alpha_warmup_steps=-1), "alpha_warmup_steps=-1"),
        (lambda: MetaNAS(make_net(PairMixedSupernet), inner=InnerLoop(first_order=True)), "inner_optimizer=sgd"),
        (lambda: MetaNAS(make_net(PairMixedSupernet), inner_batch=0), "inner_batch=0"),
        (lambda: MetaNAS(make_net(PairMixedSupernet), outer=OuterLoop(label_smoothing=0.1)), "label_smoothing=0.1"),
        (lambda: PairMixedSupernet(3, 1, 28, space="chain"), "nodes of space chain choose no pairs"),
        (lambda: make_net(PairMixedSupernet, alpha_threshold=1.0), "alpha_threshold=1.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()
