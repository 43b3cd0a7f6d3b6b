"""A sweep as a user starts it: what is run, skipped, resumed, retried, refused; on which device; what is said at the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
import torch
from helpers import QUICK, SHORT, Outcome, files, program
from omegaconf import OmegaConf
from wandb_files import read_offline

from lagvae.errors import LagvaeError, OwnedError, SettingError
from lagvae.io import owned
from lagvae.pareto.report import log_sweep_comparison
from lagvae.runs.layout import RunFolder
from lagvae.sweeps.executors import DeviceExecutor, run_in_subprocess
from lagvae.sweeps.job import EXIT_TAKEN, MAX_EVALUATED_HERE, SweepJob, evaluate_all
from lagvae.sweeps.runner import failures_by_run, print_outcome
from lagvae.sweeps.sweep_run import SweepRun, to_config
from lagvae.terminal import command

SMALL = ("launcher.compile=false", "training.interval=10")


def sweep(root: Path, *words: str) -> Outcome:
    return program(root, "-m", *QUICK, *SMALL, *words)


def summaries(folder: Path) -> dict[str, dict[str, object]]:
    """Name → summary, without what a clock tells."""
    found = {}
    for file in sorted(folder.glob("**/summary.json")):
        content = json.loads(file.read_text())
        for key in ("seconds", "ensemble"):
            content.pop(key, None)
        found[str(file.parent.relative_to(folder))] = content
    return found


EVERY = ("alpha=maximize,minimize", "model.latent=2,3")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two ensembles and a calibration each, run once."""
    root = tmp_path_factory.mktemp("done")
    outcome = sweep(root, *EVERY)
    assert outcome.status == 0, outcome.err
    assert "4 runs; 2 jobs of 2 runs" in outcome.out
    assert "2 ensembles, because these settings differ: model.latent: 2 → 3" in outcome.out
    assert "4 of 4 runs finished" in outcome.out
    assert outcome.out.splitlines()[-1].startswith(f"Compare them: {command('pareto')} ")
    return root


def test_every_run_has_the_folder_of_a_run(done: Path) -> None:
    folders = sorted((done / "runs" / "sweep").iterdir())
    runs = [folder for folder in folders if folder.is_dir()]
    assert len(runs) == 4
    for run in runs:
        there = files(run)
        assert {"config.yaml", "metrics.csv", "summary.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"} <= there
    assert runs[0].name == "lagvae-alpha_maximize-latent2-seed0"
    told = json.loads((done / "runs" / "sweep" / "sweep.json").read_text())
    assert set(told["runs"].values()) == {"finished"}


def test_a_finished_sweep_runs_nothing_again(done: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in done.rglob("summary.json")}
    again = sweep(done, *EVERY)
    assert again.status == 0
    assert "4 of 4 runs finished (4 before)" in again.out
    assert {file: file.stat().st_mtime_ns for file in done.rglob("summary.json")} == before


def test_only_what_is_missing_is_run_by_the_content_of_the_config(done: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(done, root, symlinks=True)
    for config in root.rglob("config.yaml"):  # the copy is at another place
        config.write_text(config.read_text().replace(str(done), str(root)))
    whole = summaries(root / "runs" / "sweep")
    gone = root / "runs" / "sweep" / "lagvae-alpha_minimize-latent2-seed0"
    shutil.rmtree(gone)
    again = sweep(root, "seed=0", "alpha=minimize,maximize", "model.latent=3,2")  # other order, other indices
    assert again.status == 0, again.err
    assert "4 runs, 3 of them finished before; 1 job of 1 run" in again.out
    now = summaries(root / "runs" / "sweep")
    assert now.keys() == whole.keys()
    left = {name: summary for name, summary in now.items() if name != gone.name}
    assert left == {name: whole[name] for name in left}


def test_a_folder_of_another_sweep_is_refused_with_what_differs(done: Path) -> None:
    before = files(done)
    outcome = sweep(done, *EVERY, "training.steps=60")
    assert outcome.status == 1
    assert "holds a run of another sweep (that run → this run: training.steps: 40 → 60)" in outcome.err
    assert "folder=NAME" in outcome.err
    assert files(done) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sweep=paretto"],
            "sweep=paretto is unknown; did you mean pareto? Choose one of alpha, family, family_learned, figure1, "
            "matched, oracle, paper, pareto",
        ),
        (["trainig.steps=1,2"], "trainig is unknown; did you mean training.steps=1,2?"),
        (["seed=0,0"], "The sweep has a run twice"),
        (["alpha=maximize,minimize", "name=same"], "would have the same folder, same"),
        (["sweep=pareto", "alpha.q=3"], "alpha.q=3 selects no run: the sweep has alpha.q in -1, 1"),
        (["hydra.sweeper.grids=[{seed:[]}]"], "seed has no values"),
        (["seed=0,1", "launcher.runs_per_job=0"], "launcher.runs_per_job=0 must be auto, or a whole number"),
        (["seed=0,1", "launcher.executor=null"], "launcher.executor=null: null is not allowed here; use launcher=ensemble"),
        (["seed=0,1", "launcher=nowhere"], "launcher=nowhere is unknown; choose one of ensemble, gpus, processes, ray, slurm"),
        (["seed=0,1", "launcher=gpus"], "launcher=gpus found no GPU"),
        (["seed=0,1", "trainer.devices=2"], "a run of a sweep trains on one device"),
        (["seed=0,1", "model.optimizer.lr=-1"], "model.optimizer does not work"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path, words: list[str], message: str) -> None:
    outcome = sweep(tmp_path, *words)
    assert outcome.status == 1
    assert message in " ".join(outcome.err.split()), outcome.err
    assert outcome.new == set()


