"""Every estimator of I_q(x;z) that the package reports, where I is known; and the power of MMD under each kernel.

    python benchmarks/estimators.py [--jobs N] [--quick] [--out docs/estimators.md]

Writes the tables (OUT) and a picture beside it (OUT with .png). Ten minutes on two cores at most.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from math import log
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grid
import torch
import worlds
from estimators_text import CLUSTERS, HEAD, IMAGES, MMD, TIME

INFORMATION, DIMENSIONS = (1, 3, 10, 20), (2, 16, 64)
REPETITIONS = {250: 20, 1000: 10, 4000: 5, 60_000: 2}
NAMES = ("inclusive", "rate", "leave_one_out", "density", "mixed", "kde")
SIDES = dict(zip(NAMES, ("≤", "≥", "≥", "≥", "≥", "?"), strict=True))
KERNELS = ("mixture", "rbf", "median", "imq", "reference")
Cell = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few repetitions, K up to 1000: to see that it runs")
    parser.add_argument("--out", type=Path, default=grid.ROOT / "docs" / "estimators.md")
    options = parser.parse_args()
    repetitions = {250: 2, 1000: 2} if options.quick else REPETITIONS
    cells = [("channel", i, d, k, n) for k, n in repetitions.items() for i in INFORMATION for d in DIMENSIONS]
    cells += [("clusters", i, 16, k, n) for k, n in repetitions.items() for i in (1, 10)]
    start = time.perf_counter()
    found = mapped(trial, sorted(cells, key=lambda cell: -cell[3] * cell[2]), options.jobs, "Estimators of I")
    order = {cell: position for position, cell in enumerate(cells)}
    found.sort(key=lambda result: order[result["cell"]])
    images = mapped(of_images, [(spread, 2 if options.quick else 5) for spread in (1.0, 4.0, 30.0)], options.jobs, "Images")
    power = mapped(kernel_power, [(k, 20 if options.quick else 200) for k in KERNELS], options.jobs, "Kernels")
    lines = [HEAD, *table(found, "channel"), "", CLUSTERS, "", *table(found, "clusters"), "", TIME, "", *times(found), ""]
    lines += [IMAGES, "", *image_table(images), "", MMD, "", *power_table(power), ""]
    lines += [f"`make estimators`, {time.perf_counter() - start:.0f} s with {options.jobs} processes of one thread."]
    text = "\n".join(lines) + "\n"
    print(text)
    options.out.write_text(text, encoding="utf-8")
    draw([result for result in found if result["cell"][0] == "channel"], options.out.with_suffix(".png"))


def mapped(function: Callable[[Any], Any], cells: list[Any], jobs: int, title: str) -> list[Any]:
    """Results of all cells, in their order, with a progress bar."""
    from rich.console import Console
    from rich.progress import track

    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(track(pool.map(function, cells), title, total=len(cells), console=Console(stderr=True)))


def judge(samples: worlds.Samples, **settings: Any) -> tuple[dict[str, float], float]:
    """What the package's own metric says of samples, and the seconds that it took."""
    from lagvae.metrics import Information

    measure = Information(**settings)
    worlds.shown(measure, samples, torch.arange(len(samples[0])))
    start = time.perf_counter()
    return {key: float(value) for key, value in measure.compute().items()}, time.perf_counter() - start


def trial(cell: tuple[str, float, int, int, int]) -> Cell:
    """Errors (estimate − I) of every estimator in every repetition, and the seconds of one."""
    torch.set_num_threads(1)
    world, information, d, k, repetitions = cell
    truth = information + (log(8) if world == "clusters" else 0)
    errors: dict[str, list[float]] = {name: [] for name in NAMES}
    seconds = dict.fromkeys(("bounds", "mixture", "kde"), 0.0)
    for repetition in range(repetitions):
        generator = torch.Generator().manual_seed(1000 * repetition + k)
        samples = getattr(worlds, world)(generator, k, d, information)
        plain, of_bounds = judge(samples)
        fitted, of_mixture = judge(samples, components=10)
        kernel, of_kernel = judge(samples, kde=True)
        errors["inclusive"].append(plain["i_q_lower_inclusive"] - truth)
        errors["kde"].append(kernel["i_q_kde"] - truth)
        for name in ("rate", "leave_one_out", "density", "mixed"):
            errors[name].append(fitted[f"i_q_upper_{name}"] - truth)
        parts = (of_bounds, of_mixture - of_bounds, of_kernel - of_bounds)
        seconds = {name: seconds[name] + part / repetitions for name, part in zip(seconds, parts, strict=True)}
    return {"cell": cell, "truth": truth, "errors": errors, "seconds": seconds}


def table(found: list[Cell], world: str) -> list[str]:
    """A row for each channel and K: mean error ± spread over repetitions."""
    heads = [f"{name.replace('_', ' ')} ({side})" for name, side in SIDES.items()]
    lines = [f"| I | d | K | {' | '.join(heads)} |"]
    lines.append(f"|{'---|' * (3 + len(NAMES))}")
    for result in found:
        of, _, d, k, _ = result["cell"]
        if of == world:
            cells = [told(values) for values in result["errors"].values()]
            lines.append(f"| {result['truth']:.3g} | {d} | {k:,} | {' | '.join(cells)} |")
    return lines


def told(values: list[float]) -> str:
    """Mean ± spread."""
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    return f"{mean:+.2f} ± {spread:.2f}" if abs(mean) < 1000 else f"{mean:+.0e} ± {spread:.0e}"


