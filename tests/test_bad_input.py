"""Bad input: a clear error that names the setting, the value and what to do, before anything is trained or written.

Most programs run in this process (see `helpers.program`), a few as a user runs them.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import QUICK, Outcome, files, program, settings
from omegaconf import OmegaConf
from PIL import Image
from small import ROOT

from lagvae.callbacks import evaluation
from lagvae.data.sources import ImageFiles
from lagvae.errors import CheckpointError, DataError
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.factory import build_data, build_model
from lagvae.experiment.fit import read_checkpoint
from lagvae.experiment.validate import validate
from lagvae.io import file_digest, json_digest, owned, storage_error
from lagvae.runs.layout import RunFolder
from lagvae.terminal import make_printable, print_line

VAE = (*QUICK, "family=vae")


def refuses(said: Outcome, *pieces: str, leaves: set[str] | None = None) -> None:
    """Asserts that a program ended with status 1 and one line on stderr that holds the pieces, and that it left no file."""
    assert said.status == 1, said
    assert said.err.startswith("Error: "), said.err
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err + said.out
    for piece in pieces:
        assert piece in said.err, said.err
    assert {path for path in said.new if not path.startswith("data/.images")} == (
        leaves or set()
    )  # what was read is remembered


# ---- settings


UNKNOWN = {
    "family=infogann": ["family=infogann is unknown; did you mean infogan?", "infogan, infovae, lagvae, vae"],
    "model=cnn": ["model=cnn is unknown", "conv, mlp, mlp_paper"],
    "data=imagenet": [
        "data=imagenet is unknown",
        "array, cifar10, digits, digits_pairs, dsprites, fashion_mnist, folder, linear_gaussian, mnist",
    ],
    "kernel=rbff": ["kernel=rbff is unknown", "imq, median, mixture, rbf, reference"],
    "divergence=[neg_elbo,kl]": ["divergence=kl is unknown", "mmd, neg_elbo, rate"],
    "logger=mlflow": ["logger=mlflow is unknown", "csv, tensorboard, wandb"],
    "multiplier=adam": ["multiplier=adam is unknown", "fixed", "learned", "rmsprop"],
    "epsilon=guess": ["epsilon=guess is unknown", "calibrated, explicit, none"],
    "sweep=pareto2": ["sweep=pareto2 is unknown", "figure1"],
    "family=3": ["family=3: a group takes the name of an option"],
    "model.laten=3": ["model.laten is unknown; did you mean model.latent=3?"],
    "training.step=3": ["training.step is unknown; did you mean training.steps=3?"],
    "colour=red": ["colour is unknown; a config has family, name,"],
    "constraints.rate.epsilon=3": [
        "constraints.rate is unknown; constraints has neg_elbo, mmd. Add it with divergence=[neg_elbo,mmd,rate]"
    ],
    "+constraints.own.epsilon=3": ["+constraints.own.epsilon=3: there is no such constraint; add its name to divergence=[…]"],
    "+model.optimizer.speed=3": ["model.optimizer.speed is unknown; torch.optim.Adam takes params, lr, betas"],
    "model.optimizer._target_=torch.optim.Adamm": ["model.optimizer._target_=torch.optim.Adamm does not exist"],
    "model.encoder.activation=selu": ["activation='selu' is unknown", "gelu, leaky_relu, relu, silu, softplus, tanh"],
    "constraints.mmd.divergence.statistic=w": ["statistic='w' is unknown; choose one of u, v"],
    "training.start=warm": ["training.start='warm' is unknown; choose one of calibrated, scratch"],
    "calibration.split=dev": ["calibration.split='dev' is unknown; choose one of train, val, test"],
    "data.likelihood=poisson": ["data.likelihood='poisson' is unknown; choose one of bernoulli, normal"],
    "model.likelihood=poisson": ["model.likelihood='poisson' is unknown; choose one of bernoulli, normal"],
    "model.schedule=linear": ["model.schedule='linear' is unknown; use cosine, null"],
    "~constraints.rate": ["'constraints.rate' does not exist"],
    "+trainer.speed=3": ["trainer.speed is unknown; Lightning's Trainer takes accelerator, strategy"],
    "+trainer.max_stps=3": ["trainer.max_stps is unknown; did you mean trainer.max_steps?"],
    "logger=tensorboard +logger.tensorboard.speed=3": ["logger.tensorboard.speed=3 is unknown; it takes comment, "],
    "logger=wandb +logger.wandb.tag=3": ["logger.wandb.tag=3 is unknown; did you mean tags?"],
    "logger=wandb logger.wandb.mode=of": ["logger.wandb.mode=of is unknown; choose one of online, offline, disabled"],
    "foo bar": ["'foo bar' cannot be read as KEY=VALUE"],
    "sweep=figure1": ["sweep=figure1 is many runs: add -m"],
}

SLIPS = {
    "gamma=0.6": ["gamma is unknown; did you mean constraints.neg_elbo.gamma=0.6 or constraints.mmd.gamma=0.6?"],
    "beta=4": ["beta is unknown; did you mean family=beta_vae alpha.q=3? (β = 1 + alpha.q)"],
    "beta=0.1": ["did you mean family=beta_vae alpha.q=-0.9?"],
    "epsilon=24": ["write epsilon=explicit constraints.neg_elbo.epsilon=24 constraints.mmd.epsilon=NUMBER."],
    "alpha=-1": ["alpha=-1: a group takes the name of an option: maximize, minimize, none.", "write alpha.q=-1 or alpha.p=-1"],
    "multiplier=3": ["write constraints.neg_elbo.multiplier=3 or constraints.mmd.multiplier=3"],
    "kernel=true": ["kernel=true: a group takes the name of an option"],
    "familly=vae": ["familly is unknown; did you mean family=vae?"],
    "experimnt=paper_mnist": ["did you mean experiment=paper_mnist?"],
    "family=vea": ["family=vea is unknown; did you mean vae?"],
    "lr=1e-3": ["lr is unknown; did you mean model.optimizer.lr=1e-3 or critic.optimizer.lr=1e-3?"],
    "steps=100": ["did you mean training.steps=100, calibration.steps=100 or critic.steps=100?"],
    "stesp=100": ["did you mean training.steps=100, "],
    "latent=8": ["did you mean model.latent=8 or data.source.latent=8?"],
    "batch=64": ["did you mean data.batch=64?"],
    "modle.latent=3": ["modle is unknown; did you mean model.latent=3?"],
    "mmd.gamma=1": ["mmd is unknown; did you mean constraints.mmd.gamma=1?"],
    "training.lr=1": ["training.lr is unknown; did you mean model.optimizer.lr=1"],
    "samples=3": ["samples is unknown; 6 settings end so, such as callbacks.training.information.samples=3, "],
}
"""What users type who know the name of a setting but not its place, or the reverse."""

OLD = {
    "constraints.mmd.unit=1e-3": "constraints.mmd.unit is now constraints.mmd.scale; write constraints.mmd.scale=1e-3.",
    "+constraints.mmd.unit=1": "constraints.mmd.unit is now constraints.mmd.scale; write constraints.mmd.scale=1.",
    "constraints.mmd.largest=9": "write constraints.mmd.max_multiplier=9.",
    "constraints.mmd.relative=true": "write constraints.mmd.gamma_relative=true.",
    "constraints.mmd.calibration=1": "write constraints.mmd.calibration_weight=1.",
    "launcher=stacked": "launcher=stacked is now launcher=ensemble.",
    "launcher.engine.jobs=4": "write launcher.executor.jobs=4.",
    "launcher.cells_per_job=16": "write launcher.runs_per_job=16.",
    "divergence=[written]": "divergence=written is now divergence=symbolic.",
    "constraints.written.unit=2": "write constraints.symbolic.scale=2.",
    "cell=family=vae seed=1": "cell is now overrides; write 'overrides=family=vae seed=1'.",
}
"""Names that settings had before."""

WRONG = {
    "training.steps=abc": ["training.steps=abc: Value 'abc' of type 'str' could not be converted to Integer"],
    "constraints.mmd.epsilon=abc": ["constraints.mmd.epsilon=abc: Value 'abc'", "could not be converted to Float"],
    "constraints.mmd.epsilon=nan": ["constraints.mmd.epsilon=nan must be a finite number"],
    "constraints.mmd.epsilon=inf": ["constraints.mmd.epsilon=inf must be a finite number"],
    "constraints.mmd.gamma=abc": ["constraints.mmd.gamma=abc: Value 'abc'", "could not be converted to Float"],
    "constraints.mmd.epsilon=-0.1": [
        "constraints.mmd.epsilon=-0.1 cannot be met: this divergence is never below 0",
        "at least 0, or use epsilon=calibrated",
    ],
    "constraints.mmd.gamma=nan": ["constraints.mmd.gamma=nan must be a finite number ≥ 0"],
    "constraints.mmd.gamma=-1": ["constraints.mmd.gamma=-1.0 must be a finite number ≥ 0"],
    "constraints.mmd.gamma=null": ["constraints.mmd.gamma=null: null is not allowed here"],
    "constraints.mmd.divergence=null": [
        "constraints.mmd.divergence=null: null is not allowed here; drop it with ~constraints.mmd."
    ],
    "model.encoder=null": ["model.encoder=null: null is not allowed here; leave it out, or give model.encoder._target_=CLASS."],
    "model.optimizer=null": ["model.optimizer=null: null is not allowed here"],
    "critic.optimizer=null": ["critic.optimizer=null: null is not allowed here"],
    "data.source=null": ["data.source=null: null is not allowed here"],
    "callbacks.final=null": [
        "callbacks.final=null: null is not allowed here; drop its metrics one by one, with ~callbacks.final.NAME."
    ],
    "callbacks.training.terms=null": [
        "callbacks.training.terms=null: null is not allowed here; drop it with ~callbacks.training"
    ],
    "constraints.mmd.multiplier=-1": ["constraints.mmd.multiplier=-1.0 must be a number ≥ 0; a multiplier is never negative"],
    "constraints.mmd.scale=0": ["constraints.mmd.scale=0.0 must be a positive number"],
    "constraints.mmd.calibration_weight=-1": ["constraints.mmd.calibration_weight=-1.0 must be a number ≥ 0"],
    "alpha.q=nan": ["alpha.q=nan must be a finite number"],
    "training.steps=0": ["training.steps=0 must be a whole number of at least 1"],
    "training.interval=0": ["training.interval=0 must be a whole number of at least 1"],
    "training.log_every=0": ["training.log_every=0 must be a whole number of at least 1"],
    "training.threads=0": ["training.threads=0 must be at least 1 and at most 4096, or null"],
    "training.threads=9999999999999": ["training.threads=9999999999999 must be at least 1 and at most 4096"],
    "seed=18446744073709551616": ["seed=18446744073709551616 is too large: a whole number has at most 64 bits"],
    "calibration.seed=99999999999999999999": ["calibration.seed=99999999999999999999 is too large"],
    "model.latent=99999999999": ["There is not enough memory (", "Lower a size; the largest are model.latent=99999999999 and"],
    "model.encoder.hidden=[99999999999]": ["not enough memory (", "the largest are model.encoder.hidden=[99999999999]"],
    "data.source.n=99999999999999": ["not enough memory (", "the largest are data.source.n=99999999999999"],
    "model.encoder.hidden=[0]": ["hidden=[0] must be widths of layers, each at least 1."],
    "model.encoder.hidden=[8,-3]": ["hidden=[8, -3] must be widths of layers, each at least 1."],
    "model=null": ["model=null: a group takes the name of an option: conv, mlp, mlp_paper, square."],
    "data.source._target_=null": ["data.source._target_=null: null is not allowed here; name a class."],
    "data.likelihood=null": ["data.likelihood=null: null is not allowed here; use bernoulli or normal."],
    "model.optimizer.lr=inf": ["model.optimizer.lr=inf must be a finite number."],
    "data.source.noise=inf": ["data.source.noise=inf must be a finite number."],
    "training.gradient_clip=inf": ["training.gradient_clip=inf must be a finite number."],
    "multiplier.optimizer.reach=inf": ["multiplier.optimizer.reach=inf must be a finite number."],
    "kernel.lengthscales=[inf]": ["lengthscales=inf must be a finite number."],
    "~callbacks.training.terms": ["callbacks.training.terms cannot be removed, because best.ckpt is chosen by"],
    "+trainer.max_epochs=3": ["trainer.max_epochs=3 cannot be set, because the program gives it itself; use training.steps."],
    "+trainer.logger=false": ["trainer.logger=False cannot be set", "use logger=[NAME]"],
    "trainer.precision=64-true": ["trainer.precision=64-true does not work here", "use 32-true, bf16-mixed or 16-mixed"],
    "name=.jobs/a": ["name='.jobs/a' cannot be a folder under runs/"],
    "name=a/latest": ["name='a/latest' cannot be a folder under runs/"],
    "name=pareto-analysis": ["name='pareto-analysis' cannot be a folder under runs/"],
    "training.gradient_clip=-1": ["training.gradient_clip=-1.0 must be positive, or null"],
    "model.latent=0": ["model.latent=0 must be a whole number of at least 1"],
    "model.latent=2.5": ["model.latent=2.5 must be a whole number of at least 1"],
    "model.latent=many": ["model.latent=many must be a whole number of at least 1"],
    "model.encoder.hidden=8": ["model.encoder.hidden=8 must be a list, each a whole number"],
    "model.encoder.hidden=[8,wide]": ["model.encoder.hidden=[8, 'wide'] must be a list, each a whole number"],
    "model.optimizer.lr=fast": ["model.optimizer.lr=fast must be a number"],
    "model.optimizer.lr=-1": ["model.optimizer does not work: Invalid learning rate: -1"],
    "model.optimizer.lr=nan": ["model.optimizer.lr=nan must be a finite number."],
    "multiplier.optimizer.reach=-1": ["LogAscent reach=-1", "must be positive"],
    "multiplier.rate=0.01": ["multiplier.rate=0.01: the default optimizer of λ has no rate", "multiplier=rmsprop"],
    "multiplier.optimizer.maximize=false": ["multiplier.optimizer must ascend: set multiplier.optimizer.maximize=true"],
    "kernel.lengthscales=[]": ["kernel.lengthscales is empty"],
    "kernel.lengthscales=[-1]": ["kernel.lengthscales=-1 must be a positive number"],
    "kernel.lengthscales=wide": ["kernel.lengthscales=wide must be a list, each a number"],
    "data.batch=0": ["data.batch=0 must be at least 1"],
    "data.batch=2.5": ["data.batch=2.5 must be a whole number"],
    "data.batch=321": ["data.batch=321 is larger than the 320 training samples of linear_gaussian; lower it"],
    "data.val=0": ["data.val=0 must be a share between 0 and 1"],
    "data.val=some": ["data.val=some must be a number"],
    "data.val=0.95": ["data.val=0.95 and data.test=0.1 leave nothing to train on"],
    "data.draws=0": ["data.draws=0 must be at least 1"],
    "data.workers=-1": ["data.workers=-1 must be at least 0"],
    "data.source.noise=0": ["noise=0 > 0"],
    "callbacks.final.information.samples=2": ["at least 4 samples, not samples=2"],
    "callbacks.final.information.samples=321": ["callbacks.final.information.samples=321 is more than the 320 samples"],
    "callbacks.final.information.pairs=0": ["pairs=0 at least 1"],
    "callbacks.final.likelihood.draws=0": ["draws=1", "draws=0"],
    "callbacks.final.information_of_model.draws=-1": ["draws ≥ 0", "draws=-1"],
    "callbacks.final.information.samples=1e3": ["callbacks.final.information.samples=1000.0 must be a whole number"],
    "trainer.accelerator=abacus": ["trainer (accelerator=abacus", "invalid accelerator name"],
    "trainer.precision=8": ["trainer.precision=8 does not work here"],
    "name=latest": ["name='latest' cannot be a folder under runs/"],
    "name=../a": ["name='../a' cannot be a folder under runs/"],
    "data.seed=${nowhere}": ["Interpolation key 'nowhere' not found"],
}

TOGETHER = {
    "family=vae multiplier=learned": ["a learned multiplier needs a bound. Use epsilon=calibrated"],
    "epsilon=explicit": ["epsilon=explicit needs a number for every constraint: add constraints.neg_elbo.epsilon=NUMBER"],
    "multiplier=fixed multiplier.learned=true": ["multiplier.learned=true needs multiplier.optimizer; use multiplier=learned"],
    "divergence=[rate]": ["nothing to calibrate", "constraints.NAME.calibration_weight", "divergence=[…]"],
    "divergence=[]": ["nothing to calibrate"],
    "family=vae epsilon.calibration=somewhere": ["epsilon.calibration=somewhere is not used here; add epsilon=calibrated"],
    "data.batch=1": ["needs at least two samples of each distribution, not 1 and 1"],
    "model=conv": ["data of shape (channels, height, width), not (8,); use model=mlp"],
    "model.likelihood=bernoulli": ["model.likelihood=bernoulli needs data.likelihood=bernoulli"],
    "data.likelihood=bernoulli": ["data=linear_gaussian has values from", "needs them in [0, 1]", "data.likelihood=normal"],
    "constraints.mmd.multiplier=1e9": ["multiplier=1e+09 starts above its limit constraints.mmd.max_multiplier"],
}


@pytest.mark.parametrize("words", [*UNKNOWN, *SLIPS, *WRONG])
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, words: str) -> None:
    base = [word for word in QUICK if word.partition("=")[0] != words.partition("=")[0]]
    split = words.split() if words.startswith("logger=") else [words]
    refuses(program(tmp_path, *base, *split), *(UNKNOWN | SLIPS | WRONG)[words])


@pytest.mark.parametrize("words", OLD)
def test_an_old_name_is_answered_with_the_new_one(tmp_path: Path, words: str) -> None:
    refuses(program(tmp_path, words), OLD[words])


def test_a_group_hint_knows_the_constraints_of_the_other_words(tmp_path: Path) -> None:
    said = program(tmp_path, "family=vae", "epsilon=24", "-m", "seed=0,1")
    refuses(said, "write epsilon=explicit constraints.neg_elbo.epsilon=24.")


@pytest.mark.parametrize(("script", "words"), [("train", "resume=a"), ("evaluate", "run=a")])
def test_a_run_with_old_names_is_told_the_new_ones(tmp_path: Path, script: str, words: str) -> None:
    run = RunFolder(tmp_path / "runs" / "a")
    run.checkpoints.mkdir(parents=True)
    run.last.touch()
    run.config.write_text("constraints: {mmd: {unit: 1, gamma: 2}}\nlauncher: {engine: {jobs: 1}}\n")
    renamed = "constraints.mmd.unit is now constraints.mmd.scale; launcher.engine is now launcher.executor."
    refuses(program(tmp_path, words, script=script), f"{run.config} was written by an earlier version", renamed)


@pytest.mark.parametrize("words", TOGETHER)
def test_settings_that_do_not_go_together_are_named(tmp_path: Path, words: str) -> None:
    # conv has other settings than QUICK gives; a batch of one is only known to be too small by the kernel, in its first step
    base = [word for word in QUICK if "hidden" not in word]
    said = program(tmp_path, *base, *words.split())
    begun = said.new if words == "data.batch=1" else set()
    assert {Path(name).name for name in begun} <= {"config.yaml", "metrics.csv"}
    refuses(said, *TOGETHER[words], leaves=begun)


@pytest.mark.parametrize("key", ["limit_val_batches", "limit_test_batches"])
def test_a_debug_run_measures_something(tmp_path: Path, key: str) -> None:
    said = program(tmp_path, "debug=fast", f"trainer.{key}=0")
    refuses(said, f"trainer.{key}=0 must be a positive number of batches")


@pytest.mark.parametrize("words", [["resume=a"], ["resume=a,b"], ["resume=a", "seed=0,1"]])
def test_a_sweep_does_not_resume_a_run(tmp_path: Path, words: list[str]) -> None:
    refuses(program(tmp_path, "-m", *words), "resume=a continues one run: leave out -m")


def test_sizes_without_memory_are_named_in_a_sweep_too(tmp_path: Path) -> None:
    said = program(tmp_path, *VAE, "-m", "data.source.n=99999999999999")
    refuses(said, "There is not enough memory (", "the largest are data.source.n=99999999999999")


def test_a_removed_metric_by_which_the_best_checkpoint_is_chosen_is_named(tmp_path: Path) -> None:
    words = ("model.likelihood=normal", "alpha.p=0.1", "~callbacks.training.information_of_model")
    refuses(program(tmp_path, *QUICK, *words), "callbacks.training.information_of_model cannot be removed")


def test_two_wrong_settings_are_no_traceback_either(tmp_path: Path) -> None:
    refuses(program(tmp_path, *QUICK, "model.latent=0", "data.batch=0"), "must be")


@pytest.mark.parametrize("script", ["calibrate", "evaluate"])
def test_the_other_programs_answer_alike(tmp_path: Path, script: str) -> None:
    words = {"calibrate": "model.laten=3", "evaluate": "data.batch=3"}[script]
    refuses(program(tmp_path, "data=digits", script="evaluate"), "data is not a group that this program takes")
    expected = {
        "calibrate": "did you mean model.latent=3?",
        "evaluate": "data is unknown; a config has run, checkpoint, trust, trainer, paths",
    }
    refuses(program(tmp_path, words, script=script), expected[script])


# ---- data


def pickled(file: Path) -> None:
    file.write_bytes(pickle.dumps({"x": [1, 2, 3]}))


def halved(write: Callable[[Path], Any]) -> Callable[[Path], None]:
    def half(file: Path) -> None:
        write(file)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])

    return half


X = np.random.default_rng(0).random((300, 4)).astype("f4")
FILES: dict[str, tuple[str, Callable[[Path], Any], list[str]]] = {
    "missing": ("a.npy", lambda file: None, ["there is no such file"]),
    "folder": ("a.npy", lambda file: file.mkdir(), ["is a folder", "data=folder"]),
    "ending": ("a.csv", lambda file: file.write_text("1,2"), ["unknown ending '.csv'; use .npz, .npy or .pt"]),
    "empty npy": ("a.npy", lambda file: file.touch(), ["is an empty file"]),
    "empty npz": ("a.npz", lambda file: file.touch(), ["is an empty file"]),
    "empty pt": ("a.pt", lambda file: file.touch(), ["is an empty file"]),
    "half npy": ("a.npy", halved(lambda file: np.save(file, X)), ["cannot be read"]),
    "half npz": ("a.npz", halved(lambda file: np.savez(file, x=X)), ["cannot be read"]),
    "half pt": ("a.pt", halved(lambda file: torch.save(torch.from_numpy(X), file)), ["cannot be read"]),
    "noise npy": ("a.npy", lambda file: file.write_bytes(b"\x00noise" * 99), ["is no .npy file, or holds Python objects"]),
    "noise pt": ("a.pt", lambda file: file.write_bytes(b"\x00noise" * 99), ["is no .pt file, or holds Python objects"]),
    "pickle npy": ("a.npy", pickled, ["holds Python objects, which are never loaded; save plain arrays"]),
    "pickle npz": ("a.npz", pickled, ["holds Python objects, which are never loaded"]),
    "objects": ("a.npy", lambda f: np.save(f, np.array([{}], object)), ["holds Python objects, which are never loaded"]),
    "key": (
        "a.npz",
        lambda file: np.savez(file, images=X, labels=X),
        ["has no array 'x', only images, labels; set data.source.key"],
    ),
    "flat": (
        "a.npy",
        lambda file: np.save(file, X[:, 0]),
        ["x has the shape (300,); it must be (N, …), N samples of at least one axis: numbers are (N, 1)."],
    ),
    "text": (
        "a.npy",
        lambda file: np.save(file, np.array([["a", "b"]])),
        ["x is <U1; it must be a dense array of real numbers"],
    ),
    "complex": ("a.npy", lambda file: np.save(file, X + 1j), ["complex", "it must be a dense array of real numbers"]),
    "list": ("a.pt", lambda file: torch.save([1, 2], file), ["x is list; it must be a dense array"]),
    "no samples": ("a.npy", lambda file: np.save(file, X[:0]), ["data=array is empty: an array of shape (0, 4)"]),
    "no values": ("a.npy", lambda file: np.save(file, X[:, :0]), ["data=array is empty: an array of shape (300, 0)"]),
    "nan": (
        "a.npy",
        lambda file: np.save(file, np.where(X > 0.99, np.nan, X)),
        ["data=array: x in ", "a.npy has NaN or infinite values", "1200"],
    ),
    "few": ("a.npy", lambda file: np.save(file, X[:30]), ["too small: its val split has 3 samples and needs 4", "data.val"]),
    "test": (
        "a.npz",
        lambda file: np.savez(file, x=X, test=X[:, :3]),
        ["test samples have shape (3,), the others (4,); they must be alike"],
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_be_data_is_named(tmp_path: Path, kind: str) -> None:
    name, write, pieces = FILES[kind]
    (tmp_path / "own").mkdir()
    write(tmp_path / "own" / name)
    said = program(tmp_path, "data=array", "data.batch=16", "family=vae", f"data.source.path={tmp_path}/own/{name}")
    named = [] if pieces[0].startswith(("data=array", "test", "too small")) else [f"data.source.path={tmp_path}/own/{name}"]
    refuses(said, *named, *pieces)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("ending", ["npy", "npz", "pt"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    from lagvae.data.sources import array

    monkeypatch.setenv("BOMB", str(tmp_path / "went off"))
    file = tmp_path / f"a.{ending}"
    file.write_bytes(pickle.dumps(Bomb())) if ending != "pt" else torch.save({"x": Bomb()}, file)
    with pytest.raises(DataError, match="never loaded"):
        array(str(file))
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("words", ["data=array", "data=folder"])
def test_own_data_need_a_path(tmp_path: Path, words: str) -> None:
    refuses(program(tmp_path, words), f"{words} needs data.source.path=")


def test_bernoulli_needs_values_from_0_to_1(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", 5 * X)
    words = ["data=array", f"data.source.path={tmp_path}/a.npy", "data.likelihood=bernoulli", "data.batch=16"]
    said = program(tmp_path, *words)
    refuses(said, "data=array has values from", "[0, 1]", "uint8", "data.likelihood=normal")


def folder_of_images(folder: Path, n: int = 60) -> list[str]:
    """A folder of `n` images, the fourth of them cut short; returns the words to train on it."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    content = (folder / "03.png").read_bytes()
    (folder / "03.png").write_bytes(content[: len(content) // 2])
    own = ["data=folder", f"data.source.path={folder}", "data.source.size=8", "data.batch=16"]
    return [word for word in VAE if not word.startswith(("data=", "data.source", "data.batch"))] + own


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("")
    said = program(tmp_path, "data=folder", f"data.source.path={tmp_path}/own")
    refuses(said, f"data.source.path={tmp_path}/own holds no images (.bmp, .jpeg")
    said = program(tmp_path, "data=folder", f"data.source.path={tmp_path}/owm")
    refuses(said, f"data.source.path={tmp_path}/owm: there is no such folder")
    said = program(tmp_path, "data=folder", f"data.source.path={tmp_path}/own/notes.txt")
    refuses(said, "notes.txt is a file", "data=array")


def test_a_broken_image_is_named_before_training(tmp_path: Path) -> None:
    words = folder_of_images(tmp_path / "own")
    for mib in (1024, 0):
        said = program(tmp_path, *words, f"data.source.in_memory_mib={mib}")
        refuses(said, f"{tmp_path}/own/03.png is not an image that can be read", "Remove or mend it")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_while_training_is_named_without_the_traceback_of_a_worker(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = folder_of_images(tmp_path / "own")
    monkeypatch.setattr(ImageFiles, "read_all", lambda self, keep: (None, []))  # as if it had been whole before training
    monkeypatch.setattr(
        "lagvae.experiment.factory.is_silent", lambda: True
    )  # nothing is said of the data, which are not looked at
    said = program(tmp_path, *words, "data.source.in_memory_mib=0", f"data.workers={workers}", "name=a")
    assert not (tmp_path / "runs" / "a" / "summary.json").exists()
    refuses(said, f"{tmp_path}/own/03.png is not an image that can be read", leaves={"runs/a/config.yaml", "runs/latest"})


def test_without_a_network_the_data_that_need_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://name.invalid/"])
    said = program(tmp_path, "data=fashion_mnist")
    offline = "data=digits and data=linear_gaussian work without a network"
    refuses(said, "FashionMNIST is not under", "could not be downloaded", offline)


# ---- folders and disks


def test_a_file_where_runs_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = program(tmp_path, *QUICK, f"paths.calibrations={tmp_path}/file")
    refuses(said, f"{tmp_path}/file is a file, not a folder", "Set paths.root")
    said = program(tmp_path, *VAE, f"paths.runs={tmp_path}/file")
    refuses(said, f"{tmp_path}/file is a file, not a folder", "Set paths.root")


def test_a_folder_that_hydra_cannot_make_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = program(tmp_path, *VAE, f"hydra.run.dir={tmp_path}/file/x")
    refuses(said, f"{tmp_path}/file/x cannot be read or written (Not a directory)")


def test_a_folder_for_runs_is_looked_at_before_a_calibration(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = program(tmp_path, *QUICK, f"paths.runs={tmp_path}/file")
    refuses(said, f"{tmp_path}/file is a file, not a folder", "Set paths.root")


def test_a_preference_that_the_model_cannot_have_is_named_before_a_calibration(tmp_path: Path) -> None:
    words = [word for word in QUICK if not word.startswith("data")]
    said = program(tmp_path, *words, "alpha.p=0.5")
    refuses(said, "alpha.p=0.5 needs samples of p(x|z) with a gradient", "model.likelihood=normal")


def no_space(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_leaves_a_run_that_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = pl.Trainer.save_checkpoint, []

    def fills_up(self: pl.Trainer, path: Path, *args: Any, **kwargs: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            no_space()
        save(self, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "save_checkpoint", fills_up)
        said = program(tmp_path, *VAE, "name=a", "training.steps=60")
    run = RunFolder(tmp_path / "runs" / "a")
    assert said.status == 1
    assert "Error: The disk is full: " in said.err
    assert ".ckpt could not be written. Free some space; a stopped run can be resumed." in said.err
    assert not run.finished
    assert torch.load(run.last, weights_only=True)["global_step"] == 20
    assert program(tmp_path, "resume=a").status == 0
    assert run.read_summary()["steps"] == 60


def test_a_disk_that_fills_up_while_figures_are_drawn_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(root / "runs" / "done")
    cfg = OmegaConf.load(run.config)
    cfg.callbacks.figures = True
    OmegaConf.save(cfg, run.config)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", no_space)
    said = program(root, "run=done", script="evaluate")
    assert said.status == 1
    assert "Error: The disk is full: " in said.err
    assert "Traceback" not in said.err


def test_a_run_whose_folder_cannot_be_written_is_not_told_to_go_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    said = str(storage_error(tmp_path / "evaluation" / "lock", OSError(errno.EACCES, "Permission denied")))
    assert said.endswith(f"(Permission denied). Make {tmp_path} writable, or copy it to a folder that is.")
    assert "Set paths.root" in str(storage_error(tmp_path.parent / "new" / "lock", OSError(errno.EROFS, "Read-only")))


# ---- stopped, and shown


def test_sigterm_while_metrics_are_computed_stops_a_run_that_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, compute = [], evaluation.compute_all

    def terminated(metrics: Any, *begin: Any) -> Any:
        calls.append(metrics)
        if len(calls) == 3:  # after two intervals: the final evaluation
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return compute(metrics, *begin)

    monkeypatch.setattr(evaluation, "compute_all", terminated)
    before = signal.getsignal(signal.SIGTERM)
    said = program(tmp_path, *VAE, "name=a")
    assert said.status == 130, said
    assert "Resume with: python src/train.py resume=a" in " ".join(said.err.split())
    assert not RunFolder(tmp_path / "runs" / "a").finished
    assert signal.getsignal(signal.SIGTERM) == before
    assert program(tmp_path, "resume=a").status == 0


def test_ctrl_c_stops_a_comparison_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lagvae.pareto.report.compare", interrupted)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    said = program(tmp_path, "a", script="pareto")
    assert (said.status, said.err) == (130, "Error: Stopped.\n")


def test_a_terminal_that_lacks_a_sign_shows_another(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    make_printable()
    print_line("λ ≤ 3")
    shown.flush()
    assert shown.buffer.getvalue() == b"? ? 3\n"  # type: ignore[attr-defined]


# ---- numbers that are no numbers


def test_a_loss_that_is_nan_stops_training_and_names_the_term(tmp_path: Path) -> None:
    said = program(tmp_path, *VAE, "name=a", "model.optimizer.lr=1e9", "training.log_every=10")
    assert said.status == 1
    assert "Traceback" not in said.err
    assert "became NaN or infinite at step" in said.err
    assert "Lower model.optimizer.lr" in said.err
    run = RunFolder(tmp_path / "runs" / "a")
    assert not run.finished
    assert files(run.path) <= {"config.yaml", "metrics.csv"}


@pytest.mark.parametrize(("log_every", "calm"), [(5, 25), (50, 25), (5, 19)])
def test_the_last_good_checkpoint_is_kept(tmp_path: Path, log_every: int, calm: int) -> None:
    """With a rate that explodes after `calm` steps: past the first interval of 20, or in its last step."""
    late = f"{{_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: {calm}, gamma: 1e15}}"
    said = program(tmp_path, *VAE, "name=a", f"model.schedule={late}", f"training.log_every={log_every}", "training.steps=100")
    assert said.status == 1
    run = RunFolder(tmp_path / "runs" / "a")
    assert not run.finished
    if calm < 20:
        assert not run.last.exists()
        return
    assert "Checkpoints from before are kept" in said.err
    content = torch.load(run.last, weights_only=True)
    assert content["global_step"] == 20
    assert all(value.isfinite().all() for value in content["state_dict"].values())


def test_a_sweep_with_a_run_that_cannot_be_does_not_start(tmp_path: Path) -> None:
    said = program(tmp_path, *VAE, "name=run-${model.latent}", "-m", "model.latent=2,0,3")
    assert said.status == 1
    assert said.err == "Error: The run run-0: model.latent=0 must be a whole number of at least 1.\n"
    assert said.new == set()


# ---- runs and checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a finished run `done` that was calibrated, and one of another model, `other`."""
    root = tmp_path_factory.mktemp("trained")
    for words in (["name=other", "family=vae", "model.latent=3"], ["name=done"]):
        assert program(root, *QUICK, *words).status == 0
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` that a test may damage."""
    shutil.copytree(trained, tmp_path / "root", symlinks=True)
    for config in (tmp_path / "root").rglob("config.yaml"):
        config.write_text(config.read_text().replace(str(trained), str(tmp_path / "root")))
    return tmp_path / "root"


def test_a_finished_run_is_not_resumed(root: Path) -> None:
    said = program(root, "resume=done")
    assert (said.status, said.err, said.new) == (0, "", set())
    assert "has finished; there is nothing to resume" in said.out


def test_resume_takes_no_other_settings(root: Path) -> None:
    said = program(root, "resume=done", "training.steps=80", "seed=1")
    refuses(said, "resume=done continues with the run's own settings; leave out training.steps=80, seed=1")


def test_resume_and_evaluate_need_a_run(tmp_path: Path) -> None:
    for script, words in (("train", "resume=latest"), ("evaluate", "run=latest"), ("evaluate", "run=a/b")):
        said = program(tmp_path, words, script=script)
        refuses(said, f"'{words.partition('=')[2]}' is not a run", "Make one with python src/train.py")


def test_a_run_that_is_not_there_is_told_with_those_that_are(root: Path) -> None:
    said = program(root, "run=dome", script="evaluate")
    refuses(said, "'dome' is not a run", "The newest there: ")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def rewrite_checkpoint(file: Path, **changed: Any) -> None:
    """Change parts of a checkpoint, whose checksums are right afterwards, and leave out those that are None."""
    content = torch.load(file, weights_only=True) | changed
    torch.save({key: value for key, value in content.items() if value is not None}, file)


CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (cut, "damaged or not a checkpoint"),
    "empty": (lambda file: file.write_bytes(b""), "damaged or not a checkpoint"),
    "another model": (lambda file: shutil.copy(file.parents[2] / "other/checkpoints/last.ckpt", file), "is of another model: "),
    "a bit": (flip, "damaged or not a checkpoint"),
    "foreign weights": (
        lambda file: torch.save({"state_dict": {"net.weight": torch.zeros(3)}, "global_step": 1}, file),
        "joint.decoder.log_scale: missing there, shape () here.",
    ),
    "a tensor": (lambda file: torch.save({"x": torch.zeros(3)}, file), "damaged or not a checkpoint"),
    "no number of steps": (lambda file: rewrite_checkpoint(file, global_step="two"), "damaged or not a checkpoint"),
    "a pickle": (lambda file: file.write_bytes(pickle.dumps({"state_dict": {}})), "damaged or not a checkpoint"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint_that_does_not_fit_is_named(root: Path, kind: str) -> None:
    damage, piece = CHECKPOINTS[kind]
    run = RunFolder(root / "runs" / "done")
    damage(run.last)
    refuses(program(root, "run=done", script="evaluate"), str(run.last), piece)
    run.summary.unlink()  # as if it had been stopped
    refuses(program(root, "resume=done"), str(run.last), piece)


UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"optimizer_states": None, "loops": None}, "lacks optimizer_states, loops"),
    ({"global_step": 41}, "is of step 41, after training.steps=40"),
]


@pytest.mark.parametrize(("changed", "piece"), UNUSABLE)
def test_a_checkpoint_from_which_no_training_goes_on_is_named(root: Path, changed: dict[str, Any], piece: str) -> None:
    run = RunFolder(root / "runs" / "done")
    run.summary.unlink()
    rewrite_checkpoint(run.last, **changed)
    refuses(program(root, "resume=done"), str(run.last), piece)


def test_a_checkpoint_that_is_not_there_is_named(root: Path) -> None:
    said = program(root, "run=done", "checkpoint=first", script="evaluate")
    refuses(said, "checkpoint=first: there is no file", "The run has best, last; name one of these.")
    shutil.rmtree(root / "runs" / "done" / "checkpoints")
    said = program(root, "run=done", script="evaluate")
    refuses(said, "last.ckpt. The run has finished, and its checkpoints are gone: train it again under another name.")


def test_a_checkpoint_is_read_without_executing_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "went off"))
    torch.save({"state_dict": Bomb()}, tmp_path / "a.ckpt")
    cfg = settings(tmp_path, *VAE)
    validate(cfg)
    model = build_model(cfg, build_data(cfg))
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path / "a.ckpt", model)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("way", ["resume", "evaluate"])
def test_a_run_has_its_own_bounds(root: Path, way: str) -> None:
    """Moved, and without its calibration, of which nothing is made again: evaluate writes into its run alone."""
    root = root.rename(root.with_name("moved"))
    run = RunFolder(root / "runs" / "done")
    before = run.read_summary()
    shutil.rmtree(root / "calibrations")
    if way == "resume":
        run.summary.write_text("{}")
        assert program(root, "resume=done").status == 0
        after = run.read_summary()
    else:
        said = program(root, "run=done", script="evaluate")
        assert said.status == 0, said.err
        assert {Path(name).parts[:3] for name in said.new} == {("runs", "done", "evaluation")}
        after = RunFolder(run.path / "evaluation").read_summary()
    assert not (root / "calibrations").exists()
    assert not root.with_name("root").exists()
    assert after["constraints"] == before["constraints"]
    assert after["verdict"] == before["verdict"]


def on_a_gpu(root: Path) -> RunFolder:
    """The run `done`, as trainer=gpu would have written it elsewhere, without its summary."""
    run = RunFolder(root / "runs" / "done")
    cfg = OmegaConf.load(run.config)
    cfg.trainer.accelerator = "cuda"
    OmegaConf.save(cfg, run.config)
    run.summary.unlink()
    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_a_run_of_a_gpu_goes_on_without_one(root: Path) -> None:
    run = on_a_gpu(root)
    said = program(root, "run=done", script="evaluate")
    assert said.status == 0, said.err
    assert "This machine has no cuda, on which the run was trained" in " ".join(said.err.split())
    said = program(root, "resume=done", "trainer.accelerator=cpu")
    assert said.status == 0, said.err
    assert "This machine" not in said.err
    assert run.finished


def test_a_setting_of_the_trainer_that_decides_about_numbers_stays_that_of_the_run(root: Path) -> None:
    said = program(root, "run=done", "trainer.precision=bf16-mixed", script="evaluate")
    refuses(said, "trainer.precision=bf16-mixed: the run has 32-true, which decides about its numbers. Leave it out.")


OTHERS: dict[str, tuple[str, Any, str]] = {
    "data": ("data.source.n", 401, "was trained on other data than there are now"),
    "preference": ("alpha.q", 2.0, "its settings are not those of config.yaml (checkpoint → config.yaml: alpha.q: -1 → 2)"),
    "slack": ("constraints.neg_elbo.gamma", 9.0, "constraints.neg_elbo.gamma: 1.5 → 9"),
}


@pytest.mark.parametrize("way", ["resume", "evaluate"])
@pytest.mark.parametrize("kind", OTHERS)
def test_a_checkpoint_of_other_data_or_settings_is_refused(root: Path, kind: str, way: str) -> None:
    key, value, piece = OTHERS[kind]
    run = RunFolder(root / "runs" / "done")
    cfg = OmegaConf.load(run.config)
    OmegaConf.update(cfg, key, value)
    OmegaConf.save(cfg, run.config)
    run.summary.unlink()
    words = {"resume": ("train", "resume=done"), "evaluate": ("evaluate", "run=done")}[way]
    refuses(program(root, words[1], script=words[0]), str(run.last), piece)


@pytest.mark.parametrize("content", ["", "{", "{}", "null", "[]", "3"])
def test_a_damaged_summary_is_none(tmp_path: Path, content: str) -> None:
    run = RunFolder(tmp_path)
    run.summary.write_text(content)
    assert not run.finished
    with pytest.raises(CheckpointError, match=r"summary\.json is missing or damaged\. Resume the run"):
        run.read_summary()


def test_a_summary_that_was_changed_is_made_again(root: Path) -> None:
    run = RunFolder(root / "runs" / "done")
    before, text = run.read_summary(), run.summary.read_text()
    run.summary.write_text(text.replace('"steps": 40', '"steps": 41'))
    assert not run.finished
    assert program(root, "resume=done").status == 0
    again = run.read_summary()
    assert {**again, "seconds": None} == {**before, "seconds": None}


def test_a_run_that_another_process_has_is_not_resumed(root: Path) -> None:
    run = RunFolder(root / "runs" / "done")
    run.summary.unlink()
    owner = f"belongs to process {os.getpid()} on {socket.gethostname()}, since 20"
    with owned(run.path):
        refuses(program(root, "resume=done"), f"{run.path} {owner}", "Wait until that has ended, or stop it")
    with owned(run.path / "evaluation"):
        refuses(program(root, "run=done", script="evaluate"), f"{run.path}/evaluation {owner}")


CONFIGS: dict[str, tuple[Callable[[str], str], str]] = {
    "cut short": (lambda text: text[:500].rsplit(":", 1)[0], "config.yaml is damaged"),
    "a list": (lambda text: "[1, 2]", "config.yaml is damaged: it holds no settings"),
    "empty": (lambda text: "", "Missing mandatory value"),
    "foreign": (lambda text: "colour: red\n" + text, "Key 'colour' not in 'Config'"),
    "a word for a number": (lambda text: text.replace("  steps: 40", "  steps: many"), "Value 'many' of type 'str'"),
    "too large a batch": (lambda text: text.replace("  batch: 50", "  batch: 5000"), "data.batch=5000 is larger than"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_damaged_config_of_a_run_is_named(root: Path, kind: str) -> None:
    damage, piece = CONFIGS[kind]
    run = RunFolder(root / "runs" / "done")
    run.summary.unlink()
    run.config.write_text(damage(run.config.read_text()))
    said = program(root, "resume=done")
    assert said.status == 1
    assert said.err.startswith("Error: ")
    assert "Traceback" not in said.err
    assert piece in said.err
    assert not run.finished


HARMFUL: dict[str, dict[str, Any]] = {
    "callbacks.final.terms": {"_target_": "os.mkdir", "path": "HARM"},
    "data.source": {"_target_": "torch.load", "f": "HARM", "weights_only": False},
    "constraints.mmd.divergence.kernel": {"_target_": "lagvae.io.os.mkdir", "path": "HARM"},
    "callbacks.lightning": {
        "mine": {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["HARM"]}}
    },
    "model.schedule": {"_target_": "torch.os.mkdir", "path": "HARM"},
    "model.optimizer": "${oc.create:'{_target_: os.mkdir, path: HARM}'}",
}


@pytest.mark.parametrize("way", ["resume", "evaluate"])
@pytest.mark.parametrize("key", HARMFUL)
def test_a_stored_config_runs_no_code(root: Path, key: str, way: str) -> None:
    run, harm = RunFolder(root / "runs" / "done"), root / "harm"
    cfg = OmegaConf.load(run.config)
    node = json.loads(json.dumps(HARMFUL[key]).replace("HARM", str(harm)))
    OmegaConf.update(cfg, key, node, force_add=True, merge=False)
    OmegaConf.save(cfg, run.config)
    run.summary.unlink()
    words = {"resume": ("train", "resume=done"), "evaluate": ("evaluate", "run=done")}[way]
    refuses(program(root, words[1], script=words[0]), f"{run.config}: {key}", "is not loaded")
    assert not harm.exists()


def test_a_function_that_reads_objects_from_a_file_is_never_trusted(root: Path) -> None:
    run = RunFolder(root / "runs" / "done")
    cfg = OmegaConf.load(run.config)
    cfg.data.source = {"_target_": "torch.load", "f": "x.pt", "weights_only": False}
    OmegaConf.save(cfg, run.config)
    said = program(root, "run=done", "trust=[torch.]", script="evaluate")
    refuses(said, "data.source._target_=torch.load is not loaded, trusted or not")


# ---- calibrations


def calibration_of(root: Path) -> Path:
    (folder,) = (root / "calibrations").iterdir()
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any], sign: bool = True) -> None:
    """Change a calibration, and write the hashes of what is there now, unless it should not be signed."""
    file = folder / "calibration.json"
    content = json.loads(file.read_text())
    change(content)
    if sign:
        content |= {"theta": file_digest(folder / "theta.pt")}
        content["digest"] = json_digest({key: value for key, value in content.items() if key != "digest"})
    file.write_text(json.dumps(content))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda folder: cut_text(folder / "calibration.json"),
    "empty": lambda folder: (folder / "calibration.json").write_text(""),
    "null": lambda folder: (folder / "calibration.json").write_text("null"),
    "a list": lambda folder: (folder / "calibration.json").write_text("[]"),
    "no numbers": lambda folder: rewrite(folder, lambda c: c.pop("calibrated")),
    "a number that was NaN": lambda folder: rewrite(folder, lambda c: c["calibrated"].update(mmd=None)),
    "an error is missing": lambda folder: rewrite(folder, lambda c: c["stderr"].pop("mmd")),
    "settings changed by hand": lambda folder: rewrite(folder, lambda c: c["settings"].update({"data.batch": 1})),
    "a number changed by hand": lambda folder: rewrite(folder, lambda c: c["calibrated"].update(mmd=0.1), sign=False),
    "a bit of a theta": lambda folder: flip(folder / "theta.pt"),
    "another theta": lambda folder: torch.save(
        {name: 2 * value for name, value in torch.load(folder / "theta.pt", weights_only=True).items()}, folder / "theta.pt"
    ),
    "no theta": lambda folder: (folder / "theta.pt").unlink(),
    "half a theta": lambda folder: cut(folder / "theta.pt"),
    "a tensor for a theta": lambda folder: torch.save(torch.zeros(3), folder / "theta.pt"),
}


def cut_text(file: Path) -> None:
    file.write_text(file.read_text()[:300])


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_calibration_is_named(root: Path, kind: str) -> None:
    folder = calibration_of(root)
    DAMAGES[kind](folder)
    refuses(program(root, *QUICK, "name=a"), str(folder), f"Remove {folder} and calibrate again")


def test_a_theta_of_another_model_is_named(root: Path) -> None:
    folder = calibration_of(root)
    state = torch.load(folder / "theta.pt", weights_only=True)
    torch.save({name: torch.zeros(7) for name in state}, folder / "theta.pt")
    rewrite(folder, lambda c: None)
    refuses(program(root, *QUICK, "name=a"), str(folder), "calibrate again")


def test_a_standard_error_that_is_not_known_is_no_damage(root: Path) -> None:
    folder = calibration_of(root)
    rewrite(folder, lambda c: c["stderr"].update(mmd=None))
    found = Calibration.load(folder)
    found.calibrated["mmd"] = 2e-4
    assert found.bound("mmd", 0.5, relative=True, smallest=0.0) == pytest.approx(3e-4)


def test_a_calibration_that_does_not_fit_is_told_what_differs(root: Path) -> None:
    folder = calibration_of(root)
    words = [*QUICK, "model.latent=3", "data.batch=40", "divergence=[neg_elbo,mmd,rate]", f"epsilon.calibration={folder}"]
    said = program(root, *words)
    differ = "calibration → this run: data.batch: 50 → 40; model.latent: 16 → 3; constraints.rate.divergence._target_: none → "
    refuses(said, f"The calibration in {folder} was made with other settings", differ.strip())


def test_a_calibration_that_is_not_there_is_named(tmp_path: Path) -> None:
    said = program(tmp_path, *QUICK, f"epsilon.calibration={tmp_path}/none")
    refuses(said, f"{tmp_path}/none holds no calibration", "python src/calibrate.py")


# ---- as a user runs it


def test_a_user_sees_one_line_and_status_1(tmp_path: Path) -> None:
    environment = os.environ | {"LAGVAE_ROOT": str(tmp_path / "root")}
    command = [sys.executable, str(ROOT / "src" / "train.py"), "data=array", "data.source.path=nowhere.npy"]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    piece = "data.source.path=nowhere.npy: there is no such file"
    refuses(Outcome(said.returncode, said.stdout, said.stderr, files(tmp_path)), piece)
    assert said.stdout == ""
