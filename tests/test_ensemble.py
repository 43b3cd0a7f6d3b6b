"""A run in an ensemble agrees with the run alone: parameters, multipliers, optimizer states, metrics, checkpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import QUICK, settings
from omegaconf import OmegaConf

from lagvae.data import Arrays, Batch, DataModule, datamodule
from lagvae.ensemble import Ensemble, EnsembleData, stack_modules
from lagvae.errors import CheckpointError, Stopped
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.factory import build_data
from lagvae.experiment.run import build_start, calibrate, resume, train
from lagvae.lagrangian import Lagrangian
from lagvae.runs.metrics_table import read_rows
from lagvae.sweeps import ensemble_training
from lagvae.sweeps.ensemble_training import make_member, memory_per_run, train_ensemble, train_in_chunks
from lagvae.sweeps.sweep_run import SweepRun

FIXED = ("family=infovae", "training.start=calibrated")
RUNS: dict[str, tuple[str, ...]] = {
    "maximize": ("alpha.q=-1",),
    "minimize": ("alpha.q=1", "constraints.neg_elbo.gamma=0.5"),
    "fixed-maximize": (*FIXED, "alpha.q=-1", "constraints.neg_elbo.multiplier=5"),
    "fixed-minimize": (*FIXED, "alpha.q=1", "constraints.mmd.multiplier=2000"),
    "seed": ("alpha.q=-1", "seed=1"),
    "rate": ("alpha.q=-1", "model.optimizer.lr=3e-4"),
    "scratch": ("alpha.q=-1", "training.start=scratch"),
}
STEPS = 50


@pytest.fixture(scope="module", autouse=True)
def calibrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All roots share a folder of calibrations, in which those of RUNS are: each is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALIBRATIONS", str(tmp_path_factory.mktemp("calibrations")))
        for name, overrides in RUNS.items():
            calibrate(run(tmp_path_factory.mktemp("made"), name, *overrides).cfg)
        yield


def run(root: Path, name: str, *overrides: str) -> SweepRun:
    shared = "paths.calibrations=${oc.env:CALIBRATIONS}"
    cfg = settings(root, *QUICK, shared, f"training.steps={STEPS}", "training.interval=25", f"name={name}", *overrides)
    cfg.training.log_every = min(cfg.training.log_every, 25)  # in mid-run, too, where the learning rate has not come to zero
    return SweepRun(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))


def silence(step: int, note: str) -> None:
    """A progress callback that does nothing."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same runs, trained alone and in one ensemble, with their final evaluations."""
    roots = {way: tmp_path_factory.mktemp(way) for way in ("alone", "ensemble")}
    with pytest.MonkeyPatch.context() as patch:
        for module in (datamodule, ensemble_training):  # fewer samples than there are, for the evaluations in training
            patch.setattr(module, "SAMPLES_WHILE_TRAINING", 200)
        for name, overrides in RUNS.items():
            train(run(roots["alone"], name, *overrides).cfg)
        runs = [run(roots["ensemble"], name, *overrides) for name, overrides in RUNS.items()]
        assert train_ensemble(runs, roots["ensemble"] / "job", silence) == {}
        for one in runs:
            resume(one.folder)
    return roots


def checkpoint(root: Path, name: str, which: str = "last") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(root / "runs" / name / "checkpoints" / f"{which}.ckpt", weights_only=True)
    return content


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """The norm of the difference relative to the norm of b; entries near zero are themselves differences of larger numbers."""
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


