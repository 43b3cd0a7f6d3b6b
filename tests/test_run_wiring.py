"""How a run is connected: batches and their noise, when it stops, its best checkpoint, the order of its files, its threads.

The parts themselves are tested elsewhere. Models and data are tiny, or have a closed form.
"""

from __future__ import annotations

import ctypes
import errno
import json
import shutil
import sys
import tempfile
from collections import Counter
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import forked
import fsspec
import pytest
import torch
from helpers import QUICK, files, settings
from rich.console import Console
from small import compose
from test_wiring import bounded, grey, labelled, stored

from lagvae.callbacks import Checkpoints, FeasibilityWatch, TrainingProgress
from lagvae.callbacks.checkpoints import AtomicCheckpointIO, exact_penalty
from lagvae.data import SPLITS, Batch, DataModule
from lagvae.divergences import MMD, RBF, NegElbo
from lagvae.errors import SettingError, Stopped
from lagvae.experiment import figures
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.factory import (
    available_threads,
    build_data,
    build_model,
    build_trainer,
    choose_threads,
)
from lagvae.experiment.fit import Fit
from lagvae.experiment.precision import choose_precision, has_fast_bf16
from lagvae.experiment.run import resume, train
from lagvae.lagrangian import TOLERANCE, Constraint, Lagrangian, Preference
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder
from lagvae.runs.metrics_table import MetricsTable, read_rows
from lagvae.sweeps.plan import note_wide_networks, trains_alone
from lagvae.sweeps.sweep_run import SweepRun, compose_run

CPU = torch.device("cpu")
UNCONSTRAINED = (*QUICK, "family=vae")


# ---- batches and their noise


def attached(data: DataModule, rank: int = 0, world: int = 1, **state: Any) -> DataModule:
    """Data attached to a stand-in for a trainer."""
    strategy = SimpleNamespace(root_device=CPU)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=0, strategy=strategy, **state)  # type: ignore[assignment]
    return data


def test_every_split_is_binarised_with_its_own_noise() -> None:
    """The same stored samples at the same step: in training, in the evaluation of an interval, and in the final evaluation."""
    data, stored_batch = grey(90, "bernoulli"), Batch(torch.full((400, 3), 0.5), torch.arange(400), 3)
    seen = {}
    for name, training, testing, loaders in (("fit", True, False, 1), ("light", False, False, 2), ("end", False, True, 3)):
        attached(data, training=training, testing=testing)
        for i in range(loaders):
            seen[name, i] = data.on_after_batch_transfer(stored_batch, i).x
    assert seen["light", 1].equal(seen["end", 1]), "the validation split is the same in every evaluation"
    assert seen["light", 0].equal(seen["end", 0])
    held_out, training = (seen["end", 1], seen["end", 2]), seen["fit", 0]
    for one, other in ((held_out[0], training), (held_out[1], training), held_out):
        # Of 1200 independent fair pixels half agree; eight standard deviations of that share are 0.12.
        assert abs(float((one == other).float().mean()) - 0.5) < 0.12


def test_further_observations_of_an_image_use_new_noise() -> None:
    data = grey(90, "bernoulli")
    index = torch.arange(data.size("val"))
    evaluated = data.observed(Batch(stored(data, "val"), index, 1), data.noise("val")).x
    again = data.reobserve("val", index, 2, 1)
    assert not again[0].equal(again[1])
    assert not again[0].equal(evaluated)


@pytest.mark.parametrize("split", SPLITS)
def test_every_rank_evaluates_whole_splits_as_one_process_does(split: str) -> None:
    """The batches and their noise, also after training has shared the noise of the training split among the ranks."""
    data = grey(90, "bernoulli")
    stored_batch = Batch(torch.full((8, 3), 0.5), torch.arange(8), 3)
    seen = []
    for rank, world in ((0, 1), (1, 3)):
        attached(data, rank, world, training=True, testing=True)
        data.on_after_batch_transfer(stored_batch, 0)
        attached(data, rank, world, training=False, testing=True)
        loader = data.eval_loader(split, CPU, passes=2)
        seen.append([data.on_after_batch_transfer(batch, SPLITS.index(split)) for batch in loader])
    for one, other in zip(*seen, strict=True):
        assert one.step == other.step
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.x, other.x)


