"""From a CSV file with numbers, categories and gaps to a score for each row, reconstructions and new rows.

Usage: python examples/table.py
"""

import csv
import subprocess
import sys

import numpy as np
from sklearn.datasets import load_diabetes

import lagvae

SETTINGS = """
    data=table data.source.path=patients.csv data.source.label=progression data.batch=64 family=vae
    model.latent=4 model.encoder.hidden=[32] model.decoder.hidden=[32]
    training.steps=2000 training.interval=500 data.draws=500
"""


def main() -> None:
    bunch = load_diabetes(scaled=False)  # ten measurements of 442 patients, in their units
    rng = np.random.default_rng(0)
    with open("patients.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*bunch.feature_names, "progression"])
        for row, target in zip(bunch.data, bunch.target, strict=True):
            cells = [
                "" if name == "bp" and rng.random() < 0.1 else f"{v:g}"
                for name, v in zip(bunch.feature_names, row, strict=True)
            ]
            cells[bunch.feature_names.index("sex")] = "male" if row[1] == 2 else "female"
            writer.writerow([*cells, "fast" if target > 200 else "slow"])

    # `lagvae data` with these settings shows what each column is taken for.
    subprocess.run([sys.executable, "-m", "lagvae", "train", *SETTINGS.split()], check=True)

    model = lagvae.load("latest")
    assert model.table is not None
    x = model.table.read("patients.csv")  # `lagvae score latest --input patients.csv --output scores.csv` does the same
    scores = model.log_prob(x)
    print(f"log p(x) of {len(scores)} patients: {scores.mean():.1f} nats on average, least {scores.min():.1f}")

    # A mapping of names to columns, or a data frame of pandas, will do as well.
    patient = {name: [float(v)] for name, v in zip(bunch.feature_names, np.median(bunch.data, 0), strict=True)} | {
        "sex": ["male"]
    }
    usual, odd = (float(model.log_prob(patient | {"bmi": [bmi]})[0]) for bmi in (26.0, 60.0))
    print(f"a median patient: {usual:.1f} nats; with a body mass index of 60: {odd:.1f} nats")
    unknown = model.table.decode(model.reconstruct(patient | {"bp": [None]}))
    print(f"blood pressure of the median patient, where it is not known: {unknown['bp'][0]:.0f}")
    for row in zip(*model.table.decode(model.sample(3, seed=0)).values(), strict=True):
        print("a new patient:", ", ".join(v if isinstance(v, str) else f"{v:.1f}" for v in row))


if __name__ == "__main__":
    main()
