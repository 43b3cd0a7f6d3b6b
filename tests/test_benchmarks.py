"""What the benchmarks tell follows their numbers, and their tables are whole."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from itertools import product
from math import log, pi
from pathlib import Path
from typing import Any

import pytest
from small import ROOT


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_head_of_a_table_has_as_many_cells_as_its_rows() -> None:
    import grid
    import maximising

    head, rule = grid.table(maximising.HEAD, [])
    assert head.replace(r"\|", "").count("|") == rule.count("|")


def test_continuous_data_are_whole_and_in_their_units() -> None:
    import continuous

    x, table = (make() for make, _ in continuous.DATA.values())
    assert x.shape[1:] == (1, 28, 20)
    assert 0 <= x.min() < 0.1 < 0.9 < x.max() <= 1
    assert table.shape == (569, 30)
    assert abs(table.mean(0)).max() < 1e-5
    assert table.std(0) == pytest.approx(1, abs=1e-5)
    elbo = {"calibrated": -400.0, "bound": -398.5, "train": -398.4, "violation": 0.1, "multiplier": 0.5, "verdict": "active"}
    # At s² = 0.02 and a mean squared residual of 0.01 the distortion is 280 (log 2 − ½) nats above that of the best scale.
    distortion = 280 * (log(2 * pi * 0.02) + 0.5)
    train = {"i_q_lower": 1.0, "i_q_upper": 2.0, "i_q_lower_limit": 8.0, "reconstruction": 0.01, "distortion": distortion}
    run = {"constraints": {"neg_elbo": elbo}, "splits": {"train": train}, "seconds": {"all": 60}}
    cells = continuous.row("patches", "maximize", run, 560)
    assert len(cells) == len(continuous.HEAD)
    assert "-0.711" in cells  # −ELBO per dimension
    assert cells[-2] == f"{280 * (log(2) - 0.5):.3f}"


def test_bounds_image_by_image_hold_the_information_of_a_made_world() -> None:
    """They are tighter than those without, here by more than ten nats."""
    import estimators

    ((truth, *ends),) = estimators.of_images((4.0, 1), images=100)["rows"]
    low, high, low_by_image, high_by_image = ends
    assert truth > 25
    assert low < low_by_image < 0.1
    assert -0.1 < high_by_image < high - 10


def test_a_target_is_met_or_missed_by_its_relative_distance() -> None:
    import targets

    def run(family: str, name: str, bound: float, reached: float) -> dict[str, Any]:
        c = {"bound": bound, "train": reached, "multiplier": 1.0, "verdict": "active"}
        splits = {"train": {f"{name}_stderr": 0.1}}
        return {"constraints": {name: c}, "splits": splits} | {
            "family": family, "data": "digits", "seed": 0, "seconds": {"all": 60}
        }  # fmt: skip

    page = "\n".join(targets.lines([run("geco", "distortion", -20.0, -19.7), run("target_rate", "rate", 6.0, 5.7)]))
    assert "| +1.50% |" in page  # above a negative target is above, too
    assert "| -5.00% |" in page
    assert "1 of 2 runs end within 2% of their target; the median distance is 3.25%, the largest 5.00%." in page


def summary(alpha: float, gamma: float, seed: int, multiplier: float, rate: float, distortion: float) -> dict[str, Any]:
    elbo = {"bound": 20 + gamma, "calibrated": 20.0, "multiplier": multiplier, "violation": 0.0}
    splits = {"train": {"rate": rate, "distortion": distortion}}
    return {"alpha": {"q": alpha}, "seed": seed, "constraints": {"neg_elbo": elbo}, "splits": splits, "verdict": "met"}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(0.5, 0.3, "smaller in 2 of 2 rows; what was measured lies between what the λ at γ and the λ at γ + δ promise in 1."),
     (0.5, 0.7, "smaller in 0 of 2 rows; what was measured lies between what the λ at γ and the λ at γ + δ promise in 0.")],
)  # fmt: skip
def test_what_slack_buys_is_said_by_the_numbers(
    before: float, after: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sensitivity

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    # One nat more lowers distortion by 0.4 at α = −1 (within 0.3 and 0.5), and the rate by 0.9 at α = +1 (beyond both).
    # γ = 1.4 is a run of another grid: it must not be taken for γ = 1 or γ = 2.
    runs = [
        summary(alpha, gamma, seed, before if gamma < 2 else after, 9.0 - 0.9 * gamma + extra, 9.0 - 0.4 * gamma + extra)
        for alpha, (gamma, extra), seed in product((-1.0, 1.0), ((1.0, 0.0), (1.4, 50.0), (2.0, 0.0)), range(2))
    ]
    for k, run in enumerate(runs):
        folder = tmp_path / "runs" / "sensitivity" / f"{k:02}"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(run), encoding="utf-8")
    words = ["--deltas", "1", "--seeds", "2", "--root", str(tmp_path), "--out", str(tmp_path / "new" / "told.md")]
    monkeypatch.setattr(sys, "argv", ["sensitivity.py", *words])
    sensitivity.main()
    out = capsys.readouterr().out
    assert said in out
    assert "| maximise | 1 | 0.500 ± 0.000 |" in out
    assert "8 of 8 runs met" in out
    assert (tmp_path / "new" / "told.md").read_text(encoding="utf-8") == out


TINY_MODULE = """
def above(x, least=1):
    '''Whether x is above.'''
    return x > least