def test_the_ranks_share_the_batches_of_training() -> None:
    whole = [batch.x for batch in attached(labelled()).train_loader(lambda: 0, CPU)]
    parts = [[batch.x for batch in attached(labelled(), rank, 2).train_loader(lambda: 0, CPU)] for rank in range(2)]
    assert [torch.cat(pair).tolist() for pair in zip(*parts, strict=True)] == [x.tolist() for x in whole]


# ---- when training stops early


def watched(values: list[float], **settings: Any) -> int | None:
    """The number of intervals after which training stops for a divergence with these values; None where it does not stop."""
    own = {"bound": 5.0, "multiplier": 10.0, "learned": True, "max_multiplier": 10.0} | settings
    model: Any = SimpleNamespace(lagrangian=Lagrangian(Preference(-1.0), [Constraint("neg_elbo", NegElbo(), **own)]))
    evaluation: Any = SimpleNamespace(results={})
    trainer: Any = SimpleNamespace(should_stop=False)
    watch = FeasibilityWatch(evaluation)
    for k, value in enumerate(values, 1):
        evaluation.results = {"train": {"constraint/neg_elbo": value}, "val": {"constraint/neg_elbo": 20.0}}
        watch.on_validation_epoch_end(trainer, model)
        if trainer.should_stop:
            assert watch.stopped_by == "neg_elbo"
            assert watch.best == {"neg_elbo": min(values[:k])}
            return k
    return None


def test_training_continues_while_the_divergence_falls() -> None:
    falling = [20.0 - 0.5 * k for k in range(12)]
    assert watched(falling) is None
    assert watched([20.0] * 12) == 4, "three intervals without progress, after the first"
    assert watched([20.0 + k for k in range(12)]) == 4
    assert watched([20.0 - 0.5 * TOLERANCE * k for k in range(12)]) == 4, "less than a tolerance is no progress"
    assert watched([20.0, 20.0, 20.0, 18.0, 18.0, 18.0, 16.0, 16.0, 16.0, 14.0]) is None, "progress resets the count"
    assert watched([20.0, 18.0, 18.0, 18.0, 18.0]) == 5


@pytest.mark.parametrize(
    "settings", [{"multiplier": 9.0}, {"learned": False}, {"bound": 19.95}, {"bound": 30.0}, {"learned": False, "bound": None}]
)
def test_training_continues_where_more_ascent_could_help_or_nothing_is_violated(settings: dict[str, Any]) -> None:
    """λ below its maximum, a fixed λ, a bound that holds, or no bound."""
    assert watched([20.0] * 12, **settings) is None


def test_progress_is_measured_in_the_scale_of_the_constraint() -> None:
    assert watched([20.0 - 0.5 * k for k in range(12)], scale=10.0, multiplier=1.0) == 4
    assert watched([20.0 - 5.0 * k for k in range(3)], scale=10.0, multiplier=1.0) is None


# ---- which checkpoint is best


def penalty_of(q: float, p: float, *constraints: Constraint, **val: float) -> float:
    """The score of a model that is as given on the validation split, and violates every bound by half its scale in training."""
    model: Any = SimpleNamespace(lagrangian=Lagrangian(Preference(q, p), constraints))
    values = {f"constraint/{c.name}": 7.0 for c in constraints}
    broken = {f"constraint/{c.name}": (c.bound or 0.0) + 0.5 * c.scale for c in constraints}
    return exact_penalty(model, {"val": values | val, "train": broken})


