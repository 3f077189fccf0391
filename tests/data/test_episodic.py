"""The stream of meta-batches: one stream, however many workers, ranks and restarts. Truth: the ids by definition."""

from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.meta_batches import PlannedBatch
from few_shot_nas.data.sampler import image_tensor
from few_shot_nas.episode import Episode, check_episode
from few_shot_nas.errors import InputError

SHAPE = {"n_way": 3, "k_shot": 2, "n_query": 4}


@pytest.fixture
def make_data(make_toy):
    """Return a DataModule on toy images; rank and world stand for the Trainer's."""

    def make(rank=None, world=1, source=None, **settings):
        settings = {"meta_batch_size": 3, "val_every": 4, "max_meta_steps": 10, "val_episodes": 7, **SHAPE, **settings}
        source = source or make_toy(rotations={"train": "augment"})
        data = EpisodicDataModule(source, **{"test_episodes": 5, "seed": 3, **settings})
        if rank is not None:
            strategy = SimpleNamespace(root_device=torch.device("cpu"))
            data.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=strategy)
        data.setup()
        return data

    return make


def whole_run(data):
    """Return the run's training episodes, epoch after epoch, as the Trainer asks for them."""
    episodes = []
    while len(loader := data.train_dataloader()):
        episodes += list(loader)
    return episodes


