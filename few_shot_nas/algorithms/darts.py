"""DARTS: one architecture, learned by gradient on flat batches of all training classes."""

from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from few_shot_nas.algorithms.alpha_search import AlphaLoop, AlphaSearch, is_alpha
from few_shot_nas.algorithms.rfs import RFS, FlatSGD
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.errors import InputError
from few_shot_nas.meta.functional import Params, call, trainable
from few_shot_nas.ranges import Positive
from few_shot_nas.runtime.gradients import average_buffers, average_gradients, world
from few_shot_nas.settings import require_choice
from few_shot_nas.stats.statistics import accuracy

Order = Literal["first", "second"]


class DARTS(AlphaSearch, RFS):
    """DARTS (Liu et al., ICLR 2019, arXiv:1806.09055), the baseline that knows nothing of tasks.

    Every batch is halved. Adam moves the alphas by the loss of one half: at the weights as they are (``order=first``),
    or after one step of SGD on the other half (``order=second``, equation 7, with momentum and weight decay). Then SGD
    moves the weights by the loss of the other half. Tasks are scored as RFS scores them: logistic regression on the
    features of the mixture.

    Deviations: the gradient of the second order is exact, where the authors take a finite difference (equation 8);
    halves are drawn anew with every batch, where the authors have two fixed sets of images. On several processes each
    normalises its own part of the batch, and ``order=second`` takes the step of SGD on its own part.

    Args:
        net: a MixedSupernet.
        order: of the gradient of the alphas.
        sgd: the optimizer of the weights.
        alphas: how the alphas are learned; alpha_inner_lr and decode_episodes are not used.
        probe_c: inverse strength of the logistic regression's penalty.
        outer: the outer loop of the weights.
        seed: names every random stream of the run.
    """

    default_model: ClassVar[str] = "MixedSupernet"

    def __init__(
        self,
        net: nn.Module,
        *,
        order: Order = "first",
        sgd: FlatSGD = FlatSGD(),
        alphas: AlphaLoop = AlphaLoop(alpha_lr=3e-4),
        probe_c: Positive = 1.0,
        outer: OuterLoop = OuterLoop(
            outer_lr=0.025, outer_schedule="cosine", outer_lr_min=1e-3, weight_decay=3e-4, meta_grad_clip=5.0,
            bn_mode="running",
        ),  # fmt: skip
        seed: int = 0,
    ) -> None:
        super().__init__(net, alphas=alphas, sgd=sgd, probe_c=probe_c, outer=outer, seed=seed)
        require_choice("order", order, Order)
        self.order = order
        self.hparams.update({"order": order})

    def configure_optimizers(self) -> Any:
        """SGD on the weights, and Adam on the alphas, whose rate stays."""
        *weights, alphas = self.parameter_groups()
        optimizers = [self.make_optimizer(weights), torch.optim.Adam([alphas])]
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["base_lr"] = group["lr"]
        return optimizers

    def update(self, batch: Any) -> dict[str, float]:
        """Move the alphas by one half of the batch, then the weights by the other."""
        weights_step, alphas_step = cast(list[LightningOptimizer], self.optimizers())
        fitted, held_out = (batch.images[0::2], batch.labels[0::2]), (batch.images[1::2], batch.labels[1::2])
        if not len(held_out[1]):
            raise InputError(f"DARTS: a batch of {len(batch.labels)} image: at least 2 are needed, to halve it")
        self._clear()
        gradients = self.alpha_gradients(fitted, held_out, weights_step)
        for name, value in self.net.named_parameters():
            value.grad = gradients.get(name)
        self._average(len(held_out[1]), torch.zeros(0, device=self.device))
        alphas_finite = self._step_alphas(alphas_step)

        self._clear()
        logits = self.net(fitted[0])
        loss = self.outer_loss(logits, fitted[1])
        self.manual_backward(loss)
        for name, value in self.net.named_parameters():
            value.grad = None if is_alpha(name) else value.grad
        sums = torch.stack([loss.detach().float(), accuracy(logits, fitted[1])])
        means = self._average(len(fitted[1]), sums)
        if self.clip_gradient():
            self.apply_schedule(weights_step)
            weights_step.step()
            self.skipped_steps += not alphas_finite  # a meta-step counts once
        average_buffers(self.net)
        return dict(zip(("train/loss", "train/accuracy"), means.tolist(), strict=True))

    def _average(self, images: int, sums: Tensor) -> Tensor:
        """Turn gradients and scalars of the mean over this rank's images into those of the images of all ranks."""
        if world()[1] == 1:
            return sums
        for parameter in self._trained():
            parameter.grad = None if parameter.grad is None else images * parameter.grad
        return average_gradients(self._trained(), images, images * sums)

    def _step_alphas(self, optimizer: LightningOptimizer) -> bool:
        """Move the alphas, whose gradient is not clipped; return False where it is not finite and was left out."""
        norm = nn.utils.get_total_norm([value.grad for value in self._trained() if value.grad is not None])
        if self.outer.on_nonfinite == "skip":
            if not norm.isfinite():
                return False
        else:
            self.recorder.add_norm(norm, self.meta_step)
        optimizer.step()
        return True

    def _clear(self) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    def alpha_gradients(
        self, fitted: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], optimizer: Any
    ) -> Params:
        """Return the gradient of the alphas by name.

        Args:
            fitted: images and labels that the weights learn from.
            held_out: images and labels that the alphas learn from.
            optimizer: that of the weights, for its momentum, weight decay and rate.
        """
        everything = trainable(self.net)
        alphas = {name: value for name, value in everything.items() if is_alpha(name)}
        weights = {name: value for name, value in everything.items() if name not in alphas}
        if self.order == "second":
            weights = self._stepped(weights, alphas, fitted, optimizer)
        loss = F.cross_entropy(call(self.net, {**weights, **alphas}, held_out[0]), held_out[1])
        return dict(zip(alphas, torch.autograd.grad(loss, list(alphas.values())), strict=True))

    def _stepped(self, weights: Params, alphas: Params, fitted: tuple[Tensor, Tensor], optimizer: Any) -> Params:
        loss = F.cross_entropy(call(self.net, {**weights, **alphas}, fitted[0]), fitted[1])
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        rate = optimizer.param_groups[0]["base_lr"] * self.schedule()
        stepped = {}
        for (name, value), gradient in zip(weights.items(), gradients, strict=True):
            momentum = optimizer.state.get(value, {}).get("momentum_buffer")
            direction = gradient + self.outer.weight_decay * value
            direction = direction if momentum is None else direction + self.sgd.flat_momentum * momentum
            stepped[name] = value - rate * direction
        return stepped

    def passes_per_task(self) -> int:
        """A pass over either half of a batch; with the second order one more over the first."""
        return 2 if self.order == "first" else 3

    def search_cost(self, meta_batch_size: int) -> dict[str, int]:
        """The passes of every batch, whatever its size."""
        return {"forward_passes": self.meta_step * self.passes_per_task()}
