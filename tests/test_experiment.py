"""Calibrate, train, evaluate: what a user gets, end to end, on runs of seconds."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from small import TINY, compose

from lagvae.callbacks.checkpoints import exact_penalty
from lagvae.divergences import (
    MMD,
    AdversarialNegElbo,
    AdversarialRate,
    AdversarialTotalCorrelation,
    CovarianceDistance,
    Distortion,
    Divergence,
    LogRatio,
    NegElbo,
    Rate,
    SlicedWasserstein,
    SymbolicObjective,
    TotalCorrelation,
    VariationalFDivergence,
    Wasserstein,
)
from lagvae.errors import CheckpointError, Stopped
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.factory import build_lagrangian
from lagvae.experiment.fit import Fit
from lagvae.experiment.run import calibrate, evaluate, resume, setup, train
from lagvae.io import owned
from lagvae.model import LatentVariableModel
from lagvae.oracles import LinearGaussian
from lagvae.runs.layout import RunFolder

TINY = [*TINY, "callbacks.training.information.samples=100"]
TERMS = [
    f"~callbacks.final.{name}"
    for name in ("information", "information_of_model", "likelihood", "two_sample_x", "two_sample_z", "classifier")
]
"""For a run of which only the terms of the objective are of interest."""
EXPLICIT = ["epsilon=explicit", "constraints.neg_elbo.epsilon=30", "constraints.mmd.epsilon=1e-3", "training.start=scratch"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the calibration of TINY."""
    root = tmp_path_factory.mktemp("made")
    calibrate(compose([*TINY, f"paths.root={root}"]))
    return root


@pytest.fixture(scope="module")
def finished(made: Path) -> RunFolder:
    """A run of TINY that has finished."""
    train(compose([*TINY, f"paths.root={made}", "name=one"]))
    return RunFolder(made / "runs" / "one")


@pytest.fixture
def one(finished: RunFolder, root: Path) -> RunFolder:
    """A copy of `finished` that a test may change."""
    return RunFolder(shutil.copytree(finished.path, root / "runs" / "one"))


