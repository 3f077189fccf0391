"""Children of a search: closed-form heads against plain calls of the supernet."""

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.algorithms.enas import ENAS
from few_shot_nas.algorithms.maml_enas import MAMLENAS
from few_shot_nas.algorithms.random_search import RandomSearch
from few_shot_nas.algorithms.settings import InnerLoop, Scoring
from few_shot_nas.meta.heads import HEADS
from few_shot_nas.spaces.supernet import Supernet
from tests.three_way import make_task

DECISIONS = (1, 3, 0)


def make_search(algorithm=RandomSearch, **scoring):
    torch.manual_seed(0)
    net = Supernet(3, 1, 28, space="chain", channels=4)
    return algorithm(net, inner=InnerLoop(inner_lr=0.1, inner_steps=2), scoring=Scoring(**scoring), seed=5).double()


@pytest.mark.parametrize("algorithm", [RandomSearch, ENAS, MAMLENAS])
@pytest.mark.parametrize("head", HEADS)
def test_a_closed_form_child_is_one_pass_of_the_shared_weights_through_the_head(algorithm, head):
    search, task = make_search(algorithm, head=head), make_task(shots=2)
    genotype = search.supernet.space.decode(DECISIONS)
    support, query = (search.supernet.features(x, genotype) for x in (task.support_x, task.query_x))
    logits = HEADS[head].logits(support, task.support_y, query, 3)
    loss, accuracy = search.supernet_children.mean_loss(task, [DECISIONS])
    torch.testing.assert_close(loss, F.cross_entropy(logits, task.query_y), rtol=0, atol=1e-12)
    assert float(accuracy) == float((logits.argmax(1) == task.query_y).double().mean())
    assert search.supernet_children.reward(DECISIONS, task) == float(accuracy)
    assert search.supernet_children.fast_weights(task, genotype, training=True, second_order=True) == {}


def test_a_closed_form_head_trains_the_path_and_leaves_the_linear_head_alone():
    search, task = make_search(head="prototype"), make_task(shots=2)
    genotype = search.supernet.space.decode(DECISIONS)
    search.supernet_children.adapted_child(task, genotype).loss.backward()
    trained = {name for name, value in search.supernet.named_parameters() if value.grad is not None}
    assert trained == {name for name in search.supernet.active_params(genotype) if not name.startswith("head.")}


def test_in_the_support_bn_mode_each_query_is_scored_on_its_own():
    search, task = make_search(head="ridge"), make_task(shots=2)
    search.genotype = search.supernet.space.decode(DECISIONS)
    whole = search.task_logits(task)["support"]
    alone = search.task_logits(task._replace(query_x=task.query_x[4:5], query_y=task.query_y[4:5]))["support"]
    torch.testing.assert_close(alone, whole[4:5], rtol=0, atol=1e-12)
    other = search.task_logits(task)["transductive"]
    assert float((other - whole).detach().abs().max()) > 1e-3


def test_only_the_linear_head_fixes_the_number_of_ways():
    assert make_search().uses_head and not make_search(head="prototype").uses_head
