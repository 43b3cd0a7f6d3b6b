"""Comparisons of runs: dominance beyond noise, matched runs, runs that are left out, and the written report."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from helpers import QUICK, program
from pareto_runs import STDERR, change, write_run
from PIL import Image

from lagvae.errors import ComparisonError, SettingError
from lagvae.pareto import (
    MAXIMISE,
    MINIMISE,
    Collection,
    Estimate,
    Group,
    Point,
    analyse,
    collect,
    comparison_markdown,
    dominates,
    front,
    matched_rows,
    matched_summary_rows,
    notes,
    training_line,
)
from lagvae.pareto.report import compare, print_rows
from lagvae.pareto.tables import DOMINATIONS, domination_rows, monotone
from lagvae.runs.layout import ANALYSIS

LEAST = 2 * sqrt(2) * STDERR
"""The smallest significant difference of two runs, for z = 2 and the standard errors of `write_run`: 0.1414 nats."""


def point(information: float, neg_elbo: float, stderr: float = STDERR, width: float = 0.0) -> Point:
    ends = (Estimate(information + side * width / 2, stderr) for side in (-1, 1))
    return Point(*ends, Estimate(neg_elbo, stderr))


def scattered(n: int, seed: int) -> list[Point]:
    """Random points with many ties, and standard errors as large as their distances."""
    draw = random.Random(seed)

    def one() -> Point:
        information = Estimate(draw.randint(0, 6), draw.uniform(0, 1))
        return Point(information, information, Estimate(draw.randint(20, 26), draw.uniform(0, 1)))

    return [one() for _ in range(n)]


# ---- dominance


@pytest.mark.parametrize(
    ("more_information", "less_neg_elbo", "answer"),
    [
        (LEAST + 0.01, LEAST + 0.01, True),
        (LEAST - 0.01, LEAST + 0.01, False),
        (LEAST + 0.01, LEAST - 0.01, False),
        (1.0, 0.0, False),
        (0.0, 1.0, False),
        (-1.0, 1.0, False),
        (1.0, -1.0, False),
    ],
)
def test_a_run_dominates_where_it_is_better_in_both_beyond_noise(
    more_information: float, less_neg_elbo: float, answer: bool
) -> None:
    base, other = point(5.0, 24.0), point(5.0 + more_information, 24.0 - less_neg_elbo)
    assert dominates(other, base, MAXIMISE) is answer
    assert not dominates(base, other, MAXIMISE) or (more_information < 0 and less_neg_elbo < 0)
    # Minimising, the run with *less* information is better.
    less = point(5.0 - more_information, 24.0 - less_neg_elbo)
    assert dominates(less, base, MINIMISE) is answer
    assert not dominates(other, base, MINIMISE) or more_information < 0


def test_the_standard_errors_of_both_runs_are_combined_for_each_objective() -> None:
    # √(0.3² + 0.4²) = 0.5, and so 1 nat for z = 2.
    def exact(information: float, stderr: float, neg_elbo: float) -> Point:
        return Point(Estimate(information, stderr), Estimate(information, stderr), Estimate(neg_elbo, 0.0))

    a = exact(7.0, 0.3, 22.0)
    assert dominates(a, exact(5.99, 0.4, 23.0), MAXIMISE)
    assert not dominates(a, exact(6.01, 0.4, 23.0), MAXIMISE)
    assert dominates(a, exact(6.01, 0.4, 23.0), MAXIMISE, z=1.9)
    assert not dominates(a, exact(7.0, 0.0, 23.0), MAXIMISE, z=0), "equal is not better"


def test_only_intervals_that_lie_apart_dominate() -> None:
    # [6, 8] and [3.5, 5.5]: 0.5 nats lie between them, and 2 · √2 · 0.05 = 0.14 is noise. [4.5, 6.5] overlaps with the first.
    a, apart, overlapping = point(7.0, 22.0, width=2.0), point(4.5, 23.0, width=2.0), point(5.5, 23.0, width=2.0)
    assert dominates(a, apart, MAXIMISE)
    assert not dominates(a, overlapping, MAXIMISE), "the middle is higher by far, but I may be the same"
    less, more = point(4.5, 22.0, width=2.0), point(7.0, 23.0, width=2.0)
    assert dominates(less, more, MINIMISE)
    assert not dominates(less, point(5.5, 23.0, width=2.0), MINIMISE)
    assert (a.worse_end(MAXIMISE).value, a.worse_end(MINIMISE).value) == (6.0, 8.0)
    # Wider, it has a lower guaranteed end, and is not on the front beside a run with a little less −ELBO.
    assert front([a, point(7.2, 22.1, width=4.0)], MAXIMISE) == [0]


def test_mmd_is_a_third_objective_where_it_is_known() -> None:
    def with_mmd(information: float, neg_elbo: float, mmd: float) -> Point:
        return replace(point(information, neg_elbo), mmd=Estimate(mmd, 1e-4))

    a = with_mmd(7.0, 22.0, 1e-3)
    # 2 · √2 · 1e-4 = 2.8e-4
    for mmd, answer in ((1.3e-3, True), (1.27e-3, False), (0.5e-3, False)):
        b = with_mmd(5.0, 23.0, mmd)
        assert dominates(a, b, MAXIMISE), "in information and −ELBO"
        assert dominates(a, b, MAXIMISE, mmd=True) is answer
    assert not dominates(a, point(5.0, 23.0), MAXIMISE, mmd=True)
    assert not dominates(a, with_mmd(8.0, 23.0, 1.0), MAXIMISE, mmd=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("z", [0.0, 1.0, 2.0])
def test_dominance_and_fronts_agree_with_brute_force(seed: int, z: float) -> None:
    points = scattered(40, seed)
    for a in points:
        for b in points:
            i_a, i_b, e_a, e_b = a.lower.value, b.lower.value, a.neg_elbo.value, b.neg_elbo.value
            noise_i = z * sqrt(a.lower.stderr**2 + b.lower.stderr**2)
            noise_e = z * sqrt(a.neg_elbo.stderr**2 + b.neg_elbo.stderr**2)
            fits = e_b > e_a + noise_e
            # Sums on the other side of the inequality round differently, but there are no ties except at z = 0.
            assert dominates(a, b, MAXIMISE, z) == (fits and i_a > i_b + noise_i)
            assert dominates(a, b, MINIMISE, z) == (fits and i_a + noise_i < i_b)

    def dominated(b: Point, sign: int) -> bool:
        def gain(a: Point) -> float:
            return (a.lower.value - b.lower.value) * (1 if sign == MAXIMISE else -1)

        def excess(a: Point) -> float:
            return a.neg_elbo.value - b.neg_elbo.value

        return any(excess(a) <= 0 and gain(a) >= 0 and (excess(a) < 0 or gain(a) > 0) for a in points)

    for sign in (MAXIMISE, MINIMISE):
        found = front(points, sign)
        assert sorted(found) == [k for k, b in enumerate(points) if not dominated(b, sign)]
        assert all(points[j].neg_elbo.value <= points[k].neg_elbo.value for j, k in pairwise(found))


# ---- a comparison with known results


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, both signs of α, two methods; the tests below state which runs dominate which."""
    root = tmp_path_factory.mktemp("written")
    for seed in (0, 1):
        for gamma, up, down in ((0.5, 6.0, 3.0), (1.5, 8.0, 2.0), (3.0, 10.0, 1.0)):
            for alpha, information in ((-1.0, up), (1.0, down)):
                name = f"lag-q{alpha:g}-g{gamma:g}-s{seed}"
                write_run(root / name, "lagvae", alpha, (information, 22 + gamma), seed=seed, gamma=gamma)
        # The run with slack 1.5 dominates it only for seed 0; for seed 1 the difference in −ELBO is within noise.
        neg_elbo = 23.5 + (LEAST + 0.05 if seed == 0 else LEAST - 0.05)
        write_run(root / f"info-max-s{seed}", "infovae", -1.0, (7.0, neg_elbo), seed=seed, multipliers=(1.0, 2000.0))
        write_run(root / f"info-min-s{seed}", "infovae", 1.0, (2.0, 22.0), test=(4.0, 27.0), seed=seed)
    return root


