"""What every algorithm must do: train, resume bit by bit, evaluate without a trace, test on the same episodes."""

import inspect
import json

import pytest
import torch

from few_shot_nas.algorithms import ALGORITHMS
from few_shot_nas.algorithms.alpha_search import AlphaSearch
from few_shot_nas.algorithms.maml_enas_settings import (
    ControllerLoop,
    MetaTest,
    SharedWeights,
)
from few_shot_nas.algorithms.pruning_search import PruningSearch
from few_shot_nas.algorithms.settings import InnerLoop, Scoring
from few_shot_nas.episode import tasks
from few_shot_nas.errors import InputError
from few_shot_nas.runtime.checkpoint import load_checkpoint
from few_shot_nas.runtime.engine_choice import FILE
from few_shot_nas.search.derivation import Derivation
from few_shot_nas.spaces.genotype import Genotype

#: Algorithms that train no weights while they search.
UNTRAINED = {name for name, algorithm in ALGORITHMS.items() if issubclass(algorithm, PruningSearch)}

everyone = pytest.mark.parametrize("name", ALGORITHMS)


def fit(trainer, module, data, **options):
    trainer.fit(module, datamodule=data, **options)
    return module


@everyone
def test_training_counts_meta_steps_moves_the_weights_and_lowers_nothing_to_nan(name, whole):
    module, start = whole(name).module, whole(name).start
    assert module.meta_step == 6
    moved = any(not torch.equal(value, start[key]) for key, value in module.state_dict().items())
    assert moved == (name not in UNTRAINED)
    assert all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())
    assert (module.last_loss == module.last_loss) == (name not in UNTRAINED)


@everyone
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_was_stopped_continues_with_the_same_bits_as_a_whole_one_without_workers(
    name, num_workers, whole, make_module, make_data, make_trainer
):
    trainer, checkpoint = make_trainer("part")
    part = make_module(name)
    part.training_step = stop_after(part, 4)
    with pytest.raises(RuntimeError, match="killed after 4"):
        trainer.fit(part, datamodule=make_data(num_workers=num_workers))
    assert load_checkpoint(checkpoint.last_path)["few_shot_nas"]["meta_step"] == 3

    resumed, again = make_module(name), []
    resumed.log_row = lambda row: again.append(row.get("train/loss"))
    fit(make_trainer("rest")[0], resumed, make_data(num_workers=num_workers), ckpt_path=checkpoint.last_path)
    assert again == whole(name).losses[3:]
    same(whole(name).module, resumed)


ENGINES = {
    "MAML": InnerLoop(0.1, 2, engine="auto"),
    "Reptile": InnerLoop(0.1, 2, eval_inner_steps=3, first_order=True, inner_optimizer="sgd", engine="folded"),
}


@pytest.mark.parametrize("name", ENGINES)
def test_a_run_with_another_engine_continues_with_the_same_bits_whatever_would_be_chosen_later(
    name, blobs, make_module, make_data, make_trainer
):
    uninterrupted = fit(make_trainer("whole")[0], make_module(name, inner=ENGINES[name]), make_data())
    trainer, checkpoint = make_trainer("part")
    part = make_module(name, inner=ENGINES[name])
    part.training_step = stop_after(part, 4)
    with pytest.raises(RuntimeError, match="killed after 4"):
        trainer.fit(part, datamodule=make_data())
    if name == "MAML":
        choices = json.loads((blobs.cache_dir / FILE).read_text())
        assert set(choices.values()) == {uninterrupted.engine} <= {"unroll", "folded"}
        turned = {key: "folded" if engine == "unroll" else "unroll" for key, engine in choices.items()}
        (blobs.cache_dir / FILE).write_text(json.dumps(turned))
    resumed = make_module(name, inner=ENGINES[name])
    fit(make_trainer("rest")[0], resumed, make_data(), ckpt_path=checkpoint.last_path)
    same(uninterrupted, resumed)
    assert name == "Reptile" or resumed.engine == uninterrupted.engine


SWITCHED = {
    "closed form, warm-up, embedding, ProMP, adapted at test": {
        "scoring": Scoring(head="prototype"),
        "loop": ControllerLoop(
            estimator="lvc",
            promp_epochs=2,
            task_embedding=True,
            inner_reward="support_views",
            outer_archs=2,
            outer_baseline="leave_one_out",
        ),
        "shared": SharedWeights(warmup_steps=1, strict_fairness=True, weights_until=5),
        "test": MetaTest("support_views"),
    },
    "persistent": {
        "loop": ControllerLoop(inner_archs=1, outer_baseline="none"),
        "shared": SharedWeights(weights="persistent"),
    },
}


