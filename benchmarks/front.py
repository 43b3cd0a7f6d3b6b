"""One run of family=front against separately trained runs on digits, and against the exact front on the linear-Gaussian world.

    python benchmarks/front.py [--jobs N] [--root FOLDER] [--seeds 0 1 2] [--times 4] [--out results/front.md] [KEY=VALUE …]

With --out there is also a figure of digits beside the tables.

Digits: a front of `--times` the default length, and a run of family=lagvae of the default length for each of 13 slacks, none
of which is a knot of the front; both signs of α, the same seeds and the same calibration. The models of the front at these
slacks are measured as its runs are, by the metrics of callbacks=light. The regret is the information that the separate runs
have at the −ELBO of the front (a straight line between neighbours), minus that of the front, and with the opposite sign where
information is minimised: positive means that the front is worse.

Linear-Gaussian world: the optimum for the covariance of the training samples is exact (`lagvae.oracles.WaterFilling`), as are
−ELBO and the rate of linear networks on them, which are measured without sampling.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import grid
import linear_gaussian

SLACKS = (0.12, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3, 1.7, 2.0, 2.4, 2.7, 3.2, 3.7)
"""γ₁ in nats, on digits."""

EXACT = (0.12, 0.15, 0.2, 0.3, 0.4, 0.55, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9)
"""γ in nats, in the linear-Gaussian world."""

RANGE = (0.1, 2.0)
"""The slacks of the fronts in the linear-Gaussian world, whose collapsed model is further away."""

SIGNS = {-1.0: "maximise", 1.0: "minimise"}

LIGHT = (
    *("callbacks=light", "callbacks.final.information.most=40000", "callbacks.final.information.pairs=30000000"),
    "callbacks.final.information.components=0",
)

ENDS = ("neg_elbo", "i_q_lower", "i_q_upper")
"""What the figure shows."""

MEASURES = ("i_q_lower", "i_q_upper", "rate")

STEPS = 5500
"""The default length of a run on digits."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--times", type=int, default=4, help="the length of a front on digits, in runs of the default length")
    parser.add_argument("--parts", nargs="+", choices=("digits", "linear"), default=["digits", "linear"])
    parser.add_argument("--linear-steps", type=int, default=40000)
    parser.add_argument("--out", type=Path, help="also write the tables there (results/front.md), and a figure beside them")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = options.root or tempfile.mkdtemp(prefix="front-")
    pages = {"digits": digits, "linear": linear}
    page = ["# One model for all slacks"]
    for part in options.parts:
        page += ["", *pages[part](options, root)]
    grid.tell(page, options.out)


# ---- digits


def digits(options: argparse.Namespace, root: str) -> list[str]:
    shared = ["data=digits", *LIGHT, *options.overrides]
    grid.calibrate(root, ["family=lagvae", *shared])
    cases = [(sign, seed) for sign in SIGNS for seed in options.seeds]
    words = {case: [f"alpha.q={case[0]:g}", f"seed={case[1]}", *shared] for case in cases}
    cells = {
        (*case, gamma): ["family=lagvae", f"constraints.neg_elbo.gamma={gamma}", *words[case]]
        for case in cases
        for gamma in SLACKS
    }
    steps = options.times * STEPS
    fronts = {
        case: ["family=front", f"training.steps={steps}", f"training.interval={steps // 8}", *words[case]] for case in cases
    }
    runs = grid.run([*fronts.values(), *cells.values()], root, options.jobs)
    found = dict(zip([*fronts, *cells], runs, strict=True))
    points = {case: measured(found[case]["folder"], fronts[case]) for case in cases}
    if options.out:
        draw(points, {case: [found[*case, gamma] for gamma in SLACKS] for case in cases}, options.out.with_suffix(".png"))
    rows, regrets, violations = [], {sign: [] for sign in SIGNS}, {sign: [] for sign in SIGNS}
    for sign, seed in cases:
        opponents = [found[sign, seed, gamma] for gamma in SLACKS]
        for point in points[sign, seed]:
            missed = {name: regret(point, opponents, name, sign) for name in MEASURES}
            regrets[sign].append(missed)
            violations[sign].append(point["neg_elbo"] - point["bound"])
            rows.append(
                (
                    *(SIGNS[sign], f"{seed}", f"{point['gamma']:g}", f"{point['bound']:.2f}", f"{point['neg_elbo']:.2f}"),
                    *(f"{violations[sign][-1]:+.3f}", f"[{point['i_q_lower']:.2f}, {point['i_q_upper']:.2f}]"),
                    *(f"{point['multiplier']:.3f}", *(f"{missed[name]:+.2f}" for name in MEASURES)),
                )
            )
    summary = [
        (
            SIGNS[sign],
            *(f"{max(map(abs, violations[sign])):.3f}", f"{median(map(abs, violations[sign])):.3f}"),
            *(f"{median(r[n] for r in regrets[sign]):+.2f} / {max(r[n] for r in regrets[sign]):+.2f}" for n in MEASURES),
            f"{median(found[sign, seed]['seconds']['all'] for seed in options.seeds):.0f}",
            f"{median(sum(found[sign, seed, g]['seconds']['all'] for g in SLACKS) for seed in options.seeds):.0f}",
        )
        for sign in SIGNS
    ]
    names = ("I_q, lower end", "I_q, upper end", "rate")
    return [
        f"## Digits: {options.times} times the default length, seeds {', '.join(map(str, options.seeds))}",
        "",
        *grid.table(
            (
                *("goal", "largest distance of −ELBO from its bound", "median"),
                *(f"regret, {name}: median / largest" for name in names),
                *("seconds of the front", f"seconds of the {len(SLACKS)} runs"),
            ),
            summary,
        ),
        "",
        "Nats, on the training split. The separate runs have the default length, so that the front may be better for being "
        "trained longer; what is compared is what a user gets for the cost.",
        "",
        *grid.table(
            ("goal", "seed", "γ₁", "bound", "−ELBO", "distance", "I_q", "λ", *(f"regret, {name}" for name in names)), rows
        ),
    ]


