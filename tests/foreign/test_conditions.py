"""Conditions in a specification: embeddings from a safetensors file, names from a text file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.commands.cli import main
from unflow.foreign import load_model
from unflow.ground.errors import InputError
from unflow.ground.files import read_json, write_tensors
from unflow.ground.streams import stream
from unflow.models import Conditional

HERE = __name__
PROMPTS = ["a car", "a truck", "a cat, asleep"]
LEVELS = torch.tensor([-0.8, 0.0, 0.8, 0.4])
"""Of the images of each prompt, and of the null condition."""


class Reads(nn.Module):
    """Images whose level is the mean of a prompt's tokens: [batch, tokens, 2] or [batch, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        *times, rows = rest
        level = rows.flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))
        if times:  # the velocity of x_1 = level + scale x_0 in one step
            return level + (self.scale - 1) * x
        return (level + self.scale * x).reshape(-1, 1, 4, 4)


def build() -> nn.Module:
    return Reads()


GENERATOR = f"generator:{HERE}:build,prior=normal:16,call=z/label,range=-1:1"
FLOW = f"flow:{HERE}:build,shape=1x4x4,call=x/t/label,integrator=euler,steps=1,range=any"


def write(folder: Path, levels: Tensor = LEVELS, names: list[str] | None = None, tokens: int = 3) -> str:
    """Write both files and return the options that name them; every token of a prompt differs."""
    spread = torch.linspace(-0.1, 0.1, 2 * tokens).reshape(tokens, 2)
    table = levels[:, None, None] + spread
    write_tensors(folder / "prompts.safetensors", {"embeddings": table.squeeze(1)})
    lines = [*PROMPTS, "null"] if names is None else names
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f",table={folder}/prompts.safetensors,names={folder}/prompts.txt"


@pytest.mark.parametrize("tokens", [1, 3], ids=["one vector", "several vectors"])
@pytest.mark.parametrize("line", [GENERATOR, FLOW], ids=["generator", "flow"])
def test_a_prompt_draws_what_its_row_of_the_table_draws(line: str, tokens: int, tmp_path: Path) -> None:
    model = load_model(line + write(tmp_path, tokens=tokens))
    assert isinstance(model, Conditional)
    assert (model.names, model.null, model.drawn) == (tuple(PROMPTS), 3, [0, 1, 2])
    for k, name in enumerate([*PROMPTS, "null"]):
        x = model.sample(200, stream(0), label=name)
        assert float(x.mean()) == pytest.approx(float(LEVELS[k]), abs=0.01)
        assert torch.equal(x, model.sample(200, stream(0), label=k))


def test_guidance_extrapolates_between_the_rows(tmp_path: Path) -> None:
    model = load_model(FLOW + write(tmp_path))
    x = model.sample(200, stream(0), label="a car", guidance=2.0)
    assert float(x.mean()) == pytest.approx(float(2 * LEVELS[0] - LEVELS[3]), abs=0.01)


def test_the_shell_forgets_a_prompt_and_asks_for_it_by_name(tmp_path: Path) -> None:
    line, after = GENERATOR + write(tmp_path), str(tmp_path / "after")
    words = ["unlearn", "--model", line, "--energy", "prompt:a car", "--replace", "prompt:a truck"]
    small = ["--settings.steps", "60", "--settings.learning_rate", "0.01", "--settings.bank_size", "256"]
    own = ["--method", "latent_transport", *small, "--out", after]
    assert main([*words, *own]) == 0
    request = read_json(Path(after) / "lineage.json")["request"]
    assert (request["words"], request["replace"]) == ("label 0, whatever it draws", "prompt:a truck")
    found = {}
    for label in (
        ["--prompt", "a truck"],
        ["--label", "1"],
        ["--label", "a truck"],
        ["--prompt", PROMPTS[2]],
    ):
        out = tmp_path / "-".join(label).replace(" ", "-")
        assert main(["sample", after, *label, "--n", "50", "--out", str(out), "--trust_code", "true"]) == 0
        found[" ".join(label)] = np.load(out / "samples.npz")["x"]
    assert np.array_equal(found["--prompt a truck"], found["--label 1"])
    assert np.array_equal(found["--label a truck"], found["--label 1"])
    assert found[f"--prompt {PROMPTS[2]}"].mean() > found["--label 1"].mean() + 0.2
    target = uf.Target(load_model(line), uf.energies.ConditionEnergy([0]), replace="prompt:a truck")
    exact = target.sample(200, stream(1), label="a car").x
    assert float(exact.mean()) == pytest.approx(float(LEVELS[1]), abs=0.01)


def test_names_need_no_table(tmp_path: Path) -> None:
    """Without one, the network reads the number of each name."""
    names = tmp_path / "classes.txt"
    names.write_text("zero\none\n", encoding="utf-8")
    line = f"generator:{HERE}:count,prior=normal:16,call=z/label,range=-1:1,names={names}"
    model = load_model(line)
    assert float(model.sample(50, stream(0), label="one").mean()) == pytest.approx(0.5, abs=0.05)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, z: Tensor, k: Tensor) -> Tensor:
        return (k.to(z)[:, None] / 2 + self.scale * z).reshape(-1, 1, 4, 4)


def count() -> nn.Module:
    return Counts()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "names",
            "got a table of 4 rows for .*; expected 3: one for each of 2 conditions and a row of the null",
        ),
        ("null", "got null=3 for .*, whose names end in null; expected one of them"),
        ("twice", "got the name 'a car' twice; expected another name for each condition"),
        ("empty", "prompts.txt has an empty line 2; expected a name in each line"),
        ("no line", "prompts.txt has no line; expected a name in each line"),
        ("missing", "gone.txt is missing; expected a text file with a name in each line"),
        ("binary", "prompts.txt is no text in UTF-8"),
        ("fixed", "got label=1 with names for .*; expected the number of classes"),
        ("one_hot", "got table and one_hot for .*; expected one of them"),
        ("two tensors", "holds 2 tensors; expected one, the embeddings of all conditions"),
        ("one axis", r"holds a tensor \[4\] of torch.float32; expected finite numbers \[n, ...\]"),
        ("not finite", "expected finite numbers"),
        ("pickle", "prompts.safetensors is a pickle or damaged"),
    ],
)
def test_conditions_that_contradict_each_other_are_refused(change: str, words: str, tmp_path: Path) -> None:
    names = {
        "names": ["a", "b", "null"],
        "twice": ["a car", "a car", "c", "null"],
        "empty": ["a", "", "null"],
    }
    options = write(tmp_path, names=names.get(change, [] if change == "no line" else None))
    if change == "no line":
        (tmp_path / "prompts.txt").write_text("")
    if change == "binary":
        (tmp_path / "prompts.txt").write_bytes(b"\xff\xfe\n")
    options += {"null": ",null=3", "fixed": ",label=1", "one_hot": ",one_hot=true"}.get(change, "")
    options = options.replace("prompts.txt", "gone.txt") if change == "missing" else options
    tables = {
        "two tensors": {"a": torch.ones(4, 2), "b": torch.ones(4, 2)},
        "one axis": {"a": torch.ones(4)},
        "not finite": {"a": torch.full((4, 2), torch.nan)},
    }
    if change in tables:
        write_tensors(tmp_path / "prompts.safetensors", tables[change])
    if change == "pickle":
        torch.save(torch.ones(4, 2), tmp_path / "prompts.safetensors")
    with pytest.raises(InputError, match=words) as refused:
        load_model(GENERATOR + options)
    assert "\n" not in str(refused.value)
