"""The memory of a request: a small model needs little more than PyTorch itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unflow.disk import bundle
from unflow.models import FlowMap
from unflow.models.classifier import Classifier
from unflow.nets import new_net

LIMIT_MB = 600
SHAPE = [1, 8, 8]
RUN = """
import sys
from unflow.commands.cli import main
from unflow.ground.memory import measure_peak_memory
code = main(sys.argv[1:])
print(measure_peak_memory() / 2**20)
sys.exit(code)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is for Linux")
@pytest.mark.parametrize("method", ["latent_transport", "uot"])
def test_unlearning_a_model_of_300_000_weights_takes_at_most_600_mb(method: str, tmp_path: Path) -> None:
    """The banks have their default sizes; the number of steps does not change the memory."""
    net = new_net({"net": "mlp", "shape": SHAPE, "num_times": 2, "width": 290, "depth": 3}, seed=0)
    assert 290_000 < sum(weight.numel() for weight in net.parameters()) < 310_000
    guide = Classifier(new_net({"net": "convnet", "shape": SHAPE, "outputs": 10}, seed=0), list("0123456789"))
    bundle.save(FlowMap(net, (1, 8, 8)).eval(), tmp_path / "model", {})
    bundle.save(guide.eval(), tmp_path / "guide", {})
    words = f"unlearn --model model --energy classifier:guide --forget 3 --method {method} --out out"
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words.split(), "--settings.steps", "4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) <= LIMIT_MB
