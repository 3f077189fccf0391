"""What a W&B sweep file asks for, as Optuna understands it. Pure: a file in, a plan out.

The keys are those of https://docs.wandb.ai/guides/sweeps/define-sweep-configuration; what has no counterpart here is
refused by name instead of left out.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from few_shot_nas.errors import InputError
from few_shot_nas.whole_file import read_text, reason

Scalar = None | bool | int | float | str
#: Keys of a sweep file that this reader understands, or that concern the W&B service alone.
KEYS = {"program", "method", "metric", "parameters", "early_terminate", "command", "run_cap"}
SERVICE_KEYS = {"name", "description", "project", "entity", "controller"}
DISTRIBUTIONS = (
    "categorical", "constant", "int_uniform", "log_uniform", "log_uniform_values", "q_uniform", "uniform",
)  # fmt: skip
#: W&B's default of ``eta``.
REDUCTION = 3
#: Bytes of a sweep file, and values in it once every reference to another one is written out.
LARGEST_FILE, MOST_VALUES = 2**20, 100_000


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        program: script that trains one trial, relative to the folder that the command is given in.
        method: grid, random or bayes (a tree-structured Parzen estimator here).
        metric: column of ``metrics.csv``.
        maximise: whether a larger metric is better.
        fixed: flags that are the same in every trial.
        searched: flags that trials choose, and from what.
        extra: words of the file's ``command`` that are no macro, such as ``--first_order``.
        min_iter: validations before a trial may be stopped early; None never stops one.
        eta: of the trials that reach a rung, the best one in ``eta`` goes on.
        cap: trials in all that the file allows, or None.
    """

    program: str
    method: Literal["grid", "random", "bayes"]
    metric: str
    maximise: bool
    fixed: Mapping[str, Scalar]
    searched: Mapping[str, BaseDistribution]
    extra: tuple[str, ...]
    min_iter: int | None
    eta: int
    cap: int | None

    def grid(self) -> list[dict[str, Scalar]]:
        """Return every combination of the searched values, the last flag fastest."""
        choices = {name: _values(distribution) for name, distribution in self.searched.items()}
        return [dict(zip(choices, row, strict=True)) for row in itertools.product(*choices.values())]

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return what draws the values of one trial."""
        if self.method == "bayes":
            return optuna.samplers.TPESampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)

    def pruner(self) -> optuna.pruners.BasePruner:
        """Return what stops trials early: asynchronous successive halving where the file says hyperband."""
        if self.min_iter is None:
            return optuna.pruners.NopPruner()
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=self.min_iter, reduction_factor=self.eta)

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """Return the flags of a trial with these values of the searched flags."""
        return [*self.extra, *(f"--{name}={_text(value)}" for name, value in {**self.fixed, **params}.items())]


def suggest(trial: optuna.Trial, searched: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Let a trial choose a value of every searched flag."""
    return {name: _suggest_one(trial, name, distribution) for name, distribution in searched.items()}


def _suggest_one(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _text(value: Scalar) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(distribution: BaseDistribution) -> Sequence[Scalar]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, IntDistribution)
    return range(distribution.low, distribution.high + 1)


# ---- reading ----------------------------------------------------------------------------------------------------


def read_plan(path: Path) -> Plan:
    """Read a sweep file.

    Raises:
        InputError: naming the file and the key if it cannot be read, or asks for something that is not done here.
    """
    content = _content(path)
    where = f"sweep {path}"
    if unknown := set(content) - KEYS - SERVICE_KEYS:
        raise InputError(f"{where}: {_list(unknown)} is not understood; known are {_list(KEYS)}")
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        raise InputError(f"{where}: method={method} given; needed is grid, random or bayes")
    metric = content.get("metric")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise InputError(f"{where}: metric needs a name, such as val/accuracy; found {metric!r:.60}")
    goal = metric.get("goal", "minimize")
    if goal not in ("maximize", "minimize"):
        raise InputError(f"{where}: metric has goal={goal}; needed is maximize or minimize")
    fixed, searched = _parameters(where, content.get("parameters"), method)
    min_iter, eta = _early_stop(where, content.get("early_terminate"))
    return Plan(
        program=str(content.get("program", "training/run_experiment.py")),
        method=method,
        metric=metric["name"],
        maximise=goal == "maximize",
        fixed=fixed,
        searched=searched,
        extra=_extra(where, content.get("command", ())),
        min_iter=min_iter,
        eta=eta,
        cap=_count(where, "run_cap", content["run_cap"]) if "run_cap" in content else None,
    )


