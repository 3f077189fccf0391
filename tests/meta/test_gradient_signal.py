"""Signal-to-noise of a gradient from a window of samples."""

import pytest
import torch

from few_shot_nas.meta.gradient_signal import GradientWindow


def test_it_is_the_unbiased_signal_over_the_sample_variance():
    samples = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double) + 1
    window = GradientWindow()
    for sample in samples:
        window = window.add(sample)
    variance = float(samples.var(0).sum())
    expected = (float(samples.mean(0).square().sum()) - variance / 6) / variance
    assert window.snr() == pytest.approx(expected, rel=1e-12)


def test_too_few_or_equal_gradients_have_none():
    one = GradientWindow().add(torch.ones(3))
    assert GradientWindow().snr() is None and one.snr() is None and one.add(torch.ones(3)).snr() is None


def test_the_estimate_is_centred_on_the_truth():
    stream = torch.Generator().manual_seed(1)
    signal = torch.tensor([0.3, -0.4], dtype=torch.double)
    estimates = []
    for _ in range(300):
        window = GradientWindow()
        for noise in torch.randn(20, 2, generator=stream, dtype=torch.double):
            window = window.add(signal + noise)
        estimates.append(window.snr())
    assert sum(estimates) / 300 == pytest.approx(0.25 / 2, abs=0.02)