@pytest.fixture
def sweep(written: Path, tmp_path: Path) -> Path:
    """A copy of `written` that a test may change."""
    return shutil.copytree(written, tmp_path / "sweep")


def of(groups: list[Group], family: str, sign: int, split: str) -> Group:
    (found,) = (g for g in groups if (g.family, g.sign, g.split) == (family, sign, split))
    return found


def test_dominance_between_the_runs_of_a_sweep(sweep: Path) -> None:
    analysis = analyse(collect([sweep]))
    found = {(d.split, d.better.name, d.worse.name) for d in analysis.dominations}
    maximising = {(split, "lag-q-1-g1.5-s0", "info-max-s0") for split in ("train", "test")}
    # On training data the minimising InfoVAE (I = 2, −ELBO = 22) dominates only the run with slack 0.5 (I = 3, −ELBO = 22.5);
    # that with slack 1.5 has the same information. On test data (I = 4, −ELBO = 27) every LagVAE dominates it.
    minimising = {("train", f"info-min-s{s}", f"lag-q1-g0.5-s{s}") for s in (0, 1)}
    minimising |= {("test", f"lag-q1-g{g:g}-s{s}", f"info-min-s{s}") for s in (0, 1) for g in (0.5, 1.5, 3.0)}
    assert found == maximising | minimising
    counts = {(g.family, g.sign, g.split): (len(g.dominated), len(g.compared), len(g.runs)) for g in analysis.groups}
    assert counts == {
        ("lagvae", MAXIMISE, "train"): (0, 6, 6),
        ("infovae", MAXIMISE, "train"): (1, 2, 2),
        ("lagvae", MAXIMISE, "test"): (0, 6, 6),
        ("infovae", MAXIMISE, "test"): (1, 2, 2),
        ("lagvae", MINIMISE, "train"): (2, 6, 6),
        ("infovae", MINIMISE, "train"): (0, 2, 2),
        ("lagvae", MINIMISE, "test"): (0, 6, 6),
        ("infovae", MINIMISE, "test"): (2, 2, 2),
    }
    assert len(of(analyse(collect([sweep]), z=1).groups, "infovae", MAXIMISE, "train").dominated) == 2