def _written_out(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Return how many values a node has once every alias in it is written out; a circle raises RecursionError."""
    if id(node) not in known:
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in inner for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def _content(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path, LARGEST_FILE)
    except (OSError, ValueError) as error:
        raise InputError(f"sweep {path}: cannot be read ({reason(error)})") from error
    try:
        if _written_out(yaml.compose(text, Loader=yaml.SafeLoader), {}) > MOST_VALUES:
            raise InputError(f"sweep {path}: has more than {MOST_VALUES:,} values; refer less often to others by *name")
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"sweep {path}: is not YAML: {' '.join(str(error).split())}") from error
    except (ValueError, OverflowError, RecursionError) as error:  # such as the date 2024-13-45
        raise InputError(f"sweep {path}: holds a value that means nothing ({error})") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise InputError(f"sweep {path}: holds a {kind}; needed are the keys method, metric and parameters")
    return content


def _parameters(where: str, content: Any, method: str) -> tuple[dict[str, Scalar], dict[str, BaseDistribution]]:
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise InputError(f"{where}: parameters must map each flag to value, values, or min and max")
    fixed: dict[str, Scalar] = {}
    searched: dict[str, BaseDistribution] = {}
    for name, entry in content.items():
        found = _parameter(f"{where}: parameter {name}", entry)
        if isinstance(found, BaseDistribution):
            searched[name] = found
        else:
            fixed[name] = found
    if not searched:
        raise InputError(f"{where}: no parameter has values, or min and max; there is nothing to sweep")
    if method == "grid":
        for name, found in searched.items():
            if isinstance(found, FloatDistribution):
                raise InputError(f"{where}: parameter {name}: a grid needs values, or whole numbers min and max")
    return fixed, searched


def _parameter(where: str, entry: Mapping[str, Any]) -> BaseDistribution | Scalar:
    if unknown := set(entry) - {"value", "values", "min", "max", "q", "distribution"}:
        raise InputError(f"{where}: {_list(unknown)} is not understood; write value, values, or min and max")
    if "value" in entry:
        return entry["value"]
    if "values" in entry:
        if not isinstance(entry["values"], list) or not entry["values"]:
            raise InputError(f"{where}: values={entry['values']!r:.60} given; needed is a list")
        return CategoricalDistribution(entry["values"])
    kind = entry.get("distribution") or ("int_uniform" if _whole(entry.get("min"), entry.get("max")) else "uniform")
    if kind not in DISTRIBUTIONS:
        raise InputError(f"{where}: distribution={kind} given; known are {', '.join(DISTRIBUTIONS)}")
    low, high = entry.get("min"), entry.get("max")
    if not all(_finite(end) for end in (low, high)):
        raise InputError(f"{where}: distribution={kind} needs numbers min and max; found min={low}, max={high}")
    return _interval(where, kind, low, high, entry.get("q"))  # type: ignore[arg-type]  # checked above


def _interval(where: str, kind: str, low: float, high: float, step: Any) -> BaseDistribution:
    if not low < high:
        raise InputError(f"{where}: min={low} must be less than max={high}")
    if kind == "int_uniform":
        return IntDistribution(int(low), int(high))
    if kind == "q_uniform":
        if not isinstance(step, int | float) or not step > 0:
            raise InputError(f"{where}: q_uniform needs a step q above 0; found q={step}")
        return FloatDistribution(low, high, step=float(step))
    if kind == "log_uniform":  # its ends are exponents of e
        return FloatDistribution(math.exp(low), math.exp(high), log=True)
    if kind == "log_uniform_values":
        if not low > 0:
            raise InputError(f"{where}: log_uniform_values needs min above 0; found min={low}")
        return FloatDistribution(low, high, log=True)
    return FloatDistribution(low, high)


def _finite(end: Any) -> bool:
    return isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _whole(*ends: Any) -> bool:
    return all(isinstance(end, int) and not isinstance(end, bool) for end in ends)


def _early_stop(where: str, content: Any) -> tuple[int | None, int]:
    if content is None:
        return None, REDUCTION
    if not isinstance(content, dict) or content.get("type") != "hyperband":
        raise InputError(f"{where}: early_terminate={content!r:.60}; needed is type: hyperband with min_iter")
    eta = _count(where, "early_terminate eta", content.get("eta", REDUCTION))
    if eta < 2:
        raise InputError(f"{where}: early_terminate eta={eta}; needed is 2 or more")
    if "min_iter" in content:
        return _count(where, "early_terminate min_iter", content["min_iter"]), eta
    if "max_iter" in content and "s" in content:
        last, brackets = (_count(where, f"early_terminate {key}", content[key]) for key in ("max_iter", "s"))
        return max(last // eta**brackets, 1), eta
    raise InputError(f"{where}: early_terminate needs min_iter, or max_iter and s")


def _count(where: str, name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{where}: {name}={value!r:.40} given; needed is a whole number from 1")
    return value


def _extra(where: str, command: Any) -> tuple[str, ...]:
    if not isinstance(command, list | tuple) or not all(isinstance(word, str) for word in command):
        raise InputError(f"{where}: command must be a list of words")
    # Whether trials log to W&B is said on the command line of the sweep.
    return tuple(word for word in command if not word.startswith("${") and word != "--wandb")


# ---- the command line's part --------------------------------------------------------------------------------------


def with_flags(plan: Plan, words: Sequence[str]) -> Plan:
    """Return the plan with flags that are the same in every trial, which replace what the file says of them.

    Raises:
        InputError: for a word that is not of the form ``--flag=value`` or ``--flag``.
    """
    given: dict[str, Scalar] = {}
    for word in words:
        if not word.startswith("--") or len(word) < 3:
            raise InputError(f"sweep: {word} given; flags of the trials have the form --flag=value")
        name, _, value = word[2:].partition("=")
        given[name] = value if "=" in word else "true"
    searched = {name: found for name, found in plan.searched.items() if name not in given}
    if not searched:
        raise InputError(f"sweep: {', '.join(plan.searched)} given on the command line; nothing is left to sweep")
    return replace(plan, fixed={**plan.fixed, **given}, searched=searched)


def smallest(searched: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return one value of every searched flag: the first of a list, the least of an interval."""
    return {name: _first(found) for name, found in searched.items()}


def _first(found: BaseDistribution) -> Scalar:
    if isinstance(found, CategoricalDistribution):
        return found.choices[0]
    assert isinstance(found, IntDistribution | FloatDistribution)
    return found.low