def regret(point: dict[str, float], runs: list[dict[str, Any]], name: str, sign: float) -> float:
    """The information of separate runs at the −ELBO of a point, minus that of the point (nats); reversed if minimising."""
    ends = sorted((run["splits"]["train"]["neg_elbo"], run["splits"]["train"][name]) for run in runs)
    after = next((k for k, end in enumerate(ends) if end[0] > point["neg_elbo"]), len(ends) - 1)
    (x0, y0), (x1, y1) = ends[max(after, 1) - 1], ends[max(after, 1)]
    expected = y0 + (y1 - y0) / (x1 - x0) * (point["neg_elbo"] - x0)
    return -sign * (expected - point[name])


def draw(points: dict[Any, list[dict[str, float]]], runs: dict[Any, list[dict[str, Any]]], path: Path) -> None:
    """Draw the interval for I_q over −ELBO, a panel for each sign of α: the fronts as lines, the separate runs as bars."""
    from matplotlib.figure import Figure

    from lagvae.io import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for ax, sign in zip(figure.subplots(1, len(SIGNS)), SIGNS, strict=True):
        for case in (case for case in points if case[0] == sign):
            lines = [[point[name] for point in points[case]] for name in ENDS]
            bars = [[run["splits"]["train"][name] for run in runs[case]] for name in ENDS]
            (lower,), (upper,) = (
                ax.plot(lines[0], end, style, color="C0", lw=1) for end, style in zip(lines[1:], ("--", "-"), strict=True)
            )
            separate = ax.vlines(*bars, color="0.45")
            ax.plot(bars[0], bars[2], ".", color="0.45", ms=4)  # where an interval is too short to be seen
        ax.legend([upper, lower, separate], ["front, upper end", "front, lower end", "separate runs, the interval"], fontsize=8)
        ax.set(title=f"{SIGNS[sign]} information", xlabel="−ELBO (nats)", ylabel="I_q (nats)")
    write_atomically(path, lambda part: figure.savefig(part, dpi=130, format="png"))


def measured(folder: str, words: list[str]) -> list[dict[str, float]]:
    """The models of a front at `SLACKS`, measured on the training split by the metrics of its run; kept beside the run."""
    file = Path(folder) / "at-slacks.json"
    if file.is_file():
        return list(json.loads(file.read_text(encoding="utf-8")))
    import torch
    from rich.console import Console
    from rich.progress import track

    import lagvae
    from lagvae.callbacks import Evaluation
    from lagvae.cli.entry import compose_config
    from lagvae.experiment.factory import build_data, instantiate, metric_nodes

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a verdict is no reason not to measure
        front: Any = lagvae.load(folder)
    cfg = compose_config(words)
    data = build_data(cfg)
    evaluation = Evaluation({name: instantiate(node) for name, node in metric_nodes(cfg, "final").items()}, {})
    noise = data.noise("train")
    batches = [data.observed(b, noise) for b in data.eval_loader("train", torch.device("cpu"), data.passes("train"))]
    points = []
    for gamma in track(SLACKS, "Measuring a front", console=Console(stderr=True)):
        model = front.at(gamma)
        evaluation.run(model, data, {"train": batches})
        points.append(
            {"gamma": gamma, "bound": front.bound(gamma), "multiplier": front.multiplier(gamma)} | evaluation.results["train"]
        )
    file.write_text(json.dumps(points), encoding="utf-8")
    return points