SAME = {"rel": 1e-4, "abs": 1e-5}
"""What an ensemble may measure beside the run alone: sums of numbers of about 25 nats in another order, of which fp32 resolves
2e-6; the smallest numbers that are compared, an MMD of 0.01 and its standard error of 0.003, are far above both."""


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("name", RUNS)
def test_parameters_and_multipliers_are_those_of_the_run_alone(both: dict[str, Path], name: str, which: str) -> None:
    alone, ensemble = (checkpoint(root, name, which)["state_dict"] for root in both.values())
    assert alone.keys() == ensemble.keys()
    for key, value in alone.items():
        assert far(ensemble[key], value) < 1e-5, key


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_is_that_of_an_ordinary_run(both: dict[str, Path], name: str) -> None:
    alone, ensemble = (checkpoint(root, name) for root in both.values())
    assert alone["global_step"] == ensemble["global_step"] == STEPS
    assert len(alone["optimizer_states"]) == len(ensemble["optimizer_states"])
    for a, b in zip(alone["optimizer_states"], ensemble["optimizer_states"], strict=True):
        assert a["param_groups"] == b["param_groups"]
        for i, values in a["state"].items():
            for key, value in values.items():
                assert far(torch.as_tensor(b["state"][i][key]), torch.as_tensor(value)) < 1e-4, key
    assert alone["lr_schedulers"] == ensemble["lr_schedulers"]
    for callback, state in alone["callbacks"].items():
        assert state.keys() == ensemble["callbacks"][callback].keys()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_is_that_of_an_ordinary_run(both: dict[str, Path], name: str) -> None:
    folders = [root / "runs" / name for root in both.values()]
    rows = [
        {(r["step"], r["epoch"], r["split"], r["name"]): float(r["value"]) for r in read_rows(f / "metrics.csv")}
        for f in folders
    ]
    assert rows[0].keys() == rows[1].keys()
    for key, value in rows[0].items():
        assert rows[1][key] == pytest.approx(value, nan_ok=True, **SAME), key
    alone, ensemble = (json.loads((f / "summary.json").read_text()) for f in folders)
    assert ensemble.keys() - alone.keys() == {"ensemble"}
    assert ensemble["ensemble"]["runs"] == len(RUNS)
    assert ensemble["verdict"] == alone["verdict"]
    for split, values in alone["splits"].items():
        for key, value in values.items():  # None where there is no value, as the error of a single batch; or a bound's name
            expected = pytest.approx(value, **SAME) if isinstance(value, float | int) else value
            assert ensemble["splits"][split][key] == expected, key


def test_an_ordinary_run_goes_on_from_a_checkpoint_of_an_ensemble(both: dict[str, Path], tmp_path: Path) -> None:
    """An ensemble stops between two intervals; from what it kept of the first one, each run goes on alone to its own end."""
    names = ("maximize", "rate", "fixed-maximize")
    runs = members(tmp_path, *names)

    def stop(step: int, note: str) -> None:
        if step >= 30:
            raise KeyboardInterrupt

    for each in runs:
        each.cfg.training.log_every = 10
    with pytest.raises(Stopped):
        train_ensemble(runs, tmp_path / "job", stop)
    for name, each in zip(names, runs, strict=True):
        kept = each.folder.checkpoints / "best.ckpt"
        assert torch.load(kept, weights_only=True)["global_step"] == 25
        kept.rename(each.folder.last)
        assert resume(each.folder)["steps"] == STEPS
        content, alone = torch.load(each.folder.last, weights_only=True), checkpoint(both["alone"], name)
        assert content["global_step"] == STEPS
        for key, value in alone["state_dict"].items():
            assert far(content["state_dict"][key], value) < 1e-5, (name, key)


def members(root: Path, *names: str) -> list[SweepRun]:
    return [run(root, name, *RUNS[name]) for name in names]


def states(runs: Sequence[SweepRun]) -> list[dict[str, torch.Tensor]]:
    return [torch.load(c.folder.last, weights_only=True)["state_dict"] for c in runs]


def poisoned(monkeypatch: pytest.MonkeyPatch, victim: int, at: int) -> None:
    """Set a parameter of one run to NaN at a step."""
    primal_step: Callable[[Ensemble], None] = Ensemble.primal_step

    def poison(self: Ensemble) -> None:
        primal_step(self)
        if self.global_step == at:
            next(self.joint.parameters()).data[victim] = float("nan")

    monkeypatch.setattr(Ensemble, "primal_step", poison)


def test_multipliers_are_learned_as_the_members_say_that_learn_any(tmp_path: Path) -> None:
    """Fixed multipliers come with an optimizer that never moves them, and are no hindrance to train together."""
    names = ("fixed-maximize", "maximize")
    alone = [build_start(each.cfg, build_data(each.cfg))[0] for each in members(tmp_path, *names)]
    assert not alone[0].lagrangian.learned.any()
    together = Ensemble(alone, [(0, 0)] * 2, [])
    assert together.dual is alone[1].dual is not alone[0].dual


