"""Runs, checkpoints and calibrations that are damaged, missing or of others, and runs that are stopped: what is said then."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, Bomb, no_space, program, refuses, settings
from omegaconf import OmegaConf

import lagvae
from lagvae.callbacks import evaluation
from lagvae.cli.programs import ending_with_reader
from lagvae.errors import CheckpointError
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.factory import build_data, build_model
from lagvae.experiment.fit import read_checkpoint
from lagvae.experiment.validate import validate
from lagvae.io import file_digest, json_digest, owned
from lagvae.runs.layout import RunFolder
from lagvae.terminal import make_printable, print_line

VAE = (*QUICK, "family=vae")


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
    "no number of steps": (lambda file: rewrite_checkpoint(file, global_step="two"), "its step is 'two', which no"),
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


def refill(file: Path, part: str, key: str, value: Any) -> None:
    """Change a number of a checkpoint, whose checksums are right afterwards, wherever a name ends so."""
    content = torch.load(file, weights_only=True)
    optimizers = [entry for o in content["optimizer_states"] for entry in (*o["state"].values(), *o["param_groups"])]
    for entry in [content["state_dict"]] if part == "weights" else optimizers:
        for name in entry:
            if name.endswith(key) and isinstance(entry[name], torch.Tensor):
                entry[name].view(-1)[:1] = value
            elif name == key:
                entry[name] = value
    torch.save(content, file)


IMPOSSIBLE: dict[str, tuple[str, str, Any, str]] = {
    "λ below 0": ("weights", "lagrangian.scaled", -1.0, "λ of constraints.neg_elbo is -1, and not between 0 and 100"),
    "λ above its limit": ("weights", "lagrangian.scaled", 101.0, "λ of constraints.neg_elbo is 101, and not"),
    "λ NaN": ("weights", "lagrangian.scaled", float("nan"), "λ of constraints.neg_elbo is nan"),
    "a mean λ below 0": ("weights", "lagrangian.running", -1.0, "the running mean of λ of constraints.neg_elbo is -1"),
    "steps of λ": ("weights", "lagrangian.steps", 41.0, "λ has taken 41 steps, of 40"),
    "a weight": ("weights", "layers.0.weight", float("inf"), "layers.0.weight holds inf"),
}
UNRESUMABLE: dict[str, tuple[str, str, Any, str]] = {
    "steps of θ": ("optimizers", "step", 7.0, "the optimizer of θ has taken 7 steps, of 40"),
    "a moment": ("optimizers", "exp_avg_sq", float("nan"), "exp_avg_sq of the optimizer of θ holds nan"),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_a_number_that_no_training_leaves_is_refused(root: Path, kind: str) -> None:
    *change, piece = IMPOSSIBLE[kind]
    run = RunFolder(root / "runs" / "done")
    refill(run.last, *change)
    pieces = (str(run.last), piece, "Put a copy of best.ckpt, which lies beside it, in its place, or train the run again")
    with pytest.raises(CheckpointError, match=re.escape(piece)):
        lagvae.load(run.path)
    refuses(program(root, "run=done", script="evaluate"), *pieces)
    run.summary.unlink()
    refuses(program(root, "resume=done"), *pieces)
    shutil.copy(run.checkpoints / "best.ckpt", run.last)
    assert program(root, "resume=done").status == 0


@pytest.mark.parametrize("kind", UNRESUMABLE)
def test_an_optimizer_that_no_training_leaves_is_not_resumed(root: Path, kind: str) -> None:
    *change, piece = UNRESUMABLE[kind]
    run = RunFolder(root / "runs" / "done")
    refill(run.last, *change)
    assert program(root, "run=done", script="evaluate").status == 0, "an evaluation has no use for optimizers"
    shutil.rmtree(run.path / "evaluation")
    run.summary.unlink()
    refuses(program(root, "resume=done"), str(run.last), piece)


def test_a_checkpoint_of_another_step_than_its_trainer_is_not_resumed(root: Path) -> None:
    run = RunFolder(root / "runs" / "done")
    for part, key in (("weights", "lagrangian.steps"), ("optimizers", "step")):
        refill(run.last, part, key, 20)
    rewrite_checkpoint(run.last, global_step=20)
    run.summary.unlink()
    refuses(program(root, "resume=done"), str(run.last), "its trainer has taken 40 steps, of 20")


def test_a_checkpoint_from_which_no_training_goes_on_is_named(root: Path) -> None:
    run = RunFolder(root / "runs" / "done")
    run.summary.unlink()
    whole = run.last.read_bytes()
    rewrite_checkpoint(run.last, optimizer_states=None, loops=None)
    refuses(program(root, "resume=done"), str(run.last), "lacks optimizer_states, loops")
    run.last.write_bytes(whole)
    rewrite_checkpoint(run.last, lagvae=None)
    run.config.write_text(run.config.read_text().replace("  steps: 40", "  steps: 30"))
    refuses(program(root, "resume=done"), str(run.last), "is of step 40, after training.steps=30")


def test_a_checkpoint_that_is_not_there_is_named(root: Path) -> None:
    said = program(root, "run=done", "checkpoint=first", script="evaluate")
    refuses(said, "checkpoint=first: there is no file", "The run has best, last; name one of these.")
    shutil.rmtree(root / "runs" / "done" / "checkpoints")
    said = program(root, "run=done", script="evaluate")
    refuses(said, "last.ckpt. The run has finished, and its checkpoints are gone: train it again, as a new run, with")


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
    "seed of the data": ("data.seed", 5, "data.seed: 0 → 5"),
    "batch": ("data.batch", 40, "data.batch: 50 → 40"),
    "family": ("family", "vae", "family: lagvae → vae"),
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


def test_a_run_without_a_checkpoint_says_that_it_starts_anew(root: Path) -> None:
    run = RunFolder(root / "runs" / "done")
    run.summary.unlink()
    shutil.rmtree(run.checkpoints)
    said = program(root, "resume=done")
    assert said.status == 0
    assert "has no checkpoint to go on from: the run starts from its first step" in " ".join(said.err.split())


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_an_evaluation_says_that_rows_are_lost(root: Path, checkpoint: str) -> None:
    run = RunFolder(root / "runs" / "done")
    words = ("run=done", f"checkpoint={checkpoint}")
    told = "metrics.csv is not what the run had written up to step"
    assert told not in program(root, *words, script="evaluate").out
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    run.metrics.write_bytes(b"".join(lines[1:]))  # without its head
    assert told in " ".join(program(root, *words, script="evaluate").out.split())
    assert run.metrics.read_bytes() == b"".join(lines[1:]), "an evaluation changes nothing"


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
    "empty": (lambda text: "", "config.yaml is damaged: it holds no settings. Put back what it was"),
    "no settings": (lambda text: "{}", "config.yaml is damaged: it holds no settings. Put back what it was"),
    "foreign": (lambda text: "colour: red\n" + text, "Key 'colour' not in 'Config'"),
    "a word for a number": (lambda text: text.replace("  steps: 40", "  steps: many"), "Value 'many' of type 'str'"),
    "too large a batch": (lambda text: text.replace("  batch: 50", "  batch: 5000"), "data.batch: 50 → 5000"),
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


# ---- stopped, and shown


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
    assert "Its last checkpoint is that of step 40. Resume with: python src/train.py resume=a" in " ".join(said.err.split())
    assert not RunFolder(tmp_path / "runs" / "a").finished
    assert signal.getsignal(signal.SIGTERM) == before
    assert program(tmp_path, "resume=a").status == 0


def test_a_working_directory_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    refuses(program(tmp_path, *VAE), "The working directory was removed. Change to one that exists (cd)")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("buffered", [True, False])
def test_output_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], buffered: bool
) -> None:
    @ending_with_reader()
    def say() -> None:
        print("a line", flush=not buffered)

    with open(os.open("/dev/full", os.O_WRONLY), "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stop:
            say()
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        "Error: Standard output cannot be written (No space left on device). Send it elsewhere; a stopped run can be resumed.\n"
    )


def test_ctrl_c_stops_a_comparison_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lagvae.pareto.report.compare", interrupted)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    said = program(tmp_path, "a", script="pareto")
    assert (said.status, said.err) == (130, "Note: Stopped.\n")


def test_a_terminal_that_lacks_a_sign_shows_another(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    make_printable()
    print_line("λ ≤ 3")
    shown.flush()
    assert shown.buffer.getvalue() == b"? ? 3\n"  # type: ignore[attr-defined]
