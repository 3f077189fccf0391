"""Fill the table of rewards of every architecture of a small space with the frozen weights of a finished search.

``python training/tabular/stage0.py --run_dir=runs/SUPERNET --split=val --tasks=1000 --replicates=2``. A killed command
continues where it stopped, and a finished one goes on with more --tasks. Flags of run_experiment.py, such as
--data_dir or --n_query, replace the run's own.
"""

import contextlib
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count, Size
from training.evaluate import build, flags_of_run
from training.exits import OneLineParser, guarded, output_folder

if TYPE_CHECKING:
    from few_shot_nas.episode import Episode, Task
    from few_shot_nas.tabular.reward_table import RewardTable
    from few_shot_nas.tabular.table_entries import Entries

#: Tasks between two writes of the table.
CHUNK = 20


def checked_supernet(net: Any) -> Any:
    """Return ``net`` if its architectures can be tabulated.

    Raises:
        InputError: if it is not a supernet, or of too large a space.
    """
    from few_shot_nas.spaces.supernet import Supernet
    from few_shot_nas.tabular.reward_table import MAX_ARCHITECTURES

    if not isinstance(net, Supernet):
        raise InputError(f"--run_dir: the run trained a {type(net).__name__}; give a search with model_class=Supernet")
    if net.space.size() > MAX_ARCHITECTURES:
        raise InputError(
            f"--run_dir: space {net.space.name} with cells={net.space.cells} has {net.space.size()} architectures, a "
            f"table holds at most {MAX_ARCHITECTURES}; train a supernet of space chain or conv4_chain"
        )
    return net


def check_head(args: Namespace, module: Any) -> None:
    """Check that the run has the head that is to score its architectures.

    Raises:
        InputError: if that is the linear one and the run was trained with a closed form.
    """
    if args.head == "linear" and module.hparams["head"] != "linear":
        raise InputError(
            f"--head=linear: scores a run's own inner loop and linear head, but {args.run_dir} was trained with "
            f"head={module.hparams['head']}; give --head=prototype, or the folder of a run with head=linear"
        )


def facts_of(args: Namespace, parts: Any, checkpoint: Path, values: Any) -> dict[str, Any]:
    """Return what decides the bits of the table."""
    from few_shot_nas.models.digest import weights_digest
    from few_shot_nas.runtime.checkpoint import KEY, load_checkpoint

    space, data = parts.net.space, parts.datamodule
    return {
        "run": args.run_dir.name,
        "algorithm": values["algorithm"],
        "data_class": values["data_class"],
        "split": args.split,
        "seed": data.seed,
        "head": args.head,
        "bn_mode": args.bn_mode,
        "precision": "bf16" if args.bf16 else "32",
        "device": args.device,
        "tasks": args.tasks,
        "replicates": args.replicates,
        "n_way": data.n_way,
        "k_shot": data.k_shot,
        "n_query": data.n_query,
        "space": space.name,
        "channels": space.channels,
        "cells": space.cells,
        "nodes": space.nodes,
        "architectures": space.size(),
        "embedding_dim": parts.net.embedding_dim,
        "checkpoint": checkpoint.stem,
        "meta_steps": load_checkpoint(checkpoint)[KEY]["meta_step"],
        "weights": weights_digest(parts.net),
    }


def begin(path: Path, facts: dict[str, Any], supernet: Any, embedding_dim: int) -> "RewardTable":
    """Return the table of a killed run of the same command or of one with fewer tasks, or an empty one.

    Raises:
        InputError: if the file holds another table.
    """
    import numpy as np

    from few_shot_nas.tabular.reward_table import empty_table, extended, load_table

    if not path.is_file():
        decisions = np.array(list(supernet.space.enumerate()), np.int64)
        return empty_table(decisions, facts["tasks"], facts["replicates"], embedding_dim, facts)
    table = load_table(path, complete=False)
    if table.shape[1] < facts["tasks"]:
        table = extended(table, facts["tasks"])
    there = table.facts
    other = [f"{key}={there.get(key)} there, {facts[key]} here" for key in facts if there.get(key) != facts[key]]
    if other:
        raise InputError(f"{path} holds another table ({'; '.join(other)}); delete it or give another --output")
    return table


