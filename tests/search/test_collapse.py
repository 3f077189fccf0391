"""The collapse alarm."""

import pytest

from few_shot_nas.search.collapse import collapse_warning, weightless_fraction
from few_shot_nas.spaces.chain import Chain
from few_shot_nas.spaces.darts import Darts
from few_shot_nas.spaces.enas_macro import EnasMacro
from few_shot_nas.spaces.nb201 import Nb201


@pytest.mark.parametrize(
    ("space", "decisions", "fraction"),
    [
        (Chain(4, 4), (0, 1, 2, 0), 0.0),
        (Chain(4, 4), (3, 4, 2, 0), 0.5),
        (Nb201(), (0, 1, 4, 2, 3, 0), 4 / 6),  # none, skip and pool count
        (EnasMacro(cells=3), (4, 0, 1, 5, 1, 1), 2 / 3),  # skip connections do not: they are not ops
        (Darts(nodes=1), (0, 2, 3, 0, 0, 1), 3 / 4),  # neither do inputs
    ],
)
def test_the_fraction_counts_ops_without_weights(space, decisions, fraction):
    assert weightless_fraction(space, decisions) == pytest.approx(fraction)


def test_a_policy_may_settle_when_the_search_ends_but_not_on_ops_without_weights():
    assert collapse_warning(0.1, 0.05, ending=True) is None
    assert "71%" in collapse_warning(0.71, 0.05, ending=True)


@pytest.mark.parametrize(
    ("weightless", "entropy", "named"),
    [
        (0.7, 0.1, None),
        (0.71, 0.5, "71% of the greedy"),
        (0.1, 0.09, "entropy is 9.0%"),
        (0.9, 0.01, "90%"),
        (1.0, 0.95, None),
        (1.0, 0.94, "100%"),
    ],
)
def test_the_alarm_rings_above_and_below_its_limits(weightless, entropy, named):
    warning = collapse_warning(weightless, entropy)
    assert warning is None if named is None else named in warning
