"""The rows that the networks of a conditional model read for its conditions, and their replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.models import GenerativeModel
from unflow.models.base import Askable
from unflow.nets.adapted import Adapted
from unflow.nets.conditioned import AdaptedGenerator
from unflow.nets.mlp import OneHot

LabelledNet = Adapted | AdaptedGenerator
Reader = LabelledNet | nn.Embedding | OneHot
"""A module that turns a condition into a row: a network with a table, or an embedding inside a network."""


class ImpossibleAttackError(InputError):
    """An attack that is impossible on a model; the message is the sentence of the report."""


@dataclass(frozen=True)
class ConditionRows:
    """The rows of all known conditions, where one of them can be replaced.

    A network reads a condition c as a row of numbers: row c of its table (text embeddings, one-hot vectors),
    or the output of its embedding of c. A model with several networks, such as a chain, has a row in each.
    A sample at a free condition is asked for with the condition ``place``, whose rows are replaced meanwhile.

    Attributes:
        model: the model; it is not changed.
        conditions: its conditions, the null condition last.
        readers: the modules that read a condition.
        known: of each reader, the rows of the conditions, [conditions, *row].
        place: the condition whose rows are replaced.
    """

    model: GenerativeModel
    conditions: Sequence[int]
    readers: Sequence[Reader]
    known: Sequence[Tensor]
    place: int

    def mix(self, weights: Float[Tensor, " conditions"]) -> list[Tensor]:
        """Return sum_c w_c row_c of each reader."""
        return [torch.tensordot(weights.to(rows), rows, dims=1) for rows in self.known]

    def one_hot(self, condition: int) -> Float[Tensor, " conditions"]:
        """Return the weights of one condition."""
        return torch.tensor([float(condition == c) for c in self.conditions])

    def ask(self, z: Tensor) -> Tensor:
        """Return latents with the same noise that ask for ``place``."""
        return self.model.require_conditional().ask(z, self.place)

    def push(self, z: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """Return the samples of latents that ask for ``place``, with other rows; differentiable."""
        with self.replaced(rows):
            return self.model.push(z)

    def draw(self, z: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """Return the samples of many latents, as ``push``, without gradient."""
        with self.replaced(rows):
            return self.model.push_batches(z)

    @contextmanager
    def replaced(self, rows: Sequence[Tensor]) -> Iterator[None]:
        """Replace the rows of ``place`` within this context: one row for each reader."""
        with ExitStack() as stack:
            for reader, row in zip(self.readers, rows, strict=True):
                stack.enter_context(_replaced(reader, self.place, row))
            yield


def find_condition_rows(model: GenerativeModel, forget: Sequence[int]) -> ConditionRows:
    """Return the rows of a conditional model.

    Args:
        model: with conditions.
        forget: forgotten classes; the replaced row is that of another condition, where there is one.

    Raises:
        ImpossibleAttackError: for a model whose condition enters in another way.
    """
    inside = model.require_conditional()
    conditions = inside.drawn + ([] if inside.null is None else [inside.null])
    if len(inside.drawn) < 2:
        raise ImpossibleAttackError("the model draws one condition, so there is none to replace")
    place = next((k for k in inside.drawn if k not in forget), inside.drawn[0])
    readers = _find_readers(inside)
    known = [_read(each, conditions, inside.device) for each in readers]
    rows = ConditionRows(model, conditions, readers, known, place)
    _check_complete(rows, inside)
    return rows


def _find_readers(model: Askable) -> list[Reader]:
    """Return the networks with a table, and the embeddings that are called with the labels."""
    readers: list[Reader] = []
    embeddings: list[nn.Module] = []
    for net in model.modules():
        if isinstance(net, LabelledNet) and net.label is not None:
            if net.table is not None:
                readers.append(net)
            else:
                embeddings += [each for each in net.modules() if isinstance(each, nn.Embedding | OneHot)]
    labels = [model.drawn[-1], model.drawn[0]]
    called = _called_with(model, labels, embeddings)
    readers += [each for each in dict.fromkeys(embeddings) if each in called]  # type: ignore[misc]
    if not readers:
        raise ImpossibleAttackError(
            "no differentiable embedding of the condition was found: no table, and no nn.Embedding that is "
            "called with the labels"
        )
    return readers


@torch.no_grad()
def _called_with(model: Askable, labels: list[int], modules: Sequence[nn.Module]) -> set[nn.Module]:
    """Return the modules that the model calls with the labels that it is asked for; others may precede."""
    called = set()

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        found = args[0] if args else None
        if isinstance(found, Tensor) and found.ndim == 1 and found[-len(labels) :].tolist() == labels:
            called.add(module)

    z = model.prior(len(labels), torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        for module in dict.fromkeys(modules):
            stack.callback(module.register_forward_pre_hook(note).remove)
        model.push_batches(model.ask(z, torch.tensor(labels)))
    return called


@torch.no_grad()
def _read(reader: Reader, conditions: Sequence[int], device: torch.device) -> Tensor:
    """Return the rows of conditions, [conditions, *row]."""
    if isinstance(reader, LabelledNet):
        assert reader.table is not None
        return reader.table[list(conditions)].clone()
    rows: Tensor = reader(torch.tensor(list(conditions), device=device))
    return rows.clone() if rows.is_floating_point() else rows.to(torch.get_default_dtype())


@torch.no_grad()
def _check_complete(rows: ConditionRows, inside: Askable) -> None:
    """Raise ImpossibleAttackError unless ``place`` with the rows of another condition draws its samples."""
    other = next(k for k in reversed(inside.drawn) if k != rows.place)
    z = inside.prior(4, torch.Generator().manual_seed(1))
    asked = inside.push_batches(inside.ask(z, other))
    with rows.replaced(rows.mix(rows.one_hot(other))):
        free = inside.push_batches(inside.ask(z, rows.place))
    if not torch.allclose(free, asked, rtol=1e-3, atol=1e-3 * float(asked.abs().max())):
        raise ImpossibleAttackError(
            "the condition also enters the network elsewhere: with the embedding of another label, the model "
            "does not draw that label's samples"
        )


@contextmanager
def _replaced(reader: Reader, place: int, row: Tensor) -> Iterator[None]:
    if isinstance(reader, LabelledNet):
        table = reader.table
        assert table is not None
        reader.table = table.index_put((torch.tensor(place, device=table.device),), row.to(table))
        try:
            yield
        finally:
            reader.table = table
        return
    hook = reader.register_forward_hook(_replace_output(place, row))
    try:
        yield
    finally:
        hook.remove()


def _replace_output(place: int, row: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def replace(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        at = args[0] == place
        return torch.where(at.reshape(*at.shape, *[1] * row.ndim), row, output.to(row))

    return replace
