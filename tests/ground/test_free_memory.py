"""Third-party code that allocates more memory than the machine has left ends in one sentence."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unflow.foreign import load_model
from unflow.foreign.specification import Specification
from unflow.ground import memory
from unflow.ground.errors import InputError
from unflow.nets import build_net

NETWORKS = """
import torch
from torch import nn

def wide(width=10**10):
    return nn.Linear(width, 10**5)

def many(n=100):
    return nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(n)))

def hoard(n=100):
    kept = [bytearray(2**26) for _ in range(n)]
    return nn.Linear(len(kept), 2)

def good():
    return nn.Linear(2, 2)
"""
LEAST = 400_000_000
"""Free bytes that the tests pretend; each greedy function above asks for 6 GB or more."""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_DATA")


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with third-party networks."""
    name = f"greedy_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with little free memory."""
    monkeypatch.setattr(memory, "measure_free_memory", make_machine())


def make_machine() -> Callable[[], int]:
    """A measure of free memory: ``LEAST``, less the memory that this process has taken since now."""
    start = memory._measure_data() or 0
    return lambda: max(0, LEAST + start - (memory._measure_data() or 0))


def read_limit() -> tuple[int, int]:
    """RLIMIT_DATA of this process."""
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)


def test_a_layer_wider_than_any_machine_is_one_sentence(networks: str) -> None:
    with pytest.raises(InputError, match=r"wide needs more memory than this machine can give.*write smaller"):
        load_model(f"generator:{networks}:wide,prior=normal:2")


@on_linux
@pytest.mark.parametrize("function", ["many", "hoard"])
@pytest.mark.usefixtures("little")
def test_many_pieces_that_each_fit_are_refused_before_the_machine_is_full(
    networks: str, function: str
) -> None:
    before, peak = read_limit(), memory.measure_peak_memory()
    with pytest.raises(InputError, match=r"needs more memory .* has 0\.4 GB left"):
        build_net({"builder": f"{networks}:{function}", "options": {}})
    assert read_limit() == before
    assert memory.measure_peak_memory() - peak < 2 * LEAST


@on_linux
def test_memory_that_other_programs_take_during_the_building_counts(
    networks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, later, peak = iter([8 * 10**9, 8 * 10**9]), make_machine(), memory.measure_peak_memory()
    monkeypatch.setattr(memory, "measure_free_memory", lambda: next(first, None) or later())
    with pytest.raises(InputError, match="many needs more memory"):
        build_net({"builder": f"{networks}:many", "options": {}})
    assert memory.measure_peak_memory() - peak < 2 * LEAST


@on_linux
@pytest.mark.usefixtures("little")
def test_a_function_of_a_specification_is_guarded_as_well(networks: str) -> None:
    with pytest.raises(InputError, match="hoard needs more memory"):
        Specification("estimator", f"{networks}:hoard").call_function([], {}, {})


@on_linux
@pytest.mark.usefixtures("little")
def test_a_module_that_allocates_at_its_import_is_guarded_as_well(networks: str, tmp_path: Path) -> None:
    (tmp_path / f"{networks}_import.py").write_text("kept = [bytearray(2**26) for _ in range(100)]\n")
    with pytest.raises(InputError, match="needs more memory"):
        build_net({"builder": f"{networks}_import:build", "options": {}})


@pytest.mark.usefixtures("little")
def test_a_network_that_fits_is_built_and_the_limit_is_as_before(networks: str) -> None:
    before = read_limit()
    net = build_net({"builder": f"{networks}:good", "options": {}})
    assert sum(weight.numel() for weight in net.parameters()) == 6
    assert read_limit() == before


@on_linux
def test_threads_that_overlap_leave_the_limit_as_it_was() -> None:
    before, inside, leave = read_limit(), threading.Barrier(2), threading.Event()

    def hold() -> None:
        with memory._LIMIT.hold():
            inside.wait(10)
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    with memory._LIMIT.hold():
        inside.wait(10)
    assert read_limit() != before  # the thread still holds it
    leave.set()
    thread.join()
    assert read_limit() == before


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(10**15), lambda: np.empty(10**16), lambda: bytearray(10**17)]
)
def test_an_allocation_that_fails_is_recognised(allocate: Callable[[], Any]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert memory.is_out_of_memory(caught.value)


def test_another_error_passes_the_guard_unchanged() -> None:
    with pytest.raises(ValueError, match="another"), memory.guard_memory("it"):
        raise ValueError("another")


@on_linux
def test_the_free_memory_of_a_container_is_its_limit_less_its_use_without_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, (limit, usage, inactive, active) in enumerate(memory._GROUPS):
        group = tmp_path / str(version)
        group.mkdir()
        (group / limit).write_text("1000\n")
        (group / usage).write_text("700\n")
        (group / "memory.stat").write_text(f"anon 500\n{inactive} 150\n{active} 50\n")
        assert memory._measure_group(group) == [500]
    (tmp_path / "0" / "memory.max").write_text("max\n")
    assert memory._measure_group(tmp_path / "0") == []
    assert memory._measure_group(tmp_path / "missing") == []


@on_linux
def test_the_free_memory_is_no_more_than_the_machine_has() -> None:
    found = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
    free = memory.measure_free_memory()
    assert free is not None
    assert 0 < free <= 1024 * (int(found["MemTotal"]) + int(found["SwapTotal"]))


def test_a_system_without_proc_has_no_limit_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "measure_free_memory", lambda: None)
    with memory.guard_memory("it"):
        made = torch.zeros(3)
    assert made.sum() == 0
