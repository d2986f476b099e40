"""The benchmark of strangers: its measures have the values of small examples, and a run can be continued."""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import strangers
import torch
import tuning
from sklearn.datasets import load_digits
from strangers_measures import floor_of, list_failures
from third_party import classifiers, data, mean_flow, scores, training, vae

THIRD_PARTY = Path(training.__file__).parent


def write_idx(path: Path, values: np.ndarray) -> None:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    path.write_bytes(head + values.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scikit-learn's digits, enlarged to 28 x 28, as the four files of MNIST."""
    folder = tmp_path_factory.mktemp("digits")
    found = load_digits()
    images = np.kron(found.images / 16 * 255, np.ones((3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    for part, rows in (("train", slice(0, 900)), ("t10k", slice(900, 1100))):
        write_idx(folder / f"{part}-images-idx3-ubyte", images[rows])
        write_idx(folder / f"{part}-labels-idx1-ubyte", found.target[rows])
    return folder


def test_the_third_party_modules_import_nothing_of_unflow() -> None:
    for file in THIRD_PARTY.glob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert names or file.name == "__init__.py"
        assert not [name for name in names if name.split(".")[0] == "unflow"], file


def test_the_halves_share_no_image_and_make_up_the_training_part(folder: Path) -> None:
    every, _ = data.load_part(folder, "train")
    first, second = (data.load_half(folder, half)[0] for half in (0, 1))
    assert torch.equal(torch.stack([first, second], 1).flatten(0, 1), every)


def test_unbalanced_weights_give_a_digit_its_share() -> None:
    labels = torch.tensor([3, 3, 1, 2, 4, 4, 4])
    weights = data.unbalance(labels, 3, 1 / 3)
    assert float(weights[labels == 3].sum() / weights.sum()) == pytest.approx(1 / 3)


@pytest.mark.parametrize("width", [2, 3, 5])
def test_the_stroke_width_of_a_long_bar_is_its_width(width: int) -> None:
    images = -np.ones((1, 1, 28, 28))
    images[0, 0, 2:26, 10 : 10 + width] = 1
    assert scores.stroke_width(images)[0] == pytest.approx(width, rel=0.25)


def test_one_step_of_the_mean_flow_draws_images_from_minus_one_to_one() -> None:
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = mean_flow.train(torch.rand(50, 28, 28, generator=rng), torch.zeros(50), steps=3)
    e, end, start = torch.randn(20, 1, 28, 28, generator=rng), torch.zeros(20), torch.ones(20)
    with torch.no_grad():
        x = e - net(e, end, start)
    assert e.abs().max() > 3
    assert x.abs().max() <= 1 + 1e-5


def test_the_floor_of_equal_sets_is_zero_and_grows_with_their_distance() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    mean, sd = floor_of([x, x.flip(0), x])
    assert mean == pytest.approx(0, abs=1e-6)
    assert sd == pytest.approx(0, abs=1e-6)
    assert floor_of([x, x + 1, x])[0] == pytest.approx(8 / 3, rel=1e-3)


def test_each_bound_that_a_row_misses_is_named() -> None:
    facts = {
        "target": {"share": 0.01},
        "floors": {"judge": (1.0, 0.1)},
        "original_distance": {"judge": 100.0},
        "agreement": 0.95,
    }
    good = {
        "left": {"share": 0.014},
        "distance": {"judge": 4.9},
        "sharpness": 0.98,
        "kept": 0.94,
        "share_of_training": 0.2,
    }
    bad = {
        "left": {"share": 0.016},
        "distance": {"judge": 5.1},
        "sharpness": 0.96,
        "kept": 0.92,
        "share_of_training": 0.3,
    }
    names = ["forgotten", "distance", "sharpness", "kept", "seconds"]
    assert list_failures(good, facts, is_flow=False) == []
    assert list_failures(bad, facts, is_flow=False) == names
    assert list_failures(good, facts, is_flow=True) == ["distance"]
    for key, name in zip(bad, names, strict=True):
        assert list_failures(good | {key: bad[key]}, facts, is_flow=False) == [name]


def train_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, train in {
        "vae": functools.partial(vae.train, epochs=10),
        "guide": functools.partial(classifiers.train_guide, epochs=4),
        "judge": functools.partial(classifiers.train_judge, epochs=5),
        "autoencoder": functools.partial(classifiers.train_autoencoder, epochs=1),
    }.items():
        recipe = training.RECIPES[name]
        monkeypatch.setitem(
            training.RECIPES,
            name,
            training.Recipe(train, recipe.line, recipe.half, recipe.kind, recipe.dataset),
        )


def test_a_finished_cell_is_not_run_again_and_a_refusal_is_a_row(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_briefly(monkeypatch)
    tuned = tmp_path / "tuned.json"
    tuned.write_text(json.dumps({"vae": {"latent_transport": {"steps": 3, "bank_size": 1024}}}))
    words = ["--data", str(folder), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    words += ["--strangers", "vae", "--requests", "common", "--seeds", "1", "--n", "200"]
    words += ["--methods", "latent_transport", "erfm_resample_prior", "--tuned", str(tuned)]
    monkeypatch.setattr("sys.argv", ["strangers.py", *words])
    threads = torch.get_num_threads()
    try:
        strangers.main()
        first = capsys.readouterr()
        assert first.err.count("seed 1") == 2
        strangers.main()
        again = capsys.readouterr()
    finally:
        torch.set_num_threads(threads)
    assert "seed 1" not in again.err
    assert again.out == first.out
    cells = json.loads((tmp_path / "out" / "table.json").read_text())["cells"]
    done = next(cell for cell in cells if cell["method"] == "latent_transport")
    assert 0 <= done["left"]["low"] <= done["left"]["share"] <= done["left"]["high"] <= 1
    assert done["share_of_training"] > 0
    assert [cell["method"] for cell in cells if "refused" in cell] == ["erfm_resample_prior"]
    assert "| `erfm_resample_prior` | InputError: " in first.out
    assert (tmp_path / "out" / "pictures" / "vae-common.png").exists()


def cell_of(left: float, distance: float) -> dict[str, float]:
    return {"left": left, "distance": distance}


def test_the_choice_is_the_nearest_setting_that_forgets_else_the_nearest_of_all() -> None:
    facts = {"target": 0.01, "original_distance": 20.0}
    still, good, better = cell_of(0.1, 1.0), cell_of(0.0149, 19.0), cell_of(0.0, 12.0)
    destroyed, failed = cell_of(0.0, 21.0), {"error": "TrainingDivergedError"}
    rank = functools.partial(tuning.rank_cells, facts=facts)
    assert rank([destroyed, still, failed, good, better]) == [better, good, still, destroyed]
    assert rank([destroyed, failed, still]) == [still, destroyed]
    assert rank([failed]) == []


def test_a_grid_has_every_product_of_rates_and_knobs() -> None:
    pairs = tuning.list_pairs("saliency", 0.05, (0.01, 0.02))
    assert len(pairs) == len({tuple(pair.values()) for pair in pairs}) == 2 * 2 * 2
    assert {pair["learning_rate"] for pair in pairs} == {0.0005, 0.001}
    assert tuning.list_pairs("gradient_ascent", 0.05, (0.01,)) == [{"learning_rate": 0.0005}]


def test_a_grid_is_continued_and_its_choice_is_read_by_the_benchmark(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_briefly(monkeypatch)
    words = ["--data", str(folder), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    words += ["--strangers", "vae", "--methods", "gradient_ascent", "--budgets", "quarter", "--n", "300"]
    monkeypatch.setattr("sys.argv", ["tuning.py", *words, "--rungs", "2"])
    threads = torch.get_num_threads()
    try:
        tuning.main()
        first = capsys.readouterr()
        tuning.main()
        again = capsys.readouterr()
    finally:
        torch.set_num_threads(threads)
    assert first.err.count("vae, gradient_ascent, quarter") == 3 + 1  # the best third goes on
    assert "gradient_ascent, quarter" not in again.err
    assert again.out == first.out == (tmp_path / "out" / "grid.md").read_text() + "\n"
    grid = json.loads((tmp_path / "out" / "grid.json").read_text())
    (target,), cells = grid["targets"], grid["cells"]
    assert len(cells) == 3 + 1 + 1  # the defaults
    assert all(0 <= cell["left"] <= 1 and cell["distance"] >= 0 for cell in cells)
    chosen = json.loads((tmp_path / "out" / "tuned.json").read_text())["vae"]["gradient_ascent"]
    assert chosen == tuning.rank_cells(cells, target)[0]["settings"]
    stranger = strangers.Stranger("vae", None, None, tmp_path, 300)  # type: ignore[arg-type]  # only its name is read
    method = strangers.choose_method(stranger, "gradient_ascent", {"vae": {"gradient_ascent": chosen}})
    assert {name: getattr(method, name) for name in chosen} == chosen