# ---- the linear-Gaussian world


def linear(options: argparse.Namespace, root: str) -> list[str]:
    import lagvae

    shared = [word for word in linear_gaussian.settings(options.linear_steps) if word != "family=lagvae"]
    exact, x = linear_gaussian.problem([*shared, "family=lagvae"]), samples([*shared, "family=lagvae"])
    least = exact.least.neg_elbo
    cases = [(sign, seed) for sign in SIGNS for seed in options.seeds]
    jobs = [
        [
            *("family=front", *shared, f"training.slacks=[{RANGE[0]},{RANGE[1]}]", "constraints.neg_elbo.gamma=0.5"),
            *(f"constraints.neg_elbo.epsilon={least + 0.5}", f"alpha.q={sign:g}", f"seed={seed}", *options.overrides),
        ]
        for sign, seed in cases
    ]
    runs = grid.run(jobs, root, options.jobs)
    rows, largest = [], {sign: [0.0, 0.0, 0.0] for sign in SIGNS}
    found: dict[tuple[float, float], list[tuple[float, float, float]]] = {}
    for (sign, _), run in zip(cases, runs, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            front: Any = lagvae.load(run["folder"])
        for gamma in EXACT:
            rate, neg_elbo = exactly(front.at(gamma).joint, x)
            found.setdefault((sign, gamma), []).append((rate, neg_elbo - least - gamma, front.multiplier(gamma)))
    for (sign, gamma), values in found.items():
        best = exact.optimum(sign, least + gamma)
        rates, off, multipliers = zip(*values, strict=True)
        errors = [max(abs(r / best.rate - 1) for r in rates), max(abs(m / best.multiplier - 1) for m in multipliers)]
        largest[sign] = [max(a, b) for a, b in zip(largest[sign], [*errors, max(map(abs, off))], strict=True)]
        rows.append(
            (
                *(SIGNS[sign], f"{gamma:g}", f"{max(off, key=abs):+.3f}", f"{median(rates):.3f}", f"{best.rate:.3f}"),
                *(f"{errors[0]:.2%}", f"{median(multipliers):.4f}", f"{best.multiplier:.4f}", f"{errors[1]:.1%}"),
            )
        )
    said = "; ".join(
        f"{SIGNS[sign]}: {i:.2%} in I, {m:.1%} in λ, {v:.3f} nats between −ELBO and its bound"
        for sign, (i, m, v) in largest.items()
    )
    head = ("goal", "γ", "largest −ELBO − ε", "I", "I at the optimum", "largest error", "λ", "λ*", "largest error")
    return [
        f"## Linear-Gaussian world: {options.linear_steps} steps, seeds {', '.join(map(str, options.seeds))}",
        "",
        f"Largest errors: {said}. I and λ are medians.",
        "",
        *grid.table(head, rows),
    ]


def samples(words: list[str]) -> Any:
    """The training samples of the linear-Gaussian world, (N, n)."""
    from lagvae.cli.entry import compose_config
    from lagvae.experiment.factory import load_data

    data = load_data(compose_config([*words, "constraints.neg_elbo.epsilon=0"]))
    return data.arrays.x[data.split["train"]].float()


def exactly(joint: Any, x: Any) -> tuple[float, float]:
    """The rate and −ELBO of a model with a linear decoder on samples x (N, n), in nats: the mean over z is in closed form."""
    import torch

    with torch.no_grad():
        q, w = joint.encoder(x).base_dist, joint.decoder.network.layers[0].weight
        rate = torch.distributions.kl_divergence(joint.encoder(x), joint.prior()).mean()
        p = joint.decoder(q.loc).base_dist
        squared = (x - p.loc).square() + q.scale.square() @ w.square().mT
        distortion = (0.5 * (2 * torch.pi * p.scale.square()).log() + squared / (2 * p.scale.square())).sum(1).mean()
    return float(rate), float(rate + distortion)


if __name__ == "__main__":
    main()
