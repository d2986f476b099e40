"""How the models of ContinualFlow's experiments are trained here (arXiv 2506.18747)."""

from __future__ import annotations

from dataclasses import replace

from unflow.evidence.reproduce.study import Recipe
from unflow.methods import SFD, UOT, LatentTransport
from unflow.training.method import Method
from unflow.training.originals.autoencoding import Autoencoding
from unflow.training.originals.classification import Classification
from unflow.training.originals.distill import Distill
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.originals.gan import GAN

PLANAR = Recipe(
    flow_net={"net": "mlp", "width": 128, "depth": 2, "frequencies": 5},
    flow=FlowMatching(steps=8500, batch_size=256, learning_rate=4e-3, coupling="exact_ot"),
    guide_net={"net": "mlp", "width": 64, "depth": 2, "frequencies": 3},
    guide=Classification(steps=300, batch_size=256, deform=False, noise=0.01),
    judge_net={"net": "mlp", "width": 64, "depth": 2},
    judge=Classification(steps=300, batch_size=256, deform=False, noise=0.02),
)
"""The four two-dimensional datasets."""

MNIST = Recipe(
    autoencoder_net={"net": "conv_autoencoder", "latent": 16, "width": 32, "depth": 2},
    autoencoder=Autoencoding(steps=2000),
    flow_net={"net": "mlp", "width": 256, "depth": 4},
    flow=FlowMatching(steps=8000, batch_size=256),
    guide_net={"net": "mlp", "width": 256, "depth": 2},
    guide=Classification(steps=1000, batch_size=256, deform=False, noise=0.5),
    judge_net={"net": "convnet", "width": 16},
    judge=Classification(steps=600, smoothing=0.05, noise=0.05),
)
"""Digits in 16 latents."""

CIFAR10 = Recipe(
    autoencoder_net={"net": "conv_autoencoder", "latent": 64, "width": 32, "depth": 3},
    autoencoder=Autoencoding(steps=2500, flip=True),
    flow_net={"net": "mlp", "width": 256, "depth": 4},
    flow=FlowMatching(steps=8000, batch_size=256),
    guide_net={"net": "mlp", "width": 256, "depth": 2},
    guide=Classification(steps=1000, batch_size=256, deform=False, noise=0.5),
    judge_net={"net": "convnet", "width": 24, "depth": 4},
    judge=Classification(steps=800, smoothing=0.05, noise=0.05),
)
"""Automobiles and airplanes in 64 latents."""

SFD_SHORT: dict[str, Method] = {
    "sfd_short": SFD(steps=3000, learning_rate=1e-4, fake_rate=3e-4, average=0.999)
}
"""A row of conditional models: 3,000 of SFD's 50,000 steps, at ten times its rates. All of them take more
than ten times as long as retraining."""

ONE_STEP_MNIST = replace(
    MNIST,
    methods=SFD_SHORT,
    # Without label smoothing the judge is calibrated on real digits.
    judge=Classification(steps=600, noise=0.05),
    flow_map_net={"net": "mlp", "width": 256, "depth": 4},
    distill=Distill(steps=6000, batch_size=256, bank_size=65536),
)
"""The same digits in 16 latents, in one step."""

PIXEL_MNIST = Recipe(
    generator_net={"net": "conv_generator", "latent": 64, "width": 32, "depth": 2},
    gan=GAN(steps=20000),
    guide_net={"net": "convnet", "width": 16},
    guide=Classification(steps=600, noise=0.05),
    judge_net={"net": "convnet", "width": 16},
    judge=Classification(steps=600, noise=0.05),
)
"""Digits in pixels, in one step: a GAN whose critic knows the classes. Guide and judge share no image."""

ONE_STEP_CIFAR10 = replace(
    CIFAR10,
    methods=SFD_SHORT,
    critic_net={"net": "resnet", "width": 16, "depth": 3},
    critic=Classification(steps=1500, noise=0.05, flip=True),
    autoencoder=Autoencoding(
        steps=2500, batch_size=64, flip=True, perceptual=1.0, labels=3.0, consistency=1.0
    ),
    judge_net={"net": "resnet", "width": 16, "depth": 3},
    judge=Classification(steps=2000, noise=0.05, flip=True),
    flow_map_net={"net": "mlp", "width": 256, "depth": 4},
    distill=Distill(steps=6000, batch_size=256, bank_size=65536),
)
"""All ten classes in 64 latents, in one step. A critic and labels shape the latents; the judge uses neither:
it is another network of the same kind, trained on other images."""

LAWS = UOT(
    steps=4000,
    batch_size=512,
    pool="tilted",
    share=0.0,
    tau=0.0,
    r1=0.05,
    anneal_r1=True,
    width=128,
    learning_rate=2e-4,
    potential_rate=2e-3,
    average=0.995,
)
"""Settings for exact laws rather than for speed. R1, which moves the optimum, falls to 0. For KL, the pool q*
without F in the cost is the same problem: D(pi || q0) + lam E[F] = D(pi || q*) + a constant."""

ONE_STEP_PLANAR = replace(
    PLANAR,
    flow_map_net={"net": "mlp", "width": 128, "depth": 3, "frequencies": 5},
    distill=Distill(steps=3000, batch_size=256, bank_size=32768),
    methods={"uot_laws": LAWS, "latent_transport": LatentTransport(coupling="match", steps=3000)},
)
"""The four two-dimensional datasets, in one step."""