def test_it_is_told_whether_a_run_is_dominated_in_mmd_too(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "lagvae", -1.0, (9.0, 22.0), gamma=0.5, mmd=1e-3)
    write_run(tmp_path / "b", "infovae", -1.0, (4.0, 26.0), mmd=1e-3)
    write_run(tmp_path / "c", "infovae", -1.0, (4.0, 26.0), mmd=1e-2, multipliers=(1.0, 500.0))
    told = {(row[DOMINATIONS.index("dominated")][0], row[-1]) for row in domination_rows(analyse(collect([tmp_path])))}
    assert told == {("b", "no"), ("c", "yes")}


def test_runs_with_other_seeds_are_not_rivals(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "lagvae", -1.0, (9.0, 22.0), seed=0, gamma=0.5)
    write_run(tmp_path / "b", "infovae", -1.0, (4.0, 26.0), seed=1)
    write_run(tmp_path / "c", "infovae", 1.0, (4.0, 26.0), seed=0)
    analysis = analyse(collect([tmp_path]))
    assert not analysis.dominations
    assert all(not group.compared for group in analysis.groups)
    assert any("not compared: InfoVAE seed 0, InfoVAE seed 1, LagVAE seed 0" in note for note in notes(analysis))
    assert "| no rival |" in comparison_markdown(analysis)


@pytest.mark.parametrize("z", [-1.0, float("nan"), float("inf")])
def test_an_invalid_z_is_refused(sweep: Path, z: float) -> None:
    with pytest.raises(SettingError, match="must be a number ≥ 0"):
        analyse(collect([sweep]), z)


# ---- matched runs


def write_pair(folder: Path, sign: int, gain: float, error: float, seed: int = 0) -> None:
    """A run of InfoVAE with −ELBO 23 and the interval [4, 6], and a matched run of LagVAE that is better by `gain` nats."""
    label = f"{'max' if sign == MAXIMISE else 'min'}-{gain:g}-s{seed}"
    own = {"name": f"pareto/{label}", "constraints.mmd.multiplier": 3.0 + gain}
    write_run(folder / label, "infovae", sign, (5.0, 23.0), width=2, stderr=error, seed=seed, settings=own)
    better = 5.0 - sign * gain  # more information when maximising, less when minimising
    own = {"match": f"pareto/{label}", "constraints.neg_elbo.epsilon": 23.0, "constraints.mmd.epsilon": 2e-3 + gain}
    write_run(folder / f"at-{label}", "lagvae", sign, (better, 22.9), width=2, stderr=error, seed=seed, gamma=1.0, settings=own)


