"""Episodes per second: our data module against a loader over a dataset of tasks; and what the shell adds to a step.

``python benchmarks/data.py`` prints both, and with ``--output`` writes them as JSON. The tasks are 5-way 1-shot with 15
queries a class, of 84x84 colour images that are noise.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.run import CLOCKS  # noqa: E402
from few_shot_nas.algorithms.base import EpisodicModule  # noqa: E402
from few_shot_nas.algorithms.outer_step import TaskLoss  # noqa: E402
from few_shot_nas.algorithms.settings import OuterLoop  # noqa: E402
from few_shot_nas.data.episodic import EpisodicDataModule  # noqa: E402
from few_shot_nas.data.pack import SplitPlan  # noqa: E402
from few_shot_nas.data.source import Source  # noqa: E402
from few_shot_nas.episode import SingleTask, Task, tasks  # noqa: E402
from few_shot_nas.runtime.trainer import episodic_trainer  # noqa: E402
from few_shot_nas.stats.statistics import accuracy  # noqa: E402

WAYS, SHOTS, QUERIES, TASKS = 5, 1, 15, 4


class Noise(Source):
    """Classes of images that are noise."""

    name = "Noise"
    in_channels = 3
    mean, std = (0.47, 0.45, 0.40), (0.27, 0.26, 0.28)

    def __init__(self, cache_dir: str, classes: int, per_class: int, image_size: int) -> None:
        super().__init__(cache_dir, cache_dir, image_size)
        self.classes, self.per_class = classes, per_class

    def split_names(self) -> tuple[str, ...]:
        """Training and validation."""
        return "train", "val"

    def settings(self) -> Mapping[str, Any]:
        """Numbers of classes and images."""
        return {"classes": self.classes, "per_class": self.per_class}

    def input_files(self) -> Iterable[Path]:
        """None."""
        return ()

    def plan(self) -> Mapping[str, SplitPlan]:
        """Draw the images."""
        shape = (self.image_size, self.image_size, 3)
        return {
            split: SplitPlan(
                tuple(f"{split}{index}" for index in range(self.classes)),
                (self.per_class,) * self.classes,
                shape,
                (
                    np.random.default_rng([seed, image]).integers(0, 256, shape, dtype=np.uint8)
                    for image in range(self.classes * self.per_class)
                ),
            )
            for seed, split in enumerate(self.split_names())
        }


class TasksOneByOne(Dataset):
    """A dataset of tasks as libraries write them: images are picked, scaled and normalised one by one, then stacked.

    Args:
        images: uint8 ``[classes, images, H, W, C]``.
        mean: per channel.
        std: per channel.
        length: number of tasks.
    """

    def __init__(self, images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...], length: int) -> None:
        self.images, self.length = images, length
        self.transformed = Compose([ToTensor(), Normalize(mean, std)])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        stream = np.random.default_rng(item)
        images: dict[bool, list[Tensor]] = {True: [], False: []}
        labels: dict[bool, list[int]] = {True: [], False: []}
        for label, own in enumerate(stream.choice(len(self.images), WAYS, replace=False)):
            for place, index in enumerate(stream.choice(self.images.shape[1], SHOTS + QUERIES, replace=False)):
                in_support = place < SHOTS
                images[in_support].append(self.transformed(self.images[own, index]))
                labels[in_support].append(label)
        support, queries = (
            (torch.stack(images[part]), torch.tensor(labels[part])) for part in (True, False)
        )
        return (*support, *queries)


def seconds_of(loader: Iterable[Any], clock: str) -> float:
    """Seconds of one pass over a loader."""
    started = CLOCKS[clock]()
    for _ in loader:
        pass
    return CLOCKS[clock]() - started


def episodes_per_second(folder: str, batches: int, rounds: int, clock: str, size: int = 84) -> dict[str, float]:
    """Time the training batches of the data module and of a loader over a dataset of tasks, in turn."""
    source = Noise(folder, classes=20, per_class=40, image_size=size)
    data = EpisodicDataModule(
        source, n_way=WAYS, k_shot=SHOTS, n_query=QUERIES, meta_batch_size=TASKS, val_every=batches,
        max_meta_steps=batches,
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    split = source.split("train")
    images = np.array(split.images).reshape(20, 40, size, size, 3)
    tasks = DataLoader(TasksOneByOne(images, source.mean, source.std, batches * TASKS), batch_size=TASKS)
    ours, theirs = [], []
    for counts in (False, *[True] * rounds):
        pair = seconds_of(data.train_loader(range(batches)), clock), seconds_of(tasks, clock)
        if counts:
            ours.append(pair[0])
            theirs.append(pair[1])
    return {
        "data module": batches * TASKS / statistics.median(ours),
        "dataset of tasks": batches * TASKS / statistics.median(theirs),
        "times": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
    }


class _OneNumber(EpisodicModule):
    """A learner whose loss is next to nothing, so that a meta-step is its shell."""

    def task_loss(self, task: Task) -> TaskLoss:
        """The mean of a linear layer's outputs."""
        logits = self.net(task.query_x.flatten(1)[:, :4])
        loss = logits.square().mean()
        return loss, {"train/loss": loss, "train/accuracy": accuracy(logits, task.query_y)}

    def task_logits(self, task: SingleTask) -> dict[str, Tensor]:
        """The layer's outputs."""
        return {mode: self.net(task.query_x.flatten(1)[:, :4]) for mode in self.bn_modes}

    def parts(self, batch: Any) -> tuple[Iterable[Any], int]:
        """One part, as for an engine that takes the meta-batch whole."""
        return tasks(batch), 1


