"""Searches without training: the candidates by plain loops, resumption after any candidate, and the end."""

import math

import pytest
import torch

from few_shot_nas.algorithms.meta_ntk_nas import MetaKernel, MetaNTKNAS
from few_shot_nas.algorithms.pruning_search import Pruning
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.algorithms.te_nas import TENAS
from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.search.pruning import Scores, without
from few_shot_nas.spaces.supernet import Supernet

SMALL = Pruning(repeats=2, regions_crops=100)


class Data:
    """Noise as training tasks: one meta-batch of 3-way tasks by ids."""

    meta_batch_size = 1

    def episode(self, split, ids):
        parts = []
        for task_id in ids:
            g = torch.Generator().manual_seed(task_id)
            parts.append((torch.randn(3, 1, 12, 12, generator=g), torch.randn(3, 1, 12, 12, generator=g)))
        labels = torch.arange(3).expand(len(ids), 3)
        support, query = (torch.stack(images) for images in zip(*parts, strict=True))
        return Episode(support, labels, query, labels, torch.tensor(list(ids)))


class Shell:
    """As much of a Trainer as a meta-step asks for."""

    datamodule = Data()
    should_stop = False
    loggers = ()


def make_search(algorithm=MetaNTKNAS, space="darts_fewshot", pruning=SMALL, seed=0, **settings):
    torch.manual_seed(1)
    net = Supernet(3, 1, 12, space=space, channels=4, cells=2, nodes=1 if space != "nb201" else 2)
    search = algorithm(net, pruning=pruning, seed=seed, outer=OuterLoop(log_every=1, max_meta_steps=1000), **settings)
    search._trainer = Shell()
    search._fabric = None
    return search


def steps(search, count):
    return [search.update(None) for _ in range(count)]


def saved(search):
    checkpoint = {}
    search.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.mark.parametrize(
    ("algorithm", "space"),
    [
        (MetaNTKNAS, "darts_fewshot"),
        (MetaNTKNAS, "metantk"),
        (TENAS, "nb201"),
        pytest.param(TENAS, "darts", marks=pytest.mark.slow),
    ],
)
def test_a_search_ends_with_the_architecture_of_the_ops_left_after_its_candidates(algorithm, space):
    pruning = Pruning(repeats=1, regions_crops=50, prune_number=3)
    search = make_search(algorithm, space, pruning)
    rows = steps(search, search.total)
    assert search.stage.finished and search.update(None) == {}
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert sum("search/margin" in row for row in rows) == search.stage.number
    search.meta_step = search.total
    found = search.end_search(None)
    held = {(t, place): ops[0] for t, edges in search.stage.active.items() for place, ops in edges.items() if ops}
    assert {(t, (e.src, e.dst)): e.op for t, edges in found.genotype.edges for e in edges} == held
    assert found.cost["candidates_scored"] == search.total and found.facts["candidates_in_all"] == search.total
    assert found.facts["seconds_kernel"] > 0 < found.facts["seconds_regions"]


def test_a_candidate_is_scored_by_the_mean_relative_change_over_repeats():
    search = make_search()
    candidate = search.stage.candidates()[0]
    expected = []
    for repeat in range(2):
        episode = Data().episode("train", range(repeat, repeat + 1))
        images = torch.cat([episode.query_x.flatten(0, 1), episode.support_x.flatten(0, 1)])
        search.kernel_images(episode)
        kept = without(search.stage.active, [candidate])
        kappa = [search.condition(menu, images, repeat, "").value for menu in (search.stage.active, kept)]
        regions = [search.regions(menu, repeat) for menu in (search.stage.active, kept)]
        expected.append([round((a - b) / a, 3) for a, b in (kappa, regions)])
    steps(search, 1)
    assert search.scores == [Scores(*(sum(values) / 2 for values in zip(*expected, strict=True)))]


