"""Figures hold what they are to show: photographs as they are, curves that lie on each other, densities."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import settings
from matplotlib.figure import Figure
from small import TINY

from lagvae.data import DataModule
from lagvae.data.tables import Column, Table
from lagvae.experiment import figures, sample_figures, style
from lagvae.experiment.data_picture import columns_of
from lagvae.experiment.factory import build_data, build_model
from lagvae.model import LatentVariableModel
from lagvae.pareto.figures import fronts_figure, slack_figure
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, Estimate
from lagvae.runs.metrics_table import MetricsTable


def test_images_are_dark_where_x_is_0() -> None:
    figure = Figure()
    axis = figure.subplots()
    figures._show(axis, torch.tensor([[[0.0, 0.25, 1.0, 2.0]]]))
    (shown,) = axis.images
    grey = shown.to_rgba(shown.get_array())[0, :, 0]
    np.testing.assert_allclose(grey, [0, 0.25, 1, 1], atol=1 / 255)


def test_lines_between_images_stand_out_from_dark_and_from_light_ones() -> None:
    canvas = style.tile(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 3, 3), 2)
    assert canvas.shape == (1, 3, 7)
    assert canvas[0, 0].tolist() == pytest.approx([0, 0, 0, style.LINE, 1, 1, 1])
    assert 0.3 < style.LINE < 0.7


def summary(distortion: float) -> dict[str, Any]:
    splits = {s: {"rate": 30.0 + k, "distortion": distortion + 9 * k} for k, s in enumerate(("train", "val", "test"))}
    return {"splits": splits, "constraints": {"neg_elbo": {"bound": distortion + 35}}}


def test_constraints_over_steps_have_a_legend(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "m.csv", per_epoch=10)
    for step in (10, 20):
        table.log_metrics({"train/mmd": 0.1, "train_probe/constraint/mmd": 0.2}, step)
    table.save()
    mmd = {"bound": 0.15, "nats": False, "verdict": "active", "learned": True, "satisfied": True}
    for constraints, words in (({"mmd": mmd}, [["one batch", "training data", "bound"]]), ({}, [])):
        figure = figures.constraints_over_steps(tmp_path / "m.csv", {"constraints": constraints})
        legends = [legend for axis in figure.axes if (legend := axis.get_legend()) is not None]
        assert [[text.get_text() for text in legend.get_texts()] for legend in legends] == words


def test_axes_of_rate_and_distortion_hold_the_end_of_the_path_and_not_its_start(tmp_path: Path) -> None:
    """Densities start far from where they end: here 180,000 nats, while all that counts lies within 18."""
    rows = ["step,epoch,split,name,value"]
    for k in range(20):
        for name, value in (("rate", 10.0 + k), ("distortion", -800 + 180_000 * 10.0 ** (-2 * k))):
            rows.append(f"{k},{k},train_probe,{name},{value}")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (axis,) = figures.rate_distortion(tmp_path / "m.csv", summary(-800)).axes
    low, high = axis.get_ylim()
    assert (low, high) == pytest.approx((-800 - 0.12 * 18, -782 + 0.12 * 18), abs=0.01)
    low, high = axis.get_xlim()
    assert (low, high) == pytest.approx((15 - 0.12 * 17, 32 + 0.12 * 17))


def test_curves_that_lie_on_each_other_are_drawn_side_by_side() -> None:
    alike = {"split": "train", "family": "lagvae", "gammas": [0.0, 1.0, 4.0], "counts": [1]}
    alike |= {"means": [1.0, 2.0, 3.0], "spreads": [0.1] * 3, "others": [1.0, 2.0, 3.0]}
    curves = [SimpleNamespace(alpha=alpha, **alike) for alpha in (-3, -1, -0.3, 1)]
    axis = slack_axis(curves)
    starts = [float(container.lines[0].get_xdata()[0]) for container in axis.containers]
    assert starts == pytest.approx([-0.048, 0, 0.048, 0]), "0.012 of the range of 4 apart, about γ₁ itself"


def slack_axis(curves: list[SimpleNamespace]) -> Any:
    (axis,) = slack_figure(SimpleNamespace(curves=curves, collection=SimpleNamespace(information="interval"))).axes  # type: ignore[arg-type]
    return axis


def test_the_space_between_the_ends_of_an_interval_is_filled_where_there_are_two() -> None:
    alike = {
        "split": "train",
        "family": "lagvae",
        "gammas": [0.0, 4.0],
        "counts": [1],
        "means": [1.0, 2.0],
        "spreads": [0.1] * 2,
    }
    estimate = SimpleNamespace(alpha=-1, others=[1.0, 2.0], **alike)
    interval = SimpleNamespace(alpha=-1, others=[3.0, 5.0], **alike)
    heights = []
    for curve in (estimate, interval):
        filled = [c.get_paths()[0].vertices for c in slack_axis([curve]).collections if c.get_facecolor().size]
        heights.append([sorted({float(y) for _, y in corners}) for corners in filled])
    assert heights == [[], [[1.0, 2.0, 3.0, 5.0]]]


def test_a_path_of_one_point_has_room_about_it() -> None:
    ends = {"train": {"rate": 3.0, "distortion": 20.0}, "val": {"rate": 3.0, "distortion": 21.0}}
    rates, distortions = figures.plane_ranges(ends, [(1e6, 1e6)] + [(3.0, 20.5)] * 19)
    assert rates == pytest.approx((3 - 0.12 * 0.5, 3 + 0.12 * 0.5))
    assert distortions == pytest.approx((20 - 0.12, 21 + 0.12))


@pytest.mark.parametrize(
    ("counts", "families", "title", "labels"),
    [
        ([[1, 1], [1, 1]], ["lagvae"] * 2, "training data, ± standard error", ["α = −3", "α = +0.5"]),
        ([[1, 1], [1, 2]], ["lagvae"] * 2, "training data, ± standard deviation over seeds", ["α = −3", "α = +0.5"]),
        ([[1], [1]], ["lagvae", "own"], "training data, ± standard error", ["LagVAE, α = −3", "own, α = +0.5"]),
    ],
)
def test_a_figure_of_slack_says_what_it_shows(
    counts: list[list[int]], families: list[str], title: str, labels: list[str]
) -> None:
    values = {"split": "train", "gammas": [0.0, 1.0], "means": [1.0, 2.0], "spreads": [0.1] * 2, "others": [1.0, 2.0]}
    curves = [
        SimpleNamespace(alpha=alpha, counts=count, family=family, **values)
        for alpha, count, family in zip((-3.0, 0.5), counts, families, strict=True)
    ]
    tested = SimpleNamespace(**vars(curves[0]) | {"split": "test"})
    axis = slack_axis([*curves, tested])
    assert axis.get_title(loc="left") == title
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("slack γ₁ of −ELBO (nats)", "$I_q(x;z)$ (nats)")
    (legend,) = axis.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == labels
    assert [container.lines[0].get_markerfacecolor() != "white" for container in axis.containers] == [True, False]


def run_point(seed: int, information: float, neg_elbo: float, width: float = 0.0) -> SimpleNamespace:
    lower, upper = (Estimate(information + end * width / 2, 0.1) for end in (-1, 1))
    point = SimpleNamespace(neg_elbo=Estimate(neg_elbo, 0.2), lower=lower, upper=upper)
    point.worse_end = lambda sign: lower if sign == MAXIMISE else upper
    return SimpleNamespace(seed=seed, points={"train": point, "test": point})


@pytest.mark.parametrize(("seeds", "information", "front"), [(1, "rate", "front"), (2, "interval", "fronts of 2 seeds")])
def test_a_figure_of_fronts_says_what_it_shows(seeds: int, information: str, front: str) -> None:
    runs = [run_point(seed, 2.0 + seed, 20.0 + seed, width=1.0) for seed in range(seeds)]
    fronts = {run.seed: [run] for run in runs}
    groups = [
        SimpleNamespace(family="lagvae", split=split, sign=sign, runs=runs, fronts=fronts)
        for split, sign in (("train", MAXIMISE), ("train", MINIMISE), ("test", MAXIMISE))
    ]
    collection = SimpleNamespace(families=["lagvae"], information=information, runs=runs)
    figure = fronts_figure(SimpleNamespace(groups=groups, collection=collection))  # type: ignore[arg-type]
    train, test = figure.axes
    assert [axis.get_title(loc="left") for axis in (train, test)] == ["training data", "test data"]
    assert {axis.get_xlabel() for axis in (train, test)} == {"−ELBO (nats)"}
    assert (train.get_ylabel() != "", test.get_ylabel()) == (True, "")
    assert (len(train.containers), len(test.containers)) == (2, 1)
    up, down = (container.lines[0] for container in train.containers)
    assert list(up.get_ydata()) == [1.5 + seed for seed in range(seeds)], "at the end that is optimised, here the lower one"
    assert list(down.get_ydata()) == [2.5 + seed for seed in range(seeds)]
    assert (up.get_markerfacecolor() != "white", down.get_markerfacecolor()) == (True, "white")
    (legend,) = figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert (said[0], said[-1]) == ("LagVAE", front)
    faces = {label: line.get_markerfacecolor() for label, line in zip(said, legend.get_lines(), strict=True)}
    assert [face != "white" for label, face in faces.items() if label.startswith("α")] == [True, False]
    assert [text[:5] for text in said if text.startswith("α")] == ["α < 0", "α > 0"]
    assert any(text.startswith("interval for I") for text in said) == (information == "interval")


def drawn_of(tmp_path: Path, **arrays: np.ndarray) -> tuple[DataModule, LatentVariableModel]:
    """Data of arrays, and an untrained model of them."""
    np.savez(tmp_path / "x.npz", **arrays)
    cfg = settings(tmp_path, *TINY, "data=array", f"data.source.path={tmp_path / 'x.npz'}", "family=vae", "data.batch=20")
    data = build_data(cfg)
    return data, build_model(cfg, data, None).eval()


def test_series_are_lines_beside_samples_and_their_reconstructions(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(400, 12, 2)).astype(np.float32)
    data, model = drawn_of(tmp_path, x=x)
    figures_of = sample_figures.series_figures(model, data)
    assert set(figures_of) == {"samples", "reconstructions"}
    test = data.first_samples("test", 8)
    above, below = figures_of["samples"].axes[0], figures_of["samples"].axes[4]
    np.testing.assert_allclose([line.get_ydata() for line in above.lines], test[0].mT)
    np.testing.assert_allclose([line.get_ydata() for line in below.lines], model.sample(4, means=True)[0].mT, rtol=1e-5)
    lines = figures_of["reconstructions"].axes[5].lines
    np.testing.assert_allclose([line.get_ydata() for line in lines[:2]], test[5].mT)
    np.testing.assert_allclose([line.get_ydata() for line in lines[2:]], model.reconstruct(test)[5].mT, rtol=1e-5)
    assert [line.get_color() for line in lines[:2]] == [line.get_color() for line in lines[2:]]
    assert lines[0].get_linestyle() != lines[2].get_linestyle()


def test_series_with_their_steps_last_are_lines_over_the_steps(tmp_path: Path) -> None:
    data, model = drawn_of(tmp_path, x=np.random.default_rng(0).normal(size=(400, 2, 12)).astype(np.float32))
    test = data.first_samples("test", 8)
    for figure in sample_figures.series_figures(model, data).values():
        np.testing.assert_allclose([line.get_ydata() for line in figure.axes[0].lines[:2]], test[0])


ARRAYS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "alpha": ((4, 8, 8), (3, 8, 8)),
    "two channels": ((2, 8, 8), (1, 8, 8)),
    "volume": ((9, 8, 8), (1, 8, 8)),
    "volume with a channel": ((1, 9, 8, 8), (1, 8, 8)),
    "video": ((5, 3, 8, 8), (3, 8, 8)),
    "video with channels last": ((5, 8, 8, 3), (3, 8, 8)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_all_that_has_images_in_it_is_drawn_as_images(tmp_path: Path, kind: str) -> None:
    shape, image = ARRAYS[kind]
    data, model = drawn_of(tmp_path, x=np.random.default_rng(0).random((400, *shape)).astype(np.float32))
    summary = {"splits": {"train": {}}, "constraints": {}, "alpha": {"q": 0.0}}
    files = figures.draw_run(tmp_path, data, model, summary, tmp_path / "none.csv")
    assert {file.stem for file in files} == {"samples", "reconstructions", "traversal", "latent"}
    assert figures.Pictures(data)(data.first_samples("test", 3)).shape == (3, *image)


@pytest.mark.parametrize("standardize", [False, True])
def test_images_beyond_0_and_1_are_dark_where_they_are(tmp_path: Path, standardize: bool) -> None:
    """Levels 0 … 255 that were saved as numbers, and those in standard deviations from the mean of a pixel."""
    x = np.random.default_rng(0).integers(0, 256, (400, 1, 8, 8))
    x[:20] = np.array([0, 255])[np.arange(20) % 2].reshape(20, 1, 1, 1)
    np.savez(tmp_path / "x.npz", x=x)
    words = [f"data.source.path={tmp_path / 'x.npz'}", f"data.standardize={standardize}", "data.batch=20"]
    data = build_data(settings(tmp_path, *TINY, "data=array", "family=vae", *words))
    show = figures.Pictures(data)
    np.testing.assert_allclose(show(data.first_samples("test", 8)), x[data.split["test"][:8]] / 255, atol=1e-5)
    assert show.said == "\nblack is 0, white 255"


def test_columns_are_drawn_with_their_own_frequencies_in_data_and_samples() -> None:
    number, other = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    kinds, made = torch.eye(3)[[0, 0, 2, 1]], torch.eye(3)[[1, 1]]
    x, samples = {"size": number, "kind": kinds}, {"size": other, "kind": made}
    figure, many = (
        sample_figures.marginals(x, samples, Table((Column("size"), Column("kind", called))))
        for called in (("east", "north and south", "west"), ("one name", "two names", "three names"))
    )
    size, kind = figure.axes
    assert [label.get_text() for label in kind.get_xticklabels()] == ["east", "north a…", "west"]
    assert many.axes[1].get_xlabel() == "3 categories"
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["size", "kind"]
    heights = [bar.get_height() for bar in kind.patches]
    assert heights == pytest.approx([0.5, 0.25, 0.25, 0, 1, 0])
    first, last = size.patches[0], size.patches[2]  # of the data; two values of three are in the first bin
    assert first.get_height() == pytest.approx(2 * last.get_height())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["test data", "samples"]


def test_tables_are_drawn_beside_samples_and_not_beside_their_means(tmp_path: Path) -> None:
    """All means are 0 here, and samples differ from them."""
    (tmp_path / "x.csv").write_text("a,b\n" + "".join(f"{k % 7 - 3.5},{k % 5 + 0.5}\n" for k in range(400)))
    data = build_data(settings(tmp_path, *TINY, "data=table", f"data.source.path={tmp_path / 'x.csv'}", "data.batch=8"))
    drawn = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    model: Any = SimpleNamespace(
        eval_model=SimpleNamespace(prior=None),
        sample=lambda n, means: torch.zeros(n, 2) if means else drawn[torch.arange(n) % len(drawn)],
    )
    found = sample_figures.table_figures(model, data)
    heights = found["marginals"].axes[0].patches[-1].get_path().vertices[:, 1]  # of the outline of the samples
    assert (heights > 0).sum() > 10, "the means would all be in one bin"


def test_correlations_are_those_of_the_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(50, 1, generator=generator)
    figure = sample_figures.correlations({"a": a, "b": -a}, {"a": a, "b": torch.randn(50, 1, generator=generator)})
    (data,), (samples,) = figure.axes[0].images, figure.axes[1].images
    np.testing.assert_allclose(data.get_array(), [[1, -1], [-1, 1]], atol=1e-6)
    assert abs(float(samples.get_array()[0, 1])) < 0.6  # of independent columns; 4 standard errors of 1/√50
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_columns_with_gaps_are_drawn_without_them() -> None:
    table = Table((Column("age"), Column("income", missing=True), Column("sex", ("f", "m"))))
    x = torch.tensor([[1.0, 5.0, 1.0, 0.0, 1.0], [2.0, 0.0, 0.0, 1.0, 0.0]])
    columns = {name: rows.tolist() for name, rows in columns_of(x, table).items()}
    assert columns == {"age": [[1], [2]], "income": [[5]], "sex": [[1, 0], [0, 1]]}


@pytest.mark.parametrize("labelled", [True, False])
def test_codes_are_drawn_where_they_are_with_their_labels(tmp_path: Path, labelled: bool) -> None:
    generator = np.random.default_rng(0)
    arrays = {"x": generator.normal(size=(400, 5)).astype(np.float32)} | (
        {"y": generator.integers(0, 3, 400)} if labelled else {}
    )
    data, model = drawn_of(tmp_path, **arrays)
    with torch.no_grad():
        figure = sample_figures.codes_plane(model, data)
    assert figure is not None
    z = model.encode(data.first_samples("test", 10**6))
    units = z.var(0).argsort(descending=True)[:2]
    (axis,) = figure.axes
    assert axis.get_xlabel() == f"z[{int(units[0])}]"
    groups = [np.asarray(group.get_offsets()) for group in axis.collections]
    known = data.labels("test")
    expected = [z[:, units]] if known is None else [z[known == k][:, units] for k in range(3)]
    for group, codes in zip(groups, expected, strict=True):
        np.testing.assert_allclose(group, codes, rtol=1e-5)


def test_a_run_draws_the_figures_that_suit_its_data(tmp_path: Path) -> None:
    data, model = drawn_of(tmp_path, x=np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32))
    summary = {"splits": {"train": {}}, "constraints": {}, "alpha": {"q": 0.0}}
    files = figures.draw_run(tmp_path, data, model, summary, tmp_path / "none.csv")
    assert {file.stem for file in files} == {"marginals", "correlations", "latent"}
    assert all(file.stem in figures.CAPTIONS for file in files)
