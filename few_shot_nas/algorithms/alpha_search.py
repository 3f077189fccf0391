"""What searches by gradient have in common: a network whose alphas are parameters, and how it becomes a genotype."""

import collections
import dataclasses
import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.episode import SingleTask
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count, NonNegative, Positive
from few_shot_nas.runtime.choices_csv import ChoicesCSV
from few_shot_nas.runtime.gradients import world
from few_shot_nas.search.collapse import FAR_APART
from few_shot_nas.search.search_result import SearchResult
from few_shot_nas.settings import Settings
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.mixed_supernet import MixedSupernet

logger = logging.getLogger(__name__)

#: Prefix of the names of architecture parameters within a network.
ALPHAS = "alphas."
#: Logged share of the entropy of uniform weights that the alphas still have.
ENTROPY = "alphas/entropy_fraction"
#: Logged largest difference of two alphas of one choice: of those that are learned, and after the inner loop on a task.
SPREAD, ADAPTED_SPREAD = "alphas/spread", "alphas/adapted_spread"


@dataclass(frozen=True)
class AlphaLoop(Settings):
    """How the architecture parameters are learned.

    Attributes:
        alpha_inner_lr: step size of the alphas in the inner loop. That of T-NAS is 30: a softmax over 8 ops has small
            gradients.
        alpha_lr: learning rate of the outer loop's Adam on the alphas, whose betas are 0.5 and 0.999.
        alpha_weight_decay: L2 penalty of the outer loop on the alphas.
        decode_episodes: validation tasks that are decoded at the end of the search.
    """

    alpha_inner_lr: NonNegative = 30.0
    alpha_lr: Positive = 1e-3
    alpha_weight_decay: NonNegative = 1e-3
    decode_episodes: Count = 20


def is_alpha(name: str) -> bool:
    """Return whether a network's parameter is an architecture parameter.

    >>> is_alpha("alphas.normal"), is_alpha("body.stem.0.weight")
    (True, False)
    """
    return name.startswith(ALPHAS)


def entropy_fraction(choices: Iterable[Tensor]) -> float:
    """Return the mean entropy of choices over that of uniform ones: 1 at the start, 0 when all are decided.

    A choice with a single way out has no entropy to lose and does not count; without any other the fraction is 0.

    Args:
        choices: the weights of what each is between, their sum 1.

    >>> entropy_fraction([torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0])])
    0.5
    """
    fractions = [
        float(torch.special.entr(weights.detach().double()).sum()) / math.log(len(weights))
        for weights in choices
        if len(weights) > 1
    ]
    return sum(fractions) / len(fractions) if fractions else 0.0


def spread(alphas: Iterable[Tensor]) -> Tensor:
    """Return the largest difference of two alphas in a row, ``[]``.

    Args:
        alphas: one row ``[choices]``, or several ``[rows, choices]``, of each kind.

    >>> spread([torch.tensor([[0.0, 1.0], [5.0, 3.0]]), torch.tensor([0.5])])
    tensor(2.)
    """
    return torch.stack([(value.amax(dim=-1) - value.amin(dim=-1)).max() for value in alphas]).max()


