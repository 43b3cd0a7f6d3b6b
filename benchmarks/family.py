"""What every member of the family reaches on digits, and whether it does what its authors promise.

    python benchmarks/family.py runs/family runs/family_learned [--out results/family.md]

Reads finished runs (make family trains them); medians over seeds, on test data.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import grid
import torch

from lagvae.cli.entry import register
from lagvae.data import Batch
from lagvae.experiment.factory import build_data, build_model
from lagvae.experiment.run import read_config
from lagvae.runs.layout import RunFolder

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = {
    "−ELBO": "neg_elbo",
    "rate": "rate",
    "distortion": "distortion",
    "squared error": "reconstruction",
    "MMD · 10³": "mmd",
    "p-value x": "two_sample_x_p",
    "p-value z": "two_sample_z_p",
    "I_p lower / H": "i_p_share",
    "code ~ label": "code_accuracy",
    "pairs": "pairing_z",
    "confidence": "class_confidence",
    "coverage": "class_coverage",
}
Runs = dict[str, list[dict[str, Any]]]
PICTURES = {"alice": "reconstructions", "cyclegan": "translations", "infogan": "codes"}
"""Member → its figure that is kept beside the table, of seed 0."""

DRAWS = 2000
"""Draws of an implicit encoder's noise behind the density that its estimate is judged by."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="the runs of sweep=family and sweep=family_learned")
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    arguments = parser.parse_args()
    plain, learned = (read(folder) for folder in [*arguments.folders, Path("nowhere")][:2])
    text = "\n".join([*overview(plain, learned), "", *claims(plain, learned), "", *critics(plain | learned)]) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
        for name, figure in PICTURES.items():
            folders = [run["folder"] for run in plain.get(name, []) if run["seed"] == 0]
            grid.join(
                [folder / "figures" / f"{figure}.png" for folder in folders],
                arguments.out.with_suffix("") / f"{name}-{figure}.png",
            )


def read(folder: Path) -> Runs:
    """Name without its seed → the summaries of its runs."""
    found: Runs = {}
    for path in sorted(folder.glob("*/summary.json")):
        name, seed = re.fullmatch(r"(.*)-seed(\d+)", path.parent.name).groups()  # type: ignore[union-attr]
        found.setdefault(name, []).append(json.loads(path.read_text("utf-8")) | {"folder": path.parent, "seed": int(seed)})
    return found


def at(runs: Sequence[dict[str, Any]], key: str, split: str = "test") -> list[float]:
    """A measurement of each run; of runs that have it."""
    return [run["splits"][split][key] for run in runs if key in run["splits"][split]]


