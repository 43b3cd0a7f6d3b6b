"""Figures of a run: samples, reconstructions, codes, a traversal; multipliers and constraints over training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lagvae.data import DataModule
from lagvae.distributions import CodesPrior, EmpiricalPrior, GaussianEncoder, mean_of
from lagvae.experiment import sample_figures
from lagvae.experiment.data_picture import as_images, range_of
from lagvae.experiment.report import verdict_in_words
from lagvae.experiment.style import BLUE, GREEN, GREY, ORANGE, RED, STYLE, as_picture, tile
from lagvae.io import write_atomically
from lagvae.model import LatentVariableModel
from lagvae.noise import Noise
from lagvae.runs.metrics_table import read_series

EARLY = 4
"""The axes hold the path of training but for its first quarter: densities may start thousands of nats from where they end."""

CAPTIONS = {
    "samples": "Means of p(x|z) at samples of the prior",
    "reconstructions": "Test samples and their reconstructions",
    "marginals": "The values of each column, in test data and in samples",
    "correlations": "Correlations of columns, in test data and in samples",
    "latent": "Mean codes of test samples in the plane of the two coordinates that vary most",
    "codes": "Samples, a row for each value of the first code",
    "translations": "Test samples, their translations, their true partners, and these translated back",
    "traversal": "Decoded images as one coordinate of the code varies, a row for each coordinate",
    "constraints": "Each divergence over the training steps, with its bound",
    "multipliers": "Each learned λ and the violation of its constraint over the training steps",
    "rate_distortion": "The path of training in the plane of rate and distortion",
}
"""Figure → its caption on a page, and in its file, where loggers find it."""


def draw_run(
    folder: Path, data: DataModule, model: LatentVariableModel, summary: Mapping[str, Any], metrics: Path
) -> list[Path]:
    """Draw every figure that suits the data and the model, and return the files."""
    figures: dict[str, Figure] = {}
    with matplotlib.rc_context(STYLE), torch.no_grad():
        x = data.first_samples("test", 20, model.device)
        if are_images(data):
            show = Pictures(data)
            figures["samples"] = samples(model, x, summary["alpha"]["q"], show)
            figures["reconstructions"] = reconstructions(model, x, show)
            if isinstance(model.eval_model.encoder, GaussianEncoder):
                figures["traversal"] = traversal(model, x, show)
            if isinstance(model.eval_model.prior, CodesPrior) and model.eval_model.prior.categorical:
                figures["codes"] = codes(model, x, show)
            partners = data.second("test")
            if isinstance(model.eval_model.prior, EmpiricalPrior) and partners is not None:
                figures["translations"] = translations(model, x, partners[: len(x)].to(x.device), show)
        elif len(data.shape) == 2:
            figures |= sample_figures.series_figures(model, data)
        elif len(data.shape) == 1:
            figures |= sample_figures.table_figures(model, data)
        if (plane := sample_figures.codes_plane(model, data)) is not None:
            figures["latent"] = plane
        if metrics.is_file():
            figures["constraints"] = constraints_over_steps(metrics, summary)
            if any(c["learned"] for c in summary["constraints"].values()):
                figures["multipliers"] = multipliers_over_steps(metrics, summary)
        if all("neg_elbo" in values for values in summary["splits"].values()):
            figures["rate_distortion"] = rate_distortion(metrics, summary)
        files = []
        for name, figure in figures.items():
            path = folder / f"{name}.png"
            said = {"Description": CAPTIONS[name]}
            write_atomically(path, partial(figure.savefig, bbox_inches="tight", metadata=said))
            files.append(path)
    return files


def are_images(data: DataModule) -> bool:
    """Whether samples are drawn as images: images of any channels, volumes and videos."""
    return len(data.shape) > 2


class Pictures:
    """Samples, and means of p(x|z), (N, *shape), as images (N, C, H, W) in the units of the data, where black is 0 and white 1.

    Values of data that leave [0, 1] are black where they are least, and white where they are largest.

    Attributes:
        said: what a title says of it, as a line of its own.
    """

    def __init__(self, data: DataModule) -> None:
        self.units = data.standardization
        low, high = range_of(data)
        beyond = low < 0 or high > 1
        self.low, self.high = (low, high) if beyond and low < high else (0.0, 1.0)
        words = as_images(torch.zeros(1, *data.shape))[1]
        words += f"; black is {self.low:.3g}, white {self.high:.3g}" if beyond else ""
        self.said = words and "\n" + words.lstrip(",; ")

    def __call__(self, x: Tensor) -> Tensor:
        """The images, float32."""
        x = x if self.units is None else self.units.undo(x)
        return as_images((x.float() - self.low) / (self.high - self.low))[0]


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(axis: Axes, picture: Tensor) -> None:
    """Show one image (C, H, W) with values in [0, 1], where 0 is dark."""
    axis.imshow(as_picture(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_axis_off()


def samples(model: LatentVariableModel, x: Tensor, alpha: float, show: Pictures) -> Figure:
    """The means of p(x|z) at 100 samples of the prior, of a run with the preference alpha."""
    prior = model.eval_model.prior
    noise = Noise(model.seed, "figures")
    draw = noise.normal if prior.noise_kind == "normal" else noise.uniform
    z = prior.sample(draw("samples", 0, (100, *prior.noise_shape), x.device))
    figure, axes = _figure(4.6, 4.9)
    _show(axes[0, 0], tile(show(mean_of(model.eval_model.decoder(z))), 10))
    goal = f"{alpha:+g}" if alpha else "0"
    axes[0, 0].set_title(f"Samples: E[x|z], z ∼ p(z); α = {goal}{show.said}".replace("-", "−"), loc="left")
    return figure


def reconstructions(model: LatentVariableModel, x: Tensor, show: Pictures) -> Figure:
    """Test samples as the model observes them, above the means of p(x|z) at z ∼ q(z|x)."""
    x = x[: len(x) // 2 * 2]
    encoder = model.eval_model.encoder
    stream = Noise(model.seed, "figures")
    draw = stream.normal if encoder.noise_kind == "normal" else stream.uniform
    noise = draw("reconstructions", 0, (len(x), *encoder.noise_shape), x.device)
    means = mean_of(model.eval_model.decoder(encoder.sample(encoder(x), noise)))
    half = len(x) // 2
    rows = torch.cat([x[:half], means[:half], x[half:], means[half:]])
    figure, axes = _figure(5.2, 2.5)
    _show(axes[0, 0], tile(show(rows), half))
    axes[0, 0].set_title(f"Test data (rows 1, 3) and reconstructions (rows 2, 4){show.said}", loc="left")
    return figure


def codes(model: LatentVariableModel, x: Tensor, show: Pictures, columns: int = 12) -> Figure:
    """One row per value of the first categorical code; along a column all other codes and the noise are the same."""
    prior = model.eval_model.prior
    k = prior.categorical[0]
    noise = Noise(model.seed, "figures").uniform("codes", 0, (columns, *prior.noise_shape), x.device).repeat(k, 1)
    noise[:, 0] = (torch.arange(k, device=x.device).repeat_interleave(columns) + 0.5) / k
    figure, axes = _figure(5.0, 0.42 * k + 0.4)
    _show(axes[0, 0], tile(show(mean_of(model.eval_model.decoder(prior.sample(noise)))), columns))
    axes[0, 0].set_title("Codes: one value per row, the same noise in each column", loc="left")
    return figure


def translations(model: LatentVariableModel, x: Tensor, partners: Tensor, show: Pictures, columns: int = 10) -> Figure:
    """Test samples, their translations, their true partners, and the partners translated back to the first domain."""
    x, partners = x[:columns], partners[:columns]
    to_z = mean_of(model.eval_model.encoder(x)).reshape(partners.shape)
    to_x = mean_of(model.eval_model.decoder(partners.flatten(1)))
    figure, axes = _figure(5.2, 2.6)
    _show(axes[0, 0], tile(show(torch.cat([x, to_z, partners, to_x])), columns))
    axes[0, 0].set_title("x, its translation E[z|x], the true partner z, its translation E[x|z]", loc="left")
    return figure


@dataclass(frozen=True)
class Traversal:
    """What becomes of samples when one coordinate of their codes is set to other values.

    Attributes:
        units: coordinate → its rate in nats, the largest first. values: what it is set to, (T,).
        images: the means of p(x|z) as images, (units, T, samples, C, H, W).
    """

    units: dict[int, float]
    values: Tensor
    images: Tensor

    @property
    def labels(self) -> list[str]:
        """The units with their shares of the rate."""
        return [f"z[{k}]: {rate:.1f} nats" for k, rate in self.units.items()]


def traverse(
    model: LatentVariableModel, x: Tensor, n: int, show: Pictures, most: int = 8, steps: int = 9, span: float = 2.5
) -> Traversal:
    """The decoded images of the codes of the first n samples as single coordinates vary over ±`span`.

    Args:
        x: samples, over which the rate of each coordinate is averaged. most: the largest number of coordinates.
    """
    base = model.eval_model.encoder(x).base_dist
    rate = (base.loc.square() + base.scale.square() - 1 - 2 * base.scale.log()).mean(0) / 2
    order = rate.argsort(descending=True)[: min(most, model.eval_model.latent)]
    grid = torch.linspace(-span, span, steps, device=x.device)
    z = base.loc[:n].repeat(len(order), steps, 1, 1)
    for row, k in enumerate(order.tolist()):
        z[row, :, :, k] = grid[:, None]
    images = show(mean_of(model.eval_model.decoder(z.flatten(0, 2))))
    return Traversal({k: float(rate[k]) for k in order.tolist()}, grid, images.reshape(*z.shape[:3], *images.shape[1:]))


def traversal(model: LatentVariableModel, x: Tensor, show: Pictures) -> Figure:
    """The decoded images of one latent code as a single coordinate varies, the coordinates ordered by rate."""
    found = traverse(model, x, 1, show)
    rows, steps = len(found.units), len(found.values)
    figure, axes = _figure(5.2, 0.55 * rows + 0.9)
    axis = axes[0, 0]
    _show(axis, tile(found.images.flatten(0, 2), steps))
    axis.set_axis_on()
    axis.grid(False)
    axis.spines[:].set_visible(False)
    height, width = found.images.shape[-2] + 1, found.images.shape[-1] + 1
    axis.set_yticks([(r + 0.5) * height - 1 for r in range(rows)], found.labels)
    axis.set_xticks([(k + 0.5) * width - 1 for k in range(steps)], [f"{v:+.1f}" for v in found.values.tolist()])
    axis.tick_params(length=0)
    axis.set_title("Traversal: one coordinate at a time, with its share of the rate", loc="left")
    return figure


def running_mean(values: list[float], window: int) -> list[float]:
    """The mean of the last `window` values, at every place."""
    padded = torch.tensor(values, dtype=torch.float64).reshape(1, 1, -1)
    window = max(1, min(window, len(values)))
    padded = torch.nn.functional.pad(padded, (window - 1, 0), mode="replicate")
    mean: list[float] = torch.nn.functional.avg_pool1d(padded, window, stride=1).flatten().tolist()
    return mean


def _margined(values: Sequence[float], share: float, least: float = 0.0) -> tuple[float, float]:
    """The range of some values, wider on both sides by a share of it, or of `least`."""
    margin = share * (max(max(values) - min(values), least) or 1.0)
    return min(values) - margin, max(values) + margin


def shown_range(values: Sequence[float], bound: float | None) -> tuple[float, float]:
    """The range of an axis for a divergence over the steps, without the outliers of single batches and of the start."""
    ordered = sorted(values)
    ends = [ordered[len(ordered) // 100], ordered[-1 - len(ordered) // 20]]
    return _margined([*ends, *([] if bound is None else [bound])], 0.15)


def plane_ranges(
    splits: Mapping[str, Mapping[str, float]], path: Sequence[tuple[float, float]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ranges of the axes of rate and of distortion, which hold the path of training but for its start.

    Args:
        splits: the values at the end, which are held with their errors. path: (rate, distortion) during training.
    """
    names = ("rate", "distortion")
    ends = [[v[name] + by * v.get(f"{name}_stderr", 0.0) for name in names] for v in splits.values() for by in (-1, 1)]
    shown = [*ends, *path[len(path) // EARLY :]]
    rates, distortions = zip(*shown, strict=True)
    return _margined(rates, 0.12, 0.5), _margined(distortions, 0.12, 0.5)


def crosses(bound: float | None, rates: tuple[float, float], distortions: tuple[float, float]) -> bool:
    """Whether the line on which −ELBO, the sum of rate and distortion, is at its bound is seen in these ranges."""
    return bound is not None and rates[0] + distortions[0] < bound < rates[1] + distortions[1]


def _unit(constraint: Mapping[str, Any]) -> str:
    return "nats" if constraint["nats"] else "no unit"


def constraints_over_steps(metrics: Path, summary: Mapping[str, Any]) -> Figure:
    """Each divergence over the training steps, with its bound."""
    constraints = summary["constraints"]
    figure, axes = _figure(3.6 * max(1, len(constraints)), 2.8, columns=max(1, len(constraints)))
    batch = read_series(metrics, "train", constraints)
    evaluated = read_series(metrics, "train_probe", [f"constraint/{n}" for n in constraints])
    for axis, (name, c) in zip(axes[0], constraints.items(), strict=False):
        steps, values = batch[name]
        if values:
            axis.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.7, label="one batch")
            axis.plot(
                *evaluated[f"constraint/{name}"], color=BLUE, linewidth=1.6, marker="o", markersize=2.5, label="training data"
            )
            axis.set_ylim(*shown_range(values, c["bound"]))
        if c["bound"] is not None:
            axis.axhline(c["bound"], color=RED, linestyle="--", linewidth=1.2, label="bound")
        axis.set_title(f"{name}: {verdict_in_words(c)}", loc="left")
        axis.set_xlabel("step")
        axis.set_ylabel(f"{name} ({_unit(c)})")
    if constraints:
        axes[0, 0].legend(loc="best", fontsize=8)
    return figure


def multipliers_over_steps(metrics: Path, summary: Mapping[str, Any]) -> Figure:
    """Each learned multiplier, and the violation that drives it with its running mean."""
    learned = {n: c for n, c in summary["constraints"].items() if c["learned"]}
    figure, axes = _figure(3.6 * len(learned), 4.4, rows=2, columns=len(learned))
    series = read_series(metrics, "train", [f"{kind}/{n}" for kind in ("multiplier", "violation") for n in learned])
    for k, (name, c) in enumerate(learned.items()):
        above, below = axes[0, k], axes[1, k]
        above.plot(*series[f"multiplier/{name}"], color=ORANGE)
        above.set_title(f"λ of {name}", loc="left")
        above.set_ylabel("λ (nats per nat)" if c["nats"] else "λ (nats per unit of D)")
        above.set_ylim(bottom=0)
        steps, values = series[f"violation/{name}"]
        if values:
            below.plot(steps, values, color=GREY, alpha=0.25, linewidth=0.7, label="one batch")
            below.plot(steps, running_mean(values, 10), color=GREY, linewidth=1.6, label="running mean")
        below.axhline(0, color=RED, linestyle="--", linewidth=1.2)
        below.set_ylabel(f"D − bound ({_unit(c)})")
        below.set_xlabel("step")
    axes[1, 0].legend(loc="best", fontsize=8)
    return figure


def rate_distortion(metrics: Path, summary: Mapping[str, Any]) -> Figure:
    """The path of training in the rate–distortion plane, where a bound on −ELBO is a line of slope −1."""
    figure, axes = _figure(4.2, 3.6)
    axis = axes[0, 0]
    splits, path = summary["splits"], []
    if metrics.is_file():
        series = read_series(metrics, "train_probe", ["rate", "distortion"])
        rates, distortions = series["rate"][1], series["distortion"][1]
        axis.plot(rates, distortions, color=GREY, linewidth=1, marker=".", markersize=4, label="training")
        path = list(zip(rates, distortions, strict=True))
    for (name, v), marker, colour in zip(splits.items(), "os^", (BLUE, ORANGE, GREEN), strict=False):
        errors = {"xerr": v.get("rate_stderr"), "yerr": v.get("distortion_stderr")}
        axis.errorbar(v["rate"], v["distortion"], **errors, fmt=marker, color=colour, markersize=6, label=name, zorder=3)
    for limit, ends in zip((axis.set_xlim, axis.set_ylim), plane_ranges(splits, path), strict=True):
        limit(*ends)
    for name, c in summary["constraints"].items():
        if name == "neg_elbo" and crosses(c["bound"], axis.get_xlim(), axis.get_ylim()):
            low, high = axis.get_xlim()
            axis.plot(
                [low, high], [c["bound"] - low, c["bound"] - high], color=RED, linestyle="--", label=f"−ELBO = {c['bound']:.2f}"
            )
    axis.set_xlabel("rate E KL(q(z|x)‖p(z)) (nats)")
    axis.set_ylabel("distortion −E log p(x|z) (nats)")
    axis.set_title("Rate and distortion", loc="left")
    axis.legend(loc="best", fontsize=8)
    return figure