def linear_entries(module: Any, task: "Task", bn_mode: str) -> "Entries":
    """Score every architecture by the run's own inner loop and linear head: one child per architecture, slow."""
    import torch
    import torch.nn.functional as F

    from few_shot_nas.stats.statistics import accuracy
    from few_shot_nas.tabular.table_entries import Entries, Scores

    found, losses = [], []
    for decisions in module.supernet.space.enumerate():
        genotype = module.supernet.space.decode(decisions)
        with torch.no_grad():
            params = module.supernet_children.fast_weights(task, genotype, training=False, second_order=False)
            logits = module.supernet_children.logits(
                task, task.query_x, genotype, params, training=False, bn_mode=bn_mode
            )
        found.append(accuracy(logits, task.query_y))
        losses.append(F.cross_entropy(logits, task.query_y))
    return Entries(Scores(torch.stack(found), torch.stack(losses)), None)


class Filler:
    """What fills the columns of a table: the tasks of one split, and the weights that score them.

    Args:
        args: the command's own flags.
        parts: source, supernet, algorithm and DataModule of the run, with the weights of the checkpoint.

    Raises:
        InputError: if the network is not a supernet of a small space, or the split has too few images.
    """

    def __init__(self, args: Namespace, parts: Any) -> None:
        from few_shot_nas.data.replicates import check_replicates
        from few_shot_nas.data.sampler import image_tensor

        data = parts.datamodule
        self.args, self.parts, self.source = args, parts, parts.source
        self.supernet = checked_supernet(parts.net)
        self.shape = {
            "n_way": data.n_way, "k_shot": data.k_shot, "n_query": data.n_query, "replicates": args.replicates,
        }  # fmt: skip
        self.seed = data.seed
        check_replicates(self.source, args.split, **self.shape)
        self.module = parts.module.to(args.device).eval()
        self.images = image_tensor(self.source.split(args.split)).to(args.device)

    def of_split(self, split: str) -> "Filler":
        """Return what fills the columns of a table of another split."""
        return Filler(Namespace(**{**vars(self.args), "split": split}), self.parts)

    def episode(self, task_id: int) -> tuple["Episode", int, list[int]]:
        """Return the replicates of a task as a meta-batch, the part of the data it is from, and its classes."""
        from few_shot_nas.data.replicates import draw_replicates
        from few_shot_nas.data.sampler import classes_of, group_of, materialise, stack

        plans = draw_replicates(self.source, self.args.split, seed=self.seed, task_id=task_id, **self.shape)
        plan = stack(plans)
        moved = {name: getattr(plan, name).to(self.args.device) for name in ("index", "label", "rotation")}
        episode = materialise(plan._replace(**moved), self.images, self.source.mean, self.source.std)
        split = self.source.split(self.args.split)
        return episode, group_of(split, plans[0]), classes_of(split, plans[0], self.source.rotation(self.args.split))

    def entries(self, task: "Task") -> "Entries":
        """Return the scores of every architecture on one replicate."""
        import torch

        from few_shot_nas.tabular.table_entries import prototype_entries

        with torch.autocast(self.args.device, torch.bfloat16) if self.args.bf16 else contextlib.nullcontext():
            if self.args.head == "linear":
                return linear_entries(self.module, task, self.args.bn_mode)
            return prototype_entries(self.supernet, task, self.args.bn_mode, self.shape["n_way"])

    def embedding(self, task: "Task") -> Any:
        """Return what a conditioned controller sees of a replicate's support images, ``[D]``."""
        import torch

        with torch.no_grad():
            return self.supernet.task_embedding(task.support_x).float().cpu().numpy()