class _Bare(pl.LightningModule):
    """The same step as Lightning's documentation writes it, without our base: what is left is Lightning's own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.automatic_optimization = net, False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters())

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step of Adam."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        for task in tasks(batch):
            self.manual_backward(self.net(task.query_x.flatten(1)[:, :4]).square().mean())
        optimizer.step()


def shell_ms(folder: str, steps: int, rounds: int, clock: str) -> dict[str, float]:
    """Milliseconds that Lightning and our bookkeeping add to a meta-step: a fit against the loop written out.

    Of all, what further meta-steps take, so that what happens once per fit does not count. ``lightning`` is what the
    same Trainer adds to the loop with a bare module.
    """
    source = Noise(folder, classes=8, per_class=8, image_size=8)

    def made(count: int) -> tuple[_OneNumber, EpisodicDataModule]:
        torch.manual_seed(0)
        shape: dict[str, Any] = dict(n_way=2, k_shot=1, n_query=1, meta_batch_size=1)
        data = EpisodicDataModule(source, **shape, val_every=count, max_meta_steps=count)
        return _OneNumber(nn.Linear(4, 2), outer=OuterLoop(max_meta_steps=count), seed=0), data

    def fitted(module: pl.LightningModule, data: EpisodicDataModule, **flags: Any) -> float:
        flags |= dict(accelerator="cpu", devices=1, limit_val_batches=0, logger=False)
        trainer = episodic_trainer(progress=False, **flags)
        started = CLOCKS[clock]()
        trainer.fit(module, datamodule=data)
        return CLOCKS[clock]() - started

    def fit(count: int) -> float:
        return fitted(*made(count))

    def bare(count: int) -> float:
        module, data = made(count)
        return fitted(_Bare(module.net), data, max_steps=count)

    def loop(count: int) -> float:
        module, data = made(count)
        optimizer = torch.optim.Adam(module.parameters())
        data.setup("fit")
        started = CLOCKS[clock]()
        for batch in data.train_loader(range(count)):
            optimizer.zero_grad(set_to_none=True)
            for part in module.parts(batch)[0]:
                module.task_loss(part)[0].backward()
            optimizer.step()
        return CLOCKS[clock]() - started

    few, found = steps // 5, []
    for counts in (False, *[True] * rounds):
        each = [1e3 * (way(steps + few) - way(few)) / steps for way in (fit, bare, loop)]
        if counts:
            found.append(each)
    fits, bares, loops = (statistics.median(column) for column in zip(*found, strict=True))
    added, by_lightning = (statistics.median(each[way] - each[2] for each in found) for way in (0, 1))
    return {"fit": fits, "bare": bares, "loop": loops, "shell": added, "lightning": by_lightning}


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=50, help=f"meta-batches of {TASKS} tasks per pass")
    parser.add_argument("--steps", type=int, default=1000, help="meta-steps of a fit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: where others use the processor too")
    parser.add_argument("--output", default=None, help="JSON file for the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = episodes_per_second(folder, options.batches, options.rounds, options.clock)
        shell = shell_ms(folder, options.steps, options.rounds, options.clock)
    print(
        f"episodes per second, 84x84, 5w1s15q: {data['data module']:.0f} by the data module, "
        f"{data['dataset of tasks']:.0f} by a dataset of tasks: {data['times']:.1f} times"
    )
    fit, loop = shell["fit"], shell["loop"]
    print(f"ms a meta-step: {fit:.2f} fitted, {loop:.2f} as a loop: the shell adds {shell['shell']:.2f}, of which")
    print(f"{shell['lightning']:.2f} are what Lightning adds around a bare module")
    if options.output is not None:
        results = {"clock": options.clock, "episodes_per_second": data, "shell_ms": shell}
        Path(options.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
