import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

# Before torch is imported: spinning OpenMP threads on a busy core are up to 100 times slower. Each process of
# the tests has one thread; so have the processes that it starts.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)

UNCALLED = os.environ.get("UNCALLED")
"""A file for the names of functions that nothing calls; if set, shapes in signatures are checked."""
if UNCALLED:
    import shapes

    shapes.install()


def pytest_configure(config: pytest.Config) -> None:
    # torch's own first forward-mode derivative warns about torch's own use of torch.jit.
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def pytest_sessionfinish() -> None:
    if UNCALLED:
        Path(UNCALLED).write_text("\n".join(shapes.uncalled()))


@pytest.fixture(scope="session", autouse=True)
def few_fresh_samples() -> Iterator[dict[str, int]]:
    """A result is measured on 200 fresh samples where nobody says on how many; the value is what ships."""
    from unflow.unlearning import self_measure  # not before ``shapes.install``

    shipped = {name: getattr(self_measure, name) for name in ("NUM_SAMPLES", "NUM_OF_FLOW")}
    with pytest.MonkeyPatch.context() as patch:
        for name in shipped:
            patch.setattr(self_measure, name, 200)
        yield shipped


@pytest.fixture(autouse=True)
def no_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after a test the functions that it has allowed to run: consent holds for a process."""
    from unflow.nets import description  # not before ``shapes.install``

    monkeypatch.setattr(description, "_TRUSTED", set(description._TRUSTED))


@pytest.fixture
def short_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """UOT(start="latent_transport") starts at a training of 6 steps, which its own settings do not reach."""
    from unflow.methods import LatentTransport, uot

    monkeypatch.setattr(uot, "LatentTransport", partial(LatentTransport, steps=6, bank_size=256))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
