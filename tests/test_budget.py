"""The cost of measuring: what is cut to stay within the budget, what remains true then, and the bar that shows it."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import TaskProgressColumn
from torch import nn

from lagvae.callbacks import Evaluation, budget, progress
from lagvae.callbacks.budget import LEAST, Plan, multiply_adds, plan_evaluation
from lagvae.callbacks.progress import MeasuringProgress, ProgressBar
from lagvae.callbacks.stopping import StopOnSigterm, interrupt_on_sigterm
from lagvae.cli.entry import compose_config
from lagvae.data import DataModule
from lagvae.data.sources import digits
from lagvae.distributions import BernoulliDecoder, GaussianEncoder, JointModel, StandardNormalPrior
from lagvae.experiment.calibration import calibration_config
from lagvae.experiment.factory import build_data
from lagvae.experiment.fit import build_evaluation
from lagvae.experiment.run import train
from lagvae.experiment.trial import trial_model
from lagvae.experiment.validate import validate
from lagvae.metrics import Information, MarginalLikelihood
from lagvae.networks import MLP

FREE = 1e10
"""Less than the digits take with the networks of this file."""


@pytest.fixture
def data() -> DataModule:
    return DataModule(digits, "digits", "bernoulli", batch=128)


@pytest.fixture
def joint() -> JointModel:
    torch.manual_seed(0)
    network, shape = partial(MLP, hidden=[1024]), (1, 8, 8)
    return JointModel(StandardNormalPrior(4), GaussianEncoder(network, shape, 4), BernoulliDecoder(network, shape, 4))


def built(joint: JointModel, data: DataModule) -> dict[str, dict[str, Any]]:
    metrics: dict[str, dict[str, Any]] = {}
    for split in ("train", "val", "test"):
        metrics[split] = {"information": Information(images=True), "likelihood": MarginalLikelihood()}
        for metric in metrics[split].values():
            assert metric.is_applicable(joint, data, split)
    return metrics


def test_products_of_layers_are_counted_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 2, 2, stride=2))
    # 9 products for each of 4 · 16 values; each of the 4 · 16 inputs goes into 2 · 4 outputs
    assert multiply_adds(network, torch.zeros(1, 1, 8, 8)) == 9 * 64 + 64 * 8
    assert multiply_adds(nn.Bilinear(2, 3, 4), torch.zeros(1, 2), torch.zeros(1, 3)) == 2 * 3 * 4 + 4  # parameters


def test_a_budget_cuts_draws_until_the_cost_fits_and_says_from_what_to_what(
    joint: JointModel, data: DataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "FREE", FREE)
    whole = plan_evaluation(built(joint, data), joint, data, None, steps=1)
    assert whole.cut == {}
    assert data.most_draws is None
    assert whole.total > 4 * FREE
    metrics = built(joint, data)
    cut = plan_evaluation(metrics, joint, data, 0.5, steps=1)
    assert cut.total <= FREE < 2 * cut.total * 1.5  # one halving less would have been too much, but for what has a floor
    assert cut.cut["data.draws"] == (40_000, data.most_draws)
    information = metrics["val"]["information"]
    assert cut.cut["information.most"] == (60_000, information.most)
    assert information.most < 60_000
    assert LEAST <= int(data.most_draws or 0) < 40_000
    assert data.draws_of("train") <= 2 * int(data.most_draws or 0)
    again = plan_evaluation(built(joint, data), joint, data, 0.5, steps=1)
    assert again == cut  # it depends on shapes and settings alone


def test_reading_images_from_files_counts(joint: JointModel, data: DataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is read at every use: as often as training reads them, and no more than half as often to measure it."""
    monkeypatch.setattr(budget, "FREE", FREE)
    monkeypatch.setattr(budget, "READING", 1e9)
    monkeypatch.setattr(DataModule, "streams", True)
    cut = plan_evaluation(built(joint, data), joint, data, 0.5, steps=300)
    assert sum(cut.batch_costs.values()) < 0.51 * 300 * data.batch * 1e9
    assert cut.cut["data.draws"] == (40_000, data.most_draws)
    assert plan_evaluation(built(joint, data), joint, data, 0.5, steps=3000).cut == {}


def test_a_longer_training_allows_all_draws(joint: JointModel, data: DataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "FREE", FREE)
    plan = plan_evaluation(built(joint, data), joint, data, 0.5, steps=10_000)
    assert plan.cut == {}


def test_runs_and_calibrations_on_the_digits_are_measured_with_all_draws() -> None:
    cfg = compose_config(["training.steps=10", "trainer=cpu"])
    data = build_data(cfg)
    for derived in (cfg, calibration_config(cfg)):
        model = trial_model(derived, data)
        evaluation = build_evaluation(derived, model)
        evaluation.prepare(model, data, torch.device("cpu"))
        assert evaluation.plan.cut == {}
        assert data.most_draws is None


