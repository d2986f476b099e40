"""What the reports of the experiments say over and under their tables."""

from __future__ import annotations

REFERENCE_ROWS = (
    "original is the model before; retrained never saw what is to be forgotten; target holds exact samples "
    "of the law that was asked for, drawn by rejection from the original."
)
SECONDS = "Seconds are those of this run on this machine: compare ratios, not seconds."

CONTINUALFLOW_INTRO = (
    "Means ± standard deviations over seeds of data, training and judge. The row erfm_resample is the "
    "library's default method; erfm is the paper's own weighting and chain.",
    REFERENCE_ROWS,
)
CONTINUALFLOW_NOTES = (
    SECONDS,
    "The paper's retain accuracy is its classifier's accuracy on real retained samples; by that definition "
    "it is the same for every generator.",
)

ONE_STEP_INTRO = (
    "Means ± standard deviations over seeds of data, training and judge. The rows uot (the paper's pool) and "
    "uot_tilted are our reading of arXiv 2603.16489; latent_transport is ours; the others are baselines.",
    REFERENCE_ROWS,
)
ONE_STEP_NOTES = (
    SECONDS,
    "u-FID is the Fréchet distance to real retained samples, in the judge's features; the floor is the "
    "distance between two independent sets of exact target samples of the same size.",
    "stayed: of the latents whose sample the judge gives to a retained class before, the share that it "
    "gives to the same class after; it is not defined for a retrained model, which maps latents otherwise.",
)
