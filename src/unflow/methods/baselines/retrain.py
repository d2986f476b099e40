"""retrain: the reference, the original's training from scratch on retain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import nn

from unflow.ground.errors import InputError
from unflow.methods.baselines.own_training import OwnTraining
from unflow.methods.baselines.spare_labels import SpareLabels, find_spare
from unflow.models import Flow, FlowMap, without_conditions
from unflow.models.conditional import conditional_net
from unflow.nets import net_config, new_net
from unflow.training.method import Problem, Training
from unflow.training.originals.distill import Distill
from unflow.training.originals.flow_matching import conditional_of, require_labels
from unflow.training.originals.mean_flow import MeanFlow, check_guidance


@dataclass(frozen=True, kw_only=True)
class Retrain(OwnTraining):
    """The training of the original from fresh weights, on retain data only.

    A flow is trained by flow matching. A flow map is trained by distillation if the problem has a ``teacher``
    (a retrained flow), else by MeanFlow. The defaults are those of a flow; for a flow map, write the steps
    and the learning rate of the original's training (``Distill``: 3,000 and 1e-3; ``MeanFlow``: 6,000 and
    1e-3).

    A conditional model keeps all its labels and their shares. A label without retained samples is not
    trained, so its input keeps its initial weights; with ``mixture`` it is trained on the retained samples of
    all labels, which is the target of the replacement ``retained``. A distilled map copies what its teacher
    draws for each label.

    The loss on held-out data is recorded, so that costs can also be compared with a shorter training that
    stops within 5 % of the best held-out loss (``seconds_to_within``); not for conditional models.

    Attributes:
        guidance: of a conditional flow map, as in the training of the original; None: 1, or the teacher's.
        mixture: whether forgotten labels are trained on the retained mixture, each as often as the original
            draws it.
    """

    steps: int = 5000
    learning_rate: float = 2e-3
    average: float = 0.999
    guidance: float | None = None
    mixture: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance is not None:
            check_guidance(self.guidance)

    @property
    def needs_conditional(self) -> bool:  # type: ignore[override]
        """Whether forgotten labels are trained."""
        return self.mixture

    @property
    def watches_held_out(self) -> bool:  # type: ignore[override]
        """Whether its loss on held-out data is recorded; a conditional model has none."""
        return not self.mixture

    @property
    def label(self) -> str:
        """The word "retrained", and what the forgotten labels learn."""
        return "retrained, labels on the mixture" if self.mixture else "retrained"

    @property
    def summary(self) -> str:
        """What it trains on."""
        if self.mixture:
            return "trained from scratch on the retained data only; forgotten labels on all of them"
        return "trained from scratch on the retained data only"

    def reads(self, problem: Problem) -> frozenset[str]:
        """Return the teacher for a flow map with one, else retain, and its labels for a conditional model."""
        if _is_distilled(problem):
            return frozenset({"teacher"})
        conditional = conditional_of(problem)
        return frozenset({"retain"} if conditional is None else {"retain", "retain_labels"})

    def check_conditions(self, problem: Problem) -> None:
        """Raise InputError for guidance or a mixture that this model does not have."""
        model = conditional_of(problem)
        if self.guidance not in (None, 1) and (model is None or model.family == "flow"):
            raise InputError(
                f"got guidance={self.guidance:g} to retrain a {_inner(problem).family}"
                f"{' without conditions' if model is None else ''}; expected it for a conditional flow map, "
                "which holds its guidance in its weights: leave guidance out"
            )
        if model is None or not self.mixture:
            return
        if _is_distilled(problem):
            raise InputError(
                "got mixture=True with a teacher, whose labels a distilled map copies; expected "
                "mixture=False: write --method retrained with the flow of retrained_mixture as --teacher"
            )
        labels = _as_data(problem)
        require_labels(labels, model)
        if not find_spare(labels, model):
            raise InputError(
                "got retained samples of every label, so none is forgotten; expected a label without any: "
                "write --method retrained, or --forget with a label of the model"
            )

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return the training of the model's family, for a model with fresh weights."""
        fresh = dataclasses.replace(_as_data(problem), model=_reset_weights(problem, seed))
        loop = self.own_training(problem)
        if _is_distilled(problem):
            loop = Distill(**self.common(problem.model), guidance=self.guidance)
        elif isinstance(loop, MeanFlow):
            loop = dataclasses.replace(loop, guidance=1.0 if self.guidance is None else self.guidance)
        return (SpareLabels.around(loop) if self.mixture else loop), fresh


def _as_data(problem: Problem) -> Problem:
    """Return the problem with its retained samples as the data to train on."""
    return dataclasses.replace(problem, data=problem.retain, labels=problem.retain_labels)


def _inner(problem: Problem) -> Flow | FlowMap:
    conditional = conditional_of(problem)
    model = problem.model if conditional is None else conditional.inner
    assert isinstance(model, Flow | FlowMap)
    return model


def _is_distilled(problem: Problem) -> bool:
    model = without_conditions(problem.model)
    return isinstance(model, FlowMap) and problem.teacher is not None


def _reset_weights(problem: Problem, seed: int) -> nn.Module:
    """Return the model with fresh weights; the table of a network's conditions is no weight, and stays."""
    inner, conditional = _inner(problem), conditional_of(problem)
    net = new_net(net_config(inner.net), seed)
    model = inner.with_velocity(net) if isinstance(inner, Flow) else inner.with_average_velocity(net)
    if conditional is None:
        return model
    conditional_net(model).table = conditional_net(inner).table
    return conditional.around(model)
