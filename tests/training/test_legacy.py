"""Old spellings mean what they used to mean, or say why they cannot."""

from pathlib import Path

import pytest

from few_shot_nas.errors import InputError
from training import legacy
from training.legacy import Word


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "gpu_count", lambda: 4)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "gpu_count", lambda: 0)


def new(*argv: str) -> dict[str, str | None]:
    """Return today's flags for old ones; the last word of a name wins, as on the command line."""
    return {word.name: word.value for word in legacy.translate(legacy.tokenise(argv))[0]}


def test_the_three_ways_to_write_a_flag_are_the_same_flag() -> None:
    assert legacy.tokenise(["--n-way=5", "--n_way", "5", "--wandb", "--lr", "-1", "-h"]) == [
        Word("n_way", "5"),
        Word("n_way", "5"),
        Word("wandb", None),
        Word("lr", "-1"),
        Word("help", None),
    ]


def test_a_value_may_hold_equals_signs_and_be_empty() -> None:
    assert legacy.tokenise(["--run_dir=a=b", "--run_dir="]) == [Word("run_dir", "a=b"), Word("run_dir", "")]


@pytest.mark.parametrize("stray", ["n_way=5", "-n", "--"])
def test_a_word_that_is_no_flag_is_named(stray: str) -> None:
    with pytest.raises(InputError, match=f"unexpected argument '{stray}'"):
        legacy.tokenise([stray])


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("old", "today"),
    [
        ("--gpus=-1", {"accelerator": "auto", "devices": "auto"}),
        ("--gpus=0", {"accelerator": "cpu"}),
        ("--gpus=None", {"accelerator": "cpu"}),
        ("--gpus=2", {"accelerator": "gpu", "devices": "2"}),
        ("--gpus=0,1", {"accelerator": "gpu", "devices": "0,1"}),
        ("--gpus=[0, 1]", {"accelerator": "gpu", "devices": "0, 1"}),
        ("--gpus=0,", {"accelerator": "gpu", "devices": "0,"}),
        ("--accelerator=ddp", {"strategy": "ddp"}),
        ("--accelerator=ddp_spawn", {"strategy": "ddp"}),
        ("--accelerator=ddp_cpu", {"accelerator": "cpu", "strategy": "ddp"}),
        ("--distributed_backend=ddp", {"strategy": "ddp"}),
        ("--distributed_backend=ddp_cpu", {"accelerator": "cpu", "strategy": "ddp"}),
        ("--distributed_backend=None", {}),
        ("--num_processes=2", {"devices": "2"}),
        ("--precision=16", {"precision": "16-mixed"}),
        ("--precision=bf16", {"precision": "bf16-mixed"}),
        ("--precision=32", {"precision": "32-true"}),
        ("--precision=64", {"precision": "64-true"}),
        ("--track_grad_norm=2", {"log_grad_norm": "2"}),
        ("--track_grad_norm=inf", {"log_grad_norm": "inf"}),
        ("--track_grad_norm=-1", {"log_grad_norm": "null"}),
        ("--batch_size=3", {"meta_batch_size": "3"}),
        ("--inner_loop_steps=1", {"inner_steps": "1"}),
        ("--support_samples=5", {"k_shot": "5"}),
        ("--query_samples=15", {"n_query": "15"}),
        ("--episode_classes=20", {"n_way": "20"}),
        ("--val_check_interval=5", {"val_every": "5"}),
        ("--log_every_n_steps=5", {"log_every": "5"}),
        ("--resume_from_checkpoint=a.ckpt", {"ckpt_path": "a.ckpt"}),
        ("--load_checkpoint=a.ckpt", {"init_from": "a.ckpt"}),
        ("--checkpoint_callback=False", {"enable_checkpointing": "False"}),
        ("--weights_save_path=there", {"run_dir": "there"}),
        ("--progress_bar_refresh_rate=0", {"enable_progress_bar": "false"}),
        ("--progress_bar_refresh_rate=20", {"enable_progress_bar": "true"}),
        ("--weights_summary=top", {"enable_model_summary": "true"}),
        ("--weights_summary=None", {"enable_model_summary": "false"}),
        ("--dartsbs=3", {"meta_batch_size": "3"}),
        ("--reg_coef=1e-3", {"reg": "1e-3"}),
        ("--ntk_channels=48", {"channels": "48"}),
        ("--ntk_layers=5", {"cells": "5"}),
        ("--max_nodes=3", {"nodes": "3"}),
        ("--repeat=3", {"repeats": "3"}),
        ("--dataset=MetaMiniImageNet", {"data_class": "MiniImagenet"}),
        ("--dataset=TieredImageNet", {"data_class": "TieredImagenet"}),
        ("--ntk_type=MetaNTK_anl", {"algorithm": "MetaNTKNAS"}),
        ("--ntk_type=NTK", {"algorithm": "MetaNTKNAS", "kernel": "NTK"}),
        ("--reward=proxy", {"reward": "naswot"}),
        ("--inner_reward=proxy", {"inner_reward": "naswot"}),
        ("--test_reward=proxy", {"test_reward": "naswot"}),
    ],
)
def test_each_old_spelling_becomes_todays_with_one_line(old: str, today: dict[str, str | None]) -> None:
    words, notes = legacy.translate(legacy.tokenise([old]))
    assert {word.name: word.value for word in words} == today
    assert len(notes) == 1
    assert notes[0].startswith(f"deprecated: {old} is now ")
    assert all(f"--{name}={value}" in notes[0] for name, value in today.items())