def times(found: list[Cell]) -> list[str]:
    """Seconds at I = 10, d = 16."""
    lines = ["| K | inclusive and leave one out | mixture | kde |", "|---|---|---|---|"]
    for result in found:
        if result["cell"][:3] == ("channel", 10, 16):
            lines.append(f"| {result['cell'][3]:,} | {' | '.join(f'{s:.2f}' for s in result['seconds'].values())} |")
    return lines


def of_images(cell: tuple[float, int], images: int = 1000) -> Cell:
    """Bounds image by image where draws of an image differ by `ratio` times the noise of the encoder."""
    from lagvae.metrics import tightest
    from lagvae.metrics.images import Reobserver

    torch.set_num_threads(1)
    ratio, repetitions = cell
    rows = []
    for seed in range(repetitions):
        world = worlds.Images(images, 16, 0.02 * ratio, 0.02, seed)
        truth = world.truth()
        samples, index = world.samples(10)

        def metric(by_image: bool, world: worlds.Images = world) -> Any:
            from lagvae.metrics import Information

            measure = Information(samples=10 * images, components=10, images=by_image, pairs=10_000_000)
            measure._total, measure._size = images, images
            measure._reobserve = Reobserver(world, "train", world.encoder) if by_image else None
            return measure

        plain, full = metric(False), metric(True)
        for measure in (plain, full):
            worlds.shown(measure, samples, index)
        a, b = ({key: float(value) for key, value in measure.compute().items()} for measure in (plain, full))
        rows.append((truth, a["i_q_lower"] - truth, a["i_q_upper"] - truth, b["i_q_lower"] - truth, b["i_q_upper"] - truth))
    return {"rows": rows, "by": tightest(b)}


def image_table(found: list[Cell]) -> list[str]:
    """A row for each world: errors of both ends, without and with bounds image by image."""
    lines = ["| I | lower | upper | lower, image by image | upper | by |", "|---|---|---|---|---|---|"]
    for result in found:
        truth, *ends = zip(*result["rows"], strict=True)
        by = " / ".join(name.replace("_", " ") for name in result["by"].values())
        lines.append(f"| {statistics.fmean(truth):.1f} | {' | '.join(told(list(end)) for end in ends)} | {by} |")
    return lines


def kernel_power(cell: tuple[str, int]) -> Cell:
    """How often a permutation test at level 0.05 tells N(0, 0.64 I) from N(0, I), d = 64, 250 samples each; and equal laws."""
    from omegaconf import OmegaConf

    from lagvae.divergences import mmd
    from lagvae.experiment.factory import instantiate
    from lagvae.metrics import permutation_p_value

    torch.set_num_threads(1)
    name, repetitions = cell
    kernel = instantiate(OmegaConf.load(grid.ROOT / "conf" / "kernel" / f"{name}.yaml"))
    generator = torch.Generator().manual_seed(64)
    p: dict[float, list[float]] = {0.8: [], 1.0: []}
    values: list[float] = []
    for repetition in range(repetitions):
        for scale, found in p.items():
            a, b = scale * torch.randn(250, 64, generator=generator), torch.randn(250, 64, generator=generator)
            found.append(float(permutation_p_value(a, b, kernel, 199, seed=repetition)[1]))
            if scale < 1:
                values.append(float(mmd(a, b, kernel, "u")))
    rates = [sum(each <= 0.05 for each in found) / repetitions for found in p.values()]
    return {"kernel": repr(kernel), "name": name, "rates": rates, "values": values}


def power_table(found: list[Cell]) -> list[str]:
    """A row for each kernel."""
    lines = ["| kernel= | | power | size | MMD, U-statistic |", "|---|---|---|---|---|"]
    for result in found:
        power, size = result["rates"]
        mean, spread = statistics.fmean(result["values"]), statistics.stdev(result["values"])
        lines.append(f"| `{result['name']}` | {result['kernel']} | {power:.3f} | {size:.3f} | {mean:.1e} ± {spread:.0e} |")
    return lines


def draw(found: list[Cell], path: Path) -> None:
    """Mean error over K, a panel for each I and d; linear up to 1 nat, errors above 100 are cut off."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from lagvae.experiment.style import STYLE

    looks = dict(zip(NAMES, ("#0072B2", "#000000", "#D55E00", "#E69F00", "#009E73", "#CC79A7"), strict=True))
    marks = dict(zip(NAMES, "osv^DX", strict=True))
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 7.2), layout="constrained")
        axes = figure.subplots(len(INFORMATION), len(DIMENSIONS), sharex=True, sharey=True)
        for i, information in enumerate(INFORMATION):
            for j, d in enumerate(DIMENSIONS):
                ax, of = axes[i, j], [r for r in found if r["cell"][1:3] == (information, d)]
                for name in NAMES:
                    means = [statistics.fmean(r["errors"][name]) for r in of]
                    ax.plot([r["cell"][3] for r in of], means, color=looks[name], marker=marks[name], ms=4, lw=1.2, label=name)
                ax.axhline(0, color="grey", lw=0.8)
                ax.set_xscale("log")
                ax.set_yscale("symlog", linthresh=1)
                ax.set_ylim(-20, 100)
                ax.set_yticks((-10, -1, 0, 1, 10, 100), ("−10", "−1", "0", "+1", "+10", "+100"))
                ax.yaxis.minorticks_off()
                ax.set_title(f"I = {information} nats, d = {d}", fontsize=9)
        for ax in axes[-1]:
            ax.set_xlabel("samples K")
        for ax in axes[:, 0]:
            ax.set_ylabel("error (nats)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, [label.replace("_", " ") for label in labels], loc="outside lower center", ncols=len(NAMES))
        figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
