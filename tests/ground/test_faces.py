"""Public names of modules stay, wherever the modules stand."""

import importlib
import sys

import pytest

import unflow


@pytest.mark.parametrize("name", sorted(unflow._MODULES))
def test_a_public_module_has_one_object_under_both_of_its_names(name: str) -> None:
    home = importlib.import_module(f"unflow.{unflow._MODULES[name]}")
    assert importlib.import_module(f"unflow.{name}") is home
    assert getattr(unflow, name) is home
    assert home.__spec__ is not None
    assert home.__spec__.name == home.__name__


def test_modules_below_a_public_name_are_the_same_too() -> None:
    below = importlib.import_module("unflow.metrics.forgetting")
    assert below is importlib.import_module("unflow.evidence.metrics.forgetting")


@pytest.mark.parametrize("name", unflow._RENAMED)
def test_a_renamed_module_warns_and_works(name: str) -> None:
    old, new = f"unflow.{name}", f"unflow.{unflow._RENAMED[name]}"
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=f"{old} is now {new}; write {new}"):
        assert importlib.import_module(old) is importlib.import_module(new)


def test_other_names_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("unflow.no_such_module")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("unflow.metrics.no_such_module")


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("unflow.anchoring", "anchored", "make_anchor"),
        ("unflow.anchoring", "thresholded", "add_threshold"),
        ("unflow.anchoring", "grown", "grow_request"),
        ("unflow.anchoring", "two_laws", "fit_two_normals"),
        ("unflow.anchoring", "features", "extract_features"),
        ("unflow.anchoring", "walk", "count_visits"),
        ("unflow.anchoring", "nearest", "find_nearest"),
        ("unflow.anchoring", "clusters", "cluster_points"),
        ("unflow.calibration", "calibrated", "calibrate"),
        ("unflow.calibration", "balanced", "balance_classes"),
        ("unflow.divergences", "Softplus", "SoftplusDivergence"),
        ("unflow.training.method", "under", "select_prefix"),
        ("unflow.data", "cached", "read_cached"),
        ("unflow.data", "features_of", "compute_features"),
        ("unflow.data", "forms", "list_forms"),
        ("unflow.foreign", "Foreign", "Specification"),
        ("unflow.foreign", "read_line", "parse_specification"),
        ("unflow.foreign", "seen_by", "list_energy_data"),
    ],
)
def test_a_renamed_function_warns_and_works(module: str, old: str, new: str) -> None:
    home = importlib.import_module(module)
    with pytest.warns(FutureWarning, match=f"{old} is now {new}"):
        assert getattr(home, old) is getattr(home, new)
    with pytest.raises(AttributeError):
        _ = home.no_such_name