def overview(plain: Runs, learned: Runs) -> list[str]:
    """A row for each member."""
    head = ["member", "constraints on test data", *COLUMNS, "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    named = [*plain.items(), *((f"{name}, of family_learned", runs) for name, runs in learned.items())]
    for name, runs in named:
        each = []
        for c in runs[0]["constraints"]:
            value, bound = median(run["constraints"][c]["test"] for run in runs), runs[0]["constraints"][c]["bound"]
            each.append(f"{c} {value:.3g}" + (f" ≤ {bound:.3g}" if bound is not None else ""))
        cells = [number(key, median(values)) if (values := at(runs, key)) else "" for key in COLUMNS.values()]
        seconds = f"{median(run['seconds']['all'] for run in runs):.0f}"
        lines.append("| " + " | ".join([name, ", ".join(each) or "–", *cells, seconds]) + " |")
    seeds = {len(runs) for _, runs in named}
    return [
        "# The family on digits",
        "",
        f"Medians of {'–'.join(map(str, sorted(seeds)))} seeds, test data; nats where not said.",
        "",
        *lines,
        "",
        "aae stands for wae_gan too: the two presets are one objective with the same settings.",
    ]


def number(key: str, value: float) -> str:
    if key == "mmd":
        return f"{1000 * value:.2f}"
    return f"{value:.3f}" if key.endswith("_p") or key == "reconstruction" else f"{value:.2f}"


def claims(plain: Runs, learned: Runs) -> list[str]:
    """What is promised, and what was found."""
    rows: list[tuple[str, str, bool]] = []

    def claim(what: str, names: Sequence[str], check: Callable[[], tuple[str, bool]]) -> None:
        if all(name in (plain | learned) for name in names):
            rows.append((what, *check()))

    def falls(names: Sequence[str], key: str, digits: int) -> Callable[[], tuple[str, bool]]:
        values = [median(at(plain[name], key)) for name in names if name in plain]
        return lambda: (
            " > ".join(f"{v:.{digits}g}" for v in values),
            all(a > b for a, b in pairwise(values)),
        )

    beta = ["vae", "beta_vae-q1", "beta_vae-q3", "beta_vae-q7"]
    claim("rate falls as β grows: 1, 2, 4, 8", beta, falls(beta, "rate", 3))
    weights = (0, 10, 100, 1000)
    info = [f"infovae-multiplier{m}" for m in weights]
    what = f"infovae with α = −9: MMD falls as its λ grows: {', '.join(map(str, weights))}"
    claim(what, info, lambda: mmd_falls(plain, info))
    for name in ("aae-multiplier10", "wae_mmd"):

        def check(name: str = name) -> tuple[str, bool]:
            p, bare = at(plain[name], "two_sample_z_p"), at(plain["aae-multiplier0"], "two_sample_z_p")
            d, vae = median(at(plain[name], "distortion")), median(at(plain["vae"], "distortion"))
            told = f"p {listed(p)}, without the constraint {listed(bare)}; distortion {d:.2f}, VAE {vae:.2f}"
            return told, min(p) > 0.01 and max(bare) < 0.01 and d < vae

        claim(
            f"{name}: q(z) passes for p(z) at 1 %, an autoencoder does not; distortion below the VAE's",
            [name, "vae", "aae-multiplier0"],
            check,
        )

    def avb() -> tuple[str, bool]:
        own = [run["constraints"]["adversarial_neg_elbo"]["test"] for run in plain["avb"]]
        vae, (low, high) = median(at(plain["vae"], "neg_elbo")), density(plain["avb"][0]["folder"])
        truth = f"by {DRAWS} draws of its noise, seed 0: between {low:.2f} and {high:.2f}"
        told = f"by its critic {listed(own)}, VAE {vae:.2f}; {truth}"
        return told, abs(median(own) - vae) < 0.5

    claim("avb: −ELBO within 0.5 nat of the VAE's", ["avb", "vae"], avb)
    for name in ("vmi", "infogan"):
        claim(
            f"{name}: I_p at least 85 % of the code's entropy",
            [name],
            lambda name=name: (listed(at(plain[name], "i_p_share")), min(at(plain[name], "i_p_share")) >= 0.85),
        )  # type: ignore[misc]

    def passes() -> tuple[str, bool]:
        keys = ("class_confidence", "class_confidence_real", "class_coverage", "code_accuracy")
        sure, real, covered, agrees = (at(plain["infogan"], key) for key in keys)
        told = (
            f"confidence {listed(sure)}, on real data {listed(real)}; classes {listed(covered)}; code ~ label {listed(agrees)}"
        )
        return told, median(sure) > 0.85 * median(real) and min(covered) == 1

    claim("infogan: samples pass for digits to a classifier of real ones, in all classes", ["infogan"], passes)
    claim(
        "alice: squared error at least 20 % below ali's",
        ["ali", "alice"],
        lambda: (
            f"{median(at(plain['alice'], 'reconstruction')):.4f} and {median(at(plain['ali'], 'reconstruction')):.4f}",
            median(at(plain["alice"], "reconstruction")) <= 0.8 * median(at(plain["ali"], "reconstruction")),
        ),
    )
    for name in ("cyclegan", "discogan"):

        def paired(name: str = name) -> tuple[str, bool]:
            z, x, chance = (at(plain[name], key) for key in ("pairing_z", "pairing_x", "pairing_chance"))
            return f"x → z {listed(z)}, z → x {listed(x)}; chance {chance[0]:.4f}", min(median(z), median(x)) >= 0.8

        claim(f"{name}: at least 80 % of true partners found", [name], paired)
    for name, free, fixed, key in (
        ("aae", "aae", "aae-multiplier10", "distortion"),
        ("infogan with two uniform codes more", "infogan-multiplier_learned", "infogan-multiplier_fixed", "i_p_lower"),
        ("alice", "alice", "alice", "distortion"),
    ):

        def gained(free: str = free, fixed: str = fixed, key: str = key) -> tuple[str, bool]:
            runs, others = learned[free], plain.get(fixed) or learned[fixed]
            before, now = median(at(others, key)), median(at(runs, key))
            d = next(iter(runs[0]["constraints"]))
            each = [run["constraints"][d] for run in runs]
            met = ", ".join(f"{c['train']:.3f} ± {c['train_stderr']:.3f} ≤ {c['bound']:.3f}" for c in each)
            inside = all(c["train"] <= c["bound"] + c["train_stderr"] for c in each)
            own = median(run["constraints"][d]["train"] for run in others)
            told = f"{d} {met}; {key} {now:.3f}; with λ fixed {before:.3f}, at {d} {own:.3f}"
            return told, inside and (now > before if key == "i_p_lower" else now < before)

        claim(
            f"{name} with λ learned: the bound is met within its standard error, and more information than with λ fixed",
            [free, fixed],
            gained,
        )
    lines = ["## What is promised", "", "| claim | found | holds |", "|---|---|---|"]
    return lines + [f"| {what} | {found} | {'yes' if holds else '**no**'} |" for what, found, holds in rows]


def mmd_falls(plain: Runs, names: Sequence[str]) -> tuple[str, bool]:
    """Means over seeds of MMD · 10³; whether on train, which has most samples, each is below the last by two errors."""
    told, holds = [], []
    for split in ("train", "test"):
        found = []
        for name in names:
            values, errors = at(plain[name], "mmd", split), at(plain[name], "mmd_stderr", split)
            found.append((1000 * sum(values) / len(values), 1000 * sum(e**2 for e in errors) ** 0.5 / len(errors)))
        told.append(f"{split} " + " > ".join(f"{v:.2f} ± {e:.2f}" for v, e in found))
        holds.append(all(v - w > 2 * (e**2 + f**2) ** 0.5 for (v, e), (w, f) in pairwise(found)))
    return "MMD · 10³, means: " + "; ".join(told), holds[0]


def listed(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.3g}" for v in values)


def density(folder: Path) -> tuple[float, float]:
    """Bounds on the true −ELBO of a run with an implicit encoder, from many draws of its noise, on test data."""
    register(ROOT)
    run = RunFolder(folder)
    cfg = read_config(run)
    data = build_data(cfg)
    model = build_model(cfg, data)
    model.load_state_dict(torch.load(run.last, map_location="cpu", weights_only=True)["state_dict"])
    x = data.first_samples("test", len(data.split["test"]))
    with torch.no_grad():
        s = model.eval().samples(Batch(x, torch.arange(len(x)), 0), "test", model.eval_model)
        free = s.noise["z_q"][:, model.joint.latent :]
        e = torch.randn(DRAWS, *free.shape, generator=torch.Generator().manual_seed(0))
        rest = -s.p_z.log_prob(s.z_q).mean() + s.distortion.mean()
        low = model.joint.encoder.log_density(x, s.z_q, e).mean() + rest
        e[0] = free
        return float(low), float(model.joint.encoder.log_density(x, s.z_q, e).mean() + rest)


def critics(runs: Runs) -> list[str]:
    """What runs tell of their critics."""
    seen: dict[str, list[str]] = {}
    for name, each in runs.items():
        for run in each:
            for message in run["messages"]:
                seen.setdefault(message, []).append(f"{name} ({run['seed']})")
    told = [f"- {message} — {', '.join(where)}" for message, where in seen.items()]
    return ["## What the runs say themselves (seeds)", "", *(told or ["Nothing."])]


if __name__ == "__main__":
    main()
