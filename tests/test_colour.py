"""Colour images from file to samples: residual networks, and the likelihood of their levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import QUICK, SHORT, Outcome, program

import lagvae
from lagvae.runs.layout import RunFolder

COLOUR = ("likelihood=discretized_logistic", "data.likelihood=normal", "model=conv", "model.latent=4")
SMALL = ("model.encoder.channels=[4]", "model.decoder.channels=[4]", "model.encoder.hidden=8", "model.decoder.hidden=8")


def train(root: Path, file: str, *words: str) -> Outcome:
    quick = [word for word in QUICK if not word.startswith(("data=", "data.source", "data.batch", "model."))]
    own = ["data=array", f"data.source.path={root}/{file}", "data.batch=16"]
    return program(root, *quick, *SHORT, *own, *COLOUR, *SMALL, *words)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with uint8 images of 8×8 pixels in colour, channels last, the same as float32, and runs of both."""
    root = tmp_path_factory.mktemp("colour")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.save(root / "bytes.npy", pixels)
    np.save(root / "floats.npy", pixels.transpose(0, 3, 1, 2).astype("f4") / 255)
    for name in ("bytes", "floats"):
        said = train(root, f"{name}.npy", f"name={name}")
        assert said.status == 0, said.err
        assert "DiscretizedLogistic p(x|z)" in said.out
    return root


def test_bytes_and_floats_are_the_same_images(root: Path) -> None:
    one, two = (RunFolder(root / "runs" / name).read_summary()["splits"]["test"] for name in ("bytes", "floats"))
    assert one["neg_elbo"] == pytest.approx(two["neg_elbo"], rel=1e-5)
    # Uniform noise on 256 levels has an entropy of log 256 nats per dimension, which no model of new images can be below.
    assert np.log(256) < one["neg_elbo_per_dim"] < np.log(256) + 3


def test_samples_have_the_levels_of_the_images(root: Path) -> None:
    model = lagvae.load(root / "runs" / "bytes")
    levels = 255 * model.sample(20, seed=1)
    assert levels.shape == (20, 3, 8, 8)
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    pixels = torch.from_numpy(np.load(root / "bytes.npy")).movedim(-1, 1)
    torch.testing.assert_close(model.encode(pixels), model.encode(pixels / 255), atol=1e-5, rtol=1e-4)
    assert bool((model.log_prob(pixels) < 0).all())


def test_an_ensemble_trains_as_its_members_would_alone(root: Path) -> None:
    said = train(root, "bytes.npy", "-m", "alpha.q=-1,-2", "launcher.compile=false", "folder=pair")
    assert "1 job of 2 runs" in said.out, said.err
    (one,) = (root / "runs" / "pair").glob("*-1*/summary.json")
    alone = RunFolder(root / "runs" / "bytes").read_summary()["splits"]["test"]
    assert RunFolder(one.parent).read_summary()["splits"]["test"]["neg_elbo"] == pytest.approx(alone["neg_elbo"], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.likelihood=bernoulli"], "draws 0 or 1 for each; set data.likelihood=normal"),
        (["model.likelihood.levels=17"], "which is none of the 17 levels 0, 1/16, …, 1 of a discretised logistic"),
        (["model.likelihood.levels=1"], "model.likelihood.levels=1 must be at least 2"),
        (["model.encoder.blocks=-1"], "blocks=-1 must be a number of residual blocks, at least 0"),
        (["divergence=[neg_elbo,js_x]"], "samples of p(x|z) with a gradient"),
    ],
)
def test_what_cannot_be_is_refused(root: Path, words: list[str], message: str) -> None:
    said = train(root, "bytes.npy", "name=refused", *words)
    assert said.status == 1
    assert message in said.err
    assert "Traceback" not in said.err