def test_a_run_that_diverges_is_deactivated_and_does_not_affect_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("maximize", "minimize", "fixed-maximize")
    healthy = members(tmp_path / "healthy", *names)
    assert train_ensemble(healthy, tmp_path / "a", silence) == {}
    sick = members(tmp_path / "sick", *names)
    poisoned(monkeypatch, victim=1, at=30)
    failed = train_ensemble(sick, tmp_path / "b", silence)
    assert list(failed) == ["minimize"]
    assert "became NaN or infinite at step 31" in failed["minimize"]
    assert json.loads(sick[1].folder.failure.read_text())["error"] == failed["minimize"]
    assert torch.load(sick[1].folder.last, weights_only=True)["global_step"] == 25, "the checkpoint from before is kept"
    for k in (0, 2):
        for key, value in states([healthy[k]])[0].items():
            assert torch.equal(states([sick[k]])[0][key], value), key


STUCK = (
    "alpha.q=-1",
    "constraints.neg_elbo.epsilon=-100",
    "constraints.neg_elbo.multiplier=1",
    "constraints.neg_elbo.max_multiplier=1",
    "model.optimizer.lr=1e-9",
    "training.start=scratch",
)
"""λ is at its maximum and the bound is violated, so that the fourth interval is the last."""


def test_a_run_that_stops_early_is_what_it_is_alone(tmp_path: Path) -> None:
    def pair(root: Path) -> list[SweepRun]:
        named = {"stuck": STUCK, "maximize": RUNS["maximize"]}
        return [run(root, name, *words, "training.interval=5", "training.log_every=5") for name, words in named.items()]

    def interrupt(step: int, note: str) -> None:
        if step >= 33:
            raise KeyboardInterrupt

    alone = train(pair(tmp_path / "alone")[0].cfg)
    assert alone["stopped_by"] == "neg_elbo"
    assert alone["steps"] < STEPS - 5, "others go on for more than an interval"
    runs = pair(tmp_path / "ensemble")
    with pytest.raises(Stopped):  # after the member has ended
        train_ensemble(runs, tmp_path / "job", interrupt)
    assert train_ensemble(runs, tmp_path / "job", silence) == {}
    one, other = (checkpoint(tmp_path / way, "stuck") for way in ("alone", "ensemble"))
    assert one["global_step"] == other["global_step"] == alone["steps"]
    for key, value in one["state_dict"].items():
        assert far(other["state_dict"][key], value) < 1e-5, key
    together = resume(runs[0].folder)
    assert together["stopped_by"] == "neg_elbo"
    assert together["splits"]["train"]["neg_elbo"] == pytest.approx(alone["splits"]["train"]["neg_elbo"], **SAME)
    assert together["constraints"]["neg_elbo"]["multiplier"] == alone["constraints"]["neg_elbo"]["multiplier"]


