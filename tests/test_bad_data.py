"""Data that cannot be used, numbers that are none, folders that cannot be written: what is said of them, and how it ends."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import QUICK, Bomb, Outcome, files, no_space, program, refuses
from PIL import Image
from small import ROOT

from lagvae.data.sources import ImageFiles, folder, image_files
from lagvae.errors import DataError
from lagvae.io import storage_error
from lagvae.runs.layout import RunFolder

VAE = (*QUICK, "family=vae")


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
    "ending": ("a.txt", lambda file: file.write_text("1,2"), ["unknown ending '.txt'; use .npz, .npy or .pt"]),
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
    "scales": (
        "a.npz",
        lambda file: np.savez(file, x=np.arange(1200).reshape(-1, 4) % 256, test=np.full((20, 4), 250, "u1")),
        ["data=array has x of type int64 and a test set of type uint8, of which only one is divided by 255", "Save both"],
    ),
    "table": ("a.csv", lambda file: file.write_text("a,b\n1,2\n"), ["is a table; read it with data=table"]),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_be_data_is_named(tmp_path: Path, kind: str) -> None:
    name, write, pieces = FILES[kind]
    (tmp_path / "own").mkdir()
    write(tmp_path / "own" / name)
    said = program(tmp_path, "data=array", "data.batch=16", "family=vae", f"data.source.path={tmp_path}/own/{name}")
    named = [] if pieces[0].startswith(("data=array", "test", "too small")) else [f"data.source.path={tmp_path}/own/{name}"]
    refuses(said, *named, *pieces)


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
    (tmp_path / "own" / "data_batch_1").touch()
    with pytest.raises(DataError, match="For CIFAR-10 use data=cifar10, which reads the binary version"):
        image_files(tmp_path / "own")
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
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # s to wait for workers
    said = program(tmp_path, *words, "data.source.in_memory_mib=0", f"data.workers={workers}", "name=a")
    gc.collect()  # ends the workers
    assert not (tmp_path / "runs" / "a" / "summary.json").exists()
    refuses(said, f"{tmp_path}/own/03.png is not an image that can be read", leaves={"runs/a/config.yaml", "runs/latest"})


def test_without_a_network_the_data_that_need_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    said = program(tmp_path, "data=fashion_mnist")
    offline = "data=digits and data=linear_gaussian work without a network"
    refuses(said, "FashionMNIST is not under", "could not be downloaded", offline)


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


def test_a_run_whose_folder_cannot_be_written_is_not_told_to_go_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    said = str(storage_error(tmp_path / "evaluation" / "lock", OSError(errno.EACCES, "Permission denied")))
    assert said.endswith(f"(Permission denied). Make {tmp_path} writable, or copy it to a folder that is.")
    assert "Set paths.root" in str(storage_error(tmp_path.parent / "new" / "lock", OSError(errno.EROFS, "Read-only")))


# ---- as a user runs it


def test_a_user_sees_one_line_and_status_1(tmp_path: Path) -> None:
    environment = os.environ | {"LAGVAE_ROOT": str(tmp_path / "root")}
    command = [sys.executable, str(ROOT / "src" / "train.py"), "data=array", "data.source.path=nowhere.npy"]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    piece = "data.source.path=nowhere.npy: there is no such file"
    refuses(Outcome(said.returncode, said.stdout, said.stderr, files(tmp_path)), piece)
    assert said.stdout == ""


def test_an_image_that_is_changed_while_it_is_in_use_is_named(tmp_path: Path) -> None:
    """Where images are read on access; one that was only touched is used."""
    for k in range(2):
        Image.fromarray(np.full((4, 4), 100 * k, np.uint8)).save(tmp_path / f"{k}.png")
    x = folder(str(tmp_path), 4, 1, in_memory_mib=0).x
    os.utime(tmp_path / "0.png", (1e9, 1e9))
    assert x[torch.tensor([0, 1])].unique().tolist() == [0, 100]
    Image.fromarray(np.full((4, 4), 50, np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"1\.png was changed while it was in use\. Put it back and resume"):
        x[torch.tensor([0, 1])]
