"""One picture of a run: the original and its unlearned models at the same latents."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from unflow.evidence.report.read import Run, read_run
from unflow.evidence.report.words import family_name
from unflow.ground.files import write_bytes

SHOWN = {"flow": ("original", "erfm_resample"), "flow_map": ("original", "uot_tilted")}
"""Rows of the picture: one pair per family."""

NUM_FORGOTTEN, NUM_RETAINED = 10, 6
MARK = "#c2410c"


def write_poster(run: str | Path, out: str | Path | None = None) -> Path | None:
    """Write ``same-z.png``: what the same latents give before and after; samples called forgotten are framed.

    Args:
        run: a run folder with audit.json and samples of images.
        out: the file; ``same-z.png`` in the run folder when omitted.

    Returns:
        The file's path; None where the run has no such pair of rows.
    """
    import matplotlib.pyplot as plt

    content = read_run(Path(run))
    strips = [(f, m) for f, methods in SHOWN.items() for m in methods if f"{f}-{m}" in content.samples]
    if len(strips) < 2:
        return None
    columns = NUM_FORGOTTEN + NUM_RETAINED
    figure, axes = plt.subplots(
        len(strips),
        columns,
        figsize=(0.55 * columns + 1.2, 0.58 * len(strips) + 0.25),
        dpi=150,
        squeeze=False,
    )
    for line, (family, method) in zip(axes, strips, strict=True):
        samples = content.samples[f"{family}-{method}"]
        for axis, row in zip(line, _latents(content, family), strict=True):
            axis.imshow(samples.x[row, 0], cmap="gray", vmin=-1, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            gone = samples.label is not None and samples.label[row] in content.audit["request"]["forget"]
            for spine in axis.spines.values():
                spine.set(color=MARK if gone else "#d4d4d4", linewidth=2.2 if gone else 0.6)
        name = f"{family_name(family).split(' (')[0]}\n{method.replace('_', ' ')}"
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    axes[0][0].set_title("latents that drew a forgotten class", fontsize=8, loc="left")
    axes[0][NUM_FORGOTTEN].set_title("other latents", fontsize=8, loc="left")
    figure.subplots_adjust(left=0.115, right=0.995, top=0.91, bottom=0.02, wspace=0.08, hspace=0.1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    plt.close(figure)
    path = Path(run) / "same-z.png" if out is None else Path(out)
    write_bytes(path, buffer.getvalue())
    return path


def _latents(run: Run, family: str) -> np.ndarray:
    """Return the first latents that drew a forgotten class, then the first that drew another."""
    label = run.samples[f"{family}-original"].label
    assert label is not None
    forgotten = np.isin(label, run.audit["request"]["forget"])
    return np.concatenate(
        [np.flatnonzero(forgotten)[:NUM_FORGOTTEN], np.flatnonzero(~forgotten)[:NUM_RETAINED]]
    )