@pytest.mark.usefixtures("four_gpus")
def test_all_aliases_are_in_the_test_above() -> None:
    covered = {"gpus", "accelerator", "distributed_backend", "num_processes", "precision", "track_grad_norm"}
    covered |= {"val_check_interval", "progress_bar_refresh_rate", "weights_summary", "dataset", "ntk_type"}
    assert set(legacy.RULES) == covered


@pytest.mark.parametrize(("kind", "kernel"), [("MetaNTK_anl", "ANIL"), ("NTK", "NTK")])
def test_algorithm_beside_flags_of_the_metantk_launcher_names_the_kernel(kind: str, kernel: str) -> None:
    old = f"--space=darts_fewshot --dataset=MiniImageNet --ntk_type={kind} --algorithm=ANIL --inner_lr_time=1"
    old += " --reg_coef=2"
    assert new(*old.split()) == {
        "space": "darts_fewshot", "data_class": "MiniImagenet", "algorithm": "MetaNTKNAS", "kernel": kernel,
        "inner_lr_time": "1", "reg": "2",
    }  # fmt: skip
    assert new("--algorithm=ANIL", "--inner_lr_time=1") == {"algorithm": "ANIL", "inner_lr_time": "1"}


@pytest.mark.parametrize(("dataset", "data"), [("MetaMiniImageNet", "mini"), ("MetaTieredImageNet", "tiered")])
def test_the_metantk_launcher_trains_afterwards_by_the_schedule_of_its_dataset(dataset: str, data: str) -> None:
    recipe = new(f"--dataset={dataset}", "--train_after_search=true")["train_after_search"]
    assert recipe is not None and Path(recipe).is_file() and Path(recipe).stem == f"rfs_genotype_{data}_imagenet_5w1s"
    assert new("--train_after_search", "false") == {"train_after_search": "null"}
    assert new("--train_after_search=own.yaml") == {"train_after_search": "own.yaml"}


@pytest.mark.parametrize(("old", "needed"), [("--dataset=CUB", "MetaMiniImageNet"), ("--ntk_type=LRC", "MetaNTK_anl")])
def test_values_of_the_metantk_launcher_that_mean_nothing_here_are_refused(old: str, needed: str) -> None:
    with pytest.raises(InputError, match=f"{old}: expected .*{needed}"):
        legacy.translate(legacy.tokenise([old]))


