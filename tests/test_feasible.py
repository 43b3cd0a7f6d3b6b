"""The attainable values of constraints, alone and together, against problems with a known answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, program
from scipy import optimize
from small import ROOT
from test_rate_distortion import LINEAR

from lagvae.divergences import Distortion, Rate
from lagvae.errors import SettingError
from lagvae.experiment.report import describe_sensitivity, print_feasibility
from lagvae.lagrangian import Constraint, Lagrangian, Preference, on_simplex
from lagvae.oracles import WaterFilling


def compose(root: Path, *words: str) -> Any:
    """The config that feasible.py would get."""
    from hydra import compose, initialize_config_dir

    from lagvae.cli.entry import register
    from lagvae.experiment.schema import FeasibleConfig

    register(ROOT, FeasibleConfig)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("feasible", overrides=[f"paths.root={root}", *words])


# ---- the simplex


def test_projection_on_the_simplex_is_the_nearest_point(generator: torch.Generator) -> None:
    v = 2 * torch.randn(50, 4, generator=generator, dtype=torch.float64)
    w = on_simplex(v)
    torch.testing.assert_close(w.sum(-1), torch.ones(50).double())
    assert (w >= 0).all()
    # w is the nearest point of a convex set where (v − w) · (u − w) ≤ 0 for its corners u.
    assert ((v - w).unsqueeze(1) * (torch.eye(4) - w.unsqueeze(1))).sum(-1).max() <= 1e-12
    torch.testing.assert_close(on_simplex(w), w)


def two_constraints(learned: bool = True) -> list[Constraint]:
    return [
        Constraint("rate", Rate(), bound=1.0, learned=learned, scale=0.5),
        Constraint("distortion", Distortion(), bound=2.0, learned=learned),
    ]


def test_the_largest_violation_takes_all_the_weight() -> None:
    lagrangian = Lagrangian(Preference(0.0), two_constraints(), simplex=True)
    assert lagrangian.scaled.tolist() == [0.5, 0.5]
    ascent = torch.optim.SGD([lagrangian.scaled], lr=0.1, maximize=True)
    for _ in range(20):
        # (1.4 − 1)/0.5 = 0.8 is larger than (2.6 − 2)/1 = 0.6: the difference of 0.2 changes each weight by 0.01 per step.
        lagrangian.ascend(lagrangian.scaled_violation(torch.tensor([1.4, 2.6])), ascent)
    torch.testing.assert_close(lagrangian.scaled.data, torch.tensor([0.7, 0.3]))
    for _ in range(100):
        lagrangian.ascend(lagrangian.scaled_violation(torch.tensor([1.4, 2.6])), ascent)
    assert lagrangian.scaled.tolist() == pytest.approx([1, 0], abs=1e-6)


def test_fixed_multipliers_do_not_move_on_a_simplex() -> None:
    with pytest.raises(SettingError, match=r"simplex=True needs learned multipliers"):
        Lagrangian(Preference(0.0), two_constraints(learned=False), simplex=True)


# ---- the program


@pytest.mark.slow
def test_rate_and_distortion_together_reach_the_exact_optimum(tmp_path: Path) -> None:
    """For linear networks, both are equal at min max(rate − 2, distortion − 6), on the curve of `WaterFilling`."""
    from lagvae.experiment.factory import build_data
    from lagvae.experiment.feasibility import find_feasible, split_own_settings

    words = [w for w in LINEAR if not w.startswith(("divergence", "epsilon"))]
    words += ["family=vae", "divergence=[rate,distortion]", "constraints.rate.epsilon=2", "constraints.distortion.epsilon=6"]
    words += ["calibration.steps=1500", "training.interval=1500", "model.optimizer.lr=0.03"]
    cfg = compose(tmp_path, *words, "calibration.split=train")
    result, folder = find_feasible(cfg)
    data = build_data(split_own_settings(cfg)[0])
    exact = WaterFilling(torch.cov(data.arrays.x[data.split["train"]].double().mT, correction=0), 2)
    level = optimize.brentq(lambda v: (exact.at(v).rate - 2) - (exact.at(v).distortion - 6), 1e-3, 12.0)
    best = exact.at(level).rate - 2
    # Four standard errors of the evaluation, and 0.02 nats for the noise of training.
    rows = result["constraints"]
    for row in rows.values():
        assert row["excess"] == pytest.approx(best, abs=0.02 + 4 * row["excess_stderr"])
    # Alone, the rate can be reduced to 0.
    assert rows["rate"]["alone"] == pytest.approx(0, abs=0.01)
    assert result["largest"]["excess"] == max(row["excess"] for row in rows.values())
    assert json.loads((folder / "feasible.json").read_text()) == result


FEASIBLE = [w for w in QUICK if not w.startswith("training.interval")] + ["training.interval=20"]


def test_a_second_call_trains_nothing_and_prints_the_same(tmp_path: Path) -> None:
    first = program(tmp_path, *FEASIBLE, script="feasible")
    assert first.status == 0, first.err
    calibrations = [json.loads(f.read_text()) for f in sorted(tmp_path.glob("calibrations/*/calibration.json"))]
    assert len(calibrations) == 3  # two alone, one together
    for word in ("neg_elbo", "mmd", "alone", "together", "calibration.steps"):
        assert word in first.out
    second = program(tmp_path, *FEASIBLE, script="feasible")
    assert second.out == first.out
    assert not second.new
    assert sorted(c["made"] for c in calibrations) == sorted(
        json.loads(f.read_text())["made"] for f in tmp_path.glob("calibrations/*/calibration.json")
    )
    # The reference of a constraint is its minimum alone, unless constraints.NAME.epsilon gives a number.
    result = json.loads(next(tmp_path.glob("calibrations/*/feasible.json")).read_text())
    assert [result["constraints"][name]["nats"] for name in ("neg_elbo", "mmd")] == [True, False]
    assert result["constraints"]["mmd"]["reference"] == max(result["constraints"]["mmd"]["alone"], 0.0)
    asked = program(tmp_path, *FEASIBLE, "constraints.neg_elbo.epsilon=5", "constraints.mmd.epsilon=1e-3", script="feasible")
    assert "These bounds were not met: " in asked.out
    assert len(list(tmp_path.glob("calibrations/*/calibration.json"))) == 4  # the minima alone do not depend on the bounds


def test_a_single_constraint_is_only_minimised_alone(tmp_path: Path) -> None:
    outcome = program(tmp_path, *FEASIBLE, "family=vae", script="feasible")
    assert outcome.status == 0, outcome.err
    assert "Any bound above this value can be met." in outcome.out
    assert len(list(tmp_path.glob("calibrations/*"))) == 1


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (["family=vmi"], ["family=vmi has no constraint", "divergence=[NAME]"]),
        (["posterior=point"], ["neg_elbo"]),
        (["feasible.optimizer.maximize=false"], ["must ascend"]),
        (["constraints.mmd.epsilon=nan"], ["constraints.mmd.epsilon=nan must be a finite number"]),
        (["constraints.mmd.scale=0"], ["constraints.mmd.scale=0.0 must be a positive number"]),
        (["feasible.optimizer.maximise=true"], ["feasible.optimizer.maximise is unknown"]),
        (["+feasible.optimizer.momentum=-1"], ["feasible.optimizer does not work", "momentum"]),
        (["feasible.rate=-1"], ["feasible.rate=-1 must be a finite number above 0"]),
        (["feasible.rate=abc"], ["feasible.rate=abc must be a finite number above 0"]),
        (["resume=latest"], ["resume=latest has no effect here"]),
        (["epsilon.calibration=somewhere"], ["epsilon.calibration=somewhere has no effect here"]),
    ],
)
def test_invalid_settings_are_refused_before_any_training(tmp_path: Path, words: list[str], pieces: list[str]) -> None:
    outcome = program(tmp_path, *FEASIBLE, *words, script="feasible")
    assert outcome.status == 1, outcome
    assert outcome.err.startswith("Error: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    for piece in pieces:
        assert piece in outcome.err, outcome.err
    assert not outcome.new


def test_the_simplex_is_not_a_setting(tmp_path: Path) -> None:
    outcome = program(tmp_path, *QUICK, "multiplier.simplex=true")
    assert (outcome.status, outcome.new) == (1, set())
    assert "multiplier.simplex is unknown" in outcome.err


def row(asked: float | None, excess: float, critic: bool = False, nats: bool = True, scale: float = 1.0) -> dict[str, Any]:
    errors = dict.fromkeys(("alone_stderr", "together_stderr", "excess_stderr"), 0.01)
    values = {"alone": 1.23456, "asked": asked, "together": 1.23456, "excess": excess}
    return {"scale": scale, "nats": nats, "critic": critic} | values | errors


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"a": row(None, 0.0)}, "Any bound above this value can be met."),
        ({"a": row(2.0, -0.77)}, "This bound can be met: a ends 0.77 ± 0.01 times its scale below its bound."),
        ({"a": row(1.0, 0.23)}, "This bound was not met: a stays 0.23 ± 0.01 times its scale above its bound."),
        (
            {"a": row(2.0, -0.77), "b": row(2.0, -0.9)},
            "These bounds can be met: a, the closest to its bound, ends 0.77 ± 0.01 times its scale below it.",
        ),
        (
            {"a": row(1.0, 0.23), "b": row(2.0, -0.9)},
            "These bounds were not met: a stays 0.23 ± 0.01 times its scale above its bound.",
        ),
        (
            {"a": row(2.0, -0.1), "b": row(None, -0.2)},
            "the largest excess is that of a: 0.10 ± 0.01 times its scale below its reference.",
        ),
        ({"a": row(None, 0.0, critic=True)}, "a: estimated with a critic, so this is a lower bound on the divergence"),
        ({"a": row(None, 0.0, scale=0.5)}, "1.23 ± 0.01"),
        ({"a": row(None, 0.0, nats=False)}, "1.23e+00 ± 1e-02"),
    ],
)
def test_the_report_states_whether_the_bounds_can_be_met(
    rows: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = max(rows, key=lambda n: rows[n]["excess"])
    largest = {"name": name, "excess": rows[name]["excess"], "excess_stderr": 0.01}
    result = {"family": "f", "data": "d", "split": "val", "steps": 1, "constraints": rows, "largest": largest}
    print_feasibility(result, tmp_path)
    out = capsys.readouterr().out
    assert sentence in out
    assert ("a stronger critic" in out) == any(r["critic"] for r in rows.values())


# ---- after training


def test_the_report_states_the_effect_of_more_slack() -> None:
    elbo = {"nats": True, "scale": 1.0, "sensitivity": 0.373}
    mmd = {"nats": False, "scale": 1e-3, "sensitivity": None}
    summary: dict[str, Any] = {"alpha": {"q": -1.0, "p": 0.0}, "constraints": {"neg_elbo": elbo, "mmd": mmd}}
    (line,) = describe_sensitivity(summary)
    assert line == "1 nat more of slack on neg_elbo: the lower bound on I_q rises by about 0.37 nats."
    summary["alpha"] = {"q": 0.0, "p": 2.0}
    mmd["sensitivity"], elbo["sensitivity"] = -0.0104, -0.5
    assert describe_sensitivity(summary) == [
        "1 nat more of slack on neg_elbo: the upper bound on I_p falls by about 0.5 nats.",
        "0.001 more of slack on mmd: the upper bound on I_p falls by about 0.01 nats.",
    ]
    elbo["multiplier_std"] = 0.2  # of λ, which the sensitivity is divided by |α| = 2 of
    assert describe_sensitivity(summary)[0].endswith("falls by about 0.5 ± 0.1 nats.")
    del elbo["sensitivity"], mmd["sensitivity"]  # a summary of an earlier version
    assert describe_sensitivity(summary) == []