@pytest.fixture(autouse=True)
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and calibrations of a test go to its own folder, where that of TINY is known already."""
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path))
    shutil.copytree(made / "calibrations", tmp_path / "calibrations")
    return tmp_path


def test_a_run_leaves_what_the_contract_says(root: Path) -> None:
    summary = train(compose([*TINY, "name=one", "callbacks.figures=true"]))
    run = RunFolder(root / "runs" / "one")
    assert (root / "runs" / "latest").resolve() == run.path
    assert json.loads(run.summary.read_text())["family"] == "lagvae"
    for path in (run.config, run.metrics, run.last, run.checkpoints / "best.ckpt"):
        assert path.is_file()
    pictures = {p.stem for p in run.figures.glob("*.png")}
    assert pictures == {"samples", "reconstructions", "traversal", "latent", "constraints", "multipliers", "rate_distortion"}
    assert run.page.is_file()
    assert not list(run.path.rglob(".*"))  # nothing half-written
    assert 0 < summary["seconds"]["training"] < summary["seconds"]["all"]
    assert set(summary["splits"]) == {"train", "val", "test"}
    for values in summary["splits"].values():
        assert {"neg_elbo", "rate", "distortion", "mmd", "i_q_lower", "i_q_upper", "i_q_kde", "active_units"} <= set(values)
        assert values["neg_elbo"] == pytest.approx(values["rate"] + values["distortion"])
        assert {"neg_elbo_stderr", "mmd_stderr", "i_q_stderr"} <= set(values)
        assert values["i_q_upper"] <= values["i_q_upper_rate"]
    for c in summary["constraints"].values():
        assert {"calibrated", "bound", "multiplier", "learned", "scale", "train", "val", "test", "verdict"} <= set(c)
    assert "U-statistic" in summary["mmd_estimator"]
    assert "batches of 128" in summary["mmd_estimator"]


def test_bounds_are_calibrated_values_plus_slack(root: Path) -> None:
    calibration, folder = calibrate(compose(TINY))
    assert (folder / "theta.pt").is_file()
    summary = train(compose([*TINY, "constraints.neg_elbo.gamma=0.7", "constraints.mmd.gamma=0.25"]))
    elbo, mmd = summary["constraints"]["neg_elbo"], summary["constraints"]["mmd"]
    assert elbo["calibrated"] == calibration.calibrated["neg_elbo"] == calibration.splits["val"]["constraint/neg_elbo"]
    assert elbo["bound"] == pytest.approx(calibration.calibrated["neg_elbo"] + 0.7)
    assert elbo["slack"] == pytest.approx(0.7)
    size = max(calibration.calibrated["mmd"], calibration.stderr["mmd"])
    assert mmd["bound"] == pytest.approx(calibration.calibrated["mmd"] + 0.25 * size)
    assert mmd["slack"] == pytest.approx(0.25 * size)
    assert len(list((root / "calibrations").iterdir())) == 1  # found, not made again


def test_seed_of_a_run_does_not_ask_for_another_calibration(root: Path) -> None:
    first, _ = calibrate(compose([*TINY, "seed=0"]))
    again, _ = calibrate(compose([*TINY, "seed=5", "alpha=minimize", "constraints.neg_elbo.gamma=3"]))
    assert again.made == first.made
    other, _ = calibrate(compose([*TINY, "model.latent=5"]))
    assert other.hash != first.hash


def test_a_calibration_that_another_process_makes_is_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process is a thread, which ends when it is waited for; nothing is made twice."""
    made, folder = calibrate(compose(TINY))
    result = folder / "calibration.json"
    aside, said = result.rename(root / "aside"), []
    owns, waited = Event(), Event()

    def other() -> None:
        with owned(folder):
            owns.set()
            waited.wait(60)
            aside.rename(result)

    def say(line: str) -> None:
        said.append(line)
        waited.set()

    monkeypatch.setattr("lagvae.experiment.run.print_line", say)
    monkeypatch.setattr(Fit, "train", lambda self, checkpoint: pytest.fail("it was made again"))
    thread = Thread(target=other)
    thread.start()
    owns.wait(60)
    again, _ = calibrate(compose(TINY))
    thread.join()
    assert again == made
    assert said[0].startswith(f"This calibration is being made by process {os.getpid()} on {socket.gethostname()}, since ")