def ids(episodes):
    return [episode.task_id.tolist() for episode in episodes]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert all(x is y or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_meta_step_t_trains_on_the_tasks_from_t_m_to_t_m_plus_m(make_data):
    episodes = whole_run(make_data())
    assert ids(episodes) == [[3 * t, 3 * t + 1, 3 * t + 2] for t in range(10)]
    for episode in episodes:
        check_episode(episode, 3)
        assert episode.support_x.shape == (3, 6, 1, 5, 5) and episode.query_x.shape == (3, 12, 1, 5, 5)


def test_an_epoch_ends_at_the_next_multiple_of_val_every_or_with_the_run(make_data):
    data, lengths = make_data(), []
    while len(loader := data.train_dataloader()):
        lengths.append(len(loader))
        assert len(list(loader)) == lengths[-1]
    assert lengths == [4, 4, 2] and data.done == 10


def test_the_episodes_do_not_depend_on_the_number_of_workers(make_data):
    none, two = make_data(num_workers=0), make_data(num_workers=2)
    assert_same(whole_run(none), whole_run(two))
    assert_same(list(none.val_dataloader()), list(two.val_dataloader()))
    assert_same(list(none.test_dataloader()), list(two.test_dataloader()))


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_together_train_on_the_single_process_stream(make_data, world):
    single = whole_run(make_data(meta_batch_size=5))
    ranks = [whole_run(make_data(rank, world, meta_batch_size=5)) for rank in range(world)]
    sizes = [len(part[0].task_id) for part in ranks]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == 5
    steps = zip(*ranks, strict=True)
    joined = [Episode(*(torch.cat(fields) for fields in list(zip(*parts, strict=True))[:5])) for parts in steps]
    assert_same(joined, single)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_the_ranks_together_evaluate_every_task_once_even_where_they_are_uneven(make_data, world):
    for loader, count in (("val_dataloader", 7), ("test_dataloader", 5)):
        every = []
        for rank in range(world):
            batches = getattr(make_data(rank, world, meta_batch_size=8), loader)()
            mine = list(batches)
            assert len(mine) == len(batches)
            every += [task for batch in ids(mine) for task in batch]
            assert ids(mine) == ([list(range(rank, count, world))] if rank < count else [])
        assert sorted(every) == list(range(count))


def test_gap_episodes_are_unseen_tasks_of_training_classes_in_the_shape_of_validation(make_data, make_toy):
    settings = {"train_way": 4, "train_query": 6, "gap_episodes": 5}
    data = make_data(**settings)
    first = list(data.gap_loader())
    assert ids(first) == [[2**40, 2**40 + 1, 2**40 + 2], [2**40 + 3, 2**40 + 4]]
    trained = whole_run(data)
    assert_same(list(data.gap_loader()), first)
    assert_same(trained, whole_run(make_data(**{**settings, "gap_episodes": 0})))
    val = next(iter(data.val_dataloader()))
    for episode in first:
        check_episode(episode, 3)
        assert episode.support_x.shape[1:] == val.support_x.shape[1:]
        assert episode.query_x.shape[1:] == val.query_x.shape[1:]
    # A plan knows the rows of its split's images; those of training are drawn by the same function with other ids.
    plain = EpisodicDataModule(data.source, **SHAPE, seed=3).episode("train", range(2**40, 2**40 + 3))
    assert_same([plain], first[:1])


@pytest.mark.parametrize("world", [2, 3, 8])
def test_the_ranks_together_score_every_gap_episode_once(make_data, world):
    ranks = [make_data(rank, world, meta_batch_size=8, gap_episodes=5) for rank in range(world)]
    every = [task for data in ranks for batch in ids(data.gap_loader()) for task in batch]
    assert sorted(every) == [2**40 + task for task in range(5)]


def test_training_classes_without_enough_images_for_gap_episodes_are_refused(make_data):
    settings = {"train_query": 4, "n_query": 19, "val_episodes": 1}
    with pytest.raises(InputError, match="class .*-0 has 20 images, k_shot=2 and n_query=19 need 21"):
        make_data(**settings)


def test_every_pass_over_val_and_test_gives_the_same_episodes_whatever_was_trained(make_data):
    data = make_data()
    val, test = data.val_dataloader(), data.test_dataloader()
    first = list(val), list(test)
    whole_run(data)
    assert_same(list(val), first[0])
    assert_same(list(data.test_dataloader()), first[1])
    assert ids(first[0]) == [[0, 1, 2], [3, 4, 5], [6]] and len(val) == 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_a_resumed_run_goes_on_where_the_checkpoint_was_taken(make_data, workers, stop):
    uninterrupted = whole_run(make_data(num_workers=workers))
    first = make_data(num_workers=workers)
    taken = []
    while len(taken) < stop:
        for episode in first.train_dataloader():
            taken.append(episode)
            if len(taken) == stop:
                break
    state = first.state_dict()
    assert state == {"done": stop}
    second = make_data(num_workers=workers)
    second.load_state_dict(state)
    assert len(second.train_dataloader()) == min(4 - stop % 4, 10 - stop)
    assert_same(taken + whole_run(second), uninterrupted)


def test_the_cursor_counts_what_was_consumed_and_not_what_was_prefetched(make_data):
    data = make_data(num_workers=2)
    batches = iter(data.train_dataloader())
    assert data.done == 0
    next(batches)
    assert data.done == 1
    next(batches)
    assert data.done == 2


def test_a_loader_that_is_iterated_again_goes_on_with_the_stream(make_data):
    loader = make_data().train_dataloader()
    assert ids(loader)[0] == [0, 1, 2] and ids(loader)[0] == [12, 13, 14]


def test_a_longer_run_continues_a_finished_one(make_data):
    short = make_data(max_meta_steps=6)
    first = whole_run(short)
    longer = make_data(max_meta_steps=10)
    longer.load_state_dict(short.state_dict())
    assert_same(first + whole_run(longer), whole_run(make_data()))


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_global_generators_alone(make_data, workers):
    data = make_data(num_workers=workers)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    next(iter(data.train_dataloader()))
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_an_episode_asked_for_by_its_ids_is_the_loaders(make_data):
    data = make_data()
    assert_same([data.episode("train", [0, 1, 2]), data.episode("train", [3, 4, 5])], whole_run(data)[:2])
    assert_same([data.episode("val", [6])], list(data.val_dataloader())[2:])


def test_training_tasks_may_have_more_ways_and_other_queries_than_test_tasks(make_data, make_toy):
    plain, higher = make_data(), make_data(train_way=7, train_query=2)
    for episode in whole_run(higher):
        check_episode(episode, 7)
        assert episode.support_x.shape[:2] == (3, 14) and episode.query_x.shape[:2] == (3, 14)
        assert all(sorted(labels.tolist()) == sorted(2 * list(range(7))) for labels in episode.query_y)
    assert_same(list(higher.val_dataloader()), list(plain.val_dataloader()))
    assert_same(list(higher.test_dataloader()), list(plain.test_dataloader()))
    again = make_data(train_way=7, train_query=2, num_workers=2)
    again.load_state_dict({"done": 5})
    assert_same(whole_run(again), whole_run(make_data(train_way=7, train_query=2))[5:])
    assert_same(whole_run(make_data(train_way=3, train_query=4)), whole_run(plain))


@pytest.mark.parametrize("world", [2, 3])
def test_higher_way_training_is_one_stream_over_ranks_too(make_data, world):
    single = whole_run(make_data(train_way=5))
    ranks = [whole_run(make_data(rank, world, train_way=5)) for rank in range(world)]
    steps = zip(*ranks, strict=True)
    assert_same([Episode(*(torch.cat(f) for f in list(zip(*parts, strict=True))[:5])) for parts in steps], single)


def test_rotation_is_the_sources_for_each_split(make_data):
    data = make_data()
    corners = torch.cat([episode.support_x[..., 0, 0].flatten() for episode in whole_run(data)])
    assert bool((corners == 0).any()), "a turned image has its class in another corner"
    assert all(bool((episode.support_x[..., 0, 0] > 0).all()) for episode in data.val_dataloader())


def test_another_seed_gives_other_tasks(make_data):
    left, right = next(iter(make_data(seed=3).val_dataloader())), next(iter(make_data(seed=4).val_dataloader()))
    assert not torch.equal(left.support_x, right.support_x)


def test_batches_gathered_after_the_transfer_equal_those_gathered_by_the_workers(make_data, monkeypatch):
    gathered = whole_run(make_data())
    planned = make_data(num_workers=1)
    monkeypatch.setattr(planned, "_device_images", lambda name: image_tensor(planned.source.split(name)))
    batches = whole_run(planned)
    assert all(isinstance(batch, PlannedBatch) for batch in batches)
    assert_same([planned.on_after_batch_transfer(batch, 0) for batch in batches], gathered)


def test_an_episode_passes_the_transfer_hook_untouched(make_data):
    data = make_data()
    episode = next(iter(data.val_dataloader()))
    assert data.on_after_batch_transfer(episode, 0) is episode


class Recorder(pl.LightningModule):
    """Writes down the tasks it is given."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch.task_id.tolist())

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch.task_id.tolist())

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch.task_id.tolist())

    def configure_optimizers(self):
        return None


def trainer_for(epochs, folder, accelerator="cpu"):
    return pl.Trainer(
        accelerator=accelerator, devices=1, max_epochs=epochs, num_sanity_val_steps=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, reload_dataloaders_every_n_epochs=1, default_root_dir=folder,
    )  # fmt: skip


def test_a_trainer_walks_the_whole_stream_with_a_validation_after_every_epoch(make_data, tmp_path):
    data, module = make_data(), Recorder()
    trainer = trainer_for(3, tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert module.seen["train"] == [[3 * t, 3 * t + 1, 3 * t + 2] for t in range(10)]
    assert module.seen["val"] == [[0, 1, 2]] + 3 * [[0, 1, 2], [3, 4, 5], [6]]
    assert module.seen["test"] == [[0, 1, 2], [3, 4]]
    assert data.done == 10


@pytest.mark.gpu
def test_on_a_gpu_the_images_live_there_and_the_episodes_are_those_of_the_cpu(make_data, tmp_path):
    expected = whole_run(make_data())
    data, module = make_data(num_workers=2), Recorder()
    got = []
    module.training_step = lambda batch, batch_idx: got.append(batch)
    trainer_for(3, tmp_path, "gpu").fit(module, datamodule=data)
    assert all(episode.support_x.is_cuda for episode in got)
    for a, b in zip(got, expected, strict=True):
        for name, value in b._asdict().items():
            found = getattr(a, name)
            assert (found is None) == (value is None), name
            if value is not None:
                torch.testing.assert_close(found.cpu(), value, rtol=0, atol=1e-6)


def test_a_test_without_a_test_split_draws_from_val_and_says_so(make_data, make_toy):
    source = make_toy(classes={"train": 6, "val": 5})
    with pytest.warns(UserWarning, match="Toy has no test split: the test runs on VAL"):
        data = make_data(source=source)
    assert data.resolved_test_split == "val"
    selected = {task for batch in ids(data.val_dataloader()) for task in batch}
    tested = [task for batch in ids(data.test_dataloader()) for task in batch]
    assert tested == [2**40 + task for task in range(5)] and not selected & set(tested)
    assert_same([next(iter(data.test_dataloader()))], [data.episode("val", tested[:3])])


@pytest.mark.parametrize("choice, split", [("auto", "test"), ("test", "test"), ("val", "val")])
def test_the_split_a_test_uses_is_known(make_data, choice, split, recwarn):
    assert make_data(test_split=choice).resolved_test_split == split
    assert not [warning for warning in recwarn if "VAL" in str(warning.message)]


def test_asking_for_a_test_split_that_is_not_there_is_refused(make_data, make_toy):
    with pytest.raises(InputError, match="Toy: test_split=test, but the data has no test split"):
        make_data(source=make_toy(classes={"train": 6, "val": 5}), test_split="test")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"n_way": 9}, "Toy, split val: n_way=9 but there are 8 classes"),
        ({"k_shot": 10, "n_query": 11}, "split train: class train-0 has 20 images, k_shot=10 and n_query=11 need 21"),
        ({"train_way": 13}, "Toy, split train: train_way=13 but there are 12 classes; lower train_way"),
        ({"train_query": 19}, "class train-0 has 20 images, k_shot=2 and train_query=19 need 21"),
        ({"train_way": 0}, "train_way=0 must be at least 1"),
        ({"train_query": 0}, "train_query=0 must be at least 1"),
        ({"n_way": 0}, "n_way=0 must be at least 1"),
        ({"meta_batch_size": 0}, "meta_batch_size=0 must be at least 1"),
        ({"val_every": 0}, "val_every=0 must be at least 1"),
        ({"val_episodes": 0}, "val_episodes=0 must be at least 1"),
        ({"gap_episodes": -1}, "gap_episodes=-1 must not be negative"),
        ({"test_episodes": -1}, "test_episodes=-1 must be at least 1"),
        ({"num_workers": -1}, "num_workers=-1 must not be negative"),
        ({"max_meta_steps": -1}, "max_meta_steps=-1 must not be negative"),
        ({"seed": -1}, "seed=-1 must not be negative"),
        ({"test_split": "train"}, "test_split=train is not one of auto, test, val"),
        ({"rank": 0, "world": 4}, "meta_batch_size=3 is smaller than the number of processes, 4"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_data, settings, message):
    with pytest.raises(InputError, match=message):
        make_data(**settings)


def test_a_stage_checks_only_the_splits_it_uses(make_data, make_toy):
    data = make_data(source=make_toy(classes={"train": 6, "val": 5, "test": 3}), n_way=3)
    data.n_way = 4
    data.setup("fit")
    data.setup("validate")
    with pytest.raises(InputError, match="split test: n_way=4 but there are 3 classes"):
        data.setup("test")
