"""A picture of a demo run: samples of the original and of an unlearned model from the same latents."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unflow.evidence.report.pictures import choose_latents, lay_out_channels
from unflow.evidence.report.read import Run, read_run
from unflow.evidence.report.words import family_name
from unflow.ground.files import write_bytes

SHOWN = {"flow": ("original", "energy_guidance"), "flow_map": ("original", "residual_matching")}
"""Rows of the picture: one pair per family."""

NUM_FORGOTTEN, NUM_LATENTS = 10, 16
MARK = "#c2410c"


def write_poster(run: str | Path, out: str | Path | None = None) -> Path | None:
    """Write ``same-z.png``, which shows samples from the same latents before and after unlearning.

    A coloured frame marks the samples that the judge assigns to a forgotten class.

    Args:
        run: a run folder with audit.json and samples of images.
        out: the file; ``same-z.png`` in the run folder when omitted.

    Returns:
        The file's path, or None if the run has fewer than two of the ``SHOWN`` rows.
    """
    import matplotlib.pyplot as plt

    content = read_run(Path(run))
    strips = [(f, m) for f, methods in SHOWN.items() for m in methods if f"{f}-{m}" in content.samples]
    if len(strips) < 2:
        return None
    figure, axes = plt.subplots(
        len(strips),
        NUM_LATENTS,
        figsize=(0.55 * NUM_LATENTS + 1.2, 0.58 * len(strips) + 0.25),
        dpi=150,
        squeeze=False,
    )
    chosen = {family: _choose_latents(content, family) for family, _ in strips}
    for line, (family, method) in zip(axes, strips, strict=True):
        samples = content.samples[f"{family}-{method}"]
        for axis, i in zip(line, chosen[family][0], strict=True):
            axis.imshow(lay_out_channels(samples.x[i])[0], cmap="gray", vmin=-1, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            is_forgotten = samples.label is not None and samples.label[i] in content.forget
            for spine in axis.spines.values():
                spine.set(color=MARK if is_forgotten else "#d4d4d4", linewidth=2.2 if is_forgotten else 0.6)
        name = f"{family_name(family).split(' (')[0]}\n{method.replace('_', ' ')}"
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    axes[0][0].set_title("latents that drew a forgotten class", fontsize=8, loc="left")
    axes[0][chosen[strips[0][0]][1]].set_title("other latents", fontsize=8, loc="left")
    figure.subplots_adjust(left=0.115, right=0.995, top=0.91, bottom=0.02, wspace=0.08, hspace=0.1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    plt.close(figure)
    path = Path(run) / "same-z.png" if out is None else Path(out)
    write_bytes(path, buffer.getvalue())
    return path


def _choose_latents(run: Run, family: str) -> tuple[NDArray[Any], int]:
    label = run.samples[f"{family}-original"].label
    assert label is not None
    return choose_latents(label, run.forget, NUM_FORGOTTEN, NUM_LATENTS)
