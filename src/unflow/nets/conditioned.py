"""Generators of a latent and a label, as networks of the latent alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, explain
from unflow.nets.adapted import look_up, parse_argument, read_table
from unflow.nets.adapters import Wrapper
from unflow.nets.description import net_config
from unflow.nets.modes import evaluating


class AdaptedGenerator(Wrapper):
    """G(z) for ``Generator``, from a third-party network of a latent and a label, G(z, y).

    Args:
        net: returns [batch, *shape].
        prior_shape: shape of one latent.
        arguments: how it is called: "z, label", "label, z", "z, class_labels=label".
        label: class index for every sample.
        table: what the network takes for each class index, [classes, ...], such as ``torch.eye(10)`` for
            one-hot vectors, or the shape of that table; None: the index itself.

    Raises:
        InputError: for other arguments, or a network that does not run on two latents.
    """

    name: ClassVar[str] = "adapted_generator"
    table: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        prior_shape: Sequence[int],
        arguments: str = "z, label",
        *,
        label: int = 0,
        table: Tensor | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self._entries = [parse_argument(part) for part in arguments.split(",")]
        if sorted(name for _, name in self._entries) != ["label", "z"]:
            raise InputError(
                f'got arguments="{arguments}"; expected "z, label", in the order that the network takes'
            )
        self.net, self.prior_shape, self.arguments = net, tuple(prior_shape), arguments
        self.label: int | Tensor = label
        self.register_buffer("table", read_table(table, label))
        self.check_label(label)

    @property
    def wrapped(self) -> nn.Module:
        """The network."""
        return self.net

    @property
    def config(self) -> dict[str, Any]:
        """The description from which ``build_net`` rebuilds it."""
        return {
            "net": self.name,
            "of": net_config(self.net),
            "prior_shape": list(self.prior_shape),
            "arguments": self.arguments,
            "label": self.label,
            **({} if self.table is None else {"table": list(self.table.shape)}),
        }

    def with_labels(self, labels: Tensor) -> AdaptedGenerator:
        """Return a copy, with shared weights, that uses labels [batch], or rows of the table, in place of its
        own label."""
        other = copy.copy(self)
        other.label = labels
        return other

    def forward(self, z: Tensor) -> Tensor:
        """Return G(z, y) [batch, *shape] for latents z [batch, *prior_shape]."""
        label = self.label
        if isinstance(label, int):
            label = torch.full((len(z),), label, device=z.device)
        values = {"z": z, "label": look_up(self.table, label)}
        positional = [values[name] for keyword, name in self._entries if not keyword]
        x: Tensor = self.net(*positional, **{key: values[name] for key, name in self._entries if key})
        return x

    def check_label(self, label: int) -> None:
        """Raise InputError unless the network runs with this label."""
        first = next(self.net.parameters(), torch.zeros(()))
        z = torch.zeros(2, *self.prior_shape).to(first)
        try:
            with torch.no_grad(), evaluating(self.net):
                self.with_labels(torch.full((2,), label, device=z.device))(z)
        except Exception as error:  # third-party code may raise any exception
            raise InputError(
                f"the {type(self.net).__name__} does not run as net({self.arguments}) with label {label} "
                f"({explain(error)}); expected the index of one of its classes"
            ) from error
