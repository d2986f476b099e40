"""What is asked of an energy, beside the line that names it."""

from __future__ import annotations

from dataclasses import dataclass

from unflow.ground.errors import InputError
from unflow.models import GenerativeModel


@dataclass(frozen=True)
class Wanted:
    """What is asked of an energy, beside its line.

    Attributes:
        classes: to forget; None where none were said.
        margin: >= 0, in nats.
        model: whose samples it must take.
        trust_code: as ``bundle.load``, and for files of estimators.
    """

    classes: tuple[int, ...] | None
    margin: float
    model: GenerativeModel
    trust_code: bool = False

    def classes_for(self, text: str) -> tuple[int, ...]:
        """Return the classes; ``text`` is the line that needs some.

        Raises:
            InputError: where none were said.
        """
        if self.classes is None:
            raise InputError(
                f"got no classes to forget for {text}, which tells classes apart; expected some: write "
                "--forget 3, or --forget 3,5"
            )
        return self.classes
