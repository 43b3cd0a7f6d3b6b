"""The plan of a sweep: its jobs, and what launcher.dry_run=true predicts of them, by a clock that a test moves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lagvae.data import Batch
from lagvae.errors import SettingError
from lagvae.experiment.calibration import AUTO
from lagvae.sweeps import plan, prediction
from lagvae.sweeps.prediction import TrainingRate, measured_rate, memory_lines, print_prediction, time_lines
from lagvae.terminal import format_duration


def run_of(steps: int = 100, calibration: Any = 50, root: str = "runs") -> Any:
    plain = SimpleNamespace(
        training=SimpleNamespace(steps=steps),
        calibration=SimpleNamespace(steps=calibration),
        data=SimpleNamespace(batch=4),
        trainer={"precision": "32-true"},
        paths=SimpleNamespace(runs=root),
    )
    return SimpleNamespace(plain=plain, cfg=None)


class Trial:
    """A model whose step takes some seconds of the clock, the first one longer."""

    def __init__(self, clock: SimpleNamespace, seconds: float) -> None:
        self.clock, self.seconds, self.first = clock, seconds, 100.0
        self.joint = torch.nn.Linear(2, 1)
        self.primal = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
        self.lagrangian = SimpleNamespace(measure=self.measure)
        self.before = self.joint.weight.detach().clone()

    def samples(self, batch: Any, split: str) -> torch.Tensor:
        assert split == "trial"
        return batch.x

    def measure(self, x: torch.Tensor) -> Any:
        assert torch.get_num_threads() == 2, "those that training takes"
        self.clock.now += self.first + self.seconds
        self.first = 0.0
        assert self.clock.now < 1000, "it measures for ever"
        value = self.joint(x).mean()
        return SimpleNamespace(terms={"rate": value, "distortion": 2 * value}, divergences=torch.stack([3 * value]))


@pytest.mark.parametrize(("seconds", "steps"), [(0.5, 5), (0.25, 5), (0.125, 8), (0.3, 5)])
def test_a_rate_is_that_of_the_steps_after_the_first(monkeypatch: pytest.MonkeyPatch, seconds: float, steps: int) -> None:
    """Five at least, and those of a second at least."""
    clock = SimpleNamespace(now=7.0)
    trial = Trial(clock, seconds)
    data: Any = SimpleNamespace(first_batch=lambda count: Batch(torch.ones(count, 2), torch.arange(count), 0))
    monkeypatch.setattr(prediction, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(prediction, "trial_model", lambda cfg, data: trial)
    monkeypatch.setattr(prediction, "choose_threads", lambda cfg, model, together: 2)
    monkeypatch.setattr(prediction.os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    monkeypatch.setattr(prediction, "cores", lambda: 6)
    before = torch.get_num_threads()
    found = measured_rate(run_of(), data, 1)
    assert torch.get_num_threads() == before
    assert found.steps == pytest.approx(1 / seconds)
    assert found.source == f"measured here with {steps} uncompiled steps of one run on the CPU"
    moved = float((trial.before - trial.joint.weight.detach())[0, 0])
    assert moved == pytest.approx(0.1 * 6 * (steps + 1), rel=1e-3), "all values are derived, of which the sum has the slope 6"
    monkeypatch.setattr(prediction, "cores", lambda: 5)
    busy = measured_rate(run_of(), data, 1).source
    assert busy.endswith("on the CPU, while others kept the machine busy (load 9), which makes it slow")


def test_an_ensemble_is_measured_as_one_of_sixteen_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = SimpleNamespace(now=0.0), list[int]()

    class Together(Trial):
        def __init__(self, models: list[Trial], seeds: Any, tables: Any) -> None:
            super().__init__(clock, 2.0)
            made.append(len(models))
            self.measure = lambda batch: Trial.measure(self, batch.x)  # type: ignore[method-assign]

    data: Any = SimpleNamespace(first_batch=lambda count: Batch(torch.ones(count, 2), torch.arange(count), 0))
    monkeypatch.setattr(prediction, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(prediction, "Ensemble", Together)
    monkeypatch.setattr(prediction, "trial_model", lambda cfg, data: Trial(clock, 2.0))
    monkeypatch.setattr(prediction, "choose_threads", lambda cfg, model, together: 2)
    monkeypatch.delattr(prediction.os, "getloadavg", raising=False)
    found = [measured_rate(run_of(), data, together) for together in (3, 40)]
    assert made == [3, 16]
    assert [rate.steps for rate in found] == pytest.approx([3 / 2, 16 / 2])
    assert "5 uncompiled steps of 16 runs at once on the CPU" in found[1].source


def test_the_time_is_that_of_the_steps_and_half_as_much_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: dict[bool, list[float]] = {False: [], True: []}
    monkeypatch.setattr(prediction, "finished_rates", lambda run, together, gpu: rates[gpu])
    monkeypatch.setattr(prediction, "measured_rate", lambda run, data, together: TrainingRate(10.0, "measured"))
    data: Any = None
    here, gpus = time_lines(run_of(root="there"), data, 4, 400)
    assert here == "On this machine: about 60 s, from 10 steps a second (measured); measuring and figures are taken to add 50%."
    assert gpus.startswith("On GPUs: not predicted, for no finished run of this model in there was trained with trainer=gpu.")
    rates |= {False: [1.0, 2.0, 30.0], True: [100.0]}
    here, gpus = time_lines(run_of(root="there"), data, 4, 420_000)
    assert here.startswith("On this machine: about 87.5 hours, from 2 steps a second (the median of 3 finished runs of this ")
    assert gpus.startswith(
        "On GPUs, 1: 1.8 hours, 8: 13 minutes, 64: 2 minutes; from 100 steps a second on one (the median of 1"
    )


@pytest.mark.parametrize(
    ("needed", "together", "said"),
    [
        (2**20, 1, "about 1 MiB a run; 1.0 GiB are free on this machine: runs train one at a time."),
        (2**20, 4, "about 1 MiB a run; 1.0 GiB are free on this machine: 4 of 4 runs train at once."),
        (2**28, 4, "about 256 MiB a run; 1.0 GiB are free on this machine: 2 of 4 runs train at once."),
        (2**31, 4, "about 2048 MiB a run; 1.0 GiB are free on this machine: 1 of 4 runs train at once."),
    ],
)
def test_six_tenths_of_the_free_memory_are_shared(
    monkeypatch: pytest.MonkeyPatch, needed: int, together: int, said: str
) -> None:
    monkeypatch.setattr(prediction, "trial_model", lambda cfg, data: "model")
    monkeypatch.setattr(
        prediction, "memory_per_run", lambda member: needed if (member.model, member.data) == ("model", 1) else 0
    )
    monkeypatch.setattr(prediction, "free_memory", lambda device: 2**30)
    data: Any = 1
    assert list(memory_lines(run_of(), data, together)) == [f"Memory: {said}"]


def test_the_steps_of_a_sweep_are_those_of_its_runs_and_of_their_calibrations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []

    def lines(run: Any, data: Any, together: int, steps: int = 0) -> list[str]:
        asked.append((run, together, steps))
        return []

    monkeypatch.setattr(prediction, "load_data", lambda cfg: None)
    monkeypatch.setattr(prediction, "memory_lines", lines)
    monkeypatch.setattr(prediction, "time_lines", lines)
    few, many, long = run_of(), run_of(2000), run_of(3000, AUTO)
    print_prediction([([few], False), ([many, long], False)], [])
    print_prediction([([few], False), ([many, long], True)], [[few, many]])
    print_prediction([([few, few, few], False)], [[many], [long, few]])
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("Training steps in all: 5,100. An interrupted run")
    assert second.startswith("Training steps in all: 5,100, and 50 of calibrations. An")
    assert third.startswith("Training steps in all: 300, and at least 3,050 of calibrations (calibration.steps=auto doubles")
    assert asked[::2] == [(many, 2, 0), (many, 1, 0), (few, 3, 0)], "the memory of the largest group"
    assert asked[1::2] == [(many, 2, 5100), (many, 1, 5150), (few, 3, 3350)]


@pytest.mark.parametrize(
    ("seconds", "said"), [(89.4, "89 s"), (90, "2 minutes"), (5399, "90 minutes"), (5400, "1.5 hours"), (9000, "2.5 hours")]
)
def test_a_duration_has_the_unit_that_people_use(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


# ---- jobs


def named(name: str, folder: str = "runs/s", obstacles: tuple[str, ...] = (), alone: bool = False) -> Any:
    return SimpleNamespace(
        name=name,
        settings={"name": name},
        obstacles=obstacles,
        alone=alone or bool(obstacles),
        folder=SimpleNamespace(path=Path(folder) / name),
        plain=SimpleNamespace(paths=SimpleNamespace(runs="runs"), trainer={"precision": "32-true"}),
    )


@pytest.mark.parametrize(
    ("size", "workers", "sizes"),
    [
        ("auto", 1, [5, 2]),
        ("auto", 2, [3, 2, 1, 1]),
        ("auto", 3, [2, 2, 1, 1, 1]),
        ("auto", 9, [1] * 7),
        (1, 1, [1] * 7),
        (2, 1, [2, 2, 1, 2]),
        (9, 4, [5, 2]),
    ],
)
def test_runs_that_can_train_together_are_shared_out_evenly(
    monkeypatch: pytest.MonkeyPatch, size: Any, workers: int, sizes: list[int]
) -> None:
    groups = [[named(f"a{k}") for k in range(5)], [named(f"b{k}") for k in range(2)]]
    runs = [run for group in groups for run in group]
    monkeypatch.setattr(plan, "group_runs", lambda given: groups if given == runs else [])
    jobs = plan.new_jobs(runs, Path("jobs"), size, workers)
    assert [len(part) for _, part in jobs] == sizes
    assert [run for _, part in jobs for run in part] == runs
    assert len({job.folder for job, _ in jobs}) == len(jobs)
    assert jobs[0][0].folder == plan.new_jobs(runs, Path("jobs"), size, workers)[0][0].folder, (
        "where an interrupted job is found"
    )


@pytest.mark.parametrize("size", [0, -1, 1.5, "two", None])
def test_a_size_of_jobs_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(SettingError, match=f"launcher.runs_per_job={size} must be auto, or a whole number of at least 1"):
        plan.new_jobs([named("a")], Path("jobs"), size, 1)


OWN = "their code has an if on a value"


@pytest.mark.parametrize(
    ("parts", "already", "missing", "said"),
    [
        ([["a"]], 0, 0, ["1 runs; 1 job of 1 run, in runs/s"]),
        ([["a", "b"], ["c", "d"]], 0, 1, ["4 runs; 2 jobs of 2 runs, in runs/s", "Calibrating first: 1 calibration."]),
        ([["a", "b"], ["c"]], 2, 2, ["5 runs, 2 of them finished before; 2 jobs of 1 to 2 runs", "first: 2 calibrations."]),
        (
            [["a"], ["critic"]],
            0,
            0,
            ["2 runs; 2 jobs of 1 run,", "1 of them train one at a time, because they are fronts, or have critics"],
        ),
        (
            [["own"], ["own"], ["critic"]],
            0,
            0,
            ["3 jobs of 1 run,", "1 of them train one at a time", f"2 of them train one at a time, because {OWN}"],
        ),
    ],
)
def test_a_plan_says_how_many_runs_train_how(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    parts: list[list[str]],
    already: int,
    missing: int,
    said: list[str],
) -> None:
    monkeypatch.setattr(plan, "trains_alone", lambda run: run.alone)
    monkeypatch.setattr(plan, "group_runs", lambda runs: [runs] if runs else [])
    jobs: Any = [
        (None, [named(name, alone=name == "critic", obstacles=(OWN,) if name == "own" else ()) for name in part])
        for part in parts
    ]
    before = [named(f"before{k}") for k in range(already)]
    plan.print_sweep_plan([*before, *(run for _, part in jobs for run in part)], already, jobs, [[]] * missing)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert words in line


@pytest.mark.parametrize(("count", "more"), [(3, False), (4, True)])
def test_a_plan_names_three_settings_by_which_ensembles_differ(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: int, more: bool
) -> None:
    runs = [named("a"), named("b")]
    monkeypatch.setattr(plan, "trains_alone", lambda run: False)
    monkeypatch.setattr(plan, "group_runs", lambda given: [[run] for run in given])
    monkeypatch.setattr(plan, "differing_settings", lambda groups: [f"s{k}: 1 → 2" for k in range(count)])
    jobs: Any = [(None, [run]) for run in runs]
    plan.print_sweep_plan(runs, 0, jobs, [])
    told = capsys.readouterr().out.splitlines()[1]
    assert told == f"2 ensembles, because these settings differ: s0: 1 → 2; s1: 1 → 2; s2: 1 → 2{' …' if more else ''}"


def test_the_folder_of_a_sweep_is_that_of_its_runs() -> None:
    assert plan.common_folder([named("a"), named("b")]) == Path("runs/s")
    assert plan.common_folder([named("a"), named("b", "runs/t")]) == Path("runs")