@pytest.mark.parametrize("sign", [MAXIMISE, MINIMISE])
def test_matched_runs_are_compared_at_the_end_of_the_interval_that_both_optimise(tmp_path: Path, sign: int) -> None:
    # The standard error of a difference is √2 · 0.1 = 0.141: −0.28 is within two of them, −0.29 is not; 0.3 is above.
    for gain in (0.3, -0.28, -0.29):
        write_pair(tmp_path, sign, gain, 0.1)
    write_pair(tmp_path, sign, 0.0, 0.1, seed=1)
    of_one = next(tmp_path.glob("at-*-s1")) / "summary.json"
    change(of_one, "verdict", "met, not converged")  # its bounds are met all the same
    analysis = analyse(collect([tmp_path]))
    gains = [pair.gain("train") for pair in analysis.pairs]
    assert [gain.value for gain in gains] == pytest.approx([-0.29, -0.28, 0.0, 0.3])
    assert [gain.stderr for gain in gains] == pytest.approx([sqrt(0.02)] * 4)
    goal = "maximise" if sign == MAXIMISE else "minimise"
    assert matched_summary_rows(analysis)[0] == (goal, "train", "4", "3", "1", "-0.07", "4", "4")
    # InfoVAE has λ₁ = 1 and −ELBO 23.0, LagVAE 22.9: in InfoVAE's objective it is better by 0.1 more.
    assert [pair.objective_gain("train").value for pair in analysis.pairs] == pytest.approx([-0.19, -0.18, 0.1, 0.4])
    # With |α| = 4 and the same λ₁, 0.1 nats of −ELBO weigh a quarter of that, per |α|.
    strong = [replace(pair, infovae=replace(pair.infovae, alpha=4 * pair.infovae.alpha)) for pair in analysis.pairs]
    assert [pair.objective_gain("train").value - pair.gain("train").value for pair in strong] == pytest.approx([0.025] * 4)
    worst = matched_rows(analysis, "train")[0]
    interval = "[3.71, 5.71]" if sign == MAXIMISE else "[4.29, 6.29]"
    assert worst[:6] == (goal, "λ = 1, 2.71", "0", "23.00", "1.0e-03", "[4.00, 6.00]")
    assert worst[6:] == ("22.90", "1.0e-03", interval, "met", "-0.29 ± 0.14", "-0.19 ± 0.14")
    text = comparison_markdown(analysis)
    assert "- Runs: 4 of LagVAE (4 of them matched), 4 of InfoVAE; seeds 0, 1;" in text
    assert "## Matched runs" in text
    assert "| -0.29 ± 0.14 |" in text
    assert not analysis.curves, "a matched run has no slack"


def test_a_matched_run_without_its_partner_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path, MAXIMISE, 0.1, 0.1)
    write_pair(tmp_path, MAXIMISE, 0.2, 0.1)
    write_pair(tmp_path, MAXIMISE, 0.3, 0.1)
    change(tmp_path / "max-0.2-s0" / "summary.json", "splits.train.neg_elbo", 22.5)  # trained again
    shutil.rmtree(tmp_path / "max-0.3-s0")
    analysis = analyse(collect([tmp_path]))
    assert [pair.lagvae.name for pair in analysis.pairs] == ["at-max-0.1-s0"]
    assert any("trained again since: at-max-0.2-s0, at-max-0.3-s0" in note for note in notes(analysis))


def test_the_length_and_the_time_of_training_are_summed_for_each_method(tmp_path: Path) -> None:
    write_pair(tmp_path, MAXIMISE, 0.1, 0.1)
    write_pair(tmp_path, MAXIMISE, 0.2, 0.1)
    write_run(tmp_path / "lag", "lagvae", -1.0, (5.0, 23.0), gamma=0.5)
    for name in ("at-max-0.1-s0", "at-max-0.2-s0"):
        change(tmp_path / name / "summary.json", "ensemble", {"runs": 4, "seconds": 20.0})
    change(tmp_path / "at-max-0.2-s0" / "summary.json", "steps", 20)  # it stopped early
    line = training_line(analyse(collect([tmp_path])))
    assert "LagVAE: 1 × 40 steps, 2 s" in line
    assert "LagVAE, matched: 2 × 20–40 steps, 10 s" in line
    assert "InfoVAE: 2 × 40 steps, 4 s" in line
    change(tmp_path / "lag" / "summary.json", "seconds", ...)
    assert "LagVAE: 1 × 40 steps, unknown time" in training_line(analyse(collect([tmp_path])))


# ---- information over slack


def curves_of(folder: Path, alpha: float, by_gamma: dict[float, list[float]], stderr: float = STDERR) -> str:
    for gamma, values in by_gamma.items():
        for seed, value in enumerate(values):
            name = f"q{alpha:g}-g{gamma:g}-s{seed}"
            write_run(folder / name, "lagvae", alpha, (value, 22 + gamma), seed=seed, gamma=gamma, stderr=stderr)
    curve = next(c for c in analyse(collect([folder])).curves if c.split == "train")
    assert curve.gammas == sorted(by_gamma)
    return monotone(curve, 2.0)