def test_the_score_of_a_checkpoint_has_both_preferences() -> None:
    terms = {"rate": 3.0, "distortion": 50.0, "i_p_lower": 2.0, "i_p_upper": 6.0}
    assert penalty_of(2.0, 0.0, **terms) == 2 * 3.0
    assert penalty_of(-2.0, 0.0, **terms) == 2 * 50.0
    assert penalty_of(0.0, -4.0, **terms) == -4 * 2.0
    assert penalty_of(0.0, 4.0, **terms) == 4 * 6.0
    assert penalty_of(2.0, -4.0, **terms) == 2 * 3.0 - 4 * 2.0


def test_the_score_of_a_checkpoint_has_the_weight_of_each_penalty_and_the_scale_of_each_bound() -> None:
    weighed = Constraint("mmd", MMD(RBF()), multiplier=300.0)
    bound = Constraint("neg_elbo", NegElbo(), bound=10.0, multiplier=2.0, scale=4.0)
    assert penalty_of(1.0, 0.0, weighed, rate=3.0) == 3.0 + 300 * 7.0
    assert penalty_of(1.0, 0.0, bound, rate=3.0) == 3.0 + 10 * 0.5
    assert penalty_of(1.0, 0.0, weighed, bound, rate=3.0) == 3.0 + 300 * 7.0 + 10 * 0.5


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file data/0")]
)
def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_only_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**41, 2**41, 0))

    def half(part: Path) -> NoReturn:
        part.write_text("half")
        raise error

    (tmp_path / "last.ckpt").write_text("whole")
    model: Any = SimpleNamespace(lagrangian=Lagrangian(Preference(-1.0), []), handle_nonfinite=lambda value: None)
    evaluation: Any = SimpleNamespace(results={"train": {"neg_elbo": 1.0}, "val": {"distortion": 1.0}})
    trainer: Any = SimpleNamespace(loggers=[], is_global_zero=True, save_checkpoint=half)
    with pytest.raises(SettingError, match=r"disk is full: .*best\.ckpt could not be written"):
        Checkpoints(tmp_path, evaluation).on_train_epoch_end(trainer, model)
    assert files(tmp_path) == {"last.ckpt"}
    assert (tmp_path / "last.ckpt").read_text() == "whole"


def test_a_checkpoint_is_not_written_to_the_folder_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", full_disk)
    trainer = build_trainer(settings(tmp_path, *QUICK), tmp_path)
    trainer.strategy.checkpoint_io.save_checkpoint({"step": 1}, tmp_path / "new" / "last.ckpt")
    assert torch.load(tmp_path / "new" / "last.ckpt", weights_only=True) == {"step": 1}


def test_a_checkpoint_may_go_to_a_store_that_is_no_folder() -> None:
    store, io = fsspec.filesystem("memory"), AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, "memory://runs/last.ckpt")
    try:
        assert store.exists("/runs/last.ckpt")
        assert io.load_checkpoint("memory://runs/last.ckpt") == {"step": 1}  # type: ignore[arg-type]
    finally:
        store.rm("/runs", recursive=True)


# ---- what is said during training


def test_progress_is_a_line_for_every_tenth_at_steps_that_are_logged() -> None:
    """Without a terminal; the bounds on I are those of the training split, and only a learned λ is shown."""
    said = StringIO()
    constraints = [bounded(1.5), Constraint("mmd_z", MMD(RBF()), multiplier=300.0)]
    logged = {
        "rate": 3.0,
        "distortion": 20.0,
        "neg_elbo": 23.0,
        "mmd_z": 0.25,
        "multiplier/neg_elbo": 2.5,
        "multiplier/mmd_z": 300.0,
    }
    model: Any = SimpleNamespace(log_every=4, last_logged=logged, lagrangian=SimpleNamespace(configured=constraints))
    bounds = {"train": (1.0, 2.0), "val": (7.0, 8.0), "test": (8.0, 9.0)}
    results = {split: {"i_q_lower": low, "i_q_upper": high} for split, (low, high) in bounds.items()}
    evaluation: Any = SimpleNamespace(results=results)
    trainer: Any = SimpleNamespace(is_global_zero=True, global_step=0, max_steps=80, datamodule=SimpleNamespace(per_epoch=4))
    progress = TrainingProgress("run", evaluation, Console(file=said, force_terminal=False))
    progress.on_train_start(trainer, model)
    for step in range(1, 81):
        trainer.global_step = step
        progress.on_train_batch_end(trainer, model, None, None, 0)
    progress.on_train_end(trainer, model)
    note = "−ELBO 23.00  mmd_z 0.25  I_q [1.0, 2.0]  λ neg_elbo 2.5"
    steps = (4, *range(8, 81, 8))
    assert said.getvalue().splitlines() == [f"run: {step}/80  epoch {step // 4}  {note}" for step in steps]


