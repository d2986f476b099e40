"""Write the terms of all measures into docs/glossary.md, from the table in ``unflow.evidence.measures``.

    python benchmarks/glossary.py

Other terms of the page are written by hand and stay. A test holds that the page is up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

from unflow.evidence.measures import PAGE, TERMINAL, Measure

GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"


def main() -> None:
    GLOSSARY.write_text(with_measures(GLOSSARY.read_text()))


def with_measures(text: str) -> str:
    """Return the page with a section for each measure of the terminal and the report, in order."""
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    found = {section.split("\n", 1)[0]: section.split("\n", 1)[1].strip() for section in sections}
    measures = {measure.heading: measure for measure in (*TERMINAL, *PAGE)}
    own = {heading.lower() for heading in measures}
    terms = {term: body for term, body in found.items() if term.lower() not in own}
    terms |= {_capitalise(heading): section(measure) for heading, measure in measures.items()}
    ordered = sorted(terms.items(), key=lambda pair: pair[0].lower().lstrip("/ "))
    return head.rstrip() + "\n\n" + "\n\n".join(f"## {term}\n\n{body}" for term, body in ordered) + "\n"


def _capitalise(heading: str) -> str:
    return heading if heading == "c2st" else heading[0].upper() + heading[1:]


def section(measure: Measure) -> str:
    """Return a measure's definition, its paper, its good values and its field in audit.json."""
    good = {
        "lower": "Lower is better.", "higher": "Higher is better.", "half": "0.5 is best.",
        "one": "1 is best.", "": "",
        "target": "Compare it with the exact target and the retrained model.",
    }[measure.better]  # fmt: skip
    link = f"([arXiv {measure.reference}](https://arxiv.org/abs/{measure.reference}))"
    paper = link if measure.reference else ""
    unit = f"In {measure.unit}." if measure.unit else ""
    field = f"`{measure.key}` in audit.json." if measure.key != "seconds" else ""
    return " ".join(part for part in (measure.definition, paper, good, unit, field) if part)


if __name__ == "__main__":
    main()
