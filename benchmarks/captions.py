"""What the documents' tables call data sets, rules, arms and rungs, by the names that files and folders have."""

#: What data sets are called in tables, by the name of their files.
DATA = {
    "omniglot": "Omniglot 28x28, test classes", "mixed": "`Mixed` 28x28, val classes",
    "mini": "mini-ImageNet 42x42, val classes", "minibig": "mini-ImageNet 84x84, val classes",
}  # fmt: skip
#: Data sets of several supernets, and those of a single one.
SEVERAL, SINGLE = ("omniglot", "mixed"), ("mini", "minibig")
#: What their tasks are from, in the order of the tables.
SOURCES = {
    "omniglot": ("Omniglot",), "mixed": ("Omniglot", "mini-ImageNet", "Glyphs"),
    "mini": ("mini-ImageNet",), "minibig": ("mini-ImageNet",),
}  # fmt: skip

#: Rules of training/tabular/analyse_table.py.
RULES = {
    "per_source": "best fixed per source", "embedding": "regression on the task embedding",
    "accuracy": "accuracy of one replicate", "loss_shrunk": "cross-entropy, shrunk",
    "loss_rank3": "cross-entropy, rank 3", "loo_loss": "leave-one-out loss", "loo_loss_shrunk": "the same, shrunk",
    "loo_loss_rank1": "the same, rank 1", "loo_loss_rank3": "the same, rank 3",
}  # fmt: skip

#: Arms of training/tabular/arms.py.
ARMS = {
    "A_uniform": "A uniform random", "B_best_fixed": "B best fixed, by 20,000 calls",
    "B_per_source": "B best fixed per source", "C_random_loo_loss_K4": "C best of 4 random per task, label-free",
    "C_random_ORACLE_K4": "C the same, ORACLE (query labels)", "D_no_adaptation": "D REINFORCE, no adaptation",
    "E_scratch_K4": "E REINFORCE from scratch per task", "F_fomaml_K4": "F MAML, fomaml",
    "F_naive_K4": "F MAML, naive", "F_naive_K4_start": "the same, no inner step in the test",
    "F_emaml_K4": "F MAML, emaml", "F_lvc_K4": "F MAML, lvc",
    "G_conditioned": "G conditioned on the task", "G_told_source": "G told the source instead",
    "G_conditioned_inner_K4": "G and inner step",
    "J_hand_made": "J hand-made (3x3 convolutions)",
}  # fmt: skip
FEW = {
    name: words
    for name, words in ARMS.items()
    if name.startswith(("B_", "C_random_loo", "D_", "F_naive", "G_")) and not name.endswith("start")
}

#: The ladder on tables, and what is left without one remedy.
RUNGS = {
    "B_best_fixed": "B best fixed", "L0_original": "K = M = 1, naive, no baseline, accuracy",
    "L1_baseline": "+ moving-average baselines", "L2_K4_loo": "+ K = 4, leave-one-out inner baseline",
    "L3_per_task": "+ per-task outer baseline", "L4_ce_reward": "+ cross-entropy reward", "L5_emaml": "+ emaml",
    "L6_kl_tuned": "+ inner rate tuned to a KL of 0.05", "L7_label_free": "+ label-free inner reward",
    "L8_conditioned": "+ task embedding (all remedies)",
    "R_without_K4_loo": "all but K = 4 and its baseline", "R_without_per_task": "all but the per-task baseline",
    "R_without_ce_reward": "all but the cross-entropy reward", "R_without_emaml": "all but emaml",
    "R_without_kl_tuned": "all but the tuned rate", "R_without_label_free": "all but the label-free reward",
}  # fmt: skip

#: The ladder where the weights are trained beside the controller.
NETWORK_RUNGS = {
    "original": "the original: one sample, no baseline, weights trained in place, shared linear head",
    "fast": "+ weights reset for every task (first-order MAML)", "prototype": "+ prototype head",
    "samples": "+ K = 4, leave-one-out, per-task baseline", "warmup": "+ 50 meta-steps of warm-up, strict fairness",
    "learned": "the same, with ten times the controller's rate",
    "lstm": "the same as the warm-up's rung, with a controller of interactions (`LSTM`)",
    "uniform": "no controller: warm-up to the end, then the best of five by 200 reward calls",
    "random": "random search: prototype head, uniform architectures, no controller",
}  # fmt: skip