def test_bounds_from_fewer_draws_keep_their_sides() -> None:
    # z = x + noise of variance 1/4 for standard normal x: I = ½ log 5 nats. A standard error is about 0.05.
    class Samples:
        def __init__(self, x: torch.Tensor, noise: torch.Tensor) -> None:
            from torch.distributions import Independent, Normal

            self.q_z_given_x = Independent(Normal(x, 0.5), 1)
            self.z_q = x + 0.5 * noise

    class Data:
        is_stochastic = False

        def size(self, split: str) -> int:
            return 4000

    network = partial(MLP, hidden=[4])
    parts = StandardNormalPrior(1), GaussianEncoder(network, (1,), 1), BernoulliDecoder(network, (1,), 1)
    metric = Information(components=2)
    assert metric.is_applicable(JointModel(*parts), Data(), "val")  # type: ignore[arg-type]
    assert metric.limit(1 / 128)["most"] == (60_000, 468)
    x, noise = torch.randn(2, 4000, 1, generator=torch.Generator().manual_seed(0))
    metric.update(Samples(x, noise), torch.arange(4000))  # type: ignore[arg-type]
    values = {name: float(value) for name, value in metric.compute().items()}
    truth, error = 0.5 * torch.tensor(5.0).log().item(), 3 * values["i_q_stderr"]
    assert values["i_q_lower_limit"] == pytest.approx(torch.tensor(468.0).log().item())  # 468 draws were used
    assert values["i_q_lower"] - error < truth < values["i_q_upper"] + error


@pytest.mark.parametrize(("batch", "least"), [(32, LEAST), (128, LEAST), (129, 258), (300, 600)])
def test_no_budget_leaves_a_split_less_than_two_batches(
    joint: JointModel, monkeypatch: pytest.MonkeyPatch, batch: int, least: int
) -> None:
    monkeypatch.setattr(budget, "FREE", 1.0)
    data = DataModule(digits, "digits", "bernoulli", batch=batch)
    plan = plan_evaluation({split: {} for split in ("train", "val", "test")}, joint, data, 1e-9, 1)
    assert plan.cut == {"data.draws": (data.draws, least)}
    assert data.most_draws == least