ALONE = {"outer_archs": 2, "outer_baseline": "leave_one_out"}


@pytest.mark.parametrize("name", ["MAMLENAS"])
@pytest.mark.parametrize("switched", SWITCHED)
def test_a_search_with_its_switches_on_continues_with_the_same_bits(
    name, switched, make_module, make_data, make_trainer
):
    whole = fit(make_trainer("whole")[0], make_module(name, **SWITCHED[switched]), make_data())
    trainer, checkpoint = make_trainer("part", save_every=4)
    part = make_module(name, **SWITCHED[switched])
    part.training_step = stop_after(part, 5)
    with pytest.raises(RuntimeError, match="killed after 5"):
        trainer.fit(part, datamodule=make_data())
    resumed = make_module(name, **SWITCHED[switched])
    fit(make_trainer("rest")[0], resumed, make_data(), ckpt_path=checkpoint.last_path)
    same(whole, resumed)
    assert whole.val_accuracy == resumed.val_accuracy
    assert resumed.validation_calls == whole.validation_calls
    make_trainer()[0].test(resumed, datamodule=make_data(), verbose=False)
    assert resumed.search_summary.get("reward_calls_test", 0) == (10 if "test" in SWITCHED[switched] else 0)


@pytest.mark.parametrize(
    ("test", "policy", "per_task"),
    [
        (MetaTest(), ControllerLoop(), 0),
        (MetaTest("support_views"), ControllerLoop(inner_archs=3, inner_reward="support_views", **ALONE), 3),
        (
            MetaTest("support_views"),
            ControllerLoop(inner_archs=3, inner_reward="support_views", inner_baseline="self_critical", **ALONE),
            4,
        ),
    ],
)
def test_adaptation_in_validations_is_counted_beside_the_budget(
    test, policy, per_task, make_module, make_data, make_trainer
):
    module = make_module("MAMLENAS", test=test, loop=policy, derivation=Derivation(2, 2))
    given, deployed = [], module.deployed_score

    def counted(reward_function, support):
        score = deployed(reward_function, support)
        return lambda decisions: given.append(decisions) or score(decisions)

    module.deployed_score = counted
    data = make_data(val_every=2, val_episodes=3, gap_episodes=2)
    fit(make_trainer()[0], module, data)
    module.finish_search(data)
    assert len(given) == module.validation_calls == 3 * (3 + 2) * per_task
    assert module.search_summary.get("reward_calls_validation", 0) == len(given)
    parts = module.search_summary
    assert parts["reward_calls"] == parts["reward_calls_search"] + parts["reward_calls_derive"]
    make_trainer()[0].validate(module, datamodule=data, verbose=False)
    make_trainer()[0].test(module, datamodule=data, verbose=False)
    assert module.validation_calls == 3 * (3 + 2) * per_task
    assert module.search_summary.get("reward_calls_test", 0) == 5 * per_task


def stop_after(module, steps):
    """A training_step that dies in the middle of a run, as a killed process would."""
    step = module.training_step

    def training_step(batch, batch_idx):
        if module.meta_step == steps:
            raise RuntimeError(f"killed after {steps}")
        return step(batch, batch_idx)

    return training_step


def same(one, other):
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


@everyone
def test_a_finished_run_continued_to_more_steps_ends_like_a_longer_one(
    name, whole, make_module, make_data, make_trainer
):
    trainer, checkpoint = make_trainer("short")
    fit(trainer, make_module(name, 4), make_data(4))
    continued = fit(make_trainer("on")[0], make_module(name), make_data(), ckpt_path=checkpoint.last_path)
    assert continued.meta_step == 6
    same(whole(name).module, continued)


