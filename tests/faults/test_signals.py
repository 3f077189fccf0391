"""A run that is asked to stop loses nothing. Truth: the same run, not stopped."""

import json
import os
import shlex
import signal
import time
from pathlib import Path

import pytest

from few_shot_nas.algorithms import MAML
from few_shot_nas.runtime.checkpoint import KEY, load_checkpoint
from few_shot_nas.runtime.stop_signals import STOP, Stopped, StopSignals
from training import compare, evaluate, run_experiment

LAST = Path("a/checkpoints/last.ckpt")


def send_at(monkeypatch, method, step, *signals, pause=0.0):
    """Send signals to this process in the middle of a method of MAML, when ``step`` meta-steps are done."""
    whole, sent = getattr(MAML, method), []

    def interrupted(self, *args):
        if self.meta_step == step and not sent:
            sent.append(step)
            for signum in signals:
                os.kill(os.getpid(), signum)
                time.sleep(pause)
        return whole(self, *args)

    monkeypatch.setattr(MAML, method, interrupted)


def meta_step():
    return load_checkpoint(LAST)[KEY]["meta_step"]


def bits(folder):
    return [Path(folder, name).read_bytes() for name in ("model.safetensors", "episodes.csv")]


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "USR1", "HUP"],
)
def test_the_meta_step_ends_a_checkpoint_is_written_and_the_line_continues(tiny, ended, monkeypatch, signum, code):
    with monkeypatch.context() as patch:
        send_at(patch, "update", 3, signum)
        found, line = ended(*tiny, "--run_dir=a", "--save_every=100")
    assert (found, meta_step()) == (code, 4)
    name = signal.Signals(signum).name
    assert line.startswith(f"{name}: stopped; last.ckpt is of meta-step 4; continue with: python training/run_exp")
    words = shlex.split(line.split("continue with: ")[1])
    assert words[-2:] == ["--run_dir=a", "--ckpt_path=last"]
    assert run_experiment.main(words[2:]) == 0
    run_experiment.main([*tiny, "--run_dir=whole"])
    assert bits("a") == bits("whole")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("method", ["update", "validation_step"])
def test_a_stop_before_or_in_a_validation_waits_for_its_end(tiny, ended, monkeypatch, method):
    with monkeypatch.context() as patch:
        send_at(patch, method, 2 if method == "update" else 3, signal.SIGTERM)
        assert ended(*tiny, "--run_dir=a", "--save_every=100")[0] == 143
    assert meta_step() == 3 and Path("a/checkpoints/best.ckpt").is_file()
    assert run_experiment.main([*tiny, "--run_dir=a", "--ckpt_path=auto"]) == 0
    run_experiment.main([*tiny, "--run_dir=whole"])
    assert bits("a") == bits("whole")


def test_a_stop_in_the_test_keeps_the_training(tiny, ended, monkeypatch):
    with monkeypatch.context() as patch:
        send_at(patch, "test_step", 0, signal.SIGTERM)
        send_at(patch, "test_step", 6, signal.SIGTERM)
        code, line = ended(*tiny, "--run_dir=a", "--test_checkpoint=last")
    assert (code, meta_step()) == (143, 6)
    assert not Path("a/results.json").exists() and "--ckpt_path=last" in line