def test_calibration_draws_with_its_own_seed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever seed asks first, θ* is the same."""
    found = []
    for seed in (0, 5):
        monkeypatch.setenv("LAGVAE_ROOT", str(root / str(seed)))
        calibration, folder = calibrate(compose([*TINY, f"seed={seed}"]))
        found.append((calibration.calibrated, torch.load(folder / "theta.pt", weights_only=True)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(v, found[1][1][k]) for k, v in found[0][1].items())


def test_a_run_stopped_after_training_is_finished_by_resume(one: RunFolder) -> None:
    whole = one.read_summary()
    one.summary.unlink()
    again = resume(one)
    assert again["splits"] == whole["splits"]


@pytest.mark.parametrize("damage", ["lost", "halved", "doubled", "changed", "none"])
def test_a_table_that_is_not_the_one_that_was_written_is_told(one: RunFolder, damage: str) -> None:
    one.summary.unlink()
    lines = one.metrics.read_bytes().splitlines(keepends=True)
    texts = {"halved": lines[: len(lines) // 2], "doubled": [*lines, *lines[1:]], "none": lines}
    texts["changed"] = [lines[0], lines[1].replace(b"t", b"T"), *lines[2:]]
    if damage == "lost":
        one.metrics.unlink()
    else:
        one.metrics.write_bytes(b"".join(texts[damage]))
    told = [message for message in resume(one)["messages"] if "metrics.csv is not what the run had written" in message]
    assert len(told) == (damage not in ("doubled", "none"))
    if damage in ("doubled", "none"):
        assert one.metrics.read_bytes().splitlines(keepends=True) == lines


@pytest.mark.parametrize("when", ["trained", "measured"])
def test_a_run_whose_folder_vanishes_says_so(root: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """It is no run that has finished, with only the rows and the files since then."""
    folder, step, evaluate = root / "runs" / "gone", LatentVariableModel.training_step, Fit.evaluate

    def vanishing(self: LatentVariableModel, batch: Any, batch_idx: int) -> None:
        if batch.step == 25:  # after the interval of 20
            shutil.rmtree(folder)
        step(self, batch, batch_idx)

    def vanished(self: Fit) -> None:
        shutil.rmtree(folder)
        evaluate(self)

    if when == "trained":
        monkeypatch.setattr(LatentVariableModel, "training_step", vanishing)
    else:
        monkeypatch.setattr(Fit, "evaluate", vanished)
    with pytest.raises(CheckpointError, match="has vanished while"):
        train(compose([*TINY, f"paths.root={root}", "name=gone"]))
    assert not RunFolder(folder).finished


def test_a_calibration_whose_table_was_changed_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = compose([*TINY, f"paths.root={root}", "calibration.seed=5"])
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "evaluate", interrupt)
        with pytest.raises(Stopped):
            calibrate(cfg)
    (table,) = (file for file in root.rglob("metrics.csv") if not (file.parent / "theta.pt").exists())
    table.write_text(table.read_text().replace("neg_elbo", "other", 1))
    calibrate(cfg)
    assert "metrics.csv is not what the run had written" in " ".join(capsys.readouterr().err.split())


def interrupt(*args: object) -> None:
    raise Stopped("Stopped.")


def test_a_run_starts_from_the_calibrated_parameters() -> None:
    _, folder = calibrate(compose(TINY))
    _, model, _ = setup(compose(TINY))
    theta = torch.load(folder / "theta.pt", weights_only=True)
    assert all(torch.equal(theta[k], v) for k, v in model.joint.state_dict().items())
    _, scratch, _ = setup(compose([*TINY, "training.start=scratch"]))
    assert not all(torch.equal(theta[k], v) for k, v in scratch.joint.state_dict().items())


def test_evaluation_of_a_checkpoint_repeats_the_numbers_of_its_run(one: RunFolder) -> None:
    summary = one.read_summary()
    again = evaluate(one)
    assert again["splits"] == summary["splits"]
    assert again["constraints"].keys() == summary["constraints"].keys()
    for name, c in again["constraints"].items():
        assert c["train"] == summary["constraints"][name]["train"]
        assert c["multiplier"] == summary["constraints"][name]["multiplier"]
    assert (one.path / "evaluation" / "summary.json").is_file()


def test_evaluation_of_the_best_checkpoint_is_of_that_one(one: RunFolder) -> None:
    """A best checkpoint of another step, with weights that tell nothing: z is of the prior, and so the rate is 0."""
    summary = one.read_summary()
    content = torch.load(one.last, weights_only=True)
    for name, value in content["state_dict"].items():
        if name.startswith("joint.encoder."):
            value.zero_()
    content["state_dict"]["lagrangian.steps"].fill_(20)
    torch.save(content | {"global_step": 20}, one.checkpoints / "best.ckpt")
    best, last = evaluate(one, "best"), evaluate(one, str(one.last))
    assert (best["steps"], last["steps"], summary["steps"]) == (20, 40, 40)
    assert last["splits"] == summary["splits"]
    for split, values in best["splits"].items():
        # Zero weights are one q(z|x) = N(0, s² I) for every x, which no image is told by.
        assert values["i_q_lower"] == pytest.approx(0.0, abs=1e-6), split
        assert summary["splits"][split]["i_q_lower"] > 0.01, split


def test_a_bound_out_of_reach_ends_early_and_says_what_was_reached(root: Path) -> None:
    calibrated, _ = calibrate(compose(TINY))
    settings = [*TINY, *TERMS, "training.steps=400", "constraints.neg_elbo.epsilon=5"]
    summary = train(compose(settings))
    assert summary["verdict"] == "infeasible"
    assert summary["stopped_by"] == "neg_elbo"
    assert summary["steps"] < 400
    c = summary["constraints"]["neg_elbo"]
    assert c["multiplier"] <= 100
    (message,) = [m for m in summary["messages"] if "neg_elbo" in m]
    for part in ("neg_elbo ≤ 5", f"{c['best']:.4g}", f"{calibrated.calibrated['neg_elbo']:.4g}"):
        assert part in message


@pytest.mark.parametrize("family", ["vae", "beta_vae", "infovae", "lagvae"])
def test_every_family_trains_and_global_step_counts_batches(family: str) -> None:
    settings = [*TERMS, "training.steps=10", "training.interval=5", *(EXPLICIT if family == "lagvae" else [])]
    summary = train(compose([*TINY, f"family={family}", *settings]))
    assert summary["steps"] == 10
    learned = [c["learned"] for c in summary["constraints"].values()]
    assert all(learned) if family == "lagvae" else not any(learned)
    assert (summary["verdict"] == "unconstrained") == (family != "lagvae")


def test_rate_falls_as_beta_grows() -> None:
    """The same network from the same start: β = 1 + α weighs the rate."""
    short = [*TINY, *TERMS, "training.steps=100", "training.interval=100"]
    rates = [train(compose([*short, "family=beta_vae", f"alpha.q={a}"]))["splits"]["train"]["rate"] for a in (0.0, 3.0, 15.0)]
    assert rates[0] > rates[1] > rates[2]


def test_multipliers_stay_in_single_precision_under_mixed_precision() -> None:
    cfg = compose([*TINY, *EXPLICIT, "trainer.precision=bf16-mixed"])
    data, model, _ = setup(cfg)
    folder = Path(cfg.paths.runs) / "mixed"
    folder.mkdir(parents=True)
    Fit(cfg, data, model, RunFolder(folder), "mixed").train()
    assert model.lagrangian.scaled.dtype == torch.float32
    assert model.lagrangian.scaled.isfinite().all()
    assert all(p.isfinite().all() for p in model.joint.parameters())


def test_a_clipped_step_is_no_longer_than_the_clip() -> None:
    """Plain descent at rate 1: θ moves by the gradient, whose norm is the clip's where it was larger."""
    descent = ["model.optimizer._target_=torch.optim.SGD", "model.optimizer.lr=1", "model.schedule=null", "training.steps=1"]
    cfg = compose([*TINY, *EXPLICIT, *descent, "training.gradient_clip=0.01"])
    data, model, _ = setup(cfg)
    before = [p.clone() for p in model.joint.parameters()]
    folder = Path(cfg.paths.runs) / "clip"
    folder.mkdir(parents=True)
    Fit(cfg, data, model, RunFolder(folder), "clip").train()
    moved = torch.cat([(p - b).flatten() for p, b in zip(model.joint.parameters(), before, strict=True)]).norm()
    assert float(moved.detach()) == pytest.approx(0.01, rel=1e-3)


