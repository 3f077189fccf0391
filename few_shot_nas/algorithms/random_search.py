"""Random search on a supernet: the baseline that every searched architecture stands beside."""

from typing import Any, ClassVar

from torch import Tensor, nn

from few_shot_nas.algorithms.on_supernet import OnSupernet
from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.settings import FIRST_ORDER, InnerLoop, OuterLoop, Scoring
from few_shot_nas.algorithms.shared_children import shared_children
from few_shot_nas.episode import SingleTask, Task
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count
from few_shot_nas.runtime.gradients import gather_rows, world
from few_shot_nas.search.derivation import Decisions, Derivation, Ranked, derive, rank
from few_shot_nas.search.search_result import SearchResult
from few_shot_nas.search.single_path import uniform_paths
from few_shot_nas.seeding import generator


class RandomSearch(OnSupernet):
    """Train the shared weights on uniformly drawn architectures, then keep the best of n by the same reward.

    The reward calls that a controller would spend while it trains are spent afterwards, on training tasks, in equal
    parts on ``random_archs`` uniform architectures (rounded down to a multiple of their number); the best
    ``derive_candidates`` of them go through the same derivation on validation episodes as the controller's. Sources:
    Li and Talwalkar, UAI 2019, arXiv:1902.07638; uniform single-path training as in Guo et al., ECCV 2020,
    arXiv:1904.00420.

    Args:
        net: the supernet.
        inner: the inner loop of every child; without effect under a closed-form head.
        scoring: what a child classifies with and is rewarded for.
        outer: the outer loop of the shared weights.
        random_archs: architectures n that are drawn.
        rewards_per_task: reward calls per training task that the search compared with spends; 3 is MAMLENAS's default
            (inner_archs + outer_archs).
        derivation: how many architectures go on to validation episodes, and how many of these.
        seed: names every random stream of the run.
    """

    default_model: ClassVar[str] = "Supernet"

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = FIRST_ORDER,
        scoring: Scoring = Scoring(),
        outer: OuterLoop = OuterLoop(),
        random_archs: Count = 50,
        rewards_per_task: Count = 3,
        derivation: Derivation = Derivation(),
        seed: int = 0,
    ) -> None:
        super().__init__(net, outer=outer, seed=seed)
        self.supernet_children = shared_children(self, inner, scoring)
        self.derivation = derivation
        if random_archs < 1 or rewards_per_task < 1:
            raise InputError(
                f"random_archs={random_archs} and rewards_per_task={rewards_per_task}: both must be at least 1"
            )
        self.random_archs = random_archs
        self.rewards_per_task = rewards_per_task

    def draw(self, count: int, *words: int | str) -> list[Decisions]:
        """Draw architectures uniformly from the stream that ``words`` name."""
        stream = generator(self.seed, *words)
        limits = self.supernet.limits
        return [limits.sample(lambda: limits.space.sample(stream)) for _ in range(count)]

    def task_loss(self, task: Task) -> TaskLoss:
        """Outer loss of the shared weights through one uniformly drawn child."""
        paths = uniform_paths(self.supernet.limits, self.task_stream("uniform", task), fair=False)
        loss, accuracy = self.supernet_children.mean_loss(task, paths)
        return loss, {"train/loss": loss, "train/accuracy": accuracy}

    def incumbent(self) -> Decisions:
        """The first of the architectures that will be tried; no reward has been spent on any yet."""
        return self.draw(1, "candidates")[0]

    def task_logits(self, task: SingleTask) -> dict[str, Tensor]:
        """Query logits of the architecture that was found, with inherited weights; of the incumbent before."""
        genotype = self.genotype or self.supernet.space.decode(self.incumbent())
        return self.supernet_children.query_logits(task, genotype, self.bn_modes)

    def ranking(self, candidates: list[Decisions], episodes: list[Task]) -> list[Ranked]:
        """Rank candidates by their mean reward; the ranks of the run share the work."""
        return rank(candidates, episodes, self.supernet_children.reward, place=world(), gather=gather_rows)

    def end_search(self, datamodule: Any) -> SearchResult:
        """Spend the budget on training tasks, then let the best compete on validation episodes."""
        drawn = list(dict.fromkeys(self.draw(self.random_archs, "candidates")))
        budget = self.meta_step * datamodule.meta_batch_size * self.rewards_per_task
        per_arch = max(budget // len(drawn), 1)
        start = self.meta_step * datamodule.meta_batch_size
        first = self.ranking(drawn, self.episodes_of(datamodule, "train", range(start, start + per_arch)))
        best = [ranked.decisions for ranked in first[: self.derivation.derive_candidates]]
        episodes = self.episodes_of(datamodule, "val", range(self.derivation.derive_episodes))
        return derive(self.supernet.space, self.ranking(best, episodes), spent=per_arch * len(drawn))
