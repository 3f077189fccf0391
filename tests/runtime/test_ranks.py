"""What is said of a rank that does not answer. Truth: the reports of torch, as it printed them."""

import pytest

from few_shot_nas.runtime.ranks import largest, meet, silence, world


@pytest.mark.parametrize(
    ("rank", "report", "who"),
    [
        (0, "[Rank 0]: Ranks 1, 3 failed to pass monitoredBarrier in 4000 ms", "from ranks 1, 3: it has ended"),
        (0, "[Rank 0]: Rank 2 failed to pass monitoredBarrier in 4000 ms", "from rank 2: it has ended"),
        (2, "Rank 2 successfully reached monitoredBarrier, but received errors", "from rank 0: it has ended"),
        (0, "Connection closed by peer", "from another rank: it has ended"),
    ],
)
def test_what_torch_says_becomes_one_line(rank, report, who):
    assert who in silence(rank, report) and "\n" not in silence(rank, report)


def test_one_process_waits_for_nobody():
    meet()
    assert largest(7) == 7 and world() == (0, 1)