@pytest.mark.parametrize(
    ("algorithm", "count"),
    [
        (MetaNTKNAS, 1),
        pytest.param(MetaNTKNAS, 27, marks=pytest.mark.slow),  # two candidates before the second stage
        pytest.param(TENAS, 27, marks=pytest.mark.slow),
    ],
)
def test_a_search_continues_after_any_candidate_with_the_same_scores(algorithm, count):
    pruning = Pruning(repeats=1, regions_crops=50)
    whole = make_search(algorithm, pruning=pruning)
    rows = steps(whole, count + 3)
    part = make_search(algorithm, pruning=pruning)
    steps(part, count)
    resumed = make_search(algorithm, pruning=pruning)
    resumed.on_load_checkpoint(saved(part))
    again = steps(resumed, 3)
    timeless = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows[count:]]
    assert [{k: v for k, v in row.items() if "seconds" not in k} for row in again] == timeless
    assert resumed.stage == whole.stage and resumed.scores == whole.scores
    plain = saved(resumed)[KEY]["pruning"]
    assert {key: plain[key] for key in ("active", "scores")} == {
        key: saved(whole)[KEY]["pruning"][key] for key in ("active", "scores")
    }


def test_repeats_differ_by_weights_as_the_paper_says_or_by_data_alone_as_the_code_does():
    episode = Data().episode("train", range(2))
    kappas = {}
    for init in ("kaiming", "torch_default"):
        search = make_search(pruning=Pruning(init=init))
        images = search.kernel_images(episode)
        kappas[init] = [search.condition(search.stage.active, images, repeat, "").value for repeat in range(3)]
    assert len(set(kappas["kaiming"])) == 3 and len(set(kappas["torch_default"])) == 1
    assert kappas["kaiming"][0] != kappas["torch_default"][0]


def test_compared_networks_share_a_head_unless_the_code_is_to_be_followed():
    heads = {}
    for compat in ("paper", "code"):
        search = make_search(pruning=Pruning(repeats=1, regions_crops=50, compat=compat))
        heads[compat] = []
        search.condition = lambda menu, images, repeat, head, own=heads[compat], old=search.condition: (
            own.append(head) or old(menu, images, repeat, head)
        )
        steps(search, 2)
    assert heads == {"paper": ["", "", ""], "code": ["", "candidate 0", "candidate 1"]}


def test_the_time_of_the_inner_loop_is_infinite_from_1000_on():
    assert MetaKernel(inner_lr_time=1000.0).time == math.inf == MetaKernel(inner_lr_time=1e6).time
    assert MetaKernel(inner_lr_time=1).time == 1
    images = Data().episode("train", range(2))
    kappas = [
        search.condition(search.stage.active, search.kernel_images(images), 0, "").value
        for search in (make_search(meta=MetaKernel(kernel)) for kernel in ("MAML", "ANIL", "NTK"))
    ]
    assert len(set(kappas)) == 3


def test_an_unfinished_search_says_so_and_gives_the_first_ops_that_are_left(caplog):
    search = make_search(pruning=Pruning(repeats=1, regions_crops=50))
    steps(search, 2)
    search.meta_step = 2
    with caplog.at_level("WARNING"):
        found = search.end_search(None)
    assert f"2 of {search.total} candidates scored" in caplog.text and "--max_meta_steps" in caplog.text
    assert found.cost["candidates_scored"] == 2
    assert search.progress() == (search.total, "round 1")  # though max_meta_steps is larger
    search.supernet.space.encode(found.genotype)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Pruning(repeats=0), "repeats=0"),
        (lambda: Pruning(init="zeros"), "init=zeros"),
        (lambda: Pruning(compat="theirs"), "compat=theirs"),
        (lambda: MetaKernel(kernel="BOIL"), "kernel=BOIL"),
        (lambda: MetaKernel(reg=-1.0), "reg=-1"),
        (lambda: make_search(TENAS, kernel_batch=0), "kernel_batch=0"),
        (lambda: MetaNTKNAS(Conv4(3, 1, 16)), "MetaNTKNAS searches a Supernet, but model_class is Conv4"),
        (lambda: TENAS(Supernet(3, 1, 28, space="chain", channels=4)), "space chain given.*darts"),
        (lambda: MetaNTKNAS(Supernet(3, 1, 12, channels=4, cells=1)), "MetaNTKNAS: cells=1 given.*2 are needed"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()


def test_there_is_no_loss():
    with pytest.raises(RuntimeError, match="MetaNTKNAS has no loss"):
        make_search().task_loss(None)