@pytest.mark.parametrize(
    "current", ["--accelerator=cpu", "--accelerator=auto", "--precision=bf16-mixed", "--n_way=5", "--reward=snip"]
)
def test_todays_flags_pass_unchanged_and_silently(current: str) -> None:
    assert legacy.translate(legacy.tokenise([current])) == (legacy.tokenise([current]), [])


def test_all_gpus_on_a_machine_without_any_warns_and_goes_on(no_gpu: None) -> None:
    words, notes = legacy.translate(legacy.tokenise(["--gpus=-1"]))
    assert [(word.name, word.value) for word in words] == [("accelerator", "auto"), ("devices", "auto")]
    assert len(notes) == 2
    assert notes[1].startswith("warning: --gpus=-1: no GPU found")


@pytest.mark.parametrize(("old", "count"), [("--gpus=2", 0), ("--gpus=0,1", 1), ("--gpus=3", 2), ("--gpus=7,", 4)])
def test_more_gpus_than_there_are_is_an_error(old: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "gpu_count", lambda: count)
    with pytest.raises(InputError, match=f"{old}: this machine has {count} GPUs"):
        new(old)


@pytest.mark.parametrize("value", ["two", "1.5", "0,x"])
def test_gpus_that_are_no_numbers_are_an_error(value: str) -> None:
    with pytest.raises(InputError, match=f"--gpus={value}: expected"):
        new(f"--gpus={value}")


@pytest.mark.usefixtures("four_gpus")
def test_num_processes_beside_gpus_counts_nothing() -> None:
    assert new("--gpus=2", "--num_processes=8") == {"accelerator": "gpu", "devices": "2"}
    assert new("--gpus=0", "--num_processes=8") == {"accelerator": "cpu", "devices": "8"}


@pytest.mark.parametrize("gone", ["dp", "ddp2", "horovod"])
def test_backends_that_lightning_removed_are_refused(gone: str) -> None:
    with pytest.raises(InputError, match=f"--accelerator={gone}: removed"):
        new(f"--accelerator={gone}")


def test_a_fraction_of_an_epoch_between_validations_is_refused() -> None:
    with pytest.raises(InputError, match=r"--val_check_interval=0.25: .*--val_every"):
        new("--val_check_interval=0.25")


@pytest.mark.parametrize("name", sorted(legacy.REMOVED))
def test_removed_flags_give_their_reason(name: str) -> None:
    with pytest.raises(InputError) as caught:
        new(f"--{name}=1")
    assert str(caught.value) == f"--{name}=1: no longer a flag: {legacy.REMOVED[name]}"


@pytest.mark.parametrize("name", sorted(legacy.FIXED))
def test_flags_that_the_framework_fixes_say_what_to_use(name: str) -> None:
    with pytest.raises(InputError) as caught:
        new(f"--{name}=1")
    assert str(caught.value) == f"--{name}=1: not a flag here: {legacy.FIXED[name]}"


def test_every_flag_that_lightning_dropped_since_the_published_experiments_is_known() -> None:
    dropped = (
        "gpus num_processes distributed_backend tpu_cores auto_select_gpus process_position progress_bar_refresh_rate "
        "log_gpu_memory track_grad_norm weights_summary weights_save_path resume_from_checkpoint checkpoint_callback "
        "truncated_bptt_steps amp_backend amp_level auto_lr_find auto_scale_batch_size replace_sampler_ddp "
        "reload_dataloaders_every_epoch terminate_on_nan prepare_data_per_node multiple_trainloader_mode "
        "stochastic_weight_avg flush_logs_every_n_steps move_metrics_to_cpu automatic_optimization enable_pl_optimizer"
    ).split()
    assert [name for name in dropped if name not in {*legacy.RENAMED, *legacy.REMOVED, *legacy.RULES}] == []


def test_a_note_names_the_file_an_old_key_came_from() -> None:
    _, notes = legacy.translate([Word("batch_size", "3", "exp.yaml")])
    assert notes == ["deprecated: --batch_size=3 (in exp.yaml) is now --meta_batch_size=3"]