def test_a_dry_run_tells_the_plan_of_a_sweep_and_writes_nothing(tmp_path: Path) -> None:
    outcome = sweep(tmp_path, *EVERY, "training.steps=30", "launcher.dry_run=true")
    assert (outcome.status, outcome.new) == (0, set()), outcome.err
    said = " ".join(outcome.out.split())
    assert "4 runs; 2 jobs of 2 runs" in said
    assert "Calibrating first: 2 calibrations" in said
    assert "Training steps in all: 120, and" in said
    assert "2 of 2 runs train at once" in said
    assert re.search(r"On this machine: about .* steps a second \(measured here with .* steps of 2 runs at once", said)
    assert "On GPUs: not predicted" in said


def test_a_dry_run_takes_the_rate_of_finished_runs_of_the_same_model(done: Path) -> None:
    before = summaries(done)
    said = " ".join(sweep(done, *EVERY, "seed=5", "launcher.dry_run=true").out.split())
    assert "the median of 2 finished runs of this model" in said  # those of the other latent dimension are another model
    (rate,) = map(float, re.findall(r"On this machine: .*? from ([\d.]+) steps a second", said))
    finished = [RunFolder(folder).read_summary() for folder in (done / "runs" / "sweep").glob("*latent2*")]
    rates = [len(finished) * summary["steps"] / summary["ensemble"]["seconds"] for summary in finished]
    assert rate == pytest.approx(sum(rates) / len(rates), rel=0.1), "of both runs at once"
    alone = sweep(done, *EVERY, "seed=5", "launcher.dry_run=true", "launcher.runs_per_job=1").out
    assert "measured here with" in " ".join(alone.split()), "an ensemble says nothing of runs that train alone"
    assert "All 4 runs are finished." in sweep(done, *EVERY, "launcher.dry_run=true").out
    assert summaries(done) == before


def test_a_dry_run_without_a_sweep_is_refused(tmp_path: Path) -> None:
    outcome = program(tmp_path, *QUICK, *SMALL, "launcher.dry_run=true")
    assert (outcome.status, outcome.new) == (1, set())
    assert "launcher.dry_run=true prints the plan of a sweep; add -m" in " ".join(outcome.err.split())


def test_planning_that_takes_long_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = "trainer.devices=2"
    monkeypatch.setattr("lagvae.sweeps.progress.PATIENCE", 1e9)
    assert sweep(tmp_path, "seed=0,1", refused).out == ""
    monkeypatch.setattr("lagvae.sweeps.progress.PATIENCE", 0.0)
    assert sweep(tmp_path, "seed=0,1", refused).out == "Planning 2 runs.\n"


def test_a_run_that_fails_leaves_the_others_and_is_tried_again(tmp_path: Path) -> None:
    words = ("family=infovae", "alpha=maximize,minimize", "model.optimizer.lr=1e-3,1e18")
    outcome = sweep(tmp_path, *words)
    assert outcome.status == 1
    assert "2 of 4 runs finished" in outcome.out
    assert "Compare them" not in outcome.out
    bad = [line for line in outcome.err.splitlines() if "became NaN" in line]
    assert len(bad) == 2
    assert all("lr1e+18" in line for line in bad), bad
    told = json.loads((tmp_path / "runs" / "sweep" / "sweep.json").read_text())
    assert sorted(told["runs"].values()) == ["failed", "failed", "finished", "finished"]
    failures = sorted((tmp_path / "runs").rglob("failure.json"))
    assert len(failures) == 2
    times = [file.stat().st_mtime_ns for file in failures]
    again = sweep(tmp_path, *words)
    assert again.status == 1
    assert "2 of 4 runs finished (2 before)" in again.out
    assert [file.stat().st_mtime_ns for file in failures] > times, "they were tried again"


