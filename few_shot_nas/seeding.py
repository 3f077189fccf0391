"""Random streams that are pure functions of what they are for, so that nothing has to be saved to replay them."""

import zlib

import numpy as np
import torch


def derived_seed(*words: int | str) -> int:
    """Mix any number of words into one 63-bit seed.

    Args:
        *words: non-negative integers and strings that name the purpose, e.g. ``(seed, "inner", meta_step)``.

    Returns:
        The same integer on every machine and in every process; unrelated for words that differ anywhere.
    """
    entropy = [zlib.crc32(word.encode()) if isinstance(word, str) else int(word) for word in words]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*words: int | str) -> torch.Generator:
    """Return a fresh CPU generator seeded by :func:`derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(*words))


def seed_global(seed: int, device: torch.device) -> None:
    """Set the global generators of the CPU and of ``device``, for layers such as dropout that take no generator.

    ``torch.manual_seed`` sets those of all kinds of devices too, and keeps a call with its stack in memory for each
    that has not been used yet: a third of a meta-step's overhead.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
