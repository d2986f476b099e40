"""The grade of a verdict: the words with which its first sentence begins, and how they are lowered."""

from __future__ import annotations

NOT, PARTLY, FULLY = 0, 1, 2
"""How far a class is forgotten."""
NAMES = {NOT: "Not forgotten", PARTLY: "Partly forgotten", FULLY: "Forgotten"}


def read_grade(sentence: str) -> int:
    """Return the grade with which a sentence begins; "Less than before" is partly forgotten."""
    return NOT if sentence.startswith(NAMES[NOT]) else FULLY if sentence.startswith(NAMES[FULLY]) else PARTLY


def lower_grade(sentence: str, grade: int, where: str, otherwise: str) -> str:
    """Return a sentence that begins with a lower grade: "Not forgotten WHERE; OTHERWISE, forgotten: ..."."""
    return f"{NAMES[grade]} {where}; {otherwise}, {sentence[0].lower()}{sentence[1:]}"
