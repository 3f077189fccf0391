"""How RFS learns from a trained network of the same classes."""

from dataclasses import dataclass

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import NonNegative, Positive
from few_shot_nas.settings import Settings


@dataclass(frozen=True)
class Distillation(Settings):
    """Born-again training (Furlanello et al., ICML 2018), as RFS does it: the loss is ``label_weight`` times
    cross-entropy plus ``distill_weight`` times the divergence from the teacher.

    Attributes:
        teacher: run directory of a network trained on the same classes and images, whose answers are learned from
            beside the labels; a next generation takes this run for its teacher. null trains by labels alone.
        label_weight: weight of the cross-entropy, where there is a teacher.
        distill_weight: weight of the divergence from the teacher's answers.
        distill_temperature: what all logits are divided by in that divergence.
    """

    teacher: str | None = None
    label_weight: NonNegative = 0.5
    distill_weight: NonNegative = 0.5
    distill_temperature: Positive = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is not None and not self.label_weight + self.distill_weight > 0:
            raise InputError("label_weight=0 and distill_weight=0: nothing is learned; give one of them above 0")