def measured(parts: list[tuple[str, float, float]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of measuring 100 units without a terminal. `parts`: name, its work and the seconds that it takes."""
    clock, out = [0.0], StringIO()
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    bar = MeasuringProgress("Measuring", 100.0, Console(file=out, force_terminal=False, width=200))
    for name, work, seconds in parts:
        bar.begin(name, work)
        clock[0] += seconds
    bar.stop()
    return out.getvalue().splitlines()


def test_short_measuring_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured([(f"part {k}", 5.0, 0.4) for k in range(20)], monkeypatch) == ["Measuring: 0%  part 0"]


def test_long_measuring_says_each_minute_and_before_a_long_part_what_is_measured_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = [("terms", 0.1, 2.0), ("rates", 0.9, 59.0), ("mmd", 9.0, 10.0), ("samples", 5.0, 10.0), ("information", 85.0, 9.0)]
    assert measured(parts, monkeypatch) == [
        "Measuring: 0%  terms",
        "Measuring: 1%  mmd",  # a minute later; a hundredth of the work says nothing of the rest
        "Measuring: 15%, 459 s left  information",  # 20 s later, as it will take long
    ]


def test_on_a_terminal_what_is_being_measured_counts_when_it_has_ended() -> None:
    bar = MeasuringProgress("Measuring", 10.0, Console(file=StringIO(), force_terminal=True, width=100))
    shown = bar._bar._bar
    assert shown is not None
    (task,), seen = shown.tasks, []
    for name, amount in {"terms": 4.0, "mmd": 6.0}.items():
        bar.begin(name, amount)
        seen.append((task.completed, task.fields["note"]))
    assert seen == [(0.0, "terms"), (4.0, "mmd")]
    bar.stop()
    assert (task.completed, task.fields["note"]) == (10.0, "")
    assert not shown.live.is_started


def test_a_plain_line_is_written_at_each_tenth_once_and_at_none_without_a_total() -> None:
    said = StringIO()
    console = Console(file=said, force_terminal=False, width=100)
    bar = ProgressBar("A", 20.0, TaskProgressColumn(), console=console)
    for done in (0, 1, 2, 3, 3.9, 4, 20):
        bar.update(done, f"note {done}", None if done else "the first line")
    assert said.getvalue().splitlines() == ["the first line", "note 2", "note 4", "note 20"]
    unknown = ProgressBar("B", None, TaskProgressColumn(), console=console)
    unknown.update(5.0, "unheard")
    unknown.stop()
    assert "unheard" not in said.getvalue()


def test_the_bar_of_an_evaluation_ends_with_it_and_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    def bar(title: str, total: float) -> Any:
        bars.append(SimpleNamespace(begun=[], stopped=0))
        one = bars[-1]
        one.begin = lambda what, work: one.begun.append((what, work))
        one.stop = lambda: setattr(one, "stopped", one.stopped + 1)
        return one

    monkeypatch.setattr("lagvae.callbacks.evaluation.MeasuringProgress", bar)
    first = SimpleNamespace(broadcast=lambda value: value)
    data = SimpleNamespace(draws_of=lambda split: 40)
    trainer: Any = SimpleNamespace(testing=True, is_global_zero=True, strategy=first, callback_metrics={}, datamodule=data)
    metric = SimpleNamespace(compute=lambda: {"rate": torch.tensor(2.0)}, reset=lambda: None, labels={"rate": "the rate"})
    metric.count_images_once, metric.update = False, lambda samples, index: None
    before, model = signal.getsignal(signal.SIGTERM), SimpleNamespace()
    evaluation = Evaluation({}, {})
    batch: Any = SimpleNamespace(index=torch.arange(10), step=0)
    for ends in (True, False):
        evaluation._metrics = {split: {"the_terms": metric} for split in ("train", "val", "test")}  # type: ignore[dict-item]
        evaluation.plan = Plan(batch_costs=dict.fromkeys(evaluation._metrics, 8.0))
        evaluation.plan.metric_costs = {split: {"the_terms": 3.0} for split in evaluation._metrics}
        evaluation.on_test_epoch_start(trainer, model)  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        evaluation.on_test_batch_end(trainer, model, None, batch, 0, 1)  # type: ignore[arg-type]
        assert bars[-1].begun == [("samples of val", 2.0)], "a quarter of its draws"
        if ends:
            evaluation.on_test_epoch_end(trainer, model)  # type: ignore[arg-type]
            assert signal.getsignal(signal.SIGTERM) is before
            assert bars[-1].begun[1:] == [(f"the terms on {split}", 3.0) for split in ("train", "val", "test")]
        signal.signal(signal.SIGTERM, before)
        evaluation.on_exception(trainer, model, ValueError())  # type: ignore[arg-type]
        assert bars[-1].stopped == 1
    assert len(bars) == 2
    assert evaluation.row() == {f"{split}/rate": 2.0 for split in ("train_probe", "val", "test")}
    assert evaluation.labels == {"rate": "the rate"}


def test_a_bar_starts_again_with_another_total_and_ends() -> None:
    said = StringIO()
    bar = ProgressBar("First", 10.0, TaskProgressColumn(), console=Console(file=said, force_terminal=True, width=100))
    bar.update(10.0, "all of it")
    bar.restart("Second", 4.0)
    assert bar._bar is not None
    (task,) = bar._bar.tasks
    assert (task.description, task.completed, task.total) == ("Second", 0, 4.0)
    shown = bar._bar
    bar.update(2.0, "half of it")
    bar.stop()
    *_, last, note = (line for line in said.getvalue().splitlines() if "Second" in line or "half" in line)
    assert "Second" in last, "the bar"
    assert note.strip().endswith("half of it"), "the note has a line of its own"
    assert not shown.live.is_started


def test_only_the_main_thread_takes_sigterm() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(interrupt_on_sigterm).result() is None
    assert signal.getsignal(signal.SIGTERM) is before
    try:
        assert interrupt_on_sigterm() is before
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("world", "interrupts"), [(1, False), (2, True)])
def test_only_processes_that_share_a_run_take_sigterm_from_lightning(world: int, interrupts: bool) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer: Any = SimpleNamespace(world_size=world)
    model: Any = nn.Identity()
    try:
        StopOnSigterm().on_train_start(trainer, model)
        assert (signal.getsignal(signal.SIGTERM) is signal.default_int_handler) is interrupts
        assert interrupts or signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_means_what_it_did_after_a_metric_that_failed() -> None:
    def failing() -> Any:
        raise ZeroDivisionError

    before = signal.getsignal(signal.SIGTERM)
    model = SimpleNamespace(eval=lambda: None, device=torch.device("cpu"))
    try:
        with pytest.raises(ZeroDivisionError):
            Evaluation(training={"failing": failing}, final={}).run(model, None, {"val": []})  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_short_run_says_what_was_cut_and_shows_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "FREE", 1e6)
    monkeypatch.setattr(progress, "QUIET", 0.0)
    overrides = ["callbacks=light", "epsilon=none", "training.start=scratch", "training.steps=2", "multiplier=fixed"]
    cfg = compose_config([*overrides, "trainer=cpu", "family=vae", f"paths.root={tmp_path}", "name=short"])
    summary = train(cfg)
    shown = capsys.readouterr()
    asked, used = summary["cut"]["data.draws"]
    assert (asked, used) == (40_000, LEAST)
    assert f"data.draws 40,000 → {used}" in " ".join(shown.out.split())
    assert "Measuring: 0%" in shown.err
    assert "information on val" in shown.err
    assert "Reporting: 0%  stationarity" in shown.err
    assert {"neg_elbo", "mmd", "i_q_lower", "i_q_upper"} <= summary["splits"]["test"].keys()
    assert not {"nll", "i_q_kde", "two_sample_x_p", "class_coverage"} & summary["splits"]["test"].keys()
    assert not (tmp_path / "runs" / "short" / "figures").exists()


def test_full_has_no_budget_and_a_budget_is_positive() -> None:
    assert compose_config(["callbacks=full"]).callbacks.final.budget is None
    assert compose_config([]).callbacks.final.budget == 0.5
    with pytest.raises(Exception, match=r"callbacks\.final\.budget=0 must be positive"):
        validate(compose_config(["callbacks.final.budget=0"]))