def test_schedule_ends_at_zero_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = LatentVariableModel.training_step

    def watched(self: LatentVariableModel, batch: Any, batch_idx: int) -> None:
        rates.append(self._primal_optimizer.param_groups[0]["lr"])
        step(self, batch, batch_idx)

    monkeypatch.setattr(LatentVariableModel, "training_step", watched)
    train(compose([*TINY, "family=vae"]))
    # Half a cosine from 1e-3; the last of 40 steps is at t = 39.
    assert rates[0] == pytest.approx(1e-3)
    assert rates[20] == pytest.approx(5e-4, rel=1e-6)
    assert 0 < rates[39] < 1e-5


def test_best_checkpoint_prefers_a_feasible_one() -> None:
    _, model, _ = setup(compose([*TINY, *EXPLICIT]))
    val = {"rate": 5.0, "distortion": 20.0}

    def score(neg_elbo: float, distortion: float) -> float:
        train_values = {"constraint/neg_elbo": neg_elbo, "constraint/mmd": 0.0}
        return exact_penalty(model, {"train": train_values, "val": val | {"distortion": distortion}})

    assert score(29.0, 20.0) == 20.0  # α = −1: f is the distortion
    assert score(30.5, 18.0) == 18.0 + 10 * 0.5
    assert score(29.0, 20.0) < score(30.5, 18.0)


