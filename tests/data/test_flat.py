"""Flat batches: one stream, however many workers, ranks and restarts; every image once per epoch."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.flat import FlatBatch, FlatDataModule, FlatPlan, draw_batch
from few_shot_nas.data.sampler import image_tensor
from few_shot_nas.data.source import Source, SplitPlan
from few_shot_nas.errors import InputError

EPISODES = {"n_way": 3, "k_shot": 2, "n_query": 4, "val_every": 4, "val_episodes": 7, "test_episodes": 5, "seed": 3}
IMAGES = 12 * 20  # of the toy source's train split


class Colours(Source):
    """Three-channel noise of 40 x 40 pixels, 5 images a class."""

    name = "Colours"
    in_channels = 3
    mean = (0.5, 0.4, 0.3)
    std = (0.2, 0.3, 0.4)

    def __init__(self, cache_dir):
        super().__init__("nowhere", cache_dir, 40)

    def split_names(self):
        return ("train", "val")

    def settings(self):
        return {}

    def input_files(self):
        return []

    def plan(self):
        def noise(seed):
            rng = np.random.default_rng(seed)
            yield from (rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(20))

        return {
            name: SplitPlan(tuple(f"{name}{c}" for c in range(4)), (5,) * 4, (40, 40, 3), noise(seed))
            for seed, name in enumerate(self.split_names())
        }


@pytest.fixture
def colours(tmp_path):
    return Colours(str(tmp_path / "colours"))


@pytest.fixture
def make_flat(make_toy):
    """Return a flat DataModule on toy images; rank and world stand for the Trainer's."""

    def make(rank=None, world=1, source=None, **settings):
        settings = {**EPISODES, "flat_batch_size": 7, "max_meta_steps": 40, **settings}
        data = FlatDataModule(source or make_toy(), **settings)
        if rank is not None:
            strategy = SimpleNamespace(root_device=torch.device("cpu"))
            data.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=strategy)
        data.setup("fit")
        return data

    return make


