"""Compare ways to choose an architecture per task on reward tables, without a network.

``python training/tabular/arms.py --train_table=val.npz --test_table=test.npz --output=runs/arms --arms=A,B,C,D``.
Arms are named by letter or in full; each writes ``<output>/<arm>/seed<k>``, as training/compare.py reads it.
Each arm is a method of few_shot_nas/tabular/methods.py; docs/stage0.md says what they are.
"""

import dataclasses
import shlex
import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count, NonNegative, Positive, Size
from few_shot_nas.runtime.stop_signals import STOP
from training.exits import OneLineParser, guarded, output_folder

if TYPE_CHECKING:
    from few_shot_nas.tabular.methods import Outcome, Setting
    from few_shot_nas.tabular.reward_table import RewardTable
    from few_shot_nas.tabular.selection import Selection

#: Facts that the two tables must share.
SAME = ("space", "cells", "n_way", "k_shot", "n_query", "head", "bn_mode", "precision", "weights", "embedding_dim")
#: What the flags of the same names are where they are not given.
KS, ESTIMATORS = "1,4,8", "fomaml,naive,emaml,lvc"
#: Facts of a controller that are printed.
LOGGED = ("kl_adapt", "entropy_fraction", "grad_snr")
#: Flags whose defaults differ from those of MAMLENAS. They were chosen once on tables of three supernets, and
#: docs/does_maml_enas_work.md was measured with them.
TUNED = {
    "controller_inner_lr": 10.0, "controller_lr": 3e-3, "kl_target": 0.05, "outer_archs": 4,
    "outer_baseline": "leave_one_out",
}  # fmt: skip
#: The arms that run unless --arms names others.
EVERY_ARM = "A,B,C,D,E,F,G,J"
#: The op that every layer of the hand-made network has.
HAND_MADE_OP = "conv_k3"


def numbers(text: str, flag: str) -> tuple[int, ...]:
    """Return the whole numbers of a flag such as 1,4,8.

    Raises:
        InputError: if one is not a whole number.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise InputError(f"{flag}={text}: needed are whole numbers separated by commas, such as 0,1,2")
    return tuple(int(part) for part in parts)


def load_tables(train: Path, test: Path) -> "tuple[RewardTable, RewardTable]":
    """Return both tables.

    Raises:
        InputError: if one cannot be used, both are one file, or they differ in more than the tasks.
    """
    from few_shot_nas.tabular.reward_table import load_table

    if train.resolve() == test.resolve():
        raise InputError(
            f"--train_table={train} is also the table to score on: what learned from tasks would be scored on them; "
            "fill a table of another split with training/tabular/stage0.py"
        )
    found = load_table(train), load_table(test)
    first, second = (table.facts for table in found)
    other = [f"{key}={first.get(key)} and {second.get(key)}" for key in SAME if first.get(key) != second.get(key)]
    if other:
        raise InputError(f"--train_table={train} and {test} differ: {'; '.join(other)}; make both from one supernet")
    return found


def hand_made(facts: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the decisions of the network whose layers all have a 3x3 convolution; None if the space lacks it."""
    from few_shot_nas.spaces import SPACES

    space = SPACES[facts["space"]](facts["channels"], facts["cells"], facts["nodes"])
    if any(HAND_MADE_OP not in decision.choices for decision in space.decisions):
        return None
    return tuple(decision.choices.index(HAND_MADE_OP) for decision in space.decisions)


def wanted_arms(arms: str | None, facts: Mapping[str, Any]) -> str:
    """Return the arms of --arms, by default every one that the space has; say so if that leaves J out.

    Raises:
        InputError: if J is asked for and the space has no hand-made network.
    """
    if hand_made(facts) is not None:
        return EVERY_ARM if arms is None else arms
    lack = f"arm J: space {facts['space']} has a decision without {HAND_MADE_OP}"
    if arms is None:
        print(f"{lack}; it is left out")
        return EVERY_ARM.removesuffix(",J")
    if any(word.strip().split("_")[0] == "J" for word in arms.split(",")):
        raise InputError(f"{lack}; leave J out of --arms")
    return arms


def chosen_arms(wanted: str, table: Mapping[str, Any]) -> list[str]:
    """Return the names that letters, prefixes or names ask for.

    Raises:
        InputError: if one is not an arm.
    """
    found: list[str] = []
    for word in (part.strip() for part in wanted.split(",") if part.strip()):
        fits = [name for name in table if name == word or name.startswith(f"{word}_")]
        if not fits:
            raise InputError(f"--arms={wanted}: {word} is no arm. Choices: {', '.join(table)}")
        found += fits
    return list(dict.fromkeys(found))