def test_a_second_ctrl_c_stops_at_once_and_launchers_that_repeat_the_first_do_not(tiny, ended, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(StopSignals, "SAME", 0.02)
        send_at(patch, "update", 3, signal.SIGINT, signal.SIGINT, pause=0.05)
        code, line = ended(*tiny, "--run_dir=a")
    assert (code, meta_step()) == (130, 2) and "--ckpt_path=last" in line  # of the last save_every
    with monkeypatch.context() as patch:
        send_at(patch, "update", 4, signal.SIGINT, signal.SIGINT, signal.SIGTERM)
        code, line = ended(*tiny, "--run_dir=a", "--ckpt_path=last")
    assert (code, meta_step()) == (130, 5)


def test_a_stop_before_the_first_meta_step_leaves_no_folder(tiny, ended, monkeypatch):
    with monkeypatch.context() as patch:
        send_at(patch, "on_fit_start", 0, signal.SIGTERM)
        code, line = ended(*tiny, "--run_dir=a")
    assert code == 143 and "start it again by the same command" in line
    assert list(Path.cwd().iterdir()) == []


def test_a_closed_terminal_does_not_stop_a_run_under_nohup(tiny, ended, monkeypatch):
    send_at(monkeypatch, "update", 3, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ended(*tiny, "--run_dir=a")[0] == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_of_a_run_without_checkpoints_says_how_to_start_again(tiny, ended, monkeypatch):
    flags = [*tiny, "--run_dir=a", "--enable_checkpointing=false"]
    with monkeypatch.context() as patch:
        send_at(patch, "update", 3, signal.SIGTERM)
        code, line = ended(*flags)
    assert code == 143
    assert line.endswith("no meta-step was kept: start it again by the same command and --ckpt_path=auto")
    assert run_experiment.main([*flags, "--ckpt_path=auto"]) == 0


SEARCH = "--algorithm=ENAS --space=chain --channels=2 --cells=2 --derive_candidates=2 --derive_episodes=1".split()


@pytest.fixture
def search(tiny):
    """Flags of a search whose genotype is trained by a recipe; they may be followed by --run_dir."""
    same = [word for word in tiny if not word.startswith(("--algorithm", "--width"))]
    recipe = {word[2:].split("=")[0]: word.split("=")[1] for word in same}
    Path("recipe.yaml").write_text("".join(f"{name}: {value}\n" for name, value in recipe.items()))
    return [*same, "--n_query=4", *SEARCH, "--train_after_search=recipe.yaml"]


@pytest.mark.slow
def test_a_stop_while_the_genotype_is_trained_goes_on_by_the_search_or_by_the_line(search, ended, monkeypatch):
    run_experiment.main([*search, "--run_dir=whole"])
    with monkeypatch.context() as patch:
        send_at(patch, "update", 3, signal.SIGTERM)
        code, line = ended(*search, "--run_dir=a")
    assert code == 143 and "--genotype=a/genotype.json --run_dir=a/trained --ckpt_path=last" in line
    assert run_experiment.main([*search, "--run_dir=a", "--ckpt_path=auto"]) == 0
    assert bits("a") == bits("whole") and bits("a/trained") == bits("whole/trained")


# ---- a cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """A job of SLURM with a stand-in for scontrol, which writes down what it is asked."""
    folder = tmp_path_factory.mktemp("bin")
    scontrol = folder / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho \"$@\" >> {folder}/asked\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    job = {"JOB_ID": "77", "NTASKS": "1", "JOB_NAME": "j", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return folder / "asked"


@pytest.mark.parametrize("where", [["--run_dir=a"], []], ids=["named", "default name"])
def test_a_requeued_job_continues_by_the_same_command(tiny, ended, monkeypatch, slurm, where):
    with monkeypatch.context() as patch:
        send_at(patch, "update", 3, signal.SIGUSR1)
        code, line = ended(*tiny, *where)
    assert code == 138 and "job 77 is requeued" in line
    assert slurm.read_text() == "requeue 77\n"
    assert run_experiment.main([*tiny, *where]) == 0
    folder = Path("a") if where else next(Path("runs").iterdir())
    assert where or len(list(Path("runs").iterdir())) == 1
    monkeypatch.delenv("SLURM_JOB_ID")
    run_experiment.main([*tiny, "--run_dir=whole"])
    assert bits(folder) == bits("whole")
    legs = json.loads((folder / "results.json").read_text())["legs"]
    assert [leg["meta_steps"] for leg in legs] == [[0, 4], [4, 6]]


@pytest.mark.slow
@pytest.mark.parametrize("where", [["--run_dir=a"], []], ids=["named", "default name"])
def test_a_job_requeued_while_the_genotype_is_trained_continues_that(search, ended, monkeypatch, slurm, where):
    with monkeypatch.context() as patch:
        send_at(patch, "update", 3, signal.SIGUSR1)
        assert ended(*search, *where)[0] == 138
    assert run_experiment.main([*search, *where]) == 0
    folder = Path("a") if where else next(Path("runs").iterdir())
    assert where or len(list(Path("runs").iterdir())) == 1
    legs = json.loads((folder / "trained/results.json").read_text())["legs"]
    assert [leg["meta_steps"] for leg in legs] == [[0, 4], [4, 6]]


def test_a_job_that_the_cluster_has_restarted_continues_and_another_job_does_not(tiny, ended, monkeypatch, slurm):
    with monkeypatch.context() as patch:
        send_at(patch, "update", 3, signal.SIGTERM)
        assert ended(*tiny, "--run_dir=a")[0] == 143
    assert not slurm.exists()  # a preempted job is requeued by the cluster itself
    assert "holds another run; continue it with" in ended(*tiny, "--run_dir=a")[1]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert "holds another run; continue it with" in ended(*tiny, "--run_dir=a")[1]
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert run_experiment.main([*tiny, "--run_dir=a"]) == 0
    assert meta_step() == 6


# ---- other commands -------------------------------------------------------------------------------------------------


def test_a_stop_while_evaluate_writes_leaves_the_whole_answer(tiny, ended, monkeypatch):
    run_experiment.main([*tiny, "--run_dir=a"])
    from training import results

    write = results.write_episodes

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGINT)
        write(*args)

    monkeypatch.setattr(results, "write_episodes", interrupted)
    code, line = ended("--run_dir=a", "--output=out", main=evaluate.main)
    assert (code, line) == (130, "SIGINT: stopped")
    whole = ["classes.json", "config.yaml", "episodes.csv", "results.json"]
    assert sorted(p.name for p in Path("out").iterdir()) == whole


def test_a_stop_in_compare_leaves_nothing(tiny, ended, monkeypatch):
    run_experiment.main([*tiny, "--run_dir=a"])
    from few_shot_nas import report

    whole = report.compare_arms

    def interrupted(*args, **settings):
        os.kill(os.getpid(), signal.SIGINT)
        return whole(*args, **settings)

    monkeypatch.setattr(report, "compare_arms", interrupted)
    assert ended("a", "a", "--output=out", main=compare.main)[0] == 130
    assert not Path("out").exists()


def test_a_held_signal_is_raised_when_the_block_has_ended():
    done = []
    with STOP.listening():
        with pytest.raises(Stopped, match="15"), STOP.held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("whole")
    assert done == ["whole"]
