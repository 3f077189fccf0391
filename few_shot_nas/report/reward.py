"""What a search maximised, as its curves and the table of its candidates show it."""

from few_shot_nas.report.run import Run

#: Rewards that are shares of right answers and are shown in per cent; others are in units of their own.
SHARES = ("query_accuracy", "support_loo", "support_views")


def reward_name(run: Run) -> str:
    """Return the flag's value, such as ``negative_query_loss``; the default where the run does not say."""
    return str(run.config.get("reward") or SHARES[0])


def reward_in_words(run: Run) -> str:
    """Return the reward's name in words, as ``negative query loss``."""
    return reward_name(run).replace("_", " ")


def in_per_cent(run: Run) -> bool:
    """Return whether the reward is a share of right answers."""
    return reward_name(run) in SHARES
