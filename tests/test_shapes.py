"""Arguments and results have the shapes that the signatures state.

A process with the check of `shapes.py` runs tests that together call every function with shapes. The suite
as a whole runs without it: it would take up to 40 % longer, and torch.compile cannot trace the check.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CALLERS = {
    "target/test_target.py": ["test_strength_zero_changes_nothing"],
    "target/test_conditional_law.py": ["test_a_sample_does_not_say_what_was_asked"],
    "energies/test_anchoring.py": [
        "test_the_gradients_are_the_derivatives",
        "test_the_threshold_of_two_equal_normal_laws_is_halfway",
        "test_the_target_of_a_grown_request_keeps_the_other_clusters_and_no_more",
    ],
    "energies/test_calibration.py": ["test_the_guide_is_read_in_evaluation_mode_and_left_alone"],
    "energies/test_energies.py": [
        "test_a_request_without_an_energy_has_none_for_samples",
        "test_no_energy_falls_under_its_lower_bound",
        "test_the_log_odds_of_a_class_follow_from_the_logits_of_all_classes",
        "test_the_bounded_inverse_is_the_complementary_weight",
    ],
    "mathematics/test_couplings.py": ["test_a_pairing_is_a_permutation", "test_blocks_are_paired_one_by_one"],
    "mathematics/test_divergences.py": [
        "test_phi_is_zero_at_one_and_positive_elsewhere",
        "test_the_limited_conjugate_is_the_same_bits_inside_and_finite_outside",
    ],
    "mathematics/test_grid.py": [
        "test_the_centre_of_every_cell_lies_in_it",
        "test_what_does_not_fit_is_refused",
    ],
    "mathematics/test_integrators.py": ["test_one_step_of_a_linear_system_is_the_taylor_polynomial"],
    "mathematics/test_sharpness.py": [
        "test_the_contrast_of_one_edge_is_its_height_and_of_several_their_weighted_mean",
        "test_midpoints_and_noise_lie_far_and_samples_of_the_law_do_not",
        "test_gaps_are_near_zero_for_repeated_samples_and_reach_is_large_for_missed_ones",
        "test_large_images_are_averaged_before_distances",
    ],
    "mathematics/test_paths.py": [
        "test_a_path_runs_from_the_source_to_the_data",
        "test_the_velocity_of_a_gaussian_is_its_scaled_point_and_its_score",
    ],
    "models/test_filtered.py": ["test_an_energy_is_rebuilt_from_plain_data"],
    "energies/test_foreign_energies.py": [
        "test_no_sample_is_scored_twice",
        "test_scores_of_two_classes_are_the_logit_of_the_second",
        "test_a_uniform_is_seen_in_a_portrait",
        "test_bad_input_is_refused_in_one_sentence",
        "test_what_is_no_model_of_samples_is_refused",
    ],
}
"""A few tests per file that take about a second together."""
COMPLETE = ("unflow.mathematics", "unflow.energies", "unflow.target")


def uncalled_by(tests: list[str], folder: Path) -> list[str]:
    """Run tests with the check; return the functions with shapes that they do not call."""
    names = folder / "uncalled.txt"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests],
        cwd=TESTS.parent,
        env={**os.environ, "UNCALLED": str(names)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return names.read_text().split()


def test_a_few_tests_call_every_function_with_its_shapes(tmp_path: Path) -> None:
    chosen = [f"tests/{file}::{test}" for file, tests in CALLERS.items() for test in tests]
    assert [name for name in uncalled_by(chosen, tmp_path) if name.startswith(COMPLETE)] == []


@pytest.mark.slow
def test_all_tests_of_the_annotated_packages_keep_to_the_shapes(tmp_path: Path) -> None:
    """But for tests that wrong shapes are refused."""
    folders = ("mathematics", "energies", "target", "models", "evidence/metrics")
    uncalled_by(["-m", "not slow", "-k", "not refused", *(f"tests/{folder}" for folder in folders)], tmp_path)


WRONG = """
import shapes
shapes.install()
import pytest, torch
from jaxtyping import TypeCheckError
from unflow.mathematics.paths import LinearPath
for x1, t in ((torch.ones(3, 4), torch.ones(3)), (torch.ones(3, 2), torch.ones(2))):
    with pytest.raises(TypeCheckError):
        LinearPath().sample(torch.ones(3, 2), x1, t)
"""


def test_the_check_finds_a_wrong_shape() -> None:
    subprocess.run([sys.executable, "-c", WRONG], cwd=TESTS, check=True)
