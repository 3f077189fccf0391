"""The flags that users, recipes and sweeps may rely on. A flag may be added here; one that goes needs an alias."""

import pytest

from training.class_tables import load_tables
from training.cli import build_flags
from training.legacy import FIXED, REMOVED, RENAMED, RULES

TABLES = load_tables()

SHELL = (
    "algorithm model_class data_class run_dir seed wandb wandb_project wandb_group wandb_tags wandb_artifacts "
    "ckpt_path init_from train_after_search test_checkpoint protocol save_every save_minutes rank_timeout "
    "n_way k_shot n_query"
).split()
DATA = (
    "data_dir cache_dir image_size meta_batch_size num_workers val_every val_episodes test_episodes test_split "
    "train_way train_query augment gap_episodes"
).split()
TRAINER = (
    "accelerator strategy devices num_nodes precision fast_dev_run max_time num_sanity_val_steps enable_checkpointing "
    "enable_progress_bar enable_model_summary deterministic benchmark profiler detect_anomaly enable_autolog_hparams"
).split()
OUTER = (
    "max_meta_steps outer_lr outer_schedule outer_lr_min restart_steps restart_factor weight_decay label_smoothing "
    "meta_grad_clip bn_mode score_modes log_every log_grad_norm log_inner_steps patience on_nonfinite"
).split()
SCORING = ["head", "reward"]
INNER = "inner_lr inner_steps eval_inner_steps first_order engine inner_optimizer zero_head".split()
DERIVE = "derive_candidates derive_episodes".split()
SPACE = "space channels cells nodes affine norm_pools pad max_params max_macs".split()
CONTROLLER = (
    "controller controller_inner_lr controller_lr inner_archs outer_archs entropy_weight estimator dice_lambda "
    "inner_baseline outer_baseline baseline_decay entropy_gradient share_archs inner_reward skip_target skip_weight "
    "task_embedding promp_epochs promp_clip promp_kl_weight weights warmup_steps strict_fairness weights_until "
    "test_reward oracle_adaptation"
).split()

PRUNING = "prune_number repeats regions_crops init compat".split()

FLAGS = {
    "MAML": INNER + OUTER,
    "MetaNTKNAS": OUTER + PRUNING + "kernel inner_lr_time reg norm_groups".split() + SPACE,
    "TENAS": OUTER + PRUNING + ["kernel_batch"] + SPACE,
    "MAMLENAS": INNER + OUTER + SCORING + DERIVE + CONTROLLER + SPACE,
    "RandomSearch": INNER + OUTER + SCORING + DERIVE + ["random_archs", "rewards_per_task"] + SPACE,
}
MODELS = {
    "Conv4": ["width", "downsample", "activation"],
    "GenotypeNetwork": "genotype space channels cells pad".split(),
    "Supernet": SPACE,
}


@pytest.mark.parametrize("algorithm", sorted(FLAGS))
def test_flags_of_each_algorithm_with_its_default_network_and_data(algorithm: str) -> None:
    model = TABLES.algorithms[algorithm].default_model
    flags = build_flags(TABLES, algorithm, model, "Glyphs")
    own = FLAGS[algorithm] if model == "Supernet" else FLAGS[algorithm] + MODELS[model]
    assert sorted(flags) == sorted(SHELL + DATA + TRAINER + own)


@pytest.mark.parametrize("algorithm", list(TABLES.algorithms))
@pytest.mark.parametrize("model", list(TABLES.models))
@pytest.mark.parametrize("source", list(TABLES.sources))
def test_every_combination_of_classes_gives_a_parser(algorithm: str, model: str, source: str) -> None:
    flags = build_flags(TABLES, algorithm, model, source)
    assert set(SHELL + TRAINER) <= set(flags)
    assert not set(flags) & {*FIXED, *REMOVED, *RENAMED, *(set(RULES) - {"accelerator", "precision"})}


@pytest.mark.parametrize("algorithm", list(TABLES.algorithms))
def test_every_flag_says_what_it_does(algorithm: str) -> None:
    silent = [
        flag.name
        for source in TABLES.sources
        for model in TABLES.models
        for flag in build_flags(TABLES, algorithm, model, source).values()
        if not flag.help
    ]
    assert silent == []


def test_old_spellings_lead_to_flags_that_exist() -> None:
    flags = [*build_flags(TABLES, "MAML", "Conv4", "Glyphs"), *build_flags(TABLES, "MetaNTKNAS", "Supernet", "Glyphs")]
    targets = {*RENAMED.values(), "accelerator", "devices", "strategy", "precision", "log_grad_norm", "val_every"}
    assert targets <= set(flags)


def test_a_learner_may_ask_for_other_defaults_of_its_data() -> None:
    own = TABLES.algorithms["MAML"].data_defaults
    assert own and not TABLES.algorithms["MAMLENAS"].data_defaults
    flags, plain = build_flags(TABLES, "MAML", "Conv4", "Glyphs"), build_flags(TABLES, "MAMLENAS", "Supernet", "Glyphs")
    assert {name: flags[name].default for name in own} == own
    assert all(plain[name].default != value for name, value in own.items())