def settings(args: Namespace, tables: "tuple[RewardTable, RewardTable]", seed: int) -> "Setting":
    """Return what all arms of one seed share."""
    import numpy as np

    from few_shot_nas.tabular.environment import Environment
    from few_shot_nas.tabular.methods import Setting
    from few_shot_nas.tabular.simulator import SimulatedLoop

    has_loo = all(np.isfinite(table.loo_loss).all() for table in tables)
    loop = SimulatedLoop(
        controller=args.controller,
        controller_inner_lr=args.controller_inner_lr,
        kl_target=args.kl_target or None,
        controller_lr=args.controller_lr,
        inner_reward=args.inner_reward or ("loo_loss" if has_loo else "loss"),
        outer_reward=args.outer_reward,
        outer_archs=args.outer_archs,
        outer_baseline=args.outer_baseline,
        tasks=args.meta_batch_size,
    )
    train, test = (Environment(table) for table in tables)
    return Setting(train, test, loop, args.budget, seed, hand_made(tables[0].facts))


def selected_arms(args: Namespace, test: "RewardTable") -> "dict[str, Selection]":
    """Return the arms of --selections by name.

    Raises:
        InputError: if a file cannot be used with the test table, or two are of the same arm.
    """
    from few_shot_nas.tabular.selection import check_same_tasks, load_selection

    if args.selections and args.plant:
        raise InputError("--selections with --plant: a preference planted in the table is not in the images; leave one")
    found: dict[str, Selection] = {}
    for path in (Path(word.strip()) for word in args.selections.split(",") if word.strip()):
        selection = load_selection(path)
        check_same_tasks(path, selection.facts, test.facts)
        if selection.arm in found:
            raise InputError(f"--selections={args.selections}: two files of arm {selection.arm}; give one")
        found[selection.arm] = selection
    return found


def write_arm(
    run_dir: Path, name: str, outcome: "Outcome", test: "RewardTable", config: Mapping[str, Any]
) -> None:
    """Write results.json, episodes.csv and config.yaml as a run does, and what identifies the test table."""
    import yaml

    from few_shot_nas.whole_file import write_text
    from training import results

    facts = test.facts
    mode = facts["bn_mode"]
    rows = [
        {"task_id": task, "bn_mode": mode, "accuracy": accuracy, "loss": loss}
        for task, (accuracy, loss) in enumerate(zip(outcome.accuracy.tolist(), outcome.loss.tolist(), strict=True))
    ]
    calls = {"reward_calls": outcome.train_calls + outcome.task_calls * len(rows),
             "reward_calls_search": outcome.train_calls, "reward_calls_per_task": outcome.task_calls}  # fmt: skip
    shared = {key: facts[key] for key in ("data_class", "n_way", "k_shot", "n_query", "split")}
    identity = {key: facts[key] for key in ("seed", "weights", "tasks", "replicates")}
    content = {
        "algorithm": name, "model_class": "Supernet", **shared, "seed": config["seed"],
        "meta_steps": outcome.facts.get("meta_steps", 0), "wall_seconds": config["wall_seconds"],
        "regime": "inherited", "checkpoint": facts["checkpoint"], "test": results.scores(rows),
        "table": {**identity, "plant": facts.get("planted_points", 0.0), "plant_per": facts.get("planted_per", "none")},
        "versions": results.versions(), "command": config["command"], "search": calls, "arm": dict(outcome.facts),
    }  # fmt: skip
    with STOP.held():
        output_folder(run_dir)
        write_text(run_dir / "config.yaml", yaml.safe_dump({**shared, **config}, sort_keys=False))
        results.write_episodes(run_dir / "episodes.csv", rows, lambda task: test.classes[task].tolist())
        results.write_json(run_dir / "results.json", content)


def show(rows: Sequence[tuple[str, "Outcome"]]) -> None:
    """Print one line per arm: the mean over seeds and tasks, and what the controller did."""
    import numpy as np
    from rich.table import Table

    from few_shot_nas.stats.statistics import mean_ci
    from training.results import console

    table = Table(title="accuracy on the test table, % (95 % interval over tasks, seeds averaged)")
    for head in ("arm", "accuracy", "calls before", "calls per task", "label-free", "KL", "entropy", "grad SNR"):
        table.add_column(head, justify="left" if head == "arm" else "right")
    for name in dict.fromkeys(name for name, _ in rows):
        own = [outcome for other, outcome in rows if other == name]
        score = mean_ci(np.mean([outcome.accuracy.numpy() for outcome in own], axis=0))
        known = [[o.facts[key] for o in own if o.facts.get(key) is not None] for key in LOGGED]
        facts = [f"{np.mean(np.array(values, float)):.3g}" if values else "-" for values in known]
        free = {None: "-", True: "yes", False: "ORACLE"}[own[0].facts.get("label_free")]  # type: ignore[index]
        calls = (str(own[0].train_calls), str(own[0].task_calls))
        table.add_row(name, f"{100 * score.mean:.2f} +- {100 * score.ci95:.2f}", *calls, free, *facts)
    console().print(table)


