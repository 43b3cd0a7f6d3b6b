"""Figures hold what they are to show: photographs as they are, curves that lie on each other, densities."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lagvae.experiment import figures, style
from lagvae.pareto.figures import fronts_figure, slack_figure
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, Estimate


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
    assert [text[:5] for text in said if text.startswith("α")] == ["α < 0", "α > 0"]
    assert any(text.startswith("interval for I") for text in said) == (information == "interval")
