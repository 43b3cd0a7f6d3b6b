"""What the benchmarks tell follows their numbers, and their tables are whole."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
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
