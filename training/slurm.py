"""Jobs of a SLURM cluster: which one this is, whether it has been requeued, and how to requeue it."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from few_shot_nas.whole_file import write_text

#: Which job a run is of, in its folder: the job that is started again finds its run by this file.
RECORD = "slurm_job.txt"
_REQUEUED = "requeued"


def job(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the name of this job as ``scontrol requeue`` takes it; None outside of one."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{environment.get('SLURM_ARRAY_TASK_ID', '0')}"
    return environment.get("SLURM_JOB_ID") or None


def record(folder: Path, requeued: bool = False) -> None:
    """Write in the folder of a run that it is of this job; outside of a job do nothing."""
    name = job()
    if name is not None:
        write_text(folder / RECORD, f"{name}\n{_REQUEUED if requeued else 'started'}\n")


def is_to_continue(folder: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this job has begun the run in ``folder`` before it was requeued, by us or by the cluster."""
    name = job(environment)
    try:
        words = (folder / RECORD).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return False
    if name is None or not words or words[0] != name:
        return False
    return _REQUEUED in words or environment.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def requeue() -> str:
    """Ask the cluster to start this job again.

    Returns:
        What came of it, for the user.
    """
    name = job()
    if name is None:
        return "not a SLURM job, so it is not requeued"
    try:
        done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {name} could not be requeued: {error}"
    if done.returncode:
        return f"job {name} could not be requeued: {' '.join(done.stderr.split()) or f'code {done.returncode}'}"
    return f"job {name} is requeued, and continues by the same command"
