"""Choose an architecture for every task of a reward table with the network, by gradient (arm H) or by a proxy (arm I).

``python training/tabular/choose.py --run_dir=runs/SUPERNET --split=val --tasks=1000 --method=alphas`` writes
``selection_alphas_val.npz`` beside the table, which training/tabular/arms.py takes as ``--selections``; several methods
(``--method=naswot,snip``) write a file each. A killed command continues where it stopped. Flags of run_experiment.py,
such as --data_dir or --n_query, replace the run's own; give those that the table was filled with.
"""

import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count, Positive
from few_shot_nas.registry import lookup
from few_shot_nas.runtime.stop_signals import STOP
from training.exits import OneLineParser, guarded, output_folder
from training.tabular.stage0 import Filler, add_task_flags, opened

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from few_shot_nas.episode import Task
    from few_shot_nas.tabular.alphas import AlphaDescent
    from few_shot_nas.tabular.array_file import KeptRows

    #: Returns what has been chosen under the facts that decide it, by this command or by a killed one before it.
    Keep = Callable[[dict[str, Any]], KeptRows]

#: Step sizes that compete where --rate gives none.
RATES = (3.0, 10.0, 30.0, 100.0)
#: The first training tasks, on which the step sizes compete. The next ones are learned from.
RATE_TASKS = 40
#: Tasks of a meta-batch of the outer loop, as in T-NAS.
META_BATCH = 4

#: Tasks, or architectures, between two writes of what has been chosen so far.
CHUNK = 20

Facts = dict[str, Any]


def counted(what: str, filler: Filler, ids: range) -> "Iterator[list[Task]]":
    """Yield the replicates of tasks by their ids, with a progress bar."""
    from few_shot_nas.episode import tasks
    from few_shot_nas.runtime.count_progress import CountProgress

    with CountProgress(what, len(ids)) as progress:
        for done, task_id in enumerate(ids, start=1):
            yield list(tasks(filler.episode(task_id)[0]))
            progress.update(done)


def chosen_loop(args: Namespace, filler: Filler, start: "Tensor") -> "tuple[AlphaDescent, Facts]":
    """Return how alphas are adapted: by --rate, or by the rate that chooses best on training tasks.

    Raises:
        InputError: if steps or rate are out of range.
    """
    import numpy as np

    from few_shot_nas.tabular.alphas import AlphaDescent, chosen_accuracy, step_cost

    rates = RATES if args.rate is None else (args.rate,)
    loops = [AlphaDescent(filler.shape["n_way"], args.steps, rate, args.bn_mode) for rate in rates]
    facts: Facts = {"steps": args.steps, "passes_before": 0, "passes_per_task": args.steps * step_cost(filler.supernet)}
    if len(loops) == 1:
        return loops[0], {**facts, "rate": args.rate}
    training = counted("training tasks", filler.of_split("train"), range(RATE_TASKS))
    found = [[chosen_accuracy(filler.supernet, task, start, loop) for loop in loops] for task in training]
    means = np.mean(found, axis=0)
    best = int(means.argmax())
    passes = len(rates) * RATE_TASKS * filler.shape["replicates"] * (facts["passes_per_task"] + 1)
    tried = {str(rate): float(mean) for rate, mean in zip(rates, means, strict=True)}
    return loops[best], {**facts, "rate": rates[best], "rate_accuracy": tried, "passes_before": passes}


def meta_start(args: Namespace, filler: Filler, start: "Tensor", loop: "AlphaDescent") -> "Tensor":
    """Return the start of the alphas after --meta_steps outer steps on training tasks."""
    from few_shot_nas.tabular.alphas import meta_learned

    ids = range(RATE_TASKS, RATE_TASKS + META_BATCH * args.meta_steps)
    firsts = (replicates[0] for replicates in counted("training tasks", filler.of_split("train"), ids))
    # zip of one iterator with itself: meta-batches of the next tasks
    return meta_learned(filler.supernet, zip(*[firsts] * META_BATCH, strict=True), start, loop, args.meta_lr)


def by_alphas(args: Namespace, filler: Filler, keep: "Keep") -> "tuple[np.ndarray, Facts]":
    """H: the alphas of each task after gradient steps on its support set, from zeros or from a learned start.

    Raises:
        InputError: if the space has no layers, or one shot leaves nothing out.
    """
    import numpy as np

    from few_shot_nas.tabular.alphas import adapted_alphas, layers_of, likeliest, neutral_alphas, step_cost

    layers_of(filler.supernet)
    if filler.shape["k_shot"] < 2:
        raise InputError(
            f"--method={args.method}: k_shot={filler.shape['k_shot']} leaves no image of a class once one is left out; "
            "set --k_shot=2 or more, or take --method=naswot"
        )
    start = neutral_alphas(filler.supernet)
    loop, facts = chosen_loop(args, filler, start)
    if args.method == "meta_alphas":
        start = meta_start(args, filler, start, loop)
        # The query gradient at the end runs through all ops as well.
        passes = args.meta_steps * META_BATCH * (loop.steps + 1) * step_cost(filler.supernet)
        learned = {"meta_steps_alphas": args.meta_steps, "meta_lr": args.meta_lr, "start": start.tolist()}
        facts = {**facts, **learned, "passes_before": facts["passes_before"] + passes}
    places = {decisions: place for place, decisions in enumerate(filler.supernet.space.enumerate())}
    kept = keep(facts)
    for replicates in counted("tasks", filler, range(len(kept.rows), args.tasks)):
        row = [places[likeliest(adapted_alphas(filler.supernet, task, start, loop))] for task in replicates]
        kept.add(row, save=(len(kept.rows) + 1) % CHUNK == 0)
    return np.array(kept.rows[: args.tasks], np.int64), facts


