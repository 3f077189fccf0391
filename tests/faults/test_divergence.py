"""A run that diverges says so. Truth: networks and gradients that are made infinite here."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.task_scores import out_of_bounds
from few_shot_nas.meta.probe import logistic_regression
from few_shot_nas.search.derivation import rank
from training import evaluate, run_experiment


def poison(monkeypatch, at, where="net"):
    """Make the network's weights, or the gradient, of one meta-step and all later ones infinite."""
    whole = EpisodicModule.descend_outer

    def poisoned(self):
        if where == "gradient" and self.meta_step == at:
            next(p for p in self.parameters() if p.grad is not None).grad.fill_(math.inf)
        whole(self)
        if where == "net" and self.meta_step >= at:
            with torch.no_grad():
                next(self.net.parameters()).fill_(math.nan)

    monkeypatch.setattr(EpisodicModule, "descend_outer", poisoned)


def results(folder="a"):
    return json.loads(Path(folder, "results.json").read_text())


def test_best_is_never_the_network_whose_answers_are_no_numbers_and_they_are_counted(tiny, monkeypatch, capsys, caplog):
    poison(monkeypatch, at=5)
    assert run_experiment.main([*tiny, "--run_dir=a", "--log_every=100", "--test_checkpoint=last"]) == 0
    out = capsys.readouterr()
    assert "the answers to 2 of 2 validation tasks are not finite" in caplog.text + out.err
    best = torch.load("a/checkpoints/best.ckpt", weights_only=True)
    assert best["few_shot_nas"]["meta_step"] == 3
    assert all(bool(value.isfinite().all()) for value in best["state_dict"].values())
    assert {mode: score["non_finite"] for mode, score in results()["test"].items()} == {"transductive": 3, "support": 3}
    assert "not" in out.out and "answers that are no numbers" in Path("a/report.html").read_text()
    assert evaluate.main(["--run_dir=a", "--checkpoint=best", "--output=b"]) == 0
    assert results("b")["test"]["support"]["non_finite"] == 0


def test_a_run_that_diverges_before_its_first_validation_has_no_best(tiny, monkeypatch):
    poison(monkeypatch, at=2)
    assert run_experiment.main([*tiny, "--run_dir=a", "--max_meta_steps=3", "--log_every=100"]) == 0
    assert not Path("a/checkpoints/best.ckpt").exists()
    assert results()["checkpoint"] == "last" and results()["test"]["support"]["non_finite"] == 3


def test_a_network_that_diverges_to_finite_weights_is_named(tiny, capsys, caplog):
    assert run_experiment.main([*tiny, "--run_dir=a", "--outer_lr=1e9", "--meta_batch_size=2"]) == 0
    assert all(row["diverged"] is True and row["non_finite"] == 0 for row in results()["test"].values())
    (line,) = {text for text in caplog.messages if "of the test" in text}
    assert "is over 1000 times that of guessing" in line and "lower outer_lr" in line
    assert any("of the validation" in text for text in caplog.messages)
    assert "diverged" in capsys.readouterr().out and "1,000 times that of guessing" in Path("a/report.html").read_text()
    caplog.clear()
    assert evaluate.main(["--run_dir=a", "--output=b"]) == 0
    assert results("b")["test"]["support"]["diverged"] is True and "of the test" in caplog.text


def test_a_training_loss_out_of_bounds_is_told_once_and_counted(tiny, caplog):
    assert run_experiment.main([*tiny, "--run_dir=a", "--outer_lr=1e9", "--test_episodes=0"]) == 0
    with Path("a/metrics.csv").open(newline="") as file:
        far = [row for row in csv.DictReader(file) if row["train/loss"] and float(row["train/loss"]) > 1000]
    assert results()["diverged_rows"] == len(far) > 1
    assert len([text for text in caplog.messages if "mean training loss of the row" in text]) == 1
    assert run_experiment.main([*tiny, "--run_dir=a", "--outer_lr=1e9", "--ckpt_path=last"]) == 0
    assert results()["diverged_rows"] == len(far)  # the checkpoint carries it along
    assert "with a training loss above 1,000" in Path("a/report.html").read_text()


