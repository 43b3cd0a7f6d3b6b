"""Anomalies by log p(x): a model of the benign rows of a table, beside IsolationForest and PCA.

    python benchmarks/anomaly.py [--jobs N] [--root FOLDER] [--out results/anomaly.md] [KEY=VALUE …]

The breast cancer data of scikit-learn (UCI, Wolberg et al. 1995): 30 columns, 357 benign and 212 malignant rows. For each seed
two thirds of the benign rows are for training; the others and all malignant rows are scored. All methods have the same rows.
The labels of the scored rows choose nothing: the dimension of z is that of the VAE with the least −ELBO on validation rows,
which `data=table` sets aside of those for training, and the number of principal components that with the largest likelihood
in five-fold cross-validation.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import grid
import numpy as np

SEEDS = (0, 1, 2)

SETTINGS = [
    "data=table",
    "data.batch=64",
    "training.steps=1000",
    "training.interval=250",
    "calibration.steps=1000",
    "data.draws=2000",
    "callbacks.figures=false",
    "model.encoder.hidden=[32]",
    "model.decoder.hidden=[32]",
    *(
        f"~callbacks.final.{name}"
        for name in ("information_of_model", "likelihood", "two_sample_x", "two_sample_z", "classifier", "pairing")
    ),
]

LATENT = (2, 8)
"""The dimensions of z among which validation rows choose."""

FAMILIES = {"VAE": ["family=vae"], "LagVAE": ["alpha=maximize"]}
"""Method → its settings."""

COMPONENTS = (2, 5, 10, 15, 20, 25)
"""The numbers of principal components among which cross-validation chooses."""

HEAD = ("method", *(f"AUC, seed {seed}" for seed in SEEDS), "mean")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, help="also write the table there (results/anomaly.md)")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = options.root or tempfile.mkdtemp(prefix="anomaly-")
    parts = {seed: split(seed) for seed in SEEDS}
    common = {
        seed: [
            *SETTINGS,
            f"data.source.path={write(Path(root) / f'benign-{seed}.csv', train)}",
            f"seed={seed}",
            *options.overrides,
        ]
        for seed, (train, _, _) in parts.items()
    }
    vae = [[*common[seed], *FAMILIES["VAE"], f"model.latent={latent}"] for latent in LATENT for seed in SEEDS]
    runs = grid.run(vae, root, options.jobs)
    held_out = {
        latent: np.mean([run["splits"]["val"]["neg_elbo"] for run in runs[k * len(SEEDS) : (k + 1) * len(SEEDS)]])
        for k, latent in enumerate(LATENT)
    }
    latent = min(held_out, key=lambda d: held_out[d])
    for seed in SEEDS:
        grid.calibrate(root, [*common[seed], f"model.latent={latent}"])
    jobs = [[*common[seed], *words, f"model.latent={latent}"] for words in FAMILIES.values() for seed in SEEDS]
    runs = grid.run(jobs, root, options.jobs)
    found: dict[str, list[float]] = {}
    for k, name in enumerate(FAMILIES):
        own = runs[k * len(SEEDS) : (k + 1) * len(SEEDS)]
        found[name] = [
            auc(malignant, log_prob(run["folder"], write(Path(root) / f"scored-{seed}.csv", rows)))
            for run, (seed, (_, rows, malignant)) in zip(own, parts.items(), strict=True)
        ]
    for name, score in (("IsolationForest", forest), ("PCA, log p(x)", pca_density), ("PCA, squared error", pca_error)):
        found[name] = [auc(y, score(*standardised(train, rows), seed)) for seed, (train, rows, y) in parts.items()]
    table = [[name, *(f"{v:.3f}" for v in values), f"{np.mean(values):.3f}"] for name, values in found.items()]
    train, _, malignant = parts[SEEDS[0]]
    lines = [
        "# Anomalies in a table",
        "",
        *grid.table(HEAD, table),
        "",
        f"Breast cancer data of scikit-learn: {len(train)} benign rows for training, of which data=table sets 10 % aside for "
        f"validation and 10 % for its own test; {int((~malignant).sum())} further benign and {int(malignant.sum())} malignant "
        "rows are scored. AUC: the chance that a malignant row looks less probable than a benign one. A seed is that of the "
        "split, and of the method.",
        "",
        "VAE, and LagVAE with its default bounds: −log p(x) by 64 importance weights, as `lagvae score` writes log p(x); "
        f"{runs[0]['steps']} steps, one hidden layer of 32 units, z of {latent} dimensions, chosen of "
        f"{', '.join(map(str, LATENT))} by −ELBO on validation rows ("
        + ", ".join(f"{value:.1f} nats for {d}" for d, value in held_out.items())
        + "). IsolationForest: 100 trees, the default. PCA: −log p(x) of probabilistic PCA, or the squared error of the "
        "reconstruction, with the number of components that cross-validation of log p(x) chooses. The labels of the scored "
        "rows choose nothing.",
    ]
    grid.tell(lines, options.out)


def split(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Benign rows for training, rows to be scored, and which of these are malignant."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    malignant = bunch.target == 0
    benign = np.random.default_rng(seed).permutation(np.flatnonzero(~malignant))
    n = 2 * len(benign) // 3
    scored = np.r_[benign[n:], np.flatnonzero(malignant)]
    return bunch.data[benign[:n]], bunch.data[scored], malignant[scored]


def write(file: Path, rows: np.ndarray) -> Path:
    """Write rows as a CSV file, with the names of the columns."""
    from sklearn.datasets import load_breast_cancer

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(load_breast_cancer().feature_names)
        writer.writerows(rows.tolist())
    return file


def auc(anomalous: np.ndarray, log_p: np.ndarray) -> float:
    """The chance that an anomalous row has the smaller log p."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(anomalous, -log_p))


def log_prob(folder: str, file: Path) -> np.ndarray:
    """log p(x) of the rows of a file, by a trained model."""
    import lagvae

    model = lagvae.load(folder)
    assert model.table is not None
    return model.log_prob(model.table.read(file).numpy())


def standardised(train: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, scale = train.mean(0), train.std(0)
    return (train - mean) / scale, (rows - mean) / scale


def forest(train: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.ensemble import IsolationForest

    scores: np.ndarray = IsolationForest(random_state=seed).fit(train).score_samples(rows)
    return scores


def fitted_pca(train: np.ndarray) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.model_selection import cross_val_score

    best = max(COMPONENTS, key=lambda k: cross_val_score(PCA(k), train).mean())
    return PCA(best).fit(train)


def pca_density(train: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    return fitted_pca(train).score_samples(rows)


def pca_error(train: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    pca = fitted_pca(train)
    return -np.square(rows - pca.inverse_transform(pca.transform(rows))).sum(1)


if __name__ == "__main__":
    main()