def test_information_must_rise_when_maximising_and_fall_when_minimising(tmp_path: Path) -> None:
    rising = {0.5: [6.0], 1.0: [7.0], 2.0: [8.0]}
    assert curves_of(tmp_path / "up", -1.0, rising) == "yes"
    assert curves_of(tmp_path / "down", 1.0, {g: [-v[0]] for g, v in rising.items()}) == "yes"
    assert curves_of(tmp_path / "wrong", 1.0, rising).startswith("NO (+1.00 from γ₁ = 0.5 to 1; +1.00 from γ₁ = 1 to 2)")
    assert curves_of(tmp_path / "dip", -1.0, rising | {2.0: [6.5]}) == "NO (-0.50 from γ₁ = 1 to 2)"


def test_a_wrong_step_within_error_is_reported_as_such(tmp_path: Path) -> None:
    # With one run each the errors are those of the estimates: 2 · √2 · 0.3 = 0.85 nats.
    dip = {0.5: [6.0], 1.0: [7.0], 2.0: [6.5]}
    assert curves_of(tmp_path / "one", -1.0, dip, stderr=0.3) == "within error (-0.50 from γ₁ = 1 to 2)"
    # With two seeds 0.4 apart the error of each mean is 0.4 / √2 / √2 = 0.2: 2 · √2 · 0.2 = 0.57 nats.
    wide = {g: [v[0] - 0.2, v[0] + 0.2] for g, v in dip.items()}
    assert curves_of(tmp_path / "two", -1.0, wide) == "within error (-0.50 from γ₁ = 1 to 2)"
    tight = {g: [v[0] - 0.1, v[0] + 0.1] for g, v in dip.items()}
    assert curves_of(tmp_path / "sure", -1.0, tight) == "NO (-0.50 from γ₁ = 1 to 2)"


def test_a_curve_is_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    curves_of(tmp_path, -1.0, {0.5: [5.0, 7.0], 1.0: [8.0]})
    curve = analyse(collect([tmp_path])).curves[0]
    assert curve.means == [6.0, 8.0]
    assert curve.spreads == pytest.approx([sqrt(2), STDERR])
    assert curve.errors == pytest.approx([1.0, STDERR])
    assert curve.counts == [2, 1]


def test_a_curve_follows_the_end_of_the_interval_that_its_runs_optimise(tmp_path: Path) -> None:
    for alpha in (-1.0, 1.0):
        for gamma in (0.5, 1.0):
            write_run(tmp_path / f"{alpha}{gamma}", "lagvae", alpha, (5 - alpha * gamma, 23.0), gamma=gamma, width=0.5)
    curves = {curve.alpha: curve for curve in analyse(collect([tmp_path])).curves if curve.split == "train"}
    assert (curves[-1.0].means, curves[-1.0].others) == ([5.25, 5.75], [5.75, 6.25])
    assert (curves[1.0].means, curves[1.0].others) == ([4.75, 4.25], [4.25, 3.75])


def test_slack_is_taken_from_the_settings_or_is_the_bound_minus_the_calibrated_value(tmp_path: Path) -> None:
    write_run(tmp_path / "given", "lagvae", -1.0, (5.0, 23.0), gamma=0.7)
    key = "constraints.neg_elbo"
    write_run(tmp_path / "share", "lagvae", -1.0, (5.0, 23.0), gamma=0.25, settings={f"{key}.gamma_relative": True})
    change(tmp_path / "share" / "summary.json", f"{key}.bound", 27.5)  # ε̂ + 0.25 ε̂ with ε̂ = 22
    write_run(tmp_path / "number", "lagvae", -1.0, (5.0, 23.0), gamma=1.0, settings={f"{key}.epsilon": 23.0})
    write_run(tmp_path / "none", "infovae", -1.0, (5.0, 23.0), multipliers=(2.0, 5000.0))
    runs = {run.name: run for run in collect([tmp_path]).runs}
    assert {name: run.gamma for name, run in runs.items()} == {"given": 0.7, "share": 5.5, "number": None, "none": None}
    assert {name: run.setting for name, run in runs.items()} == {
        "given": "γ₁ = 0.7",
        "share": "γ₁ = 5.5",
        "number": "ε₁ = 23",
        "none": "λ = 2, 5000",
    }


# ---- which runs are compared