def test_runs_whose_calibration_fails_leave_the_others(tmp_path: Path) -> None:
    outcome = sweep(tmp_path, "seed=0,1", "model.optimizer.lr=1e-3,1e18")
    assert outcome.status == 1
    assert "2 of 4 runs finished" in outcome.out
    assert outcome.err.count("Its calibration failed. Training stopped") == 2


def test_one_process_at_a_time_trains_a_job(tmp_path: Path) -> None:
    job = SweepJob(tmp_path / "job")
    with job.locked(), pytest.raises(LagvaeError, match="Another process trains these runs now"), job.locked():
        pass


def test_a_job_is_free_again_when_the_process_that_trained_it_was_killed(tmp_path: Path) -> None:
    holds = (
        "import sys, time; from pathlib import Path; from lagvae.sweeps.job import SweepJob\n"
        "with SweepJob(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(600)"
    )
    job = SweepJob(tmp_path / "job")
    reading, writing = os.pipe()
    with open(reading) as said, open(writing, "w") as theirs:
        process = forked.Program([sys.executable, "-c", holds, job.folder], stdout=theirs)
        try:
            theirs.close()
            assert said.readline() == "held\n"
            with pytest.raises(LagvaeError, match="Another process trains these runs now"), job.locked():
                pass
        finally:
            process.kill()
            process.wait()
    with job.locked():
        pass


def test_no_device_ever_has_more_jobs_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretended devices: each job notes which it saw and when."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    log = tmp_path / "log"

    def pretend(folder: Path, environment: dict[str, str]) -> dict[str, str]:
        device = environment["CUDA_VISIBLE_DEVICES"]
        with log.open("a") as file:
            file.write(f"start {device}\n")
        time.sleep(0.02)
        with log.open("a") as file:
            file.write(f"end {device}\n")
        return {}

    monkeypatch.setattr("lagvae.sweeps.executors.run_in_subprocess", pretend)
    executor = DeviceExecutor([3, 5], per_device=2)
    assert executor.run([tmp_path / str(k) for k in range(12)]) == [{}] * 12
    running: dict[str, int] = {}
    most: dict[str, int] = {}
    for line in log.read_text().splitlines():
        what, device = line.split()
        running[device] = running.get(device, 0) + (1 if what == "start" else -1)
        most[device] = max(most.get(device, 0), running[device])
    assert most.keys() == {"3", "5"}
    assert max(most.values()) == 2


@pytest.mark.parametrize(
    ("visible", "devices", "given"),
    [
        (None, None, ["0", "1"]),
        ("2,5", None, ["2", "5"]),
        ("GPU-1a,GPU-2b", [1], ["GPU-2b"]),
        ("2, 5", [1, 0], ["5", "2"]),
    ],
)
def test_devices_are_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, devices: list[int] | None, given: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environments = DeviceExecutor(devices).environments
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == given
    assert all(("CUDA_DEVICE_ORDER" in each) == (visible is None) for each in environments)


def test_a_device_that_is_not_visible_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    with pytest.raises(SettingError, match=r"devices=\[2\]: there is no device 2 among the 2 of CUDA_VISIBLE_DEVICES=2,5"):
        DeviceExecutor([2])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SettingError, match="found no GPU among CUDA_VISIBLE_DEVICES="):
        DeviceExecutor()


def test_a_process_that_dies_while_it_measures_fails_its_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def pool(runs: Any, processes: int) -> Any:
        """As the pool does: whoever measures run 2 is killed, and with it all that have not ended."""
        broken = any(run.name == "2" for run in runs)
        for k, run in enumerate(runs):
            yield run, BrokenProcessPool() if (broken and k > 0) or run.name == "2" else None

    monkeypatch.setattr("lagvae.sweeps.job.evaluate_in_pool", pool)
    runs: Any = [SimpleNamespace(name=str(k), cfg=None) for k in range(MAX_EVALUATED_HERE + 2)]
    found = dict(evaluate_all(runs, 2))
    assert found.keys() == {run.name for run in runs}
    assert {name for name, error in found.items() if error} == {"2"}
    assert "died (out of memory?)" in str(found["2"])


