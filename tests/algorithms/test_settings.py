"""Settings refuse values that cannot work, and name the flag."""

import pytest

from few_shot_nas.algorithms.maml_enas import ControllerLoop
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.errors import InputError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InnerLoop(inner_lr=0.0), "inner_lr=0.0"),
        (lambda: InnerLoop(inner_steps=0), "inner_steps=0"),
        (lambda: InnerLoop(eval_inner_steps=-1), "eval_inner_steps=-1"),
        (lambda: InnerLoop(engine="swept"), "engine=swept"),
        (lambda: InnerLoop(inner_optimizer="adamw"), "inner_optimizer=adamw"),
        (lambda: OuterLoop(max_meta_steps=-1), "max_meta_steps=-1"),
        (lambda: OuterLoop(outer_lr=-1.0), "outer_lr=-1.0"),
        (lambda: OuterLoop(weight_decay=-0.1), "weight_decay=-0.1"),
        (lambda: OuterLoop(meta_grad_clip=0.0), "meta_grad_clip=0.0"),
        (lambda: OuterLoop(outer_lr_min=-1e-5), "outer_lr_min=-1e-05 must not be negative"),
        (lambda: OuterLoop(outer_lr_min=0.01), "outer_lr_min=0.01: must lie in 0 .. outer_lr=0.002"),
        (lambda: OuterLoop(label_smoothing=-0.1), "label_smoothing=-0.1"),
        (lambda: OuterLoop(label_smoothing=1.0), "label_smoothing=1.0"),
        (lambda: OuterLoop(patience=0), "patience=0"),
        (lambda: OuterLoop(log_every=0), "log_every=0"),
        (lambda: OuterLoop(restart_steps=0), "restart_steps=0"),
        (lambda: OuterLoop(outer_schedule="sgdr", outer_lr_min=1.0), "outer_lr_min=1.0.*outer_lr=0.002"),
        (lambda: ControllerLoop(inner_archs=0), "inner_archs=0"),
    ],
)
def test_a_value_that_cannot_work_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_evaluation_takes_the_training_steps_but_at_least_three_unless_told_otherwise():
    assert InnerLoop(inner_steps=1).steps(training=False) == 3
    assert InnerLoop(inner_steps=1).steps(training=True) == 1
    assert InnerLoop(inner_steps=5).steps(training=False) == 5
    assert InnerLoop(inner_steps=3, eval_inner_steps=7).steps(training=False) == 7
    assert InnerLoop(inner_steps=3, eval_inner_steps=7).steps(training=True) == 3
    assert InnerLoop(eval_inner_steps=0).steps(training=False) == 0