@pytest.mark.parametrize(
    ("logged", "note"),
    [
        ({"rate": 3.0, "distortion": 20.0}, "−ELBO 23.00"),
        ({"neg_elbo": 24.5}, "−ELBO 24.50"),
        ({"distortion": 20.0}, "distortion 20.00"),
        ({"rate": 3.0}, ""),
    ],
)
def test_progress_names_the_distortion_where_there_is_no_elbo(logged: dict[str, float], note: str) -> None:
    """As with an implicit encoder, which has no rate; a front has its −ELBO at the γ that it is shown at."""
    said = StringIO()
    model: Any = SimpleNamespace(log_every=4, last_logged=logged, lagrangian=SimpleNamespace(configured=[]))
    trainer: Any = SimpleNamespace(is_global_zero=True, global_step=0, max_steps=8, datamodule=SimpleNamespace(per_epoch=4))
    evaluation: Any = SimpleNamespace(results={})
    progress = TrainingProgress("run", evaluation, Console(file=said, force_terminal=False))
    progress.on_train_start(trainer, model)
    trainer.global_step = 8
    progress.on_train_end(trainer, model)
    assert said.getvalue().rstrip() == f"run: 8/8  epoch 2  {note}".rstrip()


# ---- the order in which files are written


def test_a_cut_table_has_every_row_once(tmp_path: Path) -> None:
    first = MetricsTable(tmp_path / "metrics.csv", per_epoch=2)
    for step in (2, 4, 6):
        first.log_metrics({"train/rate": float(step)}, step)
    first.save()
    again = MetricsTable(tmp_path / "metrics.csv", per_epoch=2)
    again.cut(4)
    for step in (6, 8):
        again.log_metrics({"train/rate": float(step)}, step)
    again.save()
    again.finalize("success")
    assert [(int(r["step"]), float(r["value"])) for r in read_rows(tmp_path / "metrics.csv")] == [(s, s) for s in (2, 4, 6, 8)]


def test_a_resumed_run_has_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped after rows of the second interval were written, before the checkpoint of that interval."""
    step = LatentVariableModel.training_step

    def stop(self: LatentVariableModel, batch: Batch, batch_idx: int) -> None:
        if batch.step == 35:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    cfg = settings(tmp_path, *UNCONSTRAINED, "training.log_every=5", "name=run")
    with monkeypatch.context() as patch:
        patch.setattr(LatentVariableModel, "training_step", stop)
        with pytest.raises(Stopped):
            train(cfg)
    run = RunFolder(tmp_path / "runs" / "run")
    assert max(int(row["step"]) for row in read_rows(run.metrics)) == 35, "rows after the checkpoint at 20 are there"
    resume(run)
    rows = Counter((int(row["step"]), row["split"], row["name"]) for row in read_rows(run.metrics))
    assert set(rows.values()) == {1}
    assert {step for step, split, _ in rows if split == "train"} == set(range(5, 41, 5))


def test_a_lost_row_is_told_by_a_run_that_was_stopped_once_more_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of step 20 is written after the row was lost, and says so itself."""
    step, at = LatentVariableModel.training_step, 15

    def stop(self: LatentVariableModel, batch: Batch, batch_idx: int) -> None:
        if batch.step == at:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    run = RunFolder(tmp_path / "runs" / "run")
    with monkeypatch.context() as patch:
        patch.setattr(LatentVariableModel, "training_step", stop)
        with pytest.raises(Stopped):
            train(settings(tmp_path, *UNCONSTRAINED, "training.interval=10", "name=run"))
        head, _, *rest = run.metrics.read_bytes().splitlines(keepends=True)
        run.metrics.write_bytes(b"".join([head, *rest]))
        at = 25
        with pytest.raises(Stopped):
            resume(run)
    assert any("rows are lost" in message for message in resume(run)["messages"])


