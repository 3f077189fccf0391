"""What a network learns from the answers of another one."""

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened answers from a teacher's, summed over images.

    ``T^2 * sum_n KL(softmax(taught_n / T) || softmax(logits_n / T))``: Hinton et al. 2015, arXiv:1503.02531, section 2;
    the term of RFS (Tian et al., ECCV 2020, equation 5).

    Args:
        logits: ``[B, N]`` of the student.
        taught: ``[B, N]`` of the teacher; constants.
        temperature: T.

    Example:
        Equal answers cost nothing, whatever constant is added to the logits of an image.

        >>> import torch
        >>> logits = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
        >>> float(distillation_loss(logits, logits + 3.0, 4.0).abs() < 1e-5)
        1.0
        >>> round(float(distillation_loss(torch.zeros(1, 2), torch.tensor([[9.0, 0.0]]), 1.0)), 3)
        0.692
    """
    own, other = F.log_softmax(logits / temperature, 1), F.log_softmax(taught.detach() / temperature, 1)
    return temperature**2 * F.kl_div(own, other, reduction="sum", log_target=True)
