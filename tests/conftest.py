import os

# Before torch is imported: spinning OpenMP threads on a busy core are up to 100 times slower.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jaxtyping
import pytest
import torch

# Before unflow is imported: the shapes in these packages' signatures are checked at every call.
ANNOTATED = (
    "unflow.mathematics",
    "unflow.energies",
    "unflow.models",
    "unflow.evidence.metrics",
    "unflow.target",
)
jaxtyping.install_import_hook(ANNOTATED, "shapes.check_shapes")

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    # torch's own first forward-mode derivative warns about torch's own use of torch.jit.
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def no_shapes_inside_compiled_code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile cannot trace the check of shapes."""
    if "compile" in request.node.name:
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
