"""A LagVAE of an array, in scikit-learn's own terms: codes, reconstructions, samples, and rows that are unlike the data.

Usage: python examples/arrays.py [STEPS]
"""

import sys

import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lagvae.sklearn import LagVAE


def main(steps: int = 5000) -> None:
    train, test = train_test_split(load_wine().data, random_state=0)
    vae = LagVAE(alpha="minimize", slack=1.0, latent_dim=4, hidden=(32,), steps=steps, random_state=0, verbose=True)
    model = make_pipeline(StandardScaler(), vae).fit(train)

    print(f"verdict: {vae.verdict_}; bounds: {vae.bound_}; λ: {vae.multiplier_}")
    codes = model.transform(test)
    print(f"codes: {codes.shape}, reconstructions: {model.inverse_transform(codes).shape}, samples: {vae.sample(5).shape}")
    shuffled = np.random.default_rng(0).permuted(test, axis=0)  # each column by itself, so that only their relations are lost
    print(f"log p(x) of held-out rows: {model.score(test):.1f} nats; of shuffled ones: {model.score(shuffled):.1f} nats")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
