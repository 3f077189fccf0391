"""The Trainer that episodes need. Truth: what its parts do with a tiny learner."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from few_shot_nas.algorithms import MAML
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.sources import Glyphs
from few_shot_nas.episode import tasks
from few_shot_nas.errors import InputError
from few_shot_nas.models import Conv4
from few_shot_nas.runtime.strategy import EpisodicDDPStrategy
from few_shot_nas.runtime.trainer import FIXED, episodic_trainer
from few_shot_nas.stats.statistics import mean_ci


class _Bar(Callback):
    """Keeps what Lightning's progress bar would show."""

    def __init__(self) -> None:
        self.shown: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object, **kwargs: object) -> None:
        self.shown.append(dict(trainer.progress_bar_metrics))


@pytest.fixture(scope="module")
def parts() -> tuple[MAML, EpisodicDataModule]:
    source = Glyphs()
    steps = {"max_meta_steps": 3}
    shape = {"n_way": 3, "n_query": 2, "meta_batch_size": 2, "val_every": 3, "val_episodes": 2, "test_episodes": 4}
    data = EpisodicDataModule(source, **shape, **steps)
    return MAML(Conv4(3, 1, 28, width=4), outer=OuterLoop(**steps)), data


def test_a_test_returns_the_accuracies_with_their_intervals(parts: tuple[MAML, EpisodicDataModule]) -> None:
    learner, data = parts
    trainer = episodic_trainer(progress=False)
    trainer.fit(learner, datamodule=data)
    (returned,) = trainer.test(learner, datamodule=data, verbose=False)
    for mode in ("transductive", "support"):
        own = [row["accuracy"] for row in learner.test_rows if row["bn_mode"] == mode]
        assert returned[f"test/accuracy_{mode}"] == pytest.approx(sum(own) / 4)
        assert returned[f"test/ci95_{mode}"] == pytest.approx(mean_ci(own).ci95)
    assert returned["step"] == 3


def test_predictions_are_the_probabilities_of_each_query_by_itself(parts: tuple[MAML, EpisodicDataModule]) -> None:
    learner, data = parts
    predicted = episodic_trainer(progress=False).predict(learner, datamodule=data)
    assert [tuple(batch.shape) for batch in predicted] == [(2, 6, 3)] * 2
    single = next(tasks(data.episode("test", [1])))
    with torch.no_grad():
        expected = learner.task_logits(single)["support"].softmax(dim=1)
    torch.testing.assert_close(predicted[0][1], expected)


def test_lightnings_bar_shows_loss_and_accuracy(parts: tuple[MAML, EpisodicDataModule]) -> None:
    _, data = parts
    data.done = 0
    bar = _Bar()
    learner = MAML(Conv4(3, 1, 28, width=4), outer=OuterLoop(max_meta_steps=3))
    episodic_trainer(progress=False, enable_progress_bar=True, callbacks=[bar]).fit(learner, datamodule=data)
    assert len(bar.shown) == 3
    assert all({"train/loss", "train/accuracy"} <= set(shown) for shown in bar.shown)
    assert bar.shown[-1]["train/loss"] == pytest.approx(learner.last_loss)


@pytest.mark.parametrize("name", FIXED)
def test_what_episodes_need_cannot_be_turned_off(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}=7 given, it has to be"):
        episodic_trainer(**{name: 7})


def test_a_fixed_value_may_be_repeated_and_devices_choose_the_strategy() -> None:
    trainer = episodic_trainer(max_epochs=-1, devices=2, accelerator="cpu")
    assert isinstance(trainer.strategy, EpisodicDDPStrategy)