def by_proxy(args: Namespace, filler: Filler, keep: "Keep") -> "tuple[np.ndarray, Facts]":
    """I: the architecture with the best mean of a proxy at initialisation over training tasks.

    Raises:
        InputError: if there is no training task, or the proxy is not defined for the space.
    """
    import numpy as np

    from few_shot_nas.proxies.untrained import untrained_score
    from few_shot_nas.runtime.count_progress import CountProgress

    training = counted("training tasks", filler.of_split("train"), range(args.proxy_tasks))
    tasks = [replicates[0] for replicates in training]
    space = filler.supernet.space
    facts = {"proxy_tasks": args.proxy_tasks, "passes_before": space.size() * len(tasks), "passes_per_task": 0}
    kept = keep(facts)
    with CountProgress("architectures", space.size(), len(kept.rows)) as progress:
        for decisions in list(space.enumerate())[len(kept.rows) :]:
            score = untrained_score(args.method, space.decode(decisions), tasks, filler.seed)
            kept.add(score, save=(len(kept.rows) + 1) % CHUNK == 0)
            progress.update(len(kept.rows))
    best = int(np.argmax(kept.rows))
    return np.full((args.tasks, args.replicates), best, np.int64), {**facts, "scores": kept.rows}


Method = Callable[[Namespace, Filler, "Keep"], "tuple[np.ndarray, Facts]"]
METHODS: dict[str, Method] = {"alphas": by_alphas, "meta_alphas": by_alphas}


def method_named(name: str) -> Method:
    """Return the way of choosing of that name: one of ``METHODS``, or a proxy.

    Raises:
        InputError: if there is none.
    """
    from few_shot_nas.proxies import PROXIES

    return lookup({**dict.fromkeys(PROXIES, by_proxy), **METHODS}, name, "--method")


def choose(args: Namespace, overrides: Sequence[str], command: str) -> None:
    """Choose by every method for every replicate of every task and write it.

    Raises:
        InputError: if the run, the space, the split or a flag does not fit, or the table beside is of other tasks.
    """
    methods = {name: method_named(name) for name in dict.fromkeys(args.method.split(","))}
    filler, facts = opened(args, overrides)

    from few_shot_nas.tabular.reward_table import load_table
    from few_shot_nas.tabular.selection import check_same_tasks

    folder = args.output or args.run_dir / "stage0"
    table = folder / f"table_{args.split}.npz"
    paths = {name: folder / f"selection_{name}_{args.split}.npz" for name in methods}
    if table.is_file():  # before the work, rather than when the selection is used
        check_same_tasks(next(iter(paths.values())), facts, load_table(table, complete=False).facts)
    output_folder(folder)
    for name, method in methods.items():
        write_selection(paths[name], Namespace(**{**vars(args), "method": name}), method, filler, facts, command)


def write_selection(
    path: Path, args: Namespace, method: Method, filler: Filler, facts: Facts, command: str
) -> None:
    """Choose by one method, ``args.method``, and write what it chose; ``facts`` are those of the tasks' table."""
    from few_shot_nas.tabular.array_file import KeptRows
    from few_shot_nas.tabular.selection import Selection
    from training import results

    started = time.monotonic()
    begun = path.with_suffix(".begun.npz")
    of_any_number = {name: value for name, value in facts.items() if name != "tasks"}

    def keep(own: Facts) -> KeptRows:
        return KeptRows(begun, {**of_any_number, "method": args.method, **own})

    places, own_facts = method(args, filler, keep)
    facts = {**facts, "method": args.method, "label_free": True, **own_facts, "command": command}
    facts |= {"wall_seconds": time.monotonic() - started, "versions": results.versions()}
    with STOP.held():
        Selection(places, facts).save(path)
        begun.unlink(missing_ok=True)
    rate = f", rate {facts['rate']:g}" if "rate" in facts else ""
    print(
        f"selection: {path} ({args.tasks} x {args.replicates} tasks x replicates, {facts['passes_per_task']} forward "
        f"passes each{rate}, {facts['wall_seconds']:.0f} s)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = OneLineParser(prog="choose.py", description=__doc__, allow_abbrev=False)
    parser.set_defaults(head="prototype", bf16=False)
    add_task_flags(parser)
    add = parser.add_argument
    ways = f"{', '.join(METHODS)} by gradient, or the name of a proxy"
    add("--method", required=True, help=f"how to choose: {ways}; several are separated by commas")
    add("--steps", type=Count, default=5, help="gradient steps of the alphas on a support set")
    add("--rate", type=Positive, help=f"step size; default the best of {RATES} on {RATE_TASKS} training tasks")
    add("--meta_steps", type=Count, default=100, help=f"outer steps of {META_BATCH} training tasks of meta_alphas")
    add("--meta_lr", type=Positive, default=0.05, help="rate of Adam in the outer steps")
    add("--proxy_tasks", type=Count, default=10, help="training tasks on which a proxy ranks the architectures")
    args, rest = parser.parse_known_args(words)
    command = shlex.join(["python", "training/tabular/choose.py", *words])
    return guarded(lambda: choose(args, rest, command))


if __name__ == "__main__":
    sys.exit(main())
