"""Evaluation protocols by name: how published codes score tasks. ``--protocol=rfs`` sets their flags, and no others.

Numbers of different protocols do not belong into one table without a column that says so: results.json has the name,
and the tables of reports make a column of it as soon as it differs.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from few_shot_nas.errors import InputError
from training.flags import Flag


class Protocol(NamedTuple):
    """How tasks are scored.

    Attributes:
        flags: what must hold; the learner must take every one of them.
        where_taken: what must hold of a learner or a data module that takes it.
        learners: those that take all flags, in words for an error.
    """

    flags: Mapping[str, Any]
    where_taken: Mapping[str, Any] = MappingProxyType({})
    learners: str = "every learner"


#: Of the head that RFS and MetaNTK-NAS fit to frozen features.
_FROZEN = {"support_copies": 5, "probe_c": 1.0, "bn_mode": "running"}
_FINE_TUNED = "MAML and its relatives, which adapt by an inner loop"

#: Canonical: the queries of a task are judged one by one. Others as their released codes do it, but with our t-interval
#: and our fixed tasks. T-NAS and Auto-MAML: 10 steps of SGD. MetaNAS: 100 steps of Adam, one query a class; its
#: alphas adapt in the first half of them. Both see all queries at once.
PROTOCOLS: dict[str, Protocol] = {
    "canonical": Protocol({"n_query": 15, "test_episodes": 600}, {"support_copies": 0}),
    "tnas": Protocol(
        {
            "n_query": 15, "test_episodes": 600, "bn_mode": "transductive",
            "inner_optimizer": "sgd", "inner_lr": 0.01, "eval_inner_steps": 10,
        },
        learners=_FINE_TUNED,
    ),
    "metanas": Protocol(
        {
            "n_query": 1, "test_episodes": 2500, "bn_mode": "transductive",
            "inner_optimizer": "adam", "inner_lr": 1e-3, "eval_inner_steps": 100,
        },
        learners=_FINE_TUNED,
    ),
    "metantk": Protocol({"n_query": 50, "test_episodes": 1000, **_FROZEN}, learners="RFS"),
    "rfs": Protocol({"n_query": 15, "test_episodes": 600, **_FROZEN}, learners="RFS"),
}  # fmt: skip


def flags_of_protocol(name: str, flags: Mapping[str, Flag]) -> dict[str, Any]:
    """Return the values that a protocol gives to flags of a choice of classes.

    Raises:
        InputError: if the learner does not take one of them.
    """
    protocol = PROTOCOLS[name]
    missing = [flag for flag in protocol.flags if flag not in flags]
    if missing:
        raise InputError(
            f"--protocol={name}: sets {missing[0]}, which this learner does not take; it is for {protocol.learners}"
        )
    taken = {flag: value for flag, value in protocol.where_taken.items() if flag in flags}
    if name == "canonical":  # each query by itself
        taken["bn_mode"] = "running" if flags["bn_mode"].default == "running" else "support"
    return {**protocol.flags, **taken}


def hold(name: str | None, values: dict[str, Any], given: Collection[str], flags: Mapping[str, Flag]) -> None:
    """Set the flags of a protocol in ``values``, where there is one.

    Args:
        name: a key of PROTOCOLS, or None.
        values: value of every flag; changed in place.
        given: flags that the user gave.
        flags: all of them.

    Raises:
        InputError: if the user gave another value.
    """
    for flag, value in flags_of_protocol(name, flags).items() if name is not None else ():
        if flag in given and values[flag] != value:
            raise InputError(
                f"--{flag}={values[flag]}: --protocol={name} means {value}; leave {flag} out, or give --protocol=null"
            )
        values[flag] = value
