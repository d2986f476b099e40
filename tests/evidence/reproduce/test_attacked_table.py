"""The table of attacks over seeds: its columns, and dashes where an attack was impossible."""

from __future__ import annotations

from typing import Any

from unflow.evidence.auditing.attacked import Attacks, compare_attacks
from unflow.evidence.reproduce.attacked import format_attacks


def record(seed: int, *, scored: bool = True) -> dict[str, Any]:
    """A row whose half is back after seed steps at the small rate, and at once at the large one."""
    curve = [[0, 0.0], [2 * seed, 0.2]]
    sweep = [
        {"learning_rate": rate, "free_decoder": False, "curve": [[0, 0.0], [steps, 0.2]]}
        for rate, steps in ((1e-5, 2 * seed), (1e-3, 2))
    ]
    scores = {"scores": {"distance": [[0.1 * k for k in range(12)], [0.1 * k for k in range(12)]]}}
    return {
        "rate": 0.2,
        "inside": None,
        "latent_search": None,
        "curves": {"10": curve, "retain": curve},
        "sweep": sweep,
        "membership": scores if scored else {"obstacle": "there are no images"},
        "linear_probe": {
            "points": "latents",
            "obstacle": "a Filtered contains the activations of another model",
        },
    }


def cells(table: str, row: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {row} ")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_table_has_a_column_for_the_sweep_and_for_each_score() -> None:
    found = [
        compare_attacks({"original": record(seed), "uot": record(seed, scored=False)}, Attacks(images=(10,)))
        for seed in (10, 20)
    ]
    table = format_attacks(found, ["uot"])
    assert cells(table, "")[4:] == [
        "steps, retained images",
        "steps, best setting",
        "membership, distance: AUC",
    ]
    assert cells(table, "`original`") == [
        "20.0 ± 0.0",
        "–",
        "–",
        "15 ± 7",
        "15 ± 7",
        "1.0 ± 0.0",
        "0.50 ± 0.00",
    ]
    assert cells(table, "`uot`")[-2:] == ["1.0 ± 0.0", "–"]


def test_results_of_earlier_versions_have_neither() -> None:
    new = ("sweep", "membership", "linear_probe")
    old = {name: value for name, value in record(10).items() if name not in new}
    table = format_attacks([compare_attacks({"original": old, "uot": old}, Attacks(images=(10,)))], ["uot"])
    assert cells(table, "")[3:] == ["steps, 10 images", "steps, retained images"]