@pytest.mark.parametrize("algorithm", ["MAML", "ProtoNet", "RFS", "Reptile"])
def test_an_honest_run_is_far_from_diverged(tiny, caplog, algorithm):
    flags = [f"--algorithm={algorithm}", *tiny[1:], *(["--flat_batch_size=8"] if algorithm == "RFS" else [])]
    assert run_experiment.main([*flags, "--run_dir=a"]) == 0
    assert results()["diverged_rows"] == 0
    assert not any(row["diverged"] for row in results()["test"].values()) and "guessing" not in caplog.text


def test_a_diverged_mean_loss_counts_only_at_the_accuracy_of_guessing():
    row = {"accuracy": 0.25, "loss": 1e6, "finite": True, "ways": 5}
    assert out_of_bounds([row, {**row, "accuracy": 0.15}])
    assert not out_of_bounds([{**row, "loss": 1600.0}] * 2)  # 1,000 ln 5 is 1609.4
    assert not out_of_bounds([{**row, "accuracy": 0.9}] * 2)
    assert not out_of_bounds([row, {**row, "finite": False}])  # which is counted by itself
    assert not out_of_bounds([{**row, "ways": 0}])


def test_an_ensemble_keeps_no_validation_whose_answers_are_no_numbers(tiny, monkeypatch):
    poison(monkeypatch, at=5)
    flags = ["--algorithm=MAMLPlusPlus", *tiny[1:], "--ensemble_of=3", "--log_every=100"]
    assert run_experiment.main([*flags, "--run_dir=a"]) == 0
    last = torch.load("a/checkpoints/last.ckpt", weights_only=True)["few_shot_nas"]
    assert [kept["meta_step"] for kept in last["ensemble"]] == [3]
    assert results()["test"]["ensemble1_support"]["non_finite"] == 0


def test_a_gradient_that_is_not_finite_stops_or_is_left_out_and_counted(tiny, ended, monkeypatch):
    poison(monkeypatch, at=2, where="gradient")
    code, line = ended(*tiny, "--run_dir=a")
    assert code == 2 and "the meta-gradient of meta-step 2 is not finite" in line and "on_nonfinite=skip" in line
    assert run_experiment.main([*tiny, "--run_dir=b", "--on_nonfinite=skip"]) == 0
    assert results("b")["skipped_steps"] == 1 and results("b")["meta_steps"] == 6
    assert results("b")["test"]["support"]["non_finite"] == 0


def test_a_training_loss_that_is_not_finite_stops(tiny, ended, monkeypatch):
    poison(monkeypatch, at=2)
    code, line = ended(*tiny, "--run_dir=a")
    assert code == 2 and "not finite" in line


def test_a_learner_with_a_linear_probe_that_diverges_is_no_traceback(tiny, ended):
    flags = ["--algorithm=RFS", "--flat_batch_size=8", "--outer_lr=1e15", *tiny[1:]]
    code, line = ended(*flags, "--run_dir=a")
    assert code == 0 or (code == 2 and "not finite" in line)
    head = logistic_regression(torch.full((4, 3), math.nan), torch.tensor([0, 0, 1, 1]))
    assert head.logits(torch.zeros(2, 3).double()).isnan().all()


def test_a_candidate_without_a_reward_comes_last():
    rewards = {(0,): math.nan, (1,): 0.2, (2,): 0.7}
    found = rank(list(rewards), [None], lambda decisions, _: rewards[decisions])
    assert [ranked.decisions for ranked in found] == [(2,), (1,), (0,)]


def test_the_reverse_sweep_in_mixed_precision_is_refused(tiny, ended):
    code, line = ended(*tiny, "--run_dir=a", "--engine=sweep", "--precision=bf16-mixed")
    assert code == 2 and "--engine=sweep --precision=bf16-mixed: do not go together" in line