def check_flags(args: Namespace) -> None:
    """Refuse numbers and combinations of flags that mean nothing.

    Raises:
        InputError: for a negative KL, or --ladder with flags of the arms.
    """
    if args.kl_target < 0:
        raise InputError(f"--kl_target={args.kl_target:g}: must be 0 (keep the inner rate) or more")
    fixed = [flag for flag in ("arms", "ks", "estimators") if args.ladder and getattr(args, flag) is not None]
    if fixed:
        raise InputError(f"--ladder with --{fixed[0]}={getattr(args, fixed[0])}: its rungs are fixed; leave one out")


def run_arms(args: Namespace, command: str) -> None:
    """Run the arms of all seeds, write and print them.

    Raises:
        InputError: if a table, an arm or a flag cannot be used.
    """
    from few_shot_nas.runtime.count_progress import CountProgress
    from few_shot_nas.tabular.ladder import ablations, ladder
    from few_shot_nas.tabular.methods import all_methods, selected
    from few_shot_nas.tabular.reward_table import planted

    check_flags(args)
    train, test = load_tables(args.train_table, args.test_table)
    selections = selected_arms(args, test)
    tables = planted(train, args.plant, args.plant_per), planted(test, args.plant, args.plant_per)
    ks, seeds = numbers(args.ks or KS, "--ks"), numbers(args.seeds, "--seeds")
    wanted = "" if args.ladder else wanted_arms(args.arms, train.facts)
    estimators = tuple((args.estimators or ESTIMATORS).split(","))
    work: list[tuple[str, int, Setting, Callable[[], Outcome]]] = []
    for seed in seeds:
        setting = settings(args, tables, seed)
        arms = (
            {**ladder(setting), **ablations(setting)} if args.ladder else dict(all_methods(setting, ks, estimators))
        )
        names = list(arms) if args.ladder else chosen_arms(wanted, arms)
        work += [(name, seed, setting, arms[name]) for name in names]
        work += [(name, seed, setting, partial(selected, setting, one)) for name, one in selections.items()]
    rows: list[tuple[str, Outcome]] = []
    with CountProgress("arms", len(work)) as progress:
        for name, seed, setting, arm in work:
            started = time.monotonic()
            outcome = arm()
            rows.append((name, outcome))
            config = {
                **dataclasses.asdict(setting.loop), "budget": args.budget, "seed": seed, "command": command,
                "train_table": str(args.train_table), "test_table": str(args.test_table),
                "wall_seconds": time.monotonic() - started, "plant": args.plant,
                "plant_per": args.plant_per, "selections": args.selections,
            }  # fmt: skip
            write_arm(args.output / name / f"seed{seed}", name, outcome, tables[1], config)
            progress.update(len(rows))
    show(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = OneLineParser(prog="arms.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--train_table", type=Path, required=True, help="table that arms learn on")
    add("--test_table", type=Path, required=True, help="table of the same supernet that arms are scored on")
    add("--output", type=Path, required=True, help="folder for one run directory per arm and seed")
    add("--arms", help=f"letters, or names such as F_emaml_K4; default {EVERY_ARM}, without J where the space has none")
    add("--selections", default="", help="files of training/tabular/choose.py, an arm H or I each, separated by commas")
    add("--choices", help=SUPPRESS)
    add("--ladder", action="store_true",
        help="run the ladder instead: K = 1, then a remedy more per rung; and all remedies but one")  # fmt: skip
    add("--seeds", default="0,1,2", help="seeds of the repetitions")
    add("--ks", help=f"reward calls per test task of C, E, F and G; default {KS}")
    add("--estimators", help=f"estimators of F; G takes the first; default {ESTIMATORS}")
    add("--budget", type=Count, default=20_000, help="reward calls on the train table")
    add("--controller", default="LSTM", help="LSTM or Factorised")
    add("--controller_inner_lr", type=Positive, help="step size of the inner step at the start")
    add("--kl_target", type=NonNegative, help="KL of the adaptation that sets the inner rate; 0 keeps it")
    add("--controller_lr", type=Positive, help="rate of Adam on the controller")
    add("--inner_reward", help="accuracy, loss, loo_accuracy or loo_loss; default loo_loss if the tables have it")
    add("--outer_reward", default="accuracy", help="accuracy or loss")
    add("--outer_baseline", help="what is subtracted from the outer rewards, as in MAMLENAS")
    add("--outer_archs", type=Size, help="outer samples per task of F and G")
    add("--meta_batch_size", type=Size, default=8, help="tasks per meta-step")
    add("--plant", type=float, default=0.0, metavar="POINTS",
        help="positive control: points of accuracy by which a source of Mixed, or a task, favours one op")  # fmt: skip
    add("--plant_per", choices=("source", "task"), default="source",
        help="who has the preference of --plant; that of a task shows in its rewards alone")  # fmt: skip
    parser.set_defaults(**TUNED)
    args = parser.parse_args(words)
    if args.choices is not None:
        print(f"deprecated: --choices={args.choices} is now --selections={args.choices}", file=sys.stderr)
        args.selections = args.choices
    command = shlex.join(["python", "training/tabular/arms.py", *words])
    return guarded(lambda: run_arms(args, command))


if __name__ == "__main__":
    sys.exit(main())