def test_an_interrupted_ensemble_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("maximize", "minimize", "fixed-minimize", "seed")
    whole = members(tmp_path / "whole", *names)
    train_ensemble(whole, tmp_path / "a", silence)
    cut = members(tmp_path / "cut", *names)

    def stop(step: int, note: str) -> None:
        if step >= 30:
            raise KeyboardInterrupt

    for each in cut:
        each.cfg.training.log_every = 10
    for each in whole:
        each.cfg.training.log_every = 10
    with pytest.raises(Stopped, match=f"Stopped at step 30 of {STEPS}"):
        train_ensemble(cut, tmp_path / "b", stop)
    bound = Calibration.bound
    with monkeypatch.context() as patch:
        patch.setattr(Calibration, "bound", lambda *args: bound(*args) + 1)
        with pytest.raises(CheckpointError, match=r"ensemble that maximize is part of was trained with other bounds"):
            train_ensemble(cut, tmp_path / "b", silence)
    assert (tmp_path / "b" / "ensemble.ckpt").is_file()
    train_ensemble(cut, tmp_path / "b", silence)
    assert not (tmp_path / "b" / "ensemble.ckpt").exists()
    for a, b in zip(states(whole), states(cut), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_gradients_are_clipped_by_the_norm_of_each_member(tmp_path: Path) -> None:
    clip = "training.gradient_clip=0.5"
    root = tmp_path / "alone"
    overrides = {name: (*RUNS[name], clip) for name in ("maximize", "fixed-maximize")}
    for name, words in overrides.items():
        train(run(root, name, *words).cfg)
    runs = [run(tmp_path / "ensemble", name, *words) for name, words in overrides.items()]
    train_ensemble(runs, tmp_path / "job", silence)
    for name, state in zip(overrides, states(runs), strict=True):
        for key, value in checkpoint(root, name)["state_dict"].items():
            assert far(state[key], value) < 1e-5, key


def test_an_ensemble_larger_than_the_limit_is_trained_in_chunks(tmp_path: Path) -> None:
    runs = members(tmp_path, "maximize", "minimize", "fixed-maximize")
    heard: list[int] = []
    assert train_in_chunks(runs, tmp_path / "job", 2, lambda steps, note: heard.append(steps)) == {}
    assert all(each.trained for each in runs)
    assert heard == sorted(heard)
    assert heard[-1] == 3 * STEPS
    assert torch.load(runs[2].folder.last, weights_only=True)["ensemble"]["runs"] == 1


def test_the_memory_of_a_run_grows_with_its_parameters_and_its_batch(tmp_path: Path) -> None:
    """By five times the parameters, and twice what a row keeps for the gradient: at least the outputs of two hidden layers."""

    def needed(batch: int, hidden: int) -> tuple[int, int]:
        words = (f"data.batch={batch}", f"model.encoder.hidden=[{hidden}]", f"model.decoder.hidden=[{hidden}]")
        one = run(tmp_path, f"b{batch}h{hidden}", "epsilon=none", "family=vae", "training.start=scratch", *words)
        member = make_member(one, build_data(one.cfg))
        return memory_per_run(member), sum(p.nbytes for p in member.model.joint.parameters())

    (small, own), (rows, same), (wide, more) = needed(20, 8), needed(40, 8), needed(20, 64)
    assert same == own
    assert rows - small >= 2 * 20 * (8 + 8) * 4
    assert small > 5 * own
    assert wide - small >= 5 * (more - own) + 2 * 20 * 2 * (64 - 8) * 4


@pytest.mark.parametrize(
    ("free", "size", "chunks"), [(2.6, None, [2, 1]), (9.0, None, [3]), (0.4, None, [1, 1, 1]), (9.0, 2, [2, 1])]
)
def test_as_many_runs_train_together_as_six_tenths_of_the_free_memory_hold(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free: float,
    size: int | None,
    chunks: list[int],
) -> None:
    """Once found, the size stays that of the job, also where the memory has become another one."""
    trained: list[int] = []
    heard: list[tuple[int, str]] = []

    def pretend(chunk: Sequence[SweepRun], folder: Path, report: Callable[[int, str], None], compile: bool) -> dict[str, str]:
        trained.append(len(chunk))
        report(STEPS, "compiled")
        return {}

    monkeypatch.setattr(ensemble_training, "train_ensemble", pretend)
    monkeypatch.setattr(ensemble_training, "memory_per_run", lambda member: 2**20)
    monkeypatch.setattr(ensemble_training, "free_memory", lambda device: free * 2**20 / 0.6)
    runs = members(tmp_path, "maximize", "minimize", "fixed-maximize")
    (tmp_path / "job").mkdir()
    assert train_in_chunks(runs, tmp_path / "job", size, lambda steps, note: heard.append((steps, note))) == {}
    assert trained == chunks
    note = "compiled" if chunks == [3] else f"{chunks[0]} at once, compiled"
    assert heard == [(STEPS * sum(chunks[: k + 1]), note) for k in range(len(chunks))]
    assert (f"{chunks[0]} of 3 at once" in capsys.readouterr().out) == (size is None)
    monkeypatch.setattr(ensemble_training, "free_memory", lambda device: 0)
    trained.clear()
    train_in_chunks(runs, tmp_path / "job", None, silence)
    assert trained == chunks


def test_an_ensemble_that_exceeds_memory_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = members(tmp_path, "maximize", "minimize", "fixed-maximize", "fixed-minimize")
    measure = Ensemble.measure

    def small(self: Ensemble, batch: Any) -> Any:
        if len(self.members) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(self, batch)

    monkeypatch.setattr(Ensemble, "measure", small)
    assert train_in_chunks(runs, tmp_path / "job", None, lambda steps, note: None) == {}
    assert [torch.load(c.folder.last, weights_only=True)["ensemble"]["runs"] for c in runs] == [2, 2, 2, 2]


def test_an_ensemble_trains_in_half_precision(tmp_path: Path) -> None:
    runs = members(tmp_path, "maximize", "fixed-minimize", "seed")
    for each in runs:
        each.cfg.trainer.precision = "bf16-mixed"
        calibrate(each.cfg)
    assert train_ensemble(runs, tmp_path / "job", silence) == {}
    for state in states(runs):
        assert all(value.isfinite().all() for value in state.values())
        assert state["joint.encoder.network.layers.0.weight"].dtype == torch.float32


@pytest.mark.slow  # a minute of compiling
def test_a_compiled_ensemble_agrees_with_the_uncompiled_one(tmp_path: Path) -> None:
    plain = members(tmp_path / "plain", "maximize", "fixed-minimize")
    train_ensemble(plain, tmp_path / "a", silence)
    compiled = members(tmp_path / "compiled", "maximize", "fixed-minimize")
    train_ensemble(compiled, tmp_path / "b", silence, compile=True)
    for a, b in zip(states(plain), states(compiled), strict=True):
        for key, value in a.items():
            assert far(b[key], value) < 1e-5, key


@pytest.mark.parametrize("works", [True, False])
def test_a_compiled_step_is_tried_with_its_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    """Where that fails, none of it is used."""
    calls: list[bool] = []

    def compiler(step: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def compiled(*inputs: Any) -> Any:
            terms, divergences = step(*inputs)
            calls.append(torch.is_grad_enabled())
            return (terms, divergences) if works else ({n: t.detach() for n, t in terms.items()}, divergences.detach())

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    extension = logging.getLogger("torch.utils.cpp_extension")
    monkeypatch.setattr(extension, "level", logging.NOTSET)
    few = ("training.steps=5", "training.interval=5")
    runs = [run(tmp_path, name, *RUNS[name], *few) for name in ("maximize", "minimize")]
    assert train_ensemble(runs, tmp_path / "job", lambda step, note: None, compile=True) == {}
    assert calls == [True] * (6 if works else 1)
    assert extension.level == logging.ERROR, "which otherwise warns of the compiler of the machine"


def test_without_a_compiler_an_ensemble_trains_uncompiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    runs, notes = members(tmp_path, "maximize", "minimize"), set()
    assert train_ensemble(runs, tmp_path / "job", lambda step, note: notes.add(note), compile=True) == {}
    assert "not compiled, so slower" in notes
    assert all(each.trained for each in runs)


def test_stacking_copies_every_tensor_and_keeps_the_modules(tmp_path: Path) -> None:
    runs = members(tmp_path, "maximize", "minimize")
    models = [build_start(c.cfg, build_data(c.cfg))[0] for c in runs]
    one: Lagrangian = stack_modules([m.lagrangian for m in models])
    assert one.preference.alpha_q.tolist() == [-1.0, 1.0]
    assert one.scaled.shape == (2, 2)
    assert one.bound[0, 0] - one.bound[1, 0] == pytest.approx(1.0), "γ₁ = 1.5 and 0.5"
    assert models[0].lagrangian.scaled.shape == (2,)


def test_a_run_that_another_process_has_finished_is_not_trained_again(tmp_path: Path) -> None:
    """It is in the plan of a sweep that was made before, and its files stay those that its summary speaks of."""
    first, second = (run(tmp_path, name, *RUNS["seed"], f"seed={k}") for k, name in enumerate(("first", "second")))
    train(first.cfg)
    files = (first.folder.metrics, first.folder.last, first.folder.checkpoints / "best.ckpt", first.folder.summary)
    before = [file.read_bytes() for file in files]
    assert train_ensemble([first, second], tmp_path / "job", silence) == {}
    assert [file.read_bytes() for file in files] == before
    assert second.trained
    resume(second.folder)
    assert train_ensemble([first, second], tmp_path / "job", silence) == {}


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_samples_are_observed_as_those_of_a_run_that_trains_alone(seeds: tuple[int, ...]) -> None:
    """Binarised with the noise of training, of the seed of each part."""
    stored, index = torch.full((4, 1, 8, 8), 0.5), torch.arange(4)
    parts = [DataModule(lambda: Arrays(torch.rand(40, 1, 8, 8)), "own", "bernoulli", batch=4, seed=seed) for seed in seeds]
    alone = []
    for data in parts:
        data.trainer = SimpleNamespace(training=True, global_rank=0, world_size=1)  # type: ignore[assignment]
        alone.append(data.on_after_batch_transfer(Batch(stored, index, 3), 0).x)
    many = len(seeds) > 1
    x, i = (torch.stack([each] * 2) if many else each for each in (stored, index))
    together = EnsembleData(parts).on_after_batch_transfer(Batch(x, i, 3), 0)
    assert torch.equal(together.x, torch.stack(alone) if many else alone[0])
    assert set(together.x.unique().tolist()) == {0.0, 1.0}