def test_a_queue_of_devices_shares_the_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", forked.run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = (*SHORT, "launcher=gpus", "launcher.executor.devices=[0,1]", "launcher.compile=false", "seed=0,1,2,3")
    outcome = sweep(tmp_path, *words)
    assert outcome.status == 0, outcome.err
    assert "2 jobs of 2 runs" in outcome.out
    assert len(summaries(tmp_path / "runs" / "sweep")) == 4


def test_a_run_may_have_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = iter([subprocess.run])  # a Python of its own; the other is forked
    monkeypatch.setattr(subprocess, "run", lambda *args, **settings: next(first, forked.run)(*args, **settings))
    outcome = sweep(tmp_path, *SHORT, "launcher=processes", "launcher.executor.jobs=2", "seed=0,1")
    assert outcome.status == 0, outcome.err
    assert "2 jobs of 1 run" in outcome.out
    assert len(summaries(tmp_path / "runs" / "sweep")) == 2


def test_a_logger_hears_the_history_of_each_run_of_an_ensemble(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = sweep(tmp_path, "seed=0,1", "logger=tensorboard", "training.log_every=10")
    assert outcome.status == 0, outcome.err
    for seed in (0, 1):
        folder = tmp_path / "runs" / "sweep" / f"lagvae-seed{seed}"
        heard = EventAccumulator(str(folder / "tensorboard"))
        heard.Reload()
        assert [event.step for event in heard.Scalars("train/rate")] == [10, 20, 30, 40]
        assert heard.Tags()["scalars"]


def test_a_sweep_that_is_logged_to_wandb_ends_with_its_comparison_which_pareto_continues(tmp_path: Path) -> None:
    words = (*QUICK, *SHORT, *SMALL[:1], "seed=0,1", "logger=wandb", "logger.wandb.mode=offline")
    outcome = program(tmp_path, "-m", *words)
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "runs" / "sweep" / "pareto-analysis"
    first = read_offline(folder)
    assert (first.run.job_type, first.run.run_group) == ("sweep", "sweep")
    assert set(first.config["runs"]) == {"lagvae-seed0", "lagvae-seed1"}
    assert {"pareto", "pareto_page", "figures/figure2", "charts/figure2_table"} <= first.history.keys()
    assert "Dominated" not in outcome.out
    before = files(folder)
    assert program(tmp_path, "-m", *words).status == 0
    assert files(folder) == before, "nothing was done, so there is nothing to compare"
    assert program(tmp_path, "sweep", script="pareto").status == 0
    again = read_offline(folder)
    assert (again.run.run_id, again.exit) == (first.run.run_id, 0)


def test_a_sweep_that_cannot_be_compared_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("logger: {wandb: {_target_: pytorch_lightning.loggers.WandbLogger}}")
    log_sweep_comparison(tmp_path)
    assert "Note: W&B has no comparison of" in capsys.readouterr().err
    (tmp_path / "a" / "config.yaml").write_text("logger: {}")
    log_sweep_comparison(tmp_path)
    assert capsys.readouterr().err == ""


def test_what_nobody_foresaw_is_said_of_all_runs_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr("lagvae.sweeps.ensemble_training.train_ensemble", broken)
    outcome = sweep(tmp_path, "seed=0,1")
    assert outcome.status == 1
    assert outcome.err.count("RuntimeError: the device is gone") == 2
    assert "Traceback" not in outcome.err


def test_another_launcher_of_hydra_runs_a_run_at_a_time_and_skips_what_is_finished(tmp_path: Path) -> None:
    words = (*SHORT, "hydra/launcher=basic", "seed=0,1")
    assert sweep(tmp_path, *words).status == 0
    files_of = sorted((tmp_path / "runs" / "sweep").glob("*/summary.json"))
    assert [file.parent.name for file in files_of] == ["lagvae-seed0", "lagvae-seed1"]
    times = [file.stat().st_mtime_ns for file in files_of]
    assert sweep(tmp_path, *words).status == 0
    assert [file.stat().st_mtime_ns for file in files_of] == times


def test_runs_are_evaluated_in_several_processes(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "copy"
    shutil.copytree(done / "runs", root / "runs")
    shutil.copytree(done / "calibrations", root / "calibrations")
    runs = []
    for config in sorted(root.rglob("lagvae*/config.yaml")):
        config.write_text(config.read_text().replace(str(done), str(root)))
        runs.append(SweepRun(to_config(OmegaConf.to_container(OmegaConf.load(config)))))  # type: ignore[arg-type]
    whole = summaries(root / "runs")
    for run in runs:
        run.folder.summary.unlink()
    monkeypatch.setattr("lagvae.sweeps.job.MAX_EVALUATED_HERE", len(runs) - 1)
    assert dict(evaluate_all(runs, 2)) == dict.fromkeys([run.name for run in runs])
    assert summaries(root / "runs") == whole


def test_a_job_that_is_killed_is_said_to_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (tmp_path / "job").mkdir()
    error = run_in_subprocess(tmp_path / "job", {})
    assert isinstance(error, LagvaeError)
    assert "ended without a result" in str(error)


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    error = run_in_subprocess(tmp_path / "nowhere", {})
    assert isinstance(error, SettingError)
    assert f"{tmp_path / 'nowhere' / 'log.txt'} cannot be written (No such file or directory)" in str(error)


def test_a_job_that_another_process_has_is_waited_for_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = SweepJob(tmp_path / "job")
    job.folder.mkdir()
    monkeypatch.setattr(subprocess, "run", lambda *given, **kw: subprocess.CompletedProcess(given, EXIT_TAKEN))
    outcome = run_in_subprocess(job.folder, {})
    assert isinstance(outcome, OwnedError)
    run: Any = SimpleNamespace(name="a", finished=False)
    assert failures_by_run([(job, [run])], [outcome]) == {}
    assert failures_by_run([(job, [run])], [SettingError("no")]) == {"a": "no"}


def test_a_sweep_of_which_nothing_gets_done_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lagvae.sweeps.runner.run_all", lambda *given: {})
    outcome = sweep(tmp_path, "seed=0,1", "family=infovae")
    assert outcome.status == 1
    assert "2 of the runs failed, the others finished" in outcome.err
    assert "It has no summary" in outcome.err


def test_what_killed_processes_have_left_of_a_sweep_is_removed_at_its_end(tmp_path: Path) -> None:
    """Its jobs are done, and no one owns their folders again."""
    run = RunFolder(tmp_path / "sweep" / "a")
    left = [folder / ".x.json.0123abcd.json" for folder in (run.path.parent, tmp_path / ".jobs/done", tmp_path / ".jobs/taken")]
    for file in (*left, run.summary):
        file.parent.mkdir(parents=True, exist_ok=True)
    run.write_summary({"verdict": "met"})
    made: Any = SimpleNamespace(name="a", folder=run, finished=True, plain=OmegaConf.create({"paths": {"runs": str(tmp_path)}}))
    with owned(left[2].parent):
        for file in left:
            file.touch()
        print_outcome([made], 0, {}, 1.0)
        assert [file.exists() for file in left] == [False, False, True], "that job has an owner"
    assert (run.path.parent / "sweep.json").is_file()


def test_a_run_that_another_process_finishes_after_it_failed_here_has_not_failed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "sweep" / "a")
    run.path.mkdir(parents=True)
    run.write_summary({"verdict": "met"})
    made: Any = SimpleNamespace(name="a", folder=run, finished=True, plain=OmegaConf.create({"paths": {"runs": str(tmp_path)}}))
    print_outcome([made], 0, {"a": "the network broke"}, 1.0)


def test_only_its_owner_writes_the_task_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process has half written in a folder is removed by the owner of that."""

    def write(path: Path, content: Any) -> None:
        with pytest.raises(OwnedError), owned(path.parent):
            pass

    monkeypatch.setattr("lagvae.sweeps.job.write_json", write)
    SweepJob.create(tmp_path / "job", "train", [], {})


def test_a_run_that_a_wandb_agent_names_is_the_run_of_the_sweep(tmp_path: Path) -> None:
    quick = [*QUICK, *SHORT, "epsilon.source=calibrated"]
    named = "overrides='family=infovae alpha.q=1 constraints.neg_elbo.multiplier=2 constraints.mmd.multiplier=1000 label=-q1'"
    outcome = program(tmp_path, *quick, "sweep=pareto", named)
    assert outcome.status == 0, outcome.err
    run = tmp_path / "runs" / "pareto" / "infovae-q1-seed0"
    assert (run / "summary.json").is_file()
    cfg = OmegaConf.load(run / "config.yaml")
    assert cfg.training.start == "calibrated"
    assert cfg.constraints.neg_elbo.multiplier == 2
    without = program(tmp_path, *quick, "sweep=pareto")
    assert "sweep=pareto is many runs: add -m." in without.err


def test_a_damaged_summary_is_made_again(done: Path, tmp_path: Path) -> None:
    run = SweepRun(to_config(OmegaConf.to_container(OmegaConf.load(next((done / "runs" / "sweep").rglob("config.yaml"))))))  # type: ignore[arg-type]
    assert run.finished
    whole = run.folder.summary.read_text()
    run.folder.summary.write_text(whole[:100])
    assert not run.finished
    run.folder.summary.write_text(whole)