@everyone
def test_evaluation_leaves_no_trace_and_rows_are_the_fixed_episodes(name, make_module, make_data, make_trainer):
    module = make_module(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    rows = []
    for _ in range(2):
        make_trainer()[0].test(module, datamodule=make_data(), verbose=False)
        rows.append(module.test_rows)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert rows[0] == rows[1]
    for mode in ("transductive", "support"):
        assert [row["task_id"] for row in rows[0] if row["bn_mode"] == mode] == [0, 1, 2, 3, 4]
    assert all(0 <= row["accuracy"] <= 1 and row["loss"] > 0 for row in rows[0])


@everyone
def test_one_bn_mode_alone_gives_the_logits_that_it_has_among_all(name, make_module, make_data):
    module = make_module(name).eval()
    (task,) = tasks(make_data().episode("val", [0]))
    with torch.no_grad():
        among_all = module.task_logits(task)
        for mode in module.network_bn_modes:
            assert torch.equal(module.logits_in(task, mode), among_all[mode])
    assert module.bn_modes == module.network_bn_modes
    module.bn_modes = ("support",)  # what outer.score_modes=bn_mode makes of it
    with torch.no_grad():
        assert set(module.task_logits(task)) - {"nil_support"} == {"support"}


@everyone
def test_checkpoints_are_plain_data_and_hold_the_cursor(name, whole):
    _, _, _, checkpoint, data = whole(name)
    content = torch.load(checkpoint.last_path, weights_only=True)
    assert content["few_shot_nas"]["meta_step"] == 6
    assert content[type(data).__qualname__] == {"done": 6}
    assert checkpoint.best_path.is_file()


SEARCHES = [name for name, algorithm in ALGORITHMS.items() if algorithm.searches]
#: Searches that rank candidates by rewards; others have no Derivation among their settings.
BY_REWARDS = [name for name in SEARCHES if "derivation" in inspect.signature(ALGORITHMS[name]).parameters]


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_ends_with_a_genotype_of_its_space_and_a_cost_in_named_units(
    name, make_module, make_data, make_trainer
):
    module, data = make_module(name, **({"derivation": Derivation(2, 2)} if name in BY_REWARDS else {})), make_data()
    fit(make_trainer()[0], module, data)
    found = module.end_search(data)
    assert Genotype.from_json(found.genotype.to_json()) == found.genotype
    assert module.net.space.encode(found.genotype)
    assert found.cost and all(type(count) is int and count >= 0 for count in found.cost.values())
    assert sum(found.cost.values()) > 0
    module.finish_search(data)
    assert module.genotype == found.genotype
    assert module.search_summary == {**found.cost, **found.facts}


@pytest.mark.parametrize("name", BY_REWARDS)
def test_a_search_by_rewards_lets_candidates_compete_and_counts_every_reward(
    name, make_module, make_data, make_trainer
):
    module, data = make_module(name, derivation=Derivation(2, 3)), make_data()
    fit(make_trainer()[0], module, data)
    parts = module.end_search(data).cost
    assert module.derivation.derive_candidates == 2
    assert parts["reward_calls"] == parts["reward_calls_search"] + parts["reward_calls_derive"]
    assert parts["reward_calls_search"] > 0 and parts["reward_calls_derive"] in (3, 6)


#: MetaNAS has no outer loss and refuses the flag, others train nothing; DARTS is trained on no tasks
#: and has a test of its own.
EXEMPT = {"MetaNAS", *UNTRAINED}
SMOOTHED = [name for name in SEARCHES if name not in EXEMPT and ALGORITHMS[name].data_kind == "episodes"]


@pytest.mark.parametrize("name", SMOOTHED)
def test_every_search_trains_its_weights_by_smoothed_labels(name, make_module, make_data):
    losses = []
    for share in (0.0, 0.5):
        module = make_module(name)
        object.__setattr__(module.outer, "label_smoothing", share)
        (task,) = tasks(make_data().episode("train", [0]))
        losses.append(float(module.task_loss(task)[1]["train/loss"].detach()))
    assert abs(losses[1] - losses[0]) > 1e-3


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in SEARCHES])
def test_a_learner_that_searches_nothing_ends_without_an_architecture(name, make_module):
    module = make_module(name)
    module.finish_search(None)
    assert module.end_search(None) is None and module.genotype is None and module.search_summary == {}


@everyone
def test_the_constructor_takes_flat_typed_keywords_and_a_network(name):
    algorithm = ALGORITHMS[name]
    assert algorithm.default_model and algorithm.__doc__ and algorithm.__doc__.strip()
    assert isinstance(algorithm.searches, bool)


class Foreign(torch.nn.Module):
    """A user's network with torch's own batch normalisation."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
        self.feature_dim, self.head = 4, torch.nn.Linear(4, 3)

    def features(self, x):
        return self.body(x).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


@everyone
def test_a_network_that_would_be_at_chance_in_validation_is_refused(name):
    algorithm = ALGORITHMS[name]
    named = r"Foreign: 1 layers such as body\.1 \(BatchNorm2d\)"
    if issubclass(algorithm, AlphaSearch):  # which no network without alphas gets into
        named = f"{name} learns alphas, but model_class is Foreign"
    with pytest.raises(InputError, match=named):
        algorithm(Foreign())