def full_disk(*args: Any, **kwargs: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_calibration_json_is_written_after_the_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Calibration({"neg_elbo": 1.0}, {"neg_elbo": 0.1}, "val", {}, {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(SettingError, match="disk is full"):
            made.save(tmp_path, {"w": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []
    made.save(tmp_path, {"w": torch.zeros(1)})
    assert Calibration.load(tmp_path).calibrated == {"neg_elbo": 1.0}
    assert json.loads((tmp_path / "calibration.json").read_text())["hash"] == made.hash


def test_summary_json_is_written_after_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = settings(tmp_path, *UNCONSTRAINED, "callbacks.figures=true", "training.steps=20", "name=run")
    run = RunFolder(tmp_path / "runs" / "run")
    with monkeypatch.context() as patch:
        patch.setattr(figures, "draw_run", full_disk)
        with pytest.raises(OSError, match="No space left"):
            train(cfg)
    assert not run.finished
    resume(run)
    assert run.finished
    assert list(run.figures.glob("*.png"))


# ---- threads


@pytest.mark.parametrize(
    ("overrides", "members", "threads"),
    [
        ([], 1, 1),  # the default run
        ([], 16, 4),
        (["data.batch=1000"], 1, 4),
        (["model.encoder.hidden=[1024,1024]"], 1, 4),
        (["model.encoder.hidden=[1024,1024]", "training.threads=2"], 1, 2),
        (["training.threads=3"], 1, 3),
    ],
)
def test_small_models_train_on_one_thread_and_larger_ones_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], members: int, threads: int
) -> None:
    monkeypatch.setattr("lagvae.experiment.factory.available_threads", lambda: 4)
    cfg = settings(tmp_path, "family=vae", *overrides)
    model = build_model(cfg, build_data(cfg))
    assert choose_threads(cfg, model, members) == threads


def test_a_small_model_leaves_all_threads_to_the_next(tmp_path: Path) -> None:
    small, large = (settings(tmp_path, "family=vae", f"data.batch={batch}") for batch in (8, 1000))
    data = build_data(small)
    model = build_model(small, data)
    available_threads.cache_clear()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for cfg, count in ((small, 1), (large, 2), (small, 1)):
            Fit(cfg, data, model, RunFolder(tmp_path / "run"), "Training")
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
        available_threads.cache_clear()


# ---- memory


FREED = """
import os
from pathlib import Path
import torch
from lagvae.experiment.fit import returned_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

with returned_memory():
    before = resident()
    pairs = [(torch.ones(12 * 2**18), torch.ones(2**14)) for _ in range(8)]
    assert resident() > before + 7 * 12 * 2**20
    small = [pair[1] for pair in pairs]
    del pairs
    left = resident() - before - sum(4 * len(each) for each in small)
print(left)
"""
"""Blocks of 12 MiB with smaller ones between them, which stay."""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_measuring_frees_is_given_back(tmp_path: Path) -> None:
    """In a process of its own, because what one has freed before is used again first, and stays."""
    with (tmp_path / "said").open("w+") as said:
        forked.run([sys.executable, "-c", FREED], stdout=said, check=True)
        said.seek(0)
        assert int(said.read()) < 12 * 2**20


# ---- precision


@pytest.mark.parametrize(
    ("overrides", "fast", "precision"),
    [
        ([], True, "32-true"),  # the digits default keeps its numbers
        (["model=conv"], True, "32-true"),
        (["model=mlp_paper"], True, "bf16-mixed"),
        (["model=mlp_paper"], False, "32-true"),
        (["model=mlp_paper", "trainer.precision=32-true"], True, "32-true"),
        (["model=mlp_paper", "data.batch=64"], True, "32-true"),
        (["model=mlp_paper", "model.decoder.hidden=[1024,256]"], True, "32-true"),
        (["model=mlp_paper", "family=vae_gan"], True, "32-true"),
        (["trainer.precision=bf16-mixed"], False, "bf16-mixed"),
    ],
)
def test_the_precision_follows_from_the_machine_and_the_networks(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], fast: bool, precision: str
) -> None:
    monkeypatch.setattr("lagvae.experiment.precision.has_fast_bf16", lambda accelerator: fast)
    cfg = compose(["data.batch=128", *overrides])
    assert choose_precision(cfg) == precision
    assert compose_run(lambda: cfg).settings["trainer.precision"] == precision


@pytest.mark.parametrize(("amx", "avx512"), [(True, False), (False, True), (False, False)])
def test_a_processor_is_fast_at_bf16_with_either_of_its_instructions(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert has_fast_bf16("cpu") is (amx or avx512)


@pytest.mark.parametrize(
    ("overrides", "here", "alone"),
    [
        (["model=mlp_paper"], True, True),
        (["model=mlp_paper"], False, False),
        (["model=mlp_paper", "trainer=cpu"], False, True),
        (["model=mlp_paper", "trainer=gpu"], True, False),
        (["model=mlp", "trainer=cpu"], True, False),
    ],
    ids=["wide", "auto elsewhere", "cpu elsewhere", "gpu", "narrow"],
)
def test_wide_networks_train_one_by_one_on_a_processor(overrides: list[str], here: bool, alone: bool) -> None:
    cfg = compose(["data.batch=128", *overrides])
    run = compose_run(lambda: cfg)
    note_wide_networks([run], here)
    assert trains_alone(run) is alone


def test_a_run_of_a_sweep_keeps_its_precision_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def composed() -> SweepRun:
        cfg = compose(["model=mlp_paper", "data.batch=128", "name=wide"])
        cfg.paths.runs = str(tmp_path)
        return compose_run(lambda: cfg)

    monkeypatch.setattr("lagvae.experiment.precision.has_fast_bf16", lambda accelerator: True)
    composed().create_folder()
    monkeypatch.setattr("lagvae.experiment.precision.has_fast_bf16", lambda accelerator: False)
    again = composed()
    again.check_folder()
    assert again.settings["trainer.precision"] == "bf16-mixed"


@pytest.mark.parametrize(
    ("steps", "units"), [(120, 64), pytest.param(1500, 512, marks=pytest.mark.slow)], ids=["narrow", "wide"]
)
def test_bf16_costs_less_than_a_tenth_of_a_nat(tmp_path: Path, steps: int, units: int) -> None:
    """−ELBO and λ after training in bf16, beside those in fp32 from the same start with the same noise.

    λ rises by three orders of magnitude and turns. Its steps are smaller than bf16 resolves, which would leave it far off.
    """
    results = []
    for precision in ("32-true", "bf16-mixed"):
        words = [f"model.{part}.hidden=[{units},{units}]" for part in ("encoder", "decoder")]
        length = [f"training.steps={steps}", f"training.interval={steps}", "data.draws=6000", "callbacks=light"]
        length += ["~callbacks.final.information"]
        explicit = ["epsilon=explicit", "constraints.neg_elbo.epsilon=32", "constraints.mmd.epsilon=4e-3"]
        cfg = compose(
            [*words, *length, *explicit, "training.start=scratch", f"trainer.precision={precision}", f"name={precision}"]
        )
        cfg.paths.runs, cfg.training.threads = str(tmp_path), 1
        summary = train(cfg)
        multiplier = summary["constraints"]["neg_elbo"]["multiplier"]
        results.append((summary["splits"]["train"]["neg_elbo"], multiplier))
    (full, λ), (half, λ_half) = results
    assert half == pytest.approx(full, abs=0.1)
    assert λ_half == pytest.approx(λ, rel=0.02)
    assert results[0] != results[1], "the second was trained in fp32 too"
