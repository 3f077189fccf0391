"""What every test may rely on: one thread, nothing sent anywhere, and only the tests this machine can run."""

import os

import pytest

# Before torch is imported by a test: tiny tensors gain nothing from threads, and bit-equality needs a fixed number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "disabled")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, rather than skip, what needs a flag, a folder or a device that is not there."""
    left_out = set()
    if not config.getoption("--slow"):
        left_out.add("slow")
    if not os.environ.get("FEW_SHOT_NAS_DATA"):
        left_out.add("realdata")
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            left_out.add("gpu")
    deselected = [item for item in items if any(item.get_closest_marker(mark) for mark in left_out)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in set(deselected)]