def test_a_vae_learns_the_linear_gaussian_world() -> None:
    """−ELBO on held-out data comes down to the entropy of the data, which no model can pass.

    The optimum is reached: linear networks hold W and, up to a rotation of z, the exact posterior. Slack: four standard
    errors of the estimate, and n_parameters / (2 N) = 45 / 6400 nats, what maximum likelihood loses on new data.
    """
    linear = ["model.encoder.hidden=[]", "model.decoder.hidden=[]", "model.latent=2", "data=linear_gaussian"]
    length = ["training.steps=700", "training.interval=700", "model.optimizer.lr=0.03"]
    cfg = compose([*TINY, *TERMS, *linear, *length, "family=vae"])
    values = train(cfg)["splits"]["val"]
    source = cfg.data.source
    entropy = float(LinearGaussian.random(source.dim, source.latent, source.noise, source.seed).entropy_x)
    assert abs(values["neg_elbo"] - entropy) <= 4 * values["neg_elbo_stderr"] + 45 / 6400


def test_binary_data_have_no_value_per_dimension(finished: RunFolder) -> None:
    for values in finished.read_summary()["splits"].values():
        assert "neg_elbo" in values
        assert "neg_elbo_per_dim" not in values


# ---- bounds

SIGNED = (NegElbo, Distortion, AdversarialNegElbo, SymbolicObjective)
NEVER_NEGATIVE = (
    Rate,
    MMD,
    SlicedWasserstein,
    VariationalFDivergence,
    LogRatio,
    Wasserstein,
    AdversarialRate,
    TotalCorrelation,
    CovarianceDistance,
    AdversarialTotalCorrelation,
)


@pytest.mark.parametrize("kind", [*SIGNED, *NEVER_NEGATIVE], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("calibrated", "gamma", "relative", "signed", "never_negative"),
    [
        (-0.002, 0.5, True, -0.001, 0.001),  # a fraction of the standard error
        (-0.02, 0.1, False, 0.08, 0.1),
        (0.001, 0.5, True, 0.002, 0.002),  # an estimate below its standard error
        (0.04, 0.5, True, 0.06, 0.06),
        (0.04, 0.1, False, 0.14, 0.14),
    ],
)
def test_a_bound_is_never_below_the_smallest_value_of_its_divergence(
    kind: type[Divergence], calibrated: float, gamma: float, relative: bool, signed: float, never_negative: float
) -> None:
    found = Calibration({"d": calibrated}, {"d": 0.002}, "val", {}, {})
    expected = signed if kind in SIGNED else never_negative
    assert found.bound("d", gamma, relative, kind.smallest) == pytest.approx(expected)


def test_a_run_gets_a_bound_that_its_divergence_can_meet() -> None:
    found = Calibration({"neg_elbo": -5.0, "mmd": -0.002}, {"neg_elbo": 0.1, "mmd": 0.002}, "val", {}, {})
    bounds = {c.name: c.bound for c in build_lagrangian(compose(TINY), found).constraints}
    assert bounds == pytest.approx({"neg_elbo": -3.5, "mmd": 0.001})
