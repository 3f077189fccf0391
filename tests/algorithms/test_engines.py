"""Every engine against unrolling one task at a time, in float64 on whole training steps; and what engines refuse."""

import copy

import pytest
import torch
from torch import nn

from few_shot_nas.algorithms.anil import ANIL
from few_shot_nas.algorithms.boil import BOIL
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.maml_plus_plus import Ingredients, MAMLPlusPlus
from few_shot_nas.algorithms.meta_sgd import MetaSGD
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError
from few_shot_nas.meta.engines import ENGINES
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.models.resnet12 import ResNet12
from few_shot_nas.runtime.checkpoint import KEY

OUTER = OuterLoop(label_smoothing=0.1)
LEARNERS = {
    "MAML": lambda net, inner: MAML(net, inner=inner, outer=OUTER),
    "ANIL": lambda net, inner: ANIL(net, inner=inner, outer=OUTER),
    "BOIL": lambda net, inner: BOIL(net, inner=inner, outer=OUTER),
    "MetaSGD": lambda net, inner: MetaSGD(net, inner=inner, outer=OUTER),
    "MAMLPlusPlus": lambda net, inner: MAMLPlusPlus(net, inner=inner, outer=OUTER),
    "MAMLPlusPlus, adapted BN": lambda net, inner: MAMLPlusPlus(
        net, inner=inner, ingredients=Ingredients(per_step_affine=False, adapt_norm=True), outer=OUTER
    ),
}
NETWORKS = {
    "pool": dict(in_channels=3, image_size=18, width=3),  # 18, 9, 4, 2: an odd size among them
    "stride": dict(in_channels=1, image_size=16, width=3, downsample="stride", activation="leaky_relu"),
}


def make_batch(network, tasks=3, dtype=torch.double, way=3):
    generator = torch.Generator().manual_seed(1)
    channels, size = NETWORKS[network]["in_channels"], NETWORKS[network]["image_size"]

    def images(per_class):
        return torch.randn(tasks, per_class * way, channels, size, size, generator=generator, dtype=torch.double)

    labels = torch.arange(way).expand(tasks, way)
    batch = Episode(images(2), labels.repeat(1, 2), images(3), labels.repeat(1, 3), torch.arange(tasks))
    return Episode(*(value.to(dtype) if value.is_floating_point() else value for value in batch[:5]))


def make(learner, network, dtype=torch.double, **inner):
    torch.manual_seed(0)
    net = Conv4(3, **NETWORKS[network])
    with torch.no_grad():  # scales of either sign, as training may leave them
        for value in net.parameters():
            if value.ndim == 1:
                value.add_(0.6 * torch.randn(value.shape))
    return LEARNERS[learner](net, InnerLoop(inner_lr=0.2, inner_steps=2, **inner)).to(dtype)


def meta_gradient(module, batch):
    """Gradients of all parameters and the scalars, as a training step takes them."""
    module.zero_grad(set_to_none=True)
    parts, count = module.parts(batch)
    scalars = 0.0
    for part in parts:
        loss, found = module.task_loss(part)
        loss.backward()
        scalars = scalars + torch.stack([value.detach() for value in found.values()]) / count
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad / count for n, p in module.named_parameters()}
    return grads, scalars


def close(one, other, atol):
    assert one.keys() == other.keys()
    assert max(float(value.abs().max()) for value in other.values()) > 1e-2
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, rtol=0, atol=atol)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "unroll"])
def test_every_engine_gives_the_gradient_of_unrolling(engine, learner, network):
    batch = make_batch(network)
    expected, scalars = meta_gradient(make(learner, network), batch)
    found, own = meta_gradient(make(learner, network, engine=engine), batch)
    close(found, expected, 1e-9)
    torch.testing.assert_close(own, scalars, rtol=0, atol=1e-9)


@pytest.mark.parametrize("engine", ["folded", "vmap", "graph"])
@pytest.mark.parametrize("inner", [{"first_order": True}, {"inner_optimizer": "adam"}], ids=["first order", "adam"])
def test_the_first_order_and_other_inner_rules_too(engine, inner):
    batch = make_batch("pool")
    expected, _ = meta_gradient(make("MAML", "pool", **inner), batch)
    close(meta_gradient(make("MAML", "pool", engine=engine, **inner), batch)[0], expected, 1e-9)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("engine", ["folded", "sweep"])
def test_in_float32_no_engine_is_further_from_float64_than_unrolling(engine, network):
    exact, _ = meta_gradient(make("MAML", network), make_batch(network))
    batch = make_batch(network, dtype=torch.float)

    def distance(name):
        found, _ = meta_gradient(make("MAML", network, torch.float, engine=name), batch)
        return float(torch.cat([(found[key] - value).flatten() for key, value in exact.items()]).norm())

    size = float(torch.cat([value.flatten() for value in exact.values()]).norm())
    assert distance(engine) < max(2 * distance("unroll"), 1e-5 * size)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("engine", ["folded", "graph", "vmap"])
