"""Models of third-party packages forget a digit by one command, without any code.

    pip install torchcfm rectified-flow-pytorch torchgan
    python benchmarks/other_packages.py --out runs/other-packages

Each model is trained on the embedded digits by its package's own network and loss, and saved as a plain
PyTorch checkpoint. The command then names the package's class and the checkpoint. The table marks packages
that are not installed.

The energy uses a guide trained on one half of the data; the judge is a support vector machine trained on the
other half.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as nnf
from sklearn.svm import SVC
from torch import Tensor, nn

import unflow as uf
from unflow.foreign import load_model

DIGIT, N = 3, 4000


@dataclass(frozen=True)
class Trial:
    """One model of one package.

    Attributes:
        package: name of the package.
        train: images [n, 1, 8, 8] in [-1, 1] -> the checkpoint.
        line: model specification; CHECKPOINT is replaced by the file.
        budget: further options of the command, for networks that are too slow with its defaults.
    """

    package: str
    train: Callable[[Tensor], dict[str, Tensor] | dict[str, dict[str, Tensor]]]
    line: str
    budget: str = ""


# Training by each package


def train_torchcfm_flow(x: Tensor) -> dict[str, dict[str, Tensor]]:
    from torchcfm import ConditionalFlowMatcher
    from torchcfm.models.unet.unet import UNetModelWrapper

    net = UNetModelWrapper(dim=(1, 8, 8), num_channels=32, num_res_blocks=1, channel_mult=[1, 2])
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss(real: Tensor) -> Tensor:
        t, x_t, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(real), real)
        return nnf.mse_loss(net(t, x_t), velocity)

    descend(net, loss, x, 1500)
    return {"net_model": net.state_dict()}


def train_rectified_flow_pytorch_mean_flow(x: Tensor) -> dict[str, Tensor]:
    from rectified_flow_pytorch import MeanFlow
    from rectified_flow_pytorch.rectified_flow import Unet

    flow = MeanFlow(Unet(dim=16, channels=1, dim_mults=(1, 2), accept_dest_time=True), data_shape=(1, 8, 8))
    descend(flow, flow, x, 1500)
    return flow.state_dict()


def train_torchgan_gan(x: Tensor) -> dict[str, dict[str, Tensor]]:
    from torchgan.losses import WassersteinDiscriminatorLoss, WassersteinGeneratorLoss
    from torchgan.models import DCGANDiscriminator, DCGANGenerator

    real = nnf.interpolate(x, size=16, mode="bilinear")
    G = DCGANGenerator(encoding_dims=32, out_size=16, out_channels=1, step_channels=32)
    D = DCGANDiscriminator(in_size=16, in_channels=1, step_channels=32, batchnorm=False)
    of_G, of_D = WassersteinGeneratorLoss(), WassersteinDiscriminatorLoss()
    for_G, for_D = (torch.optim.Adam(net.parameters(), 1e-3, betas=(0.0, 0.9)) for net in (G, D))
    for _ in range(3000):
        images = real[torch.randint(len(real), (64,))].requires_grad_(True)
        scores = D(images)
        (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        step(for_D, of_D(scores, D(G(torch.randn(64, 32)).detach())) + 10 * penalty)
        step(for_G, of_G(D(G(torch.randn(64, 32)))))
    return {"generator": G.state_dict(), "discriminator": D.state_dict()}


def descend(net: nn.Module, loss: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        step(optimizer, loss(x[torch.randint(len(x), (128,))]))
        schedule.step()


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


SMALL = "--settings.steps 300 --settings.batch_size 128 --settings.bank_size 4096"
TRIALS = {
    "torchcfm: UNetModelWrapper, a flow": Trial(
        "torchcfm",
        train_torchcfm_flow,
        "flow:torchcfm.models.unet.unet:UNetModelWrapper@CHECKPOINT,shape=1x8x8,call=t/x,"
        "dim=[1, 8, 8],num_channels=32,num_res_blocks=1,channel_mult=[1, 2]",
        SMALL,
    ),
    "rectified-flow-pytorch: MeanFlow of a Unet": Trial(
        "rectified_flow_pytorch",
        train_rectified_flow_pytorch_mean_flow,
        "flow_map:rectified_flow_pytorch.rectified_flow:Unet@CHECKPOINT,shape=1x8x8,call=x/start/span,"
        "noise_at=1,dim=16,channels=1,dim_mults=[1, 2],accept_dest_time=true",
        SMALL,
    ),
    "torchgan: DCGANGenerator": Trial(
        "torchgan",
        train_torchgan_gan,
        "generator:torchgan.models:DCGANGenerator@CHECKPOINT,prior=normal:32,key=generator,encoding_dims=32,"
        "out_size=16,out_channels=1,step_channels=32",
    ),
}


# The guide and the judge


class Guide(nn.Module):
    """Images [n, 1, 8, 8] or [n, 1, 16, 16] in [-1, 1] -> ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(nnf.adaptive_avg_pool2d(x, 8))


