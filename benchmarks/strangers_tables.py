"""Tables and pictures of the finished cells of the benchmark of strangers."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from safetensors.numpy import load_file

HEAD = (
    "| | left, % | FD, judge | FD, autoencoder | sharpness | kept, % | CPU s | / training | misses |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---|"
)


def read_cells(out: Path) -> tuple[dict[tuple[str, str], Any], list[dict[str, Any]]]:
    """Return the references by stranger and request, and all cells."""
    references, cells = {}, []
    for file in sorted((out / "cells").glob("*.json")):
        content = json.loads(file.read_text())
        if "method" in content:
            cells.append(content)
        else:
            references[content["stranger"], content["request"]] = content
    return references, cells


def write_tables(out: Path) -> None:
    """Write table.json and table.md."""
    references, cells = read_cells(out)
    record = {"references": list(references.values()), "cells": cells}
    (out / "table.json").write_text(json.dumps(record, indent=1))
    parts = [table_of(reference, cells) for reference in references.values()]
    (out / "table.md").write_text("\n".join(parts))


def table_of(reference: dict[str, Any], cells: list[dict[str, Any]]) -> str:
    """Return the table of one stranger and one request."""
    own = [c for c in cells if all(c[key] == reference[key] for key in ("stranger", "request"))]
    rows = list(dict.fromkeys(cell["method"] for cell in own))
    floors, before = reference["floors"], reference["original_distance"]
    lines = [
        f"## {reference['stranger']}: forget {reference['words']} ({reference['request']})\n",
        HEAD,
        f"| original | {percent(reference['original'])} | {before['judge']:.2f} | "
        f"{before['autoencoder']:.3f} | {reference['original_sharpness']:.3f} | | "
        f"{reference['train_cpu_seconds']:.0f} | 1 | |",
        f"| exact target (floor) | {percent(reference['target'])} | {floors['judge'][0]:.2f} ± "
        f"{floors['judge'][1]:.2f} | {floors['autoencoder'][0]:.3f} ± {floors['autoencoder'][1]:.3f} | 1 | "
        f"guide = judge: {100 * reference['agreement']:.1f} | | | |",
        *(row_of(row, [cell for cell in own if cell["method"] == row]) for row in rows),
        "",
    ]
    return "\n".join(lines)


def row_of(name: str, cells: list[dict[str, Any]]) -> str:
    """Return the row of one method: one seed with its interval, or mean ± standard deviation of the seeds."""
    done = [cell for cell in cells if "refused" not in cell]
    if not done:
        return f"| `{name}` | {cells[0]['error']}: {cells[0]['refused'].splitlines()[0]} | | | | | | | |"
    kept = [cell["kept"] for cell in done if cell["kept"] is not None]
    first = (
        percent(done[0]["left"]) if len(done) == 1 else spread([100 * c["left"]["share"] for c in done], 2)
    )
    misses = sorted({miss for cell in done for miss in cell["fails"]})
    refused = f" ({len(cells) - len(done)} seeds ended with an error)" if len(done) < len(cells) else ""
    return (
        f"| `{name}`{refused} | {first} | {spread([c['distance']['judge'] for c in done], 2)} | "
        f"{spread([c['distance']['autoencoder'] for c in done], 3)} | "
        f"{spread([c['sharpness'] for c in done], 3)} | {spread([100 * k for k in kept], 1)} | "
        f"{spread([c['cpu_seconds'] for c in done], 0)} | "
        f"{spread([c['share_of_training'] for c in done], 2)} | {', '.join(misses)} |"
    )


def percent(share: dict[str, float]) -> str:
    return f"{100 * share['share']:.2f} ({100 * share['low']:.2f}-{100 * share['high']:.2f})"


def spread(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def draw_pictures(out: Path, scale: int = 2) -> None:
    """Write one picture for each stranger and request: a row of samples for the original and each method."""
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    references, cells = read_cells(out)
    for stranger, request in references:
        rows = {"original": out / "cells" / f"{stranger}.{request}.safetensors"}
        for cell in cells:
            name = f"{stranger}.{request}.{cell['method']}.{cell['seed']}"
            file = out / "cells" / f"{name}.safetensors"
            if (cell["stranger"], cell["request"]) == (stranger, request) and file.exists():
                rows.setdefault(cell["method"], file)
        draw_grid(rows, folder / f"{stranger}-{request}.png", scale)


def draw_grid(rows: dict[str, Path], file: Path, scale: int) -> None:
    """Draw one labelled row of images for each file of samples [n, 1, h, w] in [-1, 1]."""
    strips = {name: np.concatenate(load_file(path)["x"][:, 0], 1) for name, path in rows.items()}
    height, width = next(iter(strips.values())).shape
    left, line = 190, height * scale + 4
    sheet = Image.new("L", (left + width * scale, line * len(strips)), 255)
    draw = ImageDraw.Draw(sheet)
    for number, (name, strip) in enumerate(strips.items()):
        grey = Image.fromarray((255 * np.clip((1 - strip) / 2, 0, 1)).astype(np.uint8))
        sheet.paste(
            grey.resize((width * scale, height * scale), Image.Resampling.NEAREST), (left, number * line)
        )
        draw.text((4, number * line + line // 2 - 6), name, fill=0)
    sheet.save(file)
