"""Codes that tell little of a sensitive column: how well a group and an outcome are predicted from z, over the bound on I(z;u).

    python benchmarks/fair.py [--jobs N] [--root FOLDER] [--out results/fair.md] [KEY=VALUE …]

A table is made for each seed: 6,000 people of two equal groups u, with twelve columns. Four show a merit with noise, four the
group with noise, four neither. The outcome y is more probable for a larger merit, and for one of the groups. The VAE has twelve
columns and neither u nor y in x; a run of family=controllable_fair also has the bound on I(z;u).

Three classifiers are trained on codes of the training rows and judged on those of the test rows: logistic regression, gradient
boosting and a perceptron. The best of them counts, on the test rows, which favours whoever attacks.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import warnings
from pathlib import Path
from typing import Any

import grid
import numpy as np
import torch

SEEDS = (1, 2, 3)

ROWS = 6000

SETTINGS = [
    "data=table",
    "data.source.attribute=group",
    "data.source.label=outcome",
    "data.test=0.3",
    "data.draws=4000",
    "training.steps=5000",
    "training.interval=500",
    "model.latent=4",
    "callbacks.figures=false",
    *(
        f"~callbacks.final.{name}"
        for name in ("information_of_model", "likelihood", "two_sample_x", "two_sample_z", "classifier", "pairing")
    ),
]

BOUNDS = (0.4, 0.2, 0.1, 0.05, 0.02)
"""Bounds on I(z;u) in nats; u has an entropy of log 2 = 0.69."""

HEAD = (
    *("bound on I(z;u)", "I(z;u) of training codes", "between, on test codes", "u from z", r"u from E[z\|x]", "y from z"),
    *("−ELBO, test", "verdicts"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, help="also write the table there (results/fair.md)")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = options.root or tempfile.mkdtemp(prefix="fair-")
    files = {seed: write(Path(root) / f"people-{seed}.csv", seed) for seed in SEEDS}
    key = "constraints.attribute_information"
    plain = ["multiplier=fixed", f"{key}.multiplier=0.0", f"{key}.epsilon=null"]  # a VAE, of which I(z;u) is measured too
    kinds = {"none: a VAE": plain} | {f"{bound:g}": [f"{key}.epsilon={bound}"] for bound in BOUNDS}
    jobs = [
        [*SETTINGS, "family=controllable_fair", f"data.source.path={files[seed]}", f"seed={seed}", *words, *options.overrides]
        for words in kinds.values()
        for seed in SEEDS
    ]
    runs = grid.run(jobs, root, options.jobs)
    raw = [attack(*rows_of(runs[k]), people(seed)) for k, seed in enumerate(SEEDS)]
    rows = [["x itself", "–", "–", several([u for u, _ in raw], 3), "–", several([y for _, y in raw], 3), "–", "–"]]
    for k, name in enumerate(kinds):
        own = runs[k * len(SEEDS) : (k + 1) * len(SEEDS)]
        scores = [attack(*drawn(run, seed), people(seed)) for run, seed in zip(own, SEEDS, strict=True)]
        of_means = [attack(*means(run), people(seed)) for run, seed in zip(own, SEEDS, strict=True)]
        accuracies = [u for u, _ in scores], [u for u, _ in of_means], [y for _, y in scores]
        test = [run["splits"]["test"] for run in own]
        rows.append(
            [
                name,
                several([run["constraints"]["attribute_information"]["train"] for run in own], 3),
                f"{np.mean([t['i_zu_lower'] for t in test]):.3f} to {np.mean([t['i_zu_upper'] for t in test]):.3f}",
                *(several(values, 3) for values in accuracies),
                several([t["neg_elbo"] for t in test], 2),
                ", ".join(sorted({run["verdict"] for run in own})),
            ]
        )
    chance = np.mean([max(p := people(seed)["group"].mean(), 1 - p) for seed in SEEDS])
    lines = [
        "# Codes that tell little of a column",
        "",
        f"{ROWS:,} made rows of twelve columns: four show a merit with noise, four the group u with noise, four neither; "
        "the outcome y follows the merit and the group. Neither u nor y is in x. Nats; u has an entropy of log 2 = 0.693. "
        f"Seeds {', '.join(map(str, SEEDS))}, of the table and of the run; each cell: their mean (the least to the largest).",
        "",
        *grid.table(HEAD, rows),
        "",
        "I(z;u) of training codes is by the adversary that is trained alongside, and is what the bound is on. Between: the "
        "means of both bounds of `lagvae.metrics.AttributeScores` on test codes, by a classifier that is trained anew and by "
        "the mixture of the q(z|x). u and y from z: the best accuracy of logistic regression, gradient boosting and a "
        "perceptron that are trained on codes z ∼ q(z|x) of training rows and judged on test rows; the best on the test rows, "
        f"which favours whoever attacks. Without any knowledge u is right for {chance:.3f}. The bound is on codes that are "
        "drawn: their means E[z|x], which `encode` returns, have less noise and may tell more.",
    ]
    grid.tell(lines, options.out)


def rows_of(run: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The positions of the training and test rows of a run in its file, and their x."""
    from lagvae.cli.entry import compose_config
    from lagvae.experiment.factory import load_data

    data = load_data(compose_config(run["overrides"]))
    positions = {split: data.split[split].numpy() for split in ("train", "test")}
    return positions, {split: data.first_samples(split, data.size(split)).numpy() for split in positions}