class AlphaSearch(EpisodicModule):
    """Hooks of a learner whose network is a MixedSupernet; goes before the learner among the bases of a class.

    The alphas have a group of the optimizer of their own. A row of training metrics tells how much of their entropy is
    left, and ``choices.csv`` holds the weights of every choice. A class says which genotypes :meth:`decoded` returns.

    Args:
        net: a MixedSupernet.
        alphas: how the architecture parameters are learned.
        learner: what the constructor of the learner takes.

    Raises:
        InputError: if the network has no alphas.
    """

    default_model: ClassVar[str] = "MixedSupernet"
    _told_far = False

    def __init__(self, net: nn.Module, *, alphas: AlphaLoop, **learner: Any) -> None:
        if not isinstance(net, MixedSupernet):
            raise InputError(
                f"{type(self).__name__} learns alphas, but model_class is {type(net).__name__}; use MixedSupernet"
            )
        super().__init__(net, **learner)
        self.alphas = alphas
        self.hparams.update(dataclasses.asdict(alphas))

    @property
    def supernet(self) -> MixedSupernet:
        """The network."""
        return cast(MixedSupernet, self.net)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The learner's groups without the alphas, and the alphas at alpha_lr with betas 0.5 and 0.999."""
        alphas = [value for name, value in self.net.named_parameters() if is_alpha(name)]
        ids = {id(value) for value in alphas}
        groups = super().parameter_groups()
        for group in groups:
            group["params"] = [value for value in group["params"] if id(value) not in ids]
        return [*groups, self.alpha_group(alphas)]

    def alpha_group(self, alphas: list[nn.Parameter]) -> dict[str, Any]:
        """Return the optimizer's group of the alphas."""
        return {
            "params": alphas,
            "lr": self.alphas.alpha_lr,
            "betas": (0.5, 0.999),
            "weight_decay": self.alphas.alpha_weight_decay,
        }

    # ---- what is watched --------------------------------------------------------------------------------------------

    def end_window(self) -> dict[str, float]:
        """Write beside a row of training metrics the weight of every op, and return how undecided the alphas are."""
        with torch.no_grad():
            choices = self.supernet.choices()
        if self._trainer is not None and world()[0] == 0:
            for record in self.trainer.loggers:
                if isinstance(record, ChoicesCSV):
                    rows = [weights.tolist() for _, weights in choices]
                    record.log_choices(self.meta_step, [decision for decision, _ in choices], rows)
        with torch.no_grad():
            apart = float(spread(value for name, value in self.net.named_parameters() if is_alpha(name)))
        found = {ENTROPY: entropy_fraction(weights for _, weights in choices), SPREAD: apart}
        return {**super().end_window(), **found}

    def log_row(self, metrics: dict[str, float]) -> None:
        """Log a row, and warn of the first whose alphas are so far apart that their softmax has no gradient."""
        super().log_row(metrics)
        for column, whose, rate in (
            (ADAPTED_SPREAD, "after the inner loop the alphas of a task", "alpha_inner_lr"),
            (SPREAD, "the alphas", "alpha_lr or alpha_inner_lr"),
        ):
            if metrics.get(column, 0.0) > FAR_APART and not self._told_far and world()[0] == 0:
                self._told_far = True
                logger.warning(
                    "%s, meta-step %d: %s are up to %.3g apart: all but one op of an edge have no weight and no "
                    "gradient, so that nothing is learned about architectures any more; lower %s",
                    type(self).__name__, self.meta_step, whose, metrics[column], rate,
                )  # fmt: skip

    # ---- the end of the search --------------------------------------------------------------------------------------

    def decode(self, task: SingleTask) -> Genotype:
        """Return the genotype of one task, from its support set alone; here that of all tasks."""
        return self.supernet.discretise()

    def decoded(self, datamodule: Any) -> list[Genotype]:
        """Return the genotypes that the search ends with, one for each task that was looked at; here one in all."""
        return [self.supernet.discretise()]

    def decoded_tasks(self, datamodule: Any) -> list[Genotype]:
        """Return the genotypes of decode_episodes validation tasks, for classes that decode them one by one."""
        tasks = self.episodes_of(datamodule, "val", range(self.alphas.decode_episodes))
        return [self.decode(task) for task in tasks]

    def decoding_cost(self, tasks: int) -> int:
        """Return the forward passes of the mixture that :meth:`decoded` spends on so many tasks; none here."""
        return 0

    def search_cost(self, meta_batch_size: int) -> Mapping[str, int]:
        """Return what the search spent before it was decoded, in forward passes of the mixture on a set of images."""
        return {"forward_passes": self.meta_step * meta_batch_size * self.passes_per_task()}

    @abstractmethod
    def passes_per_task(self) -> int:
        """Return the forward passes that one training task takes, or one flat batch."""

    def end_search(self, datamodule: Any) -> SearchResult:
        """Decode, and keep the genotype that comes most often; of equally frequent ones the first."""
        found = self.decoded(datamodule)
        counts = collections.Counter(found)
        genotype, often = counts.most_common(1)[0]
        spent = self.search_cost(datamodule.meta_batch_size)
        decoding = self.decoding_cost(len(found))
        cost = {**spent, "forward_passes": spent["forward_passes"] + decoding}
        if decoding:
            cost["forward_passes_decode"] = decoding
        facts = {"decoded": len(found), "distinct": len(counts), "most_often": often}
        left = entropy_fraction(weights for _, weights in self.supernet.choices())
        return SearchResult(genotype, cost, {**facts, "entropy_fraction": left})


def alphas_of(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the architecture parameters among a network's, as its ``alphas`` name them.

    >>> alphas_of({"alphas.normal": torch.zeros(1), "head.bias": torch.ones(1)})
    {'normal': tensor([0.])}
    """
    return {name.removeprefix(ALPHAS): value for name, value in params.items() if is_alpha(name)}
