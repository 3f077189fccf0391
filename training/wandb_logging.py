"""What a run sends to Weights & Biases beside its rows of metrics: best values, genotype, report, files."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger

from training.run_directory import is_first_rank

#: Metrics whose best value over the run is its summary, by which a sweep ranks runs; others keep the last one.
BEST = {"val/accuracy": "max", "val/loss": "min"}
#: Files of a run directory that --wandb_artifacts sends.
FILES = ("config.yaml", "results.json", "episodes.csv", "genotype.json", "model.safetensors", "report.html")


def wandb_is_installed() -> bool:
    """Return whether Weights & Biases can be imported."""
    return importlib.util.find_spec("wandb") is not None


def say(line: str) -> None:
    """Write one line for the user, on the first rank."""
    if is_first_rank():
        print(line, file=sys.stderr, flush=True)


def build_logger(values: Mapping[str, Any], run_dir: Path) -> WandbLogger | None:
    """Return a logger that writes into the run directory, offline where there is no account; None without wandb.

    Args:
        values: the flags; ``wandb_project`` (None takes the environment's WANDB_PROJECT, or few_shot_nas),
            ``wandb_group`` and ``wandb_tags`` (separated by commas) are read.
        run_dir: folder of the run, whose name is the run's.
    """
    if not wandb_is_installed():
        say("hint: --wandb: wandb is not installed (pip install wandb); the run goes on with metrics.csv")
        return None
    import wandb

    # wandb reads the environment once, at its first call: the mode has to be passed.
    mode = os.environ.get("WANDB_MODE")
    if mode is None and is_first_rank() and not wandb.login(prompt=False, verify=False):
        say("hint: --wandb: no account is logged in (wandb login); logging offline, wandb sync sends it later")
        mode = "offline"
    return WandbLogger(
        project=values["wandb_project"] or os.environ.get("WANDB_PROJECT") or "few_shot_nas",
        name=run_dir.name,
        save_dir=str(run_dir),
        log_model=False,
        mode=mode,
        group=values["wandb_group"] or os.environ.get("WANDB_RUN_GROUP"),
        tags=[tag.strip() for tag in (values["wandb_tags"] or "").split(",") if tag.strip()] or None,
    )


def define_metrics(logger: WandbLogger) -> None:
    """Make the meta-step the x axis, and the best validation the summary."""
    logger.experiment.define_metric("meta_step")
    logger.experiment.define_metric("*", step_metric="meta_step")
    for name, best in BEST.items():
        logger.experiment.define_metric(name, step_metric="meta_step", summary=best)


def send_outcome(logger: WandbLogger, run_dir: Path, content: Mapping[str, Any], artifacts: bool) -> None:
    """Send the summary of results.json, the genotype, the report, and the files if they are asked for.

    Args:
        logger: the run's.
        run_dir: the finished run directory.
        content: what results.json holds.
        artifacts: whether to send ``FILES`` as an artifact.
    """
    import wandb

    run = logger.experiment
    for key in ("parameters", "macs", "wall_seconds", "split"):
        if key in content:
            run.summary[key] = content[key]
    if "search" in content:  # its lists, such as the candidates, are in the report; a summary holds what a column can
        run.summary["search"] = {key: value for key, value in content["search"].items() if not isinstance(value, list)}
    genotype = run_dir / "genotype.json"
    if genotype.is_file():
        run.summary["genotype"] = genotype.read_text(encoding="utf-8")
    run.log({"report": wandb.Html((run_dir / "report.html").read_text(encoding="utf-8"), inject=False)})
    if artifacts:
        artifact = wandb.Artifact(f"run-{run_dir.name}", type="run", metadata={"command": content["command"]})
        for name in FILES:
            if (run_dir / name).is_file():
                artifact.add_file(str(run_dir / name))
        run.log_artifact(artifact)
