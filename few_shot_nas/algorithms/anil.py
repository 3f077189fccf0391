"""ANIL: adapt the head alone, on features that are computed once."""

from collections.abc import Sequence

from torch import Tensor, nn

from few_shot_nas.algorithms.gradient_learner import GradientLearner
from few_shot_nas.algorithms.linear_head import head_names
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import HasQueries, query_labels
from few_shot_nas.forward_context import forward_context
from few_shot_nas.meta.bn_mode import BN_MODES, run_queries
from few_shot_nas.meta.functional import Params, by_task, call, in_one_batch, number_of_tasks
from few_shot_nas.meta.outer_loss import cross_entropy, nil_logits
from few_shot_nas.meta.problem import Problem


class ANIL(GradientLearner):
    """ANIL (Raghu et al., ICLR 2020, arXiv:1909.09157, section 4): MAML whose inner loop moves the last layer only.

    The body is meta-trained by the outer loss alone, and runs once on the support set and once on the queries, however
    many inner steps there are: ``h_{s+1} = h_s - inner_lr * grad_h L_support(h_s; body(x))``.

    Deviations: those of MAML. Support and query images are two batches for BatchNorm; some ports put both into one,
    which lets the support features see the queries.

    Args:
        net: any network of MODELS with a linear ``head``.
        inner: the inner loop.
        outer: the outer loop.
        nil: score the NIL test of the paper (section 5) too, in rows of their own named ``nil_transductive`` and
            ``nil_support``: no adaptation and no head, support labels weighted by cosine similarity of the features.
            Their loss is the cross-entropy of these scores as logits.
        seed: names every random stream of the run.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = InnerLoop(),
        outer: OuterLoop = OuterLoop(),
        nil: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(net, inner=inner, outer=outer, seed=seed)
        self.nil = nil
        self.head_names = head_names(net, "ANIL")
        self.hparams.update({"nil": nil})

    def is_adapted(self, name: str) -> bool:
        """The head."""
        return name in self.head_names

    def features(self, images: Tensor, stat_rows: int | None = None, running: bool = False) -> Tensor:
        """Penultimate features ``[B, D]`` by the meta-learned body, or ``[M, B, D]`` of a meta-batch."""
        with forward_context(stat_rows=stat_rows, running=running, tasks=number_of_tasks(images)):
            return by_task(self.net.features(in_one_batch(images)), images)  # type: ignore[operator]

    def head(self, params: Params, features: Tensor) -> Tensor:
        """Logits ``[B, N]`` by the head's parameters in ``params``."""
        own = {name.removeprefix("head."): params[name] for name in self.head_names if name in params}
        return call(self.net.head, own, features)  # type: ignore[arg-type]

    def problem(self, task: HasQueries) -> Problem:
        """Losses of the head on features, which the engines see as tensors that the inner loop does not move."""
        moved, _ = self.split()
        fixed = {"support": self.features(task.support_x), "query": self.features(task.query_x)}

        def support(params: Params, rest: Params, step: int) -> Tensor:
            return cross_entropy(self.head(params, rest["support"]), task.support_y)

        def query(params: Params, rest: Params, step: int) -> tuple[Tensor, Tensor]:
            logits = self.head(params, rest["query"])
            return cross_entropy(logits, query_labels(task), self.outer.label_smoothing), logits

        return Problem(moved, fixed, support, query)

    def adapted_logits(self, task: HasQueries, params: Params, step: int, modes: Sequence[str]) -> dict[str, Tensor]:
        """Query logits of the adapted head, and the NIL scores if asked for."""
        queries = {
            mode: params["query"]  # computed once for the losses
            if mode == "transductive"
            else run_queries(self.features, task.support_x, task.query_x, mode)
            for mode in modes
        }
        logits = {mode: self.head(params, features) for mode, features in queries.items()}
        if self.nil:
            for mode in (mode for mode in BN_MODES if mode in modes):
                n_way = logits[mode].shape[1]
                logits[f"nil_{mode}"] = nil_logits(params["support"], task.support_y, queries[mode], n_way)
        return logits

    def scores_whole_batches(self) -> bool:
        """Not with the NIL scores, which are of one task."""
        return super().scores_whole_batches() and not self.nil

    def support_logits(self, task: HasQueries, params: Params, step: int) -> Tensor:
        """Logits of the adapted head on the support features."""
        return self.head(params, params["support"])