def drawn(run: dict[str, Any], seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The positions of the training and test rows of a run, and codes z ∼ q(z|x) of them."""
    import lagvae

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a run that did not meet its bound, which the table says
        model = lagvae.load(run["folder"])
    positions, x = rows_of(run)
    return positions, {split: model.posterior(torch.from_numpy(rows)).sample().numpy() for split, rows in x.items()}


def means(run: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The positions of the training and test rows of a run, and the E[z|x] of them."""
    import lagvae

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a run that did not meet its bound, which the table says
        model = lagvae.load(run["folder"])
    positions, x = rows_of(run)
    return positions, {split: model.encode(rows) for split, rows in x.items()}


def attack(
    positions: dict[str, np.ndarray], codes: dict[str, np.ndarray], columns: dict[str, np.ndarray]
) -> tuple[float, float]:
    """The best accuracies on test rows with which u and y are predicted from codes."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def best(target: np.ndarray) -> float:
        attackers = (
            LogisticRegression(max_iter=1000),
            HistGradientBoostingClassifier(random_state=0),
            MLPClassifier((64, 64), max_iter=300, early_stopping=True, random_state=0),
        )
        fitted = (make_pipeline(StandardScaler(), each).fit(codes["train"], target[positions["train"]]) for each in attackers)
        return max(float(each.score(codes["test"], target[positions["test"]])) for each in fitted)

    return best(columns["group"]), best(columns["outcome"])


def several(values: list[float], digits: int) -> str:
    """The mean of the seeds, with the least and the largest."""
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def people(seed: int) -> dict[str, np.ndarray]:
    """The columns of a made table."""
    generator = np.random.default_rng(seed)
    group = generator.integers(0, 2, ROWS)
    merit = generator.normal(size=ROWS)
    outcome = merit + 0.8 * (group - 0.5) + 0.5 * generator.normal(size=ROWS) > 0
    columns = {f"merit{k}": 0.8 * merit + 0.6 * generator.normal(size=ROWS) for k in range(4)}
    columns |= {f"group{k}": 1.6 * (group - 0.5) + 0.8 * generator.normal(size=ROWS) for k in range(4)}
    columns |= {f"other{k}": generator.normal(size=ROWS) for k in range(4)}
    return columns | {"group": group, "outcome": outcome.astype(int)}


def write(file: Path, seed: int) -> Path:
    """Write the table of a seed as a CSV file."""
    columns = people(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([f"{value:.4f}" if isinstance(value, np.floating) else int(value) for value in row])
    return file


if __name__ == "__main__":
    main()