def fill(table: "RewardTable", path: Path, filler: Filler) -> "RewardTable":
    """Fill what is missing of a table, saving it every few tasks.

    Args:
        table: the table so far; its arrays are written.
        path: where it is saved.
        filler: what fills its columns.
    """
    import dataclasses

    from few_shot_nas.episode import tasks
    from few_shot_nas.runtime.count_progress import CountProgress

    total = table.shape[1]
    with CountProgress("tasks", total, table.done) as progress:
        for task_id in range(table.done, total):
            episode, table.source[task_id], table.classes[task_id] = filler.episode(task_id)
            for replicate, task in enumerate(tasks(episode)):
                query, support = filler.entries(task)
                if replicate == 0:
                    table.embedding[task_id] = filler.embedding(task)
                table.accuracy[:, task_id, replicate] = query.accuracy.float().cpu().numpy()
                table.loss[:, task_id, replicate] = query.loss.float().cpu().numpy()
                if support is not None:
                    table.loo_accuracy[:, task_id, replicate] = support.accuracy.float().cpu().numpy()
                    table.loo_loss[:, task_id, replicate] = support.loss.float().cpu().numpy()
            if (task_id + 1) % CHUNK == 0 or task_id + 1 == total:
                table = dataclasses.replace(table, done=task_id + 1)
                table.save(path)
            progress.update(task_id + 1)
    return table


def opened(args: Namespace, overrides: Sequence[str]) -> tuple[Filler, dict[str, Any]]:
    """Return the tasks and the weights that the flags name, and the facts of a table of them.

    Raises:
        InputError: if the run, the space, the split or a flag does not fit.
    """
    flags = flags_of_run(args.run_dir, overrides)

    import torch

    from few_shot_nas.runtime.checkpoint import named_checkpoint
    from few_shot_nas.runtime.progress import quiet_lightning
    from training import assemble

    checkpoint = named_checkpoint(args.run_dir, args.checkpoint)
    quiet_lightning()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device=cuda: this machine has no GPU that torch can use; give auto or cpu")
    args.device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    parts = build(args.run_dir, checkpoint, flags)
    parts.datamodule.setup()  # a table may be of any split
    assemble.load_weights(checked_supernet(parts.net), str(checkpoint))
    check_head(args, parts.module)
    filler = Filler(args, parts)
    return filler, facts_of(args, parts, checkpoint, flags.values)


def stage0(args: Namespace, overrides: Sequence[str], command: str) -> None:
    """Fill the table and write what it is beside it.

    Raises:
        InputError: if the run, the space, the split or a flag does not fit.
    """
    filler, facts = opened(args, overrides)

    from few_shot_nas.episode import tasks
    from training import results

    path = (args.output or args.run_dir / "stage0") / f"table_{args.split}.npz"
    output_folder(path.parent)
    first = next(tasks(filler.episode(0)[0]))
    table = begin(path, facts, filler.supernet, len(filler.embedding(first)))
    started = time.monotonic()
    table = fill(table, path, filler)
    spent = time.monotonic() - started
    summary = {**facts, "wall_seconds": spent, "versions": results.versions(), "command": command}
    results.write_json(path.with_name(f"stage0_{args.split}.json"), summary)
    print(f"table: {path} ({' x '.join(map(str, table.shape))} architectures x tasks x replicates, {spent:.0f} s)")


def add_task_flags(parser: OneLineParser) -> None:
    """Add the flags that name tasks and weights."""
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of a finished search of a small space")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="split of the tasks")
    parser.add_argument("--tasks", type=Count, default=1000, help="number of tasks")
    parser.add_argument("--replicates", type=Size, default=2, help="disjoint draws of images for each task")
    parser.add_argument("--bn_mode", choices=("transductive", "support"), default="transductive", help="as in the runs")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the network runs")
    parser.add_argument("--checkpoint", default="last", help="best, last or a path; default last")
    parser.add_argument("--output", type=Path, help="folder of the result; default RUN_DIR/stage0")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = OneLineParser(prog="stage0.py", description=__doc__, allow_abbrev=False)
    add_task_flags(parser)
    parser.add_argument("--head", choices=("prototype", "linear"), default="prototype", help="what classifies features")
    parser.add_argument("--bf16", action="store_true", help="run the network in bfloat16")
    args, rest = parser.parse_known_args(words)
    command = shlex.join(["python", "training/tabular/stage0.py", *words])
    return guarded(lambda: stage0(args, rest, command))


if __name__ == "__main__":
    sys.exit(main())