def test_folders_that_are_not_separate_runs_are_excluded(sweep: Path) -> None:
    before = collect([sweep])
    first = sweep / "lag-q1-g3-s0"
    for place in ("latest", ".multirun/0", f"{ANALYSIS}/x", "lag-q1-g3-s0/evaluation", "lag-q1-g3-s0/checkpoints/x"):
        shutil.copytree(sweep / "info-max-s0", sweep / place)
    (sweep / "back").symlink_to(sweep, target_is_directory=True)
    shutil.copytree(first, sweep / "calibrations" / "digits")
    (sweep / "calibrations" / "digits" / "calibration.json").write_text("{}")
    assert collect([sweep, first]) == Collection([sweep, first], "interval", before.runs)
    assert len(before.runs) == 16


def test_an_unfinished_run_is_named_and_not_counted(sweep: Path) -> None:
    (sweep / "lag-q1-g3-s0" / "summary.json").unlink()
    found = collect([sweep])
    assert found.unfinished == ["lag-q1-g3-s0"]
    assert len(found.runs) == 15
    assert "## Unfinished: 1\n\n- `lag-q1-g3-s0`" in comparison_markdown(analyse(found))


def test_a_run_of_a_sweep_that_has_not_begun_or_failed_is_named(sweep: Path) -> None:
    there = dict.fromkeys((f"pareto/{path.name}" for path in sweep.iterdir() if path.is_dir()), "finished")
    others = {"pareto/late-s0": "unfinished", "pareto/early-s0": "failed", "pareto/gone-s0": "finished"}
    (sweep / "sweep.json").write_text(json.dumps({"runs": there | others | {"pareto/info-max-s0": "unfinished"}}))
    expected = ["late-s0 (it has not begun)", "early-s0 (it failed)"]
    assert collect([sweep, sweep]).unfinished == expected
    (sweep / "moved").mkdir()
    shutil.move(sweep / "info-max-s0", sweep / "moved" / "info-max-s0")
    found = collect([sweep.parent])
    assert found.unfinished == [f"{sweep.name}/{name}" for name in expected]
    assert len(found.runs) == 16
    (sweep / "sweep.json").write_text("[]")
    assert collect([sweep]).unfinished == []


