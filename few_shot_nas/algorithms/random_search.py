"""Random search on a supernet: the baseline that every searched architecture stands beside."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from few_shot_nas.algorithms.settings import FIRST_ORDER, InnerLoop, OuterLoop, Scoring
from few_shot_nas.algorithms.supernet_search import SupernetSearch
from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError
from few_shot_nas.search.derive import Decisions
from few_shot_nas.search.single_path import uniform_paths
from few_shot_nas.seeding import generator


class RandomSearch(SupernetSearch):
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
        derive_candidates: architectures that go on to the derivation.
        derive_episodes: validation episodes on which they compete.
        seed: names every random stream of the run.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = FIRST_ORDER,
        scoring: Scoring = Scoring(),
        outer: OuterLoop = OuterLoop(),
        random_archs: int = 50,
        rewards_per_task: int = 3,
        derive_candidates: int = 10,
        derive_episodes: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__(
            net,
            inner=inner,
            scoring=scoring,
            outer=outer,
            derive_candidates=derive_candidates,
            derive_episodes=derive_episodes,
            seed=seed,
        )
        if random_archs < 1 or rewards_per_task < 1:
            raise InputError(
                f"random_archs={random_archs} and rewards_per_task={rewards_per_task}: both must be at least 1"
            )
        self.random_archs = random_archs
        self.rewards_per_task = rewards_per_task
        self._proposed: list[Decisions] = []
        self._spent = 0

    def draw(self, count: int, *words: int | str) -> list[Decisions]:
        """Draw architectures uniformly from the stream that ``words`` name."""
        stream = generator(self.seed, *words)
        return [self.supernet.space.sample(stream) for _ in range(count)]

    def task_loss(self, task: Episode) -> tuple[Tensor, list[Tensor]]:
        """Outer loss of the shared weights through one uniformly drawn child."""
        stream = self.task_stream("uniform", task)
        return self.mean_weights_loss(task, uniform_paths(self.supernet.space, stream, fair=False))

    def incumbent(self) -> Decisions:
        """The first of the architectures that will be tried; no reward has been spent on any yet."""
        return self.draw(1, "candidates")[0]

    def finish_search(self, datamodule: Any) -> None:
        """Spend the budget on training tasks, then derive as every search does."""
        candidates = list(dict.fromkeys(self.draw(self.random_archs, "candidates")))
        budget = self.meta_step * datamodule.meta_batch_size * self.rewards_per_task
        per_arch = max(budget // len(candidates), 1)
        start = self.meta_step * datamodule.meta_batch_size
        episodes = self.episodes_of(datamodule, "train", range(start, start + per_arch))
        ranking = self.score_candidates(candidates, episodes)
        self._spent = per_arch * len(candidates)
        self._proposed = [decisions for decisions, _ in ranking[: self.derive_candidates]]
        super().finish_search(datamodule)

    def propose(self) -> Sequence[Decisions]:
        """The best of the drawn architectures on training tasks."""
        return self._proposed

    def rewards_spent(self, meta_batch_size: int) -> int:
        """Reward calls spent on training tasks."""
        return self._spent