def test_with_convolutions_in_bf16_every_engine_follows_unrolling_and_keeps_iterates_in_float32(engine, network):
    batch, found = make_batch(network, dtype=torch.float), {}
    for name in ("unroll", engine):
        module = make("MAML", network, torch.float, engine=name, first_order=True)
        with torch.autocast("cpu", torch.bfloat16):
            parts, _ = module.parts(batch)
            outcomes = [ENGINES[name].start(module._trained())(module.problem, part, module.plan()) for part in parts]
        assert all(value.dtype == torch.float for outcome in outcomes for value in outcome.trajectory[-1].values())
        sum(outcome.loss for outcome in outcomes).backward()  # the casts have ended
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
        found[name] = torch.cat([value.flatten() for value in grads])
    assert torch.cosine_similarity(found[engine], found["unroll"], dim=0) > 0.9


def test_the_first_meta_step_in_bf16_says_how_far_its_gradient_points_from_float32(caplog):
    caplog.set_level("INFO")
    module, batch = make("MAMLPlusPlus", "pool", torch.float), make_batch("pool", dtype=torch.float)
    state = torch.get_rng_state()
    module.parts(batch)
    assert not caplog.messages  # in float32 there is nothing to say
    module = make("MAMLPlusPlus", "pool", torch.float)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            module.parts(batch)
    (line,) = caplog.messages
    assert line.startswith("MAMLPlusPlus: the first meta-gradient with convolutions in bfloat16 has cosine ")
    cosine = float(line.split("cosine ")[1].split()[0])
    sides = [meta_gradient(make("MAMLPlusPlus", "pool", torch.float), batch)[0]]
    with torch.autocast("cpu", torch.bfloat16):
        sides.append(meta_gradient(make("MAMLPlusPlus", "pool", torch.float), batch)[0])
    one, other = (torch.cat([value.flatten() for value in side.values()]) for side in sides)
    assert cosine == pytest.approx(float(torch.cosine_similarity(one, other, dim=0)), abs=2e-3) and cosine < 0.9999
    assert ("float32 is safer" in line) == (cosine <= 0.95)
    assert not module._seen and all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_every_engine_gives_the_sums_of_the_statistics_that_maml_plus_plus_gathers():
    batch = make_batch("pool")
    seen = {}
    for engine in ("unroll", "folded"):
        module = make("MAMLPlusPlus", "pool", engine=engine)
        meta_gradient(module, batch)
        seen[engine] = module._seen
    close(seen["folded"], seen["unroll"], 1e-9)


def test_a_captured_step_follows_the_parameters_and_the_episodes():
    module = make("MAML", "pool", engine="graph")
    first, second = make_batch("pool"), make_batch("pool")._replace(support_x=make_batch("pool").support_x.flip(0))
    meta_gradient(module, first)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.9)
    reference = make("MAML", "pool")
    reference.load_state_dict(copy.deepcopy(module.state_dict()))
    close(meta_gradient(module, second)[0], meta_gradient(reference, second)[0], 1e-9)


def test_auto_takes_one_of_the_engines_that_can_run_and_changes_nothing_else():
    batch = make_batch("pool")
    module = make("MAMLPlusPlus", "pool", engine="auto")
    state, seen = torch.get_rng_state(), dict(module._seen)
    module.parts(batch)
    assert module.engine in ("unroll", "folded")
    assert torch.equal(torch.get_rng_state(), state) and module._seen == seen
    assert all(parameter.grad is None for parameter in module.parameters())
    close(meta_gradient(module, batch)[0], meta_gradient(make("MAMLPlusPlus", "pool"), batch)[0], 1e-9)


@pytest.mark.parametrize("learner", ["MAML", "MAMLPlusPlus"])
def test_a_continued_run_keeps_the_engine_that_auto_chose(learner, caplog):
    caplog.set_level("INFO")
    module, checkpoint = make(learner, "pool", engine="auto"), {}
    module.on_save_checkpoint(checkpoint)
    assert "engine" not in checkpoint[KEY]  # nothing was chosen yet
    module.engine = "folded"
    module.on_save_checkpoint(checkpoint)
    later, named = make(learner, "pool", engine="auto"), make(learner, "pool", engine="unroll")
    for other in (later, named):
        other.on_load_checkpoint(copy.deepcopy(checkpoint))
    assert later.engine == "folded" and named.engine == "unroll"
    assert "engine=auto: folded, as the run began" in caplog.messages
    checkpoint[KEY]["engine"] = "gone"
    anew = make(learner, "pool", engine="auto")
    anew.on_load_checkpoint(checkpoint)
    assert anew.engine is None


def test_auto_unrolls_networks_that_take_one_task():
    net = Conv4(3, **NETWORKS["pool"])
    net.body[0] = nn.Conv2d(3, 3, 3, padding=1)
    module = MAML(net, inner=InnerLoop(engine="auto")).double()
    module.parts(make_batch("pool"))
    assert module.engine == "unroll"


@pytest.mark.parametrize("engine", ["folded", "graph"])
def test_networks_whose_layers_take_one_task_are_refused(engine):
    with pytest.raises(InputError, match=f"engine={engine} cannot run a ResNet12"):
        MAML(ResNet12(3, 1, 16), inner=InnerLoop(engine=engine))


def test_a_layer_of_another_type_hides_from_no_engine():
    net = Conv4(3, 1, 16, width=2)
    assert ENGINES["folded"].serves(net)
    net.body[0] = nn.Conv2d(1, 2, 3, padding=1)
    assert not ENGINES["folded"].serves(net) and ENGINES["vmap"].serves(net)


def test_an_unknown_engine_is_refused():
    with pytest.raises(InputError, match="engine=fast: .*folded, graph, sweep, unroll, vmap"):
        InnerLoop(engine="fast")