def test_where_runs_cannot_be_compared_an_earlier_page_is_said_to_be_one(sweep: Path, tmp_path: Path) -> None:
    (none := tmp_path / "none").mkdir()
    with pytest.raises(ComparisonError) as caught:
        compare([none], out=sweep)
    assert "earlier" not in str(caught.value)
    (sweep / "pareto.html").touch()
    with pytest.raises(ComparisonError, match=r"pareto\.html is of an earlier comparison"):
        compare([none], out=sweep)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half a summary": (lambda f: (f / "summary.json").write_text('{"family": '), "missing or damaged"),
    "a list": (lambda f: (f / "summary.json").write_text("[]"), "missing or damaged"),
    "not a number": (
        lambda f: change(f / "summary.json", "splits.train.i_q_upper", None),
        "no number at splits.train.i_q_upper",
    ),
    "infinite": (lambda f: change(f / "summary.json", "splits.test.neg_elbo", float("inf")), "splits.test.neg_elbo"),
    "a word": (lambda f: change(f / "summary.json", "splits.test.neg_elbo", "23"), "splits.test.neg_elbo"),
    "no error": (lambda f: change(f / "summary.json", "splits.test.i_q_lower_stderr", ...), "splits.test.i_q_lower_stderr"),
    "no split": (lambda f: change(f / "summary.json", "splits.test", ...), "splits.test.i_q"),
    "other seed": (lambda f: change(f / "summary.json", "seed", 7), "seed is 7 in summary.json and 0 in config.yaml"),
    "no family": (lambda f: change(f / "summary.json", "family", ...), "family is None"),
    "torn config": (lambda f: (f / "config.yaml").write_text("family: [lagvae"), "config.yaml is damaged"),
    "empty config": (lambda f: (f / "config.yaml").write_text(""), "config.yaml has no constraints"),
    "other config": (lambda f: (f / "config.yaml").write_text("constraints:\n  mmd: 3\n"), "config.yaml has no constraints"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_skipped_with_the_reason(sweep: Path, damage: str) -> None:
    harm, reason = DAMAGE[damage]
    harm(sweep / "lag-q1-g3-s0")
    found = collect([sweep])
    assert list(found.skipped) == ["lag-q1-g3-s0"]
    assert reason in found.skipped["lag-q1-g3-s0"]
    assert len(found.runs) == 15
    assert "## Skipped: 1\n\n- `lag-q1-g3-s0`: " in comparison_markdown(analyse(found))


def test_a_run_without_a_preference_and_a_duplicate_are_left_out_by_name(sweep: Path) -> None:
    write_run(sweep / "vae", "vae", 0.0, (4.0, 23.0))
    write_run(sweep / "p", "lagvae", -1.0, (4.0, 23.0), gamma=9.0, settings={"alpha.p": 1.0})
    shutil.copytree(sweep / "info-max-s0", sweep / "info-max-s0-2")
    found = collect([sweep])
    assert set(found.left_out) == {"vae", "p"}
    assert "α = 0" in found.left_out["vae"]
    assert found.skipped == {"info-max-s0-2": "it has the settings and the seed of info-max-s0, which is counted"}
    assert len(found.runs) == 16


@pytest.mark.parametrize(
    ("key", "value", "there"),
    [
        ("data.name", "mnist", "digits"),
        ("data.batch", 64, "128"),
        ("data.split_seed", 1, "0"),
        ("model.latent", 8, "16"),
        ("training.steps", 80, "40"),
        ("training.start", "scratch", "calibrated"),
        ("training.gradient_clip", 1.0, "none"),
        ("calibration.seed", 3, "0"),
        ("calibration.steps", 30, "20"),
        ("callbacks.final.information.samples", 50, "1000"),
        ("constraints.mmd.divergence._target_", "another", "lagvae.divergences.mmd"),
        ("multiplier.optimizer._target_", "torch.optim.SGD", "torch.optim.RMSprop"),
    ],
)
def test_runs_that_are_not_comparable_are_refused(sweep: Path, key: str, value: Any, there: str) -> None:
    write_run(sweep / "other", "lagvae", -1.0, (5.0, 23.0), gamma=2.0, settings={key: value})
    with pytest.raises(ComparisonError) as error:
        collect([sweep])
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    assert key in str(error.value)
    assert there in str(error.value)
    assert f"{shown} in other" in str(error.value)
    assert "Name the folder of one sweep" in str(error.value)


def test_runs_of_another_calibration_are_refused(sweep: Path) -> None:
    change(sweep / "info-max-s0" / "summary.json", "constraints.neg_elbo.calibrated", 22.1)
    with pytest.raises(ComparisonError, match="ε̂ of neg_elbo"):
        collect([sweep])


def test_settings_that_do_not_affect_the_results_may_differ(sweep: Path) -> None:
    free = {"training.interval": 10, "data.workers": 0, "data.batch": 128.0, "callbacks.final.information.kde": False}
    write_run(sweep / "same", "lagvae", -4.0, (5.0, 23.0), seed=5, gamma=2.0, settings=free)
    assert "same" in {run.name for run in collect([sweep]).runs}


def test_another_estimate_of_information_can_be_compared(sweep: Path) -> None:
    for name in ("lag-q-1-g3-s0", "lag-q1-g3-s0"):
        change(sweep / name / "summary.json", "splits.train.rate", 12.0)
        change(sweep / name / "summary.json", "splits.train.i_q_kde_breaks_bound", 1.0)
    runs = {run.name: run for run in collect([sweep], "rate").runs}
    assert runs["lag-q1-g3-s0"].points["train"].upper.value == 12.0
    assert runs["lag-q1-g3-s1"].points["train"].upper.value == 1.0
    kde = analyse(collect([sweep], "i_q_kde"))
    assert any(note.startswith("In 2 of 16 runs this estimate") for note in notes(kde))
    assert not any("this estimate" in note for note in notes(analyse(collect([sweep]))))
    with pytest.raises(SettingError, match="choose one of interval, i_q_lower"):
        collect([sweep], "mi")


def test_no_run_at_all_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="holds no run folder"):
        collect([tmp_path])
    (write_run(tmp_path / "one", "lagvae", -1.0, (5.0, 23.0), gamma=1.0) / "summary.json").unlink()
    with pytest.raises(ComparisonError, match="1 unfinished, such as one"):
        collect([tmp_path])
    with pytest.raises(SettingError, match="is not a folder"):
        collect([tmp_path / "nowhere"])


# ---- the written report


