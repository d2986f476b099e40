"""Ends of axes: a collapsed row must not set the scale on which all other rows are read."""

from __future__ import annotations

from collections.abc import Sequence

APART = 3.0
"""Factor between a value and the next lower one from which the value is apart from the others."""
MOST_APART = 1 / 3
"""Largest share of rows that may be apart; if there are more, they are no exception."""


def find_limit(values: Sequence[tuple[float, bool]]) -> float:
    """Return the largest value that an axis must reach; larger ones are apart, and are drawn at its end.

    Args:
        values: the value of each row, > 0, and whether the row is a reference; those are always within.
    """
    ordered = sorted(values, reverse=True)
    for count in range(int(len(ordered) * MOST_APART), 0, -1):
        above, limit = ordered[:count], ordered[count][0]
        if above[-1][0] >= APART * limit and not any(is_reference for _, is_reference in above):
            return limit
    return ordered[0][0]
