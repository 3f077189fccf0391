"""One meta-step: what an algorithm's update does, and what the base does around it. Truth: steps written by hand."""

import pytest
import pytorch_lightning as pl
import torch

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode, tasks
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.runtime.checkpoint import MetaCheckpoint
from few_shot_nas.search.search_result import SearchResult
from few_shot_nas.spaces import SPACES


def make_batch(seed=0, count=3, dtype=torch.float):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(3)
    return Episode(
        torch.randn(count, 3, 1, 16, 16, generator=g).to(dtype), labels.expand(count, 3),
        torch.randn(count, 6, 1, 16, 16, generator=g).to(dtype), labels.repeat(2).expand(count, 6), torch.arange(count),
    )  # fmt: skip


def make_maml(**outer):
    torch.manual_seed(0)
    module = MAML(Conv4(3, 1, 16, width=4), inner=InnerLoop(0.1), outer=OuterLoop(**outer)).double()
    optimizer = module.configure_optimizers()
    module.optimizers = lambda: optimizer
    module.manual_backward = lambda loss: loss.backward()
    return module


def test_an_update_is_one_step_of_adam_on_the_mean_loss_and_returns_the_means_by_name():
    module, plain = make_maml(outer_lr=0.01), make_maml()
    batch = make_batch(dtype=torch.double)  # Adam divides rounding by itself where a gradient is zero
    scalars = module.update(batch)

    results = [plain.task_loss(task) for task in tasks(batch)]
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    (sum(loss for loss, _ in results) / 3).backward()
    optimizer.step()
    for name, value in plain.named_parameters():
        torch.testing.assert_close(module.get_parameter(name), value, rtol=0, atol=1e-9, msg=name)
    assert set(scalars) == {"train/loss", "train/accuracy"}
    for name, value in scalars.items():
        assert value == pytest.approx(sum(float(one[name].detach()) for _, one in results) / 3, rel=1e-6)


def test_the_base_counts_the_step_logs_its_scalars_and_leaves_the_update_to_the_algorithm():
    module, rows = make_maml(log_every=2), []
    module.log_row = rows.append
    updates = iter([{"train/loss": 2.0, "speed": 1.0}, {"train/loss": 1.0}, {"speed": 5.0}, {"speed": 7.0}])
    module.update = lambda batch: next(updates)
    losses = []
    for step in range(4):
        module.training_step(None, step)
        losses.append(module.last_loss)
    assert module.meta_step == 4 and losses == [2.0, 1.0, 1.0, 1.0]
    for row in rows:
        assert row.pop("train/seconds") >= 0
    assert rows == [{"train/loss": 1.5, "speed": 1.0}, {"speed": 6.0}]


class Pruning(EpisodicModule):
    """A search without loss, gradient or optimizer: every meta-step drops the choice that a fixed table likes least."""

    def __init__(self, net, *, outer, seed=0):
        super().__init__(net, outer=outer, seed=seed)
        self.space = SPACES["chain"](channels=4, cells=1, nodes=1)
        self.register_buffer("kept", torch.ones(5, dtype=torch.bool))

    def configure_optimizers(self):
        return None

    def update(self, batch):
        worst = torch.where(self.kept, torch.tensor([0.4, 0.2, 0.9, 0.1, 0.3]), torch.inf).argmin()
        self.kept[worst] = False
        return {"proxy/kept": float(self.kept.sum())}

    def task_loss(self, task):
        raise AssertionError("a pruning search has no loss")

    def task_logits(self, task):
        return {mode: self.net(task.query_x) for mode in self.bn_modes}

    def end_search(self, datamodule):
        return SearchResult(self.space.decode((int(self.kept.float().argmax()),)), {"proxy_calls": 5 * self.meta_step})


class Loader(pl.LightningDataModule):
    """Batches for training and validation; a cursor, so that a stopped run goes on."""

    n_way, done = 3, 0

    def train_dataloader(self):
        return torch.utils.data.DataLoader([make_batch(i) for i in range(self.done, 4)], batch_size=None)

    def val_dataloader(self):
        return torch.utils.data.DataLoader([make_batch(9)], batch_size=None)


def prune(tmp_path, steps, **options):
    torch.manual_seed(0)
    module = Pruning(Conv4(3, 1, 16, width=4), outer=OuterLoop(max_meta_steps=steps, log_every=1))
    module.rows = []
    module.log_row = module.rows.append
    checkpoint = MetaCheckpoint(str(tmp_path), save_every=1)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=-1, inference_mode=False, logger=False, callbacks=[checkpoint],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
    )  # fmt: skip
    data = Loader()
    data.done = options.pop("done", 0)
    trainer.fit(module, datamodule=data, **options)
    module.finish_search(data)
    return module, checkpoint


def test_a_search_without_loss_gradient_or_optimizer_trains_stops_and_goes_on(tmp_path):
    whole, _ = prune(tmp_path / "whole", 4)
    assert whole.meta_step == 4 and whole.kept.tolist() == [False, False, True, False, False]
    assert [row["proxy/kept"] for row in whole.rows if "proxy/kept" in row] == [4, 3, 2, 1]
    assert whole.genotype == whole.space.decode((2,)) and whole.search_summary == {"proxy_calls": 20}

    part, checkpoint = prune(tmp_path / "part", 2)
    assert part.kept.sum() == 3
    rest, _ = prune(tmp_path / "rest", 4, done=2, ckpt_path=checkpoint.last_path, weights_only=True)
    assert rest.meta_step == 4 and torch.equal(rest.kept, whole.kept) and rest.genotype == whole.genotype