def test_the_program_writes_all_files_and_prints_dominated_runs(sweep: Path) -> None:
    root = sweep.parent
    sweep.rename(root / "runs")
    outcome = program(root, str(root / "runs"), script="pareto")
    assert outcome.status == 0, outcome.err
    names = {f"{name}.{kind}" for name in ("figure1", "figure2") for kind in ("png", "svg")} | {
        "pareto.csv",
        "pareto.md",
        "pareto.html",
    }
    assert outcome.new == {f"runs/{ANALYSIS}/{name}" for name in names}
    assert "1 of 2" in outcome.out
    assert "info-max-s0" in outcome.out
    assert "Information over the slack γ₁" in outcome.out
    out = root / "runs" / ANALYSIS
    for name in ("figure1", "figure2"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 1000
            assert len(picture.convert("RGB").getcolors(2**24) or []) > 50, "nothing was drawn"
        assert ElementTree.parse(out / f"{name}.svg").getroot().tag.endswith("svg")
    with (out / "pareto.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["run"], row["split"]): row for row in csv.DictReader(file)}
    assert len(rows) == 16 * 2
    row = rows["info-max-s0", "train"]
    assert (row["family"], row["seed"], row["gamma"], row["multipliers"]) == ("infovae", "0", "", "neg_elbo=1 mmd=2000")
    assert (row["dominated_by"], row["on_front"], float(row["lower"])) == ("lag-q-1-g1.5-s0", "1", 7.0)
    assert (row["dominated_with_mmd_by"], float(row["mmd_stderr"])) == ("", 1e-4), "all have the same MMD"
    assert (rows["lag-q-1-g0.5-s0", "test"]["gamma"], rows["info-max-s1", "train"]["dominated_by"]) == ("0.5", "")
    text = (out / "pareto.md").read_text(encoding="utf-8")
    assert "| maximise | train | InfoVAE | 2 | 2 | 23.59–23.69 | 1 of 2 | 0 of 2 |" in text
    assert "| 1.5 | 8.00 ± 0.00 | 2.00 ± 0.00 |" in text
    assert "![figure2](figure2.png)" in text
    vector = (out / "figure2.svg").read_bytes()
    assert program(root, str(root / "runs"), script="pareto").new == set(), "the folder of the comparison itself is not a run"
    assert (out / "figure2.svg").read_bytes() == vector, "the same runs give the same figure"


def test_a_single_slack_gives_no_figure_of_slack(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "s" / "a", "lagvae", -1.0, (5.0, 23.0), gamma=1.0)
    out = tmp_path / "elsewhere"
    outcome = program(tmp_path, "s", "--out", str(out), script="pareto")  # a name under runs/
    assert outcome.status == 0, outcome.err
    assert {path.name for path in out.iterdir()} == {"pareto.csv", "pareto.md", "pareto.html", "figure2.png", "figure2.svg"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name folders of runs, such as a, b."),
        (["c"], "'c' is not a folder of runs"),
        (["a", "--information", "mi"], "information=mi is unknown"),
        (["a", "--z", "-1"], "z=-1.0 must be a number"),
        (["a", "b"], "do not belong together"),
        (["empty"], "holds no run folder"),
    ],
)
def test_an_impossible_comparison_is_an_error_message(tmp_path: Path, words: list[str], message: str) -> None:
    write_run(tmp_path / "runs" / "a" / "0", "lagvae", -1.0, (5.0, 23.0), gamma=1.0)
    write_run(tmp_path / "runs" / "b" / "0", "lagvae", -1.0, (5.0, 23.0), gamma=1.0, settings={"training.steps": 99})
    (tmp_path / "runs" / "empty").mkdir()
    outcome = program(tmp_path, *words, script="pareto")
    assert outcome.status == 1
    assert message in outcome.err
    assert not outcome.new


def test_trained_runs_can_be_compared(tmp_path: Path) -> None:
    start = ("training.start=calibrated", "alpha=maximize")
    for words in (("family=lagvae", "name=s/lag"), ("family=infovae", "name=s/info")):
        assert program(tmp_path, *QUICK, *words, *start).status == 0
    outcome = program(tmp_path, "s", script="pareto")
    assert outcome.status == 0, outcome.err
    runs = {run.name: run for run in collect([tmp_path / "runs" / "s"]).runs}
    assert (runs["lag"].setting, runs["info"].setting) == ("γ₁ = 1.5", "λ = 1, 1000")


def test_a_printed_table_has_every_cell_whole_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    names = ("lagvae-digits-20261126-1", "lagvae-digits-20261126-2")
    print_rows("Results", ("", *names), [("a long name of a measured value", "34.51 ± 0.07", "11.00 ± 0.18")])
    out = capsys.readouterr().out
    assert "…" not in out
    assert all(number in out for number in ("34.51 ± 0.07", "11.00 ± 0.18"))
    head = [line.split() for line in out.splitlines() if line.startswith("   ") and "─" not in line and line.strip()]
    assert tuple("".join(column) for column in zip(*head, strict=True)) == names, "the heads are broken, not cut"
