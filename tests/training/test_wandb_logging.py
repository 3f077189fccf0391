"""What Weights & Biases is told. Truth: the calls that reach a stand-in for its run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training import wandb_logging

FLAGS = {"wandb_project": None, "wandb_group": None, "wandb_tags": None}


class Recorder:
    """A logger, and its experiment, that remember what they are given."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.metrics: dict[str, dict[str, Any]] = {}
        self.summary: dict[str, Any] = {}
        self.logged: dict[str, Any] = {}
        self.artifacts: list[Any] = []
        self.experiment = self

    def define_metric(self, name: str, **how: Any) -> None:
        self.metrics[name] = how

    def log(self, content: dict[str, Any]) -> None:
        self.logged.update(content)

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(wandb_logging, "WandbLogger", Recorder)

    def build(**flags: str) -> dict[str, Any]:
        logger: Any = wandb_logging.build_logger({**FLAGS, **flags}, Path("runs/a"))
        return logger.given

    return build


def test_project_group_and_tags_come_from_the_flags(built: Any) -> None:
    given = built(wandb_project="p", wandb_group="g", wandb_tags="one, two,")
    assert (given["project"], given["group"], given["tags"], given["name"]) == ("p", "g", ["one", "two"], "a")


def test_the_environment_names_the_project_where_no_flag_does(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert built()["project"] == "few_shot_nas"
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert built()["project"] == "theirs"
    assert built(wandb_project="mine")["project"] == "mine"


def test_a_sweep_ranks_by_the_best_validation() -> None:
    logger: Any = Recorder()
    wandb_logging.define_metrics(logger)
    assert logger.metrics["val/accuracy"]["summary"] == "max"
    assert logger.metrics["val/loss"]["summary"] == "min"
    assert logger.metrics["*"] == {"step_metric": "meta_step"}


@pytest.mark.parametrize("artifacts", [False, True])
def test_the_outcome_is_sent_with_genotype_report_and_files_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifacts: bool
) -> None:
    import wandb

    monkeypatch.setattr(wandb, "Html", lambda text, inject: ("html", text))
    held: list[str] = []
    monkeypatch.setattr(wandb, "Artifact", lambda name, **about: SimpleNamespace(name=name, add_file=held.append))
    for name in ("report.html", "genotype.json", "results.json"):
        (tmp_path / name).write_text(f"<{name}>", encoding="utf-8")
    logger: Any = Recorder()
    search = {"reward_calls": 5, "candidates": [{"decisions": [0]}]}
    wandb_logging.send_outcome(logger, tmp_path, {"parameters": 7, "command": "c", "search": search}, artifacts)
    assert logger.summary == {"parameters": 7, "genotype": "<genotype.json>", "search": {"reward_calls": 5}}
    assert logger.logged == {"report": ("html", "<report.html>")}
    files = {"report.html", "genotype.json", "results.json"} if artifacts else set()
    assert {Path(path).name for path in held} == files
    assert len(logger.artifacts) == artifacts
