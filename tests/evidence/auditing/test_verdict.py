"""The verdict: what it says of rows that are known, and of what was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from unflow.evidence.auditing.verdict import Verdict
from unflow.evidence.auditing.verdict import verdicts as verdicts_of_rows
from unflow.evidence.row import read_rows


def row(method: str, rate: float, half: float | None = 0.002, **options: Any) -> dict[str, Any]:
    intervals = None if half is None else {"forget_rate": [max(0.0, rate - half), rate + half]}
    return {
        "method": method,
        "family": "flow_map",
        "forget_rate": rate,
        "fid_retain": 8.5,
        "fid_target": 2.0,
        "stayed_share": None,
        "redistribution": None,
        "original_recoverable": False,
        "intervals": intervals,
    } | options


def record(*rows: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {
        "rows": list(rows),
        "class_names": ["zero", "one", "two"],
        "request": {"forget": [1, 2]},
        "floor": {"flow_map": {"fid_target": 1.1}},
    } | options


def verdicts(audit: dict[str, Any]) -> dict[str, list[str]]:
    names = [audit["class_names"][k] for k in audit["request"]["forget"]]
    second = audit.get("second_judge") is not None
    return verdicts_of_rows(read_rows(audit["rows"]), audit["floor"], names, audit.get("attacks"), second)


def verdict(audit: dict[str, Any], method: str, family: str) -> Verdict:
    return Verdict(*verdicts(audit)[f"{family}-{method}"])


ORIGINAL, RETRAINED, TARGET = row("original", 0.10), row("retrained", 0.010), row("target", 0.012)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.099, "Not forgotten"),
        (0.05, "Partly forgotten"),
        (0.011, "Forgotten"),
        (0.003, "Forgotten, and further than was asked for"),
    ],
)
def test_forgotten_is_what_cannot_be_told_from_a_retrained_model(rate: float, words: str) -> None:
    sentence = verdict(record(ORIGINAL, row("uot", rate), TARGET, RETRAINED), "uot", "flow_map").forgotten
    assert sentence.startswith(f"{words}: ")
    assert sentence.endswith(
        "are still one or two, against the original's 10 % and 1 % of the retrained model."
    )


def test_the_interval_stands_beside_the_share_and_the_target_for_a_retrained_model() -> None:
    sentence = verdict(record(ORIGINAL, row("uot", 0.05), TARGET), "uot", "flow_map").forgotten
    assert "5 % [4.8, 5.2] of its samples" in sentence
    assert sentence.endswith("1.2 % of the exact target.")


def test_without_a_reference_it_is_only_less_than_before() -> None:
    sentence = verdict(record(ORIGINAL, row("uot", 0.0, half=None)), "uot", "flow_map").forgotten
    assert (
        sentence == "Less than before: 0 % of its samples are still one or two, against the original's 10 %."
    )


def test_the_cost_names_what_was_measured_and_nothing_else() -> None:
    bare = verdict(record(ORIGINAL, row("uot", 0.0, fid_target=None)), "uot", "flow_map").cost
    assert bare == "Elsewhere the distance to real retained samples is 8.5 (the original's 8.5)."
    full = verdict(
        record(ORIGINAL, row("uot", 0.0, stayed_share=0.93, redistribution={"p_value": 1e-5})),
        "uot",
        "flow_map",
    ).cost
    assert "that to the exact target 2, the floor 1.1" in full
    assert "93 % of the retained latents keep their class" in full
    assert full.endswith("the shares of the other classes are not those of the target (p < 0.001).")


def attacks(steps: float | None, ratio: dict[str, float] | None, share: float = 0.02) -> dict[str, Any]:
    return {
        "inside": {"uot": None},
        "latent_search": {"uot": {"success_share": share}, "retrained": {"success_share": 0.01}},
        "relearning": {
            "steps": 300,
            "images": {
                "1": {"steps_to_half": {"uot": None}, "ratio": None},
                "10": {"steps_to_half": {"uot": steps}, "ratio": ratio},
                "retain": {"steps_to_half": {"uot": 5.0}, "ratio": None},
            },
        },
    }


def undone(**options: Any) -> str:
    return verdict(record(ORIGINAL, row("uot", 0.0), RETRAINED, **options), "uot", "flow_map").undone


def test_what_could_undo_it_is_what_the_attacks_came_to() -> None:
    assert undone(attacks=attacks(12.4, {"uot": 0.25})) == (
        "A search over latents finds it from 2 % of the starts (1 % in the retrained model); half of it "
        "comes back in 12 steps on 10 images, 0.25 times as many as the retrained model needs."
    )
    assert undone(attacks=attacks(None, None)).endswith(
        "half of it does not come back in 300 steps on 1 or 10 images of it."
    )
    assert undone() == "What could bring it back was not tried: run `unflow audit` with a second judge."


def test_the_best_setting_for_the_attacker_stands_beside_the_usual_one() -> None:
    def swept(best: dict[str, Any] | None) -> dict[str, Any]:
        settings = [{"learning_rate": rate, "free_decoder": False} for rate in (1e-5, 1e-3)]
        fewest = {"uot": best, "retrained": {"learning_rate": 1e-3, "free_decoder": False, "steps": 9.0}}
        found = attacks(None, None)
        return found | {
            "relearning": found["relearning"] | {"sweep": {"settings": settings}, "fewest": fewest}
        }

    best = {"learning_rate": 1e-3, "free_decoder": True, "steps": 3.2}
    assert undone(attacks=swept(best)).endswith(
        "half of it does not come back in 300 steps on 1 or 10 images of it; in the best of 2 settings "
        "for the attacker (learning rate 0.001, decoder trained too) in 3.2 steps "
        "(9 in the retrained model's best)."
    )
    assert undone(attacks=swept(None)).endswith("images of it, nor at any learning rate of 1e-05 or 0.001.")


def test_where_two_judges_were_there_the_flag_is_what_kept_attacks_out() -> None:
    assert undone(second_judge={"name": "ConvNet"}) == (
        "What could bring it back was not tried: run `unflow audit` without `--attack false`."
    )


def test_a_chain_is_suppression_whatever_the_attacks_say() -> None:
    chained = row("uot", 0.0, original_recoverable=True)
    inside = attacks(None, None) | {"inside": {"uot": {"model": "FlowMap", "forget_rate": 0.1}}}
    sentence = verdict(record(ORIGINAL, chained, RETRAINED, attacks=inside), "uot", "flow_map").undone
    assert sentence.startswith("The original is still inside, and gives 10 % of it: anyone with the file")
    assert sentence.endswith("This is suppression.")
    assert verdict(record(ORIGINAL, chained), "uot", "flow_map").undone.startswith(
        "The original is still inside: anyone with the file"
    )


def test_every_method_of_every_family_has_its_own() -> None:
    other = [row(name, rate) | {"family": "flow"} for name, rate in (("original", 0.2), ("uot", 0.2))]
    found = verdicts(record(ORIGINAL, row("uot", 0.0), *other))
    assert found.keys() == {"flow_map-uot", "flow-uot"}
    assert found["flow_map-uot"][0].startswith("Less than before: 0 % ")
    assert found["flow-uot"][0].startswith("Not forgotten: 20 % ")