def shifted(x):
    seen = []
    seen.append(x)
    return -x + len(seen)


split = "train"
"""


def test_faults_are_changed_killed_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a module of which one function is tested: its faults are killed, those of the other survive, and nothing stays."""
    import mutants

    monkeypatch.setattr(mutants, "LOADED", ("pytest",))
    package = tmp_path / "src" / "lagvae"
    package.mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (package / "__init__.py").touch()
    (package / "tiny.py").write_text(TINY_MODULE)
    test = "from lagvae.tiny import above\n\n\ndef test_above():\n    assert above(2) and not above(1)\n"
    (tmp_path / "tests" / "test_tiny.py").write_text(test)
    found = mutants.sample(tmp_path, "tiny.py", 100, seed=0)
    by_name = {mutant.name.partition(" ")[2]: mutant for mutant in found}
    assert by_name.keys() == {
        "constant: 1 → 2",
        "comparison: x > least → x >= least",
        "dropped: seen.append(x) → pass",
        "sign: -x + len(seen) → -x - len(seen)",
        "sign: -x → +x",
        "split: \"train\" → 'val'",
    }
    assert mutants.sample(tmp_path, "tiny.py", 3, seed=5) == mutants.sample(tmp_path, "tiny.py", 3, seed=5)
    results, reached = {}, mutants.Reached(tmp_path, tmp_path / "found.lines.json")
    assert reached.missing(["tiny"]) == ["tiny"]
    reached.measure("tiny", timeout=100)
    assert mutants.Reached(tmp_path, tmp_path / "found.lines.json").missing(["tiny"]) == []
    for name in ("constant: 1 → 2", "comparison: x > least → x >= least", "sign: -x → +x"):
        near = reached.by(by_name[name])
        assert near == ([] if "sign" in name else ["tests/test_tiny.py::test_above"]), name
        said = mutants.try_out(tmp_path, by_name[name], near, ["tiny"], timeout=100)
        assert said == ("survived" if "sign" in name else "killed"), name
        results[by_name[name].key] = {"result": said}
    (tmp_path / "tests" / "test_long.py").write_text("import time\n\n\ndef test_long():\n    time.sleep(60)\n")
    assert mutants.run_tests(tmp_path, ["long"], 50, partial(mutants.InOrder, patience=1)) == "timeout"
    assert (package / "tiny.py").read_text() == TINY_MODULE
    told = mutants.table({"tiny.py": found}, results)
    assert "| tiny.py | 3 | 2 | 0 | 1 |" in told
    assert "- `tiny.py:10 sign: -x → +x`" in told


def test_every_package_of_the_package_has_tests_that_watch_over_it() -> None:
    import mutants

    there = {path.name for path in (ROOT / "src" / "lagvae").iterdir() if path.name[:1] not in "_."}
    assert there - {"errors.py", "py.typed"} == set(mutants.PACKAGES)
    for tests in mutants.PACKAGES.values():
        assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in tests), tests


def test_regret_is_what_is_missing_to_the_front_of_the_opponent() -> None:
    import regret

    def cell(neg_elbo: float, information: float, sign: int, learned: bool = False, **other: Any) -> Any:
        values = dict.fromkeys(regret.MEASURES, (information, 0.03)) | {"neg_elbo": (neg_elbo, 0.01)}
        known = {"group": "g", "seed": 0, "start": "scratch", "multiplier": 1.0, "bound": 0.0, "gamma": 1.0, "mmd_met": True}
        known |= {"active": True}
        return regret.Cell(sign=sign, learned=learned, values=values, **(known | other))

    for sign in (-1, 1):
        # Maximising, the front rises by 2 and then by 1 per nat of −ELBO; minimising, it falls by as much.
        opponents = [cell(20 + d, 10 - sign * gain, sign) for d, gain in ((2, 3), (0, 0), (1, 2))]
        opponents += [cell(21.5, 10 + sign, sign)]  # beaten in both
        opponents += [cell(20.9, 10 - sign * 0.2, sign)]  # better than its left neighbour, but below the line to the right one
        opponents += [cell(20.5, 10 - sign * 9, sign, mmd_met=False), cell(20.5, 10 - sign * 9, sign, seed=1)]
        runs = [cell(20.5, 10 - sign * (1 - 0.4), sign, learned=True), cell(19.9, 10.0, sign, learned=True)]
        runs += [cell(30, 10 - sign * 3.5, sign, learned=True)]
        (_, inside, error), (_, below, _), (_, above, _) = regret.regrets(runs, opponents, "rate")
        assert inside == pytest.approx(0.4)  # 0.4 nats worse than the front in the sense of α
        assert error == pytest.approx(0.03 * (1 + 0.5) ** 0.5)  # its own error, and that of the mean of two points
        assert below == -float("inf")  # no opponent reaches as small a −ELBO
        assert above == pytest.approx(-0.5)  # against the opponent's best, which needs less −ELBO
