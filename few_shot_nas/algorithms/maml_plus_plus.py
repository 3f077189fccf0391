"""MAML++: MAML with six ingredients, each behind its own switch."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.gradient_learner import GradientLearner
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode, SingleTask, Task, tasks
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.outer_loss import multi_step_weights
from few_shot_nas.nn.foreign import refuse_foreign_norms
from few_shot_nas.nn.norm import make_per_step, norm_parameters, recorded_statistics, update_statistics
from few_shot_nas.ranges import Number
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.runtime.gradients import average_gradients
from few_shot_nas.settings import Settings


@dataclass(frozen=True)
class Ingredients(Settings):
    """What MAML++ adds to MAML. The sixth ingredient, cosine annealing, is outer_schedule=cosine, to outer_lr_min.

    Attributes:
        multi_step_until: meta-steps in which the query loss after every inner step counts, annealed towards the last;
            0 never. Published: 7500 on mini-ImageNet, 5000 on Omniglot.
        first_order_until: meta-steps that take the first order before the second (derivative-order annealing); 0 none,
            as in the authors' configurations (their paper: 25000).
        learn_inner_rates: learn one inner rate per parameter tensor and inner step, from inner_lr.
        per_step_statistics: keep running BatchNorm statistics per inner step and score bn_mode running by them.
        per_step_affine: keep BatchNorm's scale and shift per inner step; they are meta-learned and not adapted.
        adapt_norm: let the inner loop move BatchNorm's scale and shift where they are not per step.
        ensemble_of: in a test, score also the mean logits of the networks of so many best validations, in rows of
            their own; 0 does not. Published: 5.
    """

    multi_step_until: Number = 500
    first_order_until: Number = 0
    learn_inner_rates: bool = True
    per_step_statistics: bool = True
    per_step_affine: bool = True
    adapt_norm: bool = False
    ensemble_of: Number = 0


PUBLISHED = Ingredients()


class MAMLPlusPlus(GradientLearner):
    """MAML++ (Antoniou et al., ICLR 2019, arXiv:1810.09502); with every switch off it is MAML to the last bit.

    ``theta_{s+1} = theta_s - rate[name, s] * grad L_support(theta_s)``; the outer loss is
    ``sum_s w_s(meta_step) * L_query(theta_{s+1})``.

    Deviations from the authors' code: a tensor has T rates (there T + 1, the last unused), and time is counted in
    meta-steps (there in epochs of 500). The authors' code writes running statistics and never reads them; here they
    normalise the queries in test rows named ``running``. They are gathered from the queries of training tasks, one set
    per iterate; the inner loop keeps using the statistics of the support set. Steps past inner_steps use the last rate,
    scale and statistics. Accuracies of an ensemble are in rows named ``ensemble<members>_<bn_mode>``. The cosine ends
    at 1e-5, as published for Omniglot; the authors' configuration for mini-ImageNet ends where it starts, a constant
    rate.

    Args:
        net: any network of MODELS; its BatchNorm2d are replaced in place if anything is kept per step.
        inner: the inner loop.
        ingredients: the switches.
        outer: the outer loop.
        seed: names every random stream of the run.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = InnerLoop(inner_lr=0.1, inner_steps=5),
        ingredients: Ingredients = PUBLISHED,
        outer: OuterLoop = OuterLoop(outer_schedule="cosine", outer_lr_min=1e-5),
        seed: int = 0,
    ) -> None:
        statistics, affine = ingredients.per_step_statistics, ingredients.per_step_affine
        refuse_foreign_norms(net)
        if statistics or affine:
            make_per_step(net, inner.inner_steps, statistics=statistics, affine=affine)
        super().__init__(net, inner=inner, outer=outer, seed=seed)
        self.ingredients = ingredients
        self.hparams.update(dataclasses.asdict(ingredients))
        self.norm_names = norm_parameters(net)
        if ingredients.learn_inner_rates:
            for name, value in self.split()[0].items():
                self.add_rates(name, torch.full((inner.inner_steps,), inner.inner_lr).to(value))
        self._seen: dict[str, Tensor] = {}
        self._best: list[dict[str, Any]] = []

    # ---- MAML's hooks -----------------------------------------------------------------------------------------------

    def is_adapted(self, name: str) -> bool:
        """All parameters, but BatchNorm's only if asked for."""
        return name not in self.norm_names or (self.ingredients.adapt_norm and not self.ingredients.per_step_affine)

    def rate(self, name: str, step: int) -> float | Tensor:
        """The learned rate of one tensor in one step, a scalar."""
        if not self.ingredients.learn_inner_rates:
            return super().rate(name, step)
        return self.learned_rates(name)[min(step, self.inner.inner_steps - 1)]

    def step_weights(self) -> Sequence[float] | None:
        """Annealed weights of the multi-step loss."""
        return multi_step_weights(self.inner.inner_steps, self.meta_step, self.ingredients.multi_step_until)

    def second_order(self) -> bool:
        """The second order, once derivative-order annealing is over."""
        return super().second_order() and self.meta_step >= self.ingredients.first_order_until

    # ---- running statistics -----------------------------------------------------------------------------------------

    def after_task(self, task: Task, trajectory: Sequence[Params]) -> None:
        """Add up what the per-step layers see of this task's queries at every iterate."""
        if not self.ingredients.per_step_statistics:
            return
        problem, by_step = self.problem(task), []
        with torch.no_grad():
            for step, params in enumerate(trajectory[1:]):
                with recorded_statistics(self.net) as seen:
                    problem.query(params, problem.fixed, step)
                by_step.append(seen)
        for name in by_step[0]:
            stacked = torch.stack([seen[name] for seen in by_step])
            self._seen[name] = self._seen[name] + stacked if name in self._seen else stacked

    def update(self, batch: Episode) -> dict[str, float]:
        """One outer update; then the running statistics move towards the mean over the tasks of all ranks."""
        self._seen = {}
        scalars = super().update(batch)
        if self._seen:
            sizes = [value.numel() for value in self._seen.values()]
            flat = torch.cat([value.flatten() for value in self._seen.values()])
            means = average_gradients([], batch.support_x.shape[0], flat).split(sizes)
            update_statistics(
                self.net, {n: m.view_as(v) for (n, v), m in zip(self._seen.items(), means, strict=True)}
            )
        return scalars

    # ---- ensemble of the best validations ---------------------------------------------------------------------------

    def on_validation_epoch_end(self) -> None:
        """Log the validation and, for an ensemble, keep the state if it is among the best.

        The check before training is no validation: its network has learned nothing. Nor is a network kept whose
        answers are not finite: the mean with its answers would not be finite either.
        """
        super().on_validation_epoch_end()
        fits = self._trainer is not None and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        if self.ingredients.ensemble_of and fits and self.val_finite:
            state = {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}
            self._keep_best([{"meta_step": self.meta_step, "accuracy": self.val_accuracy, "state": state}])

    def _keep_best(self, more: Sequence[dict[str, Any]]) -> None:
        by_step = {kept["meta_step"]: kept for kept in (*self._best, *more)}
        ranked = sorted(by_step.values(), key=lambda kept: (-kept["accuracy"], kept["meta_step"]))
        self._best = ranked[: self.ingredients.ensemble_of]

    def test_step(self, batch: Episode, batch_idx: int) -> None:
        """Score the tasks of ``batch``, by this network and by the ensemble."""
        super().test_step(batch, batch_idx)
        if self._best:
            for task in tasks(batch):
                self.task_scores.add(task, self.ensemble_logits(task), {})

    def ensemble_logits(self, task: SingleTask) -> dict[str, Tensor]:
        """Mean of the query logits of the kept networks, named ``ensemble<members>_<bn_mode>``."""
        own = {name: value.clone() for name, value in self.state_dict().items()}
        members = []
        try:
            for kept in self._best:
                self.load_state_dict(kept["state"])
                members.append(self.task_logits(task))
        finally:
            self.load_state_dict(own)
        name = f"ensemble{len(members)}"
        return {f"{name}_{mode}": torch.stack([m[mode] for m in members]).mean(0) for mode in members[0]}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the kept networks."""
        super().on_save_checkpoint(checkpoint)
        if self.ingredients.ensemble_of:
            checkpoint[KEY]["ensemble"] = list(self._best)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the kept networks; those of later validations that this process has seen stay."""
        super().on_load_checkpoint(checkpoint)
        self._keep_best(checkpoint[KEY].get("ensemble", []))