def whole_run(data):
    batches = []
    while len(loader := data.train_dataloader()):
        batches += list(loader)
    return batches


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert all(x is y or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def pictures(batches):
    """Return (class, image) as the toy pictures say, and the labels, over the whole stream."""
    images = torch.cat([batch.images for batch in batches]) * 255
    shown = [(round(float(x[0, 0, 0])) - 1, round(float(x[0, 0, 1])) - 1) for x in images]
    return shown, torch.cat([batch.labels for batch in batches]).tolist()


def test_every_image_comes_once_per_epoch_with_the_index_of_its_class(make_flat):
    batches = whole_run(make_flat(max_meta_steps=2 * IMAGES // 7 + 1))
    assert all(batch.images.shape == (7, 1, 5, 5) and batch.images.dtype == torch.float32 for batch in batches)
    shown, labels = pictures(batches)
    assert [c for c, _ in shown] == labels
    everything = {(c, i) for c in range(12) for i in range(20)}
    first, second = shown[:IMAGES], shown[IMAGES : 2 * IMAGES]
    assert set(first) == set(second) == everything
    assert first != second and sorted(first) != first


def test_two_workers_give_the_stream_of_none(make_flat, colours):
    assert_same(whole_run(make_flat(num_workers=2)), whole_run(make_flat()))
    few = {"source": colours, "max_meta_steps": 5, "n_query": 2}
    assert_same(whole_run(make_flat(num_workers=2, **few)), whole_run(make_flat(**few)))


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_resumed_run_goes_on_where_the_checkpoint_was_taken(make_flat, colours, stop):
    settings = {"source": colours, "max_meta_steps": 10, "n_query": 2}
    whole, first = whole_run(make_flat(**settings)), make_flat(**settings)
    taken = []
    while len(taken) < stop:
        for batch in first.train_dataloader():
            taken.append(batch)
            if len(taken) == stop:
                break
    assert first.state_dict() == {"done": stop}
    second = make_flat(**settings)
    second.load_state_dict(first.state_dict())
    assert len(second.train_dataloader()) == min(4 - stop % 4, 10 - stop)
    assert_same(taken + whole_run(second), whole)


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_together_train_on_the_single_process_stream(make_flat, colours, world):
    settings = {"source": colours, "max_meta_steps": 6, "n_query": 2}
    ranks = [whole_run(make_flat(rank, world, **settings)) for rank in range(world)]
    sizes = [len(part[0].labels) for part in ranks]
    assert sum(sizes) == 7 and max(sizes) - min(sizes) <= 1
    joined = [FlatBatch(*(torch.cat(f) for f in zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]
    assert_same(joined, whole_run(make_flat(**settings)))


def test_augmentation_changes_the_images_afresh_in_every_epoch_and_not_the_labels(make_flat, colours):
    settings = {"source": colours, "max_meta_steps": 4, "n_query": 2, "flat_batch_size": 20}
    plain, changed = (whole_run(make_flat(augment=kind, **settings)) for kind in ("none", "crop_flip_jitter"))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (colours.mean, colours.std))
    originals = image_tensor(colours.split("train"))
    expected = {tuple(x.flatten()[:30].tolist()) for x in originals}
    found = [((255 * (x * std + mean)).round().long().permute(1, 2, 0)) for x in plain[0].images]
    assert {tuple(x.flatten()[:30].tolist()) for x in found} == expected
    for before, after in zip(plain, changed, strict=True):
        assert torch.equal(before.labels, after.labels)
        assert all(not torch.equal(x, y) for x, y in zip(before.images, after.images, strict=True))
    by_label = [batch.images[batch.labels.argsort(stable=True)] for batch in changed]
    assert not torch.equal(by_label[0], by_label[1])


def test_images_of_one_channel_are_left_as_they_are(make_flat):
    plain = make_flat(augment="none")
    assert_same(whole_run(make_flat()), whole_run(plain))
    assert_same([make_flat().episode("train", [0])], [plain.episode("train", [0])])


def test_crop_flip_takes_the_windows_of_crop_flip_jitter_and_leaves_the_colours(make_flat, colours):
    settings = {"source": colours, "max_meta_steps": 1, "n_query": 2}
    plans = [draw_batch(colours.split("train"), seed=3, step=0, size=7, part=np.arange(7), turned=False, augment=kind)
             for kind in ("crop_flip", "crop_flip_jitter")]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(plans[0].augmentation[:3], plans[1].augmentation[:3], strict=True))
    batch = whole_run(make_flat(augment="crop_flip", **settings))[0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (colours.mean, colours.std))
    found = 255 * (batch.images * std + mean)
    torch.testing.assert_close(found, found.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["none", "crop_flip", "crop_flip_jitter"])
def test_how_training_images_are_augmented_does_not_change_evaluation(make_flat, colours, kind):
    settings = {"source": colours, "n_query": 2, "val_episodes": 2, "support_copies": 2}
    plain, other = (list(make_flat(augment=which, **settings).val_dataloader()) for which in ("crop_flip_jitter", kind))
    assert_same(plain, other)


@pytest.mark.parametrize("turns", ["classes", "augment"])
def test_quarter_turns_are_classes_of_their_own(make_flat, make_toy, turns):
    data = make_flat(source=make_toy(rotations={"train": turns}), flat_batch_size=48, max_meta_steps=20)
    assert data.num_classes == 48 and make_flat().num_classes == 12
    images, labels = (torch.cat(field) for field in zip(*whole_run(data), strict=True))
    assert Counter(labels.tolist()) == {label: 20 for label in range(48)}
    for x, label in zip(images, labels.tolist(), strict=True):
        upright = torch.rot90(x[0], -(label // 12)) * 255
        assert round(float(upright[0, 0])) - 1 == label % 12


def test_evaluation_gives_the_episodes_of_the_episodic_data_module(make_flat, make_toy):
    episodic = EpisodicDataModule(make_toy(), **EPISODES)
    for name in ("val_dataloader", "test_dataloader"):
        assert_same(list(getattr(make_flat(num_workers=1), name)()), list(getattr(episodic, name)()))


def test_support_copies_stand_for_the_support_images_and_leave_the_queries_alone(make_flat, colours):
    settings = {"source": colours, "n_query": 2, "val_episodes": 3}
    plain, copied = (list(make_flat(support_copies=n, **settings).val_dataloader())[0] for n in (0, 3))
    assert copied.support_x.shape == (3, 18, 3, 40, 40)
    assert torch.equal(copied.support_y, plain.support_y.repeat(1, 3))
    assert torch.equal(copied.query_x, plain.query_x) and torch.equal(copied.query_y, plain.query_y)
    views = copied.support_x.view(3, 3, 6, -1)
    assert not torch.equal(views[:, 0], views[:, 1])
    assert plain.originals is None and torch.equal(copied.originals, plain.support_x)
    alone = make_flat(support_copies=3, **settings).episode("val", [2])
    assert torch.equal(alone.support_x[0], copied.support_x[2])


def test_gap_episodes_get_support_copies_and_no_augmentation_as_validation_does(make_flat, colours):
    settings = {"source": colours, "n_query": 2, "gap_episodes": 3}
    plain, copied = (next(iter(make_flat(support_copies=n, **settings).gap_loader())) for n in (0, 3))
    assert copied.support_x.shape == (3, 18, 3, 40, 40) and torch.equal(copied.query_x, plain.query_x)
    assert not torch.equal(copied.support_x[:, :6], plain.support_x)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (colours.mean, colours.std))
    pixels = 255 * (plain.query_x * std + mean)
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-3)


def test_training_classes_too_small_for_gap_episodes_are_refused(make_flat, make_toy):
    def source():
        return make_toy(classes={"train": 2, "val": 5, "test": 5})

    make_flat(source=source()).setup("fit")
    with pytest.raises(InputError, match=r"Toy, split train \(gap_episodes\): n_way=3 but there are 2 classes"):
        make_flat(source=source(), gap_episodes=1).setup("fit")


def test_batches_gathered_after_the_transfer_equal_those_gathered_by_the_workers(make_flat, colours, monkeypatch):
    settings = {"source": colours, "max_meta_steps": 5, "n_query": 2, "support_copies": 2}
    gathered = make_flat(**settings)
    planned = make_flat(num_workers=1, **settings)
    monkeypatch.setattr(planned, "_device_images", lambda name: image_tensor(planned.source.split(name)))
    batches = whole_run(planned)
    assert all(isinstance(batch, FlatPlan) for batch in batches)
    assert_same([planned.on_after_batch_transfer(batch, 0) for batch in batches], whole_run(gathered))
    episodes = [planned.on_after_batch_transfer(batch, 0) for batch in planned.val_dataloader()]
    assert_same(episodes, list(gathered.val_dataloader()))
    assert planned.on_after_batch_transfer(episodes[0], 0) is episodes[0]


def test_a_trainer_walks_the_whole_stream(make_flat, tmp_path):
    seen = []

    class Recorder(pl.LightningModule):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            seen.append(batch)

        def validation_step(self, batch, batch_idx):
            assert batch.query_x.shape[1] == 12

        def configure_optimizers(self):
            return None

    data = make_flat(max_meta_steps=6)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Recorder(), datamodule=data)
    assert_same(seen, whole_run(make_flat(max_meta_steps=6)))
    assert data.done == 6


def test_loading_leaves_the_global_generators_alone(make_flat):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    next(iter(make_flat().train_dataloader()))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flat_batch_size": 0}, "flat_batch_size=0 must be at least 1"),
        ({"augment": "cutout"}, "augment=cutout is not one of none, crop_flip, crop_flip_jitter"),
        ({"support_copies": -1}, "support_copies=-1 must not be negative"),
        ({"support_copies": 5}, r"support_copies=5 given, but images of 1 channel\(s\) are not augmented, and Toy"),
        ({"rank": 0, "world": 8}, "flat_batch_size=7 is smaller than the number of processes, 8"),
        ({"n_way": 9}, "Toy, split val: n_way=9 but there are 8 classes"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_flat, settings, message):
    with pytest.raises(InputError, match=message):
        make_flat(**settings)


def test_the_train_split_need_not_be_able_to_give_tasks(make_flat, make_toy):
    assert len(whole_run(make_flat(source=make_toy(classes={"train": 2, "val": 3}), max_meta_steps=3))) == 3