def train_guide(x: Tensor, labels: Tensor, file: Path) -> None:
    net = Guide()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(1500):
        rows = torch.randint(len(x), (128,))
        step(optimizer, nnf.cross_entropy(net(x[rows] + 0.2 * torch.randn(128, 1, 8, 8)), labels[rows]))
    torch.save(net.state_dict(), file)


def measure(judge: SVC, model: uf.GenerativeModel) -> tuple[float, Tensor]:
    """Return the share of the digit in %, and the class of each sample, for the same latents every time."""
    x = nnf.adaptive_avg_pool2d(model.sample(N, uf.stream(0)), 8)
    seen = torch.as_tensor(judge.predict(x.flatten(1).numpy()))
    return 100 * float((seen == DIGIT).float().mean()), seen


# One trial


def forget(trial: Trial, checkpoint: Path, guide: Path, out: Path) -> tuple[str, float]:
    """Run the command; return the model specification, and the seconds."""
    line = trial.line.replace("CHECKPOINT", str(checkpoint.resolve()))
    words = [
        sys.executable,
        "-m",
        "unflow",
        "unlearn",
        "--model",
        line,
        "--energy",
        f"classifier:other_packages:Guide@{guide.resolve()}",
        "--forget",
        str(DIGIT),
        "--out",
        str(out.resolve()),
        *trial.budget.split(),
    ]
    started = time.perf_counter()
    subprocess.run(words, check=True, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL)
    return line, time.perf_counter() - started


def run_trial(name: str, trial: Trial, x: Tensor, judge: SVC, guide: Path, out: Path) -> str:
    """Run a trial and return its row of the table."""
    checkpoint = out / f"{trial.package}.pth"
    trained = train_once(trial, x, checkpoint)
    line, seconds = forget(trial, checkpoint, guide, out / trial.package)
    before, first = measure(judge, load_model(line))
    after, then = measure(judge, uf.load(out / trial.package, trust_code=True))
    kept = 100 * float((first == then)[first != DIGIT].float().mean())
    return f"| {name} | {before:.1f} | {after:.1f} | {kept:.0f} | {trained:.0f} | {seconds:.0f} |"


def train_once(trial: Trial, x: Tensor, checkpoint: Path) -> float:
    """Train and save the model, unless the file exists; return the seconds of the training."""
    watch = checkpoint.with_suffix(".json")
    if not watch.exists():
        torch.manual_seed(0)
        started = time.perf_counter()
        torch.save(trial.train(x), checkpoint)
        watch.write_text(json.dumps(time.perf_counter() - started))
    return float(json.loads(watch.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/other-packages"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)

    data = uf.data.load_data("digits")
    half = torch.arange(len(data)) % 2 == 0
    guide = asked.out / "guide.pth"
    torch.manual_seed(0)
    train_guide(data.x[half], data.labels[half], guide)
    judge = SVC(gamma=0.05, C=10).fit(data.x[~half].flatten(1).numpy(), data.labels[~half])

    print("| model | before, % | after, % | others that keep their class, % | training, s | the command, s |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, trial in TRIALS.items():
        if importlib.util.find_spec(trial.package) is None:
            print(f"| {name} | not installed | | | | |")
        else:
            print(run_trial(name, trial, data.x, judge, guide, asked.out), flush=True)


if __name__ == "__main__":
    main()
