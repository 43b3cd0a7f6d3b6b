"""What a comparison says on the terminal: dominated and matched runs, those that are left out, and what to know of all."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lagvae.errors import SettingError
from lagvae.pareto import report
from lagvae.pareto.points import Collection, RunPoint
from lagvae.pareto.report import MAX_PRINTED, default_out, print_comparison
from lagvae.pareto.tables import notes


def run_point(name: str, family: str = "lagvae", **own: Any) -> RunPoint:
    given = {"alpha": -1.0, "seed": 0, "gamma": None, "bound": None, "multipliers": {}, "verdict": "met", "points": {}}
    return RunPoint(name, family, **given | own)


def collection(*families: str) -> Collection:
    return Collection([], "interval", [run_point(f"r{k}", family) for k, family in enumerate(families)])


def dominated(count: int, mmd: str = "no") -> list[tuple[str, ...]]:
    return [("maximise", "train", "0", f"worse{k}", f"better{k}", "0.50", "1.25", mmd) for k in range(count)]


def printed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: Collection,
    rows: list[tuple[str, ...]],
    pairs: list[tuple[str, ...]] | None = None,
) -> list[str]:
    """The lines of a comparison, whose numbers are chosen."""
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("summary_rows", "matched_summary_rows", "slack_rows"):
        monkeypatch.setattr(report, name, lambda analysis: [])
    monkeypatch.setattr(report, "dominated_rows", lambda analysis: rows)
    monkeypatch.setattr(report, "matched_rows", lambda analysis, split: pairs if split == "train" else [])
    monkeypatch.setattr(report, "training_line", lambda analysis: "Training: [all of them]")
    monkeypatch.setattr(report, "notes", lambda analysis: ["a note", "another [one]"])
    analysis: Any = SimpleNamespace(collection=given, pairs=pairs or [], curves=[], z=2.5)
    print_comparison(analysis, [Path("out") / "pareto.md", Path("out") / "pareto.csv"])
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("count", [1, MAX_PRINTED, MAX_PRINTED + 3])
def test_the_first_dominated_runs_are_named_and_the_rest_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    lines = printed(monkeypatch, capsys, collection("lagvae", "infovae"), dominated(count))
    named = [line for line in lines if "worse" in line]
    assert len(named) == min(count, MAX_PRINTED)
    assert named[0] == " maximise, train: worse0 by better0, better by 0.50 nats in −ELBO and by 1.25 nats in I"
    assert ("and 3 more dominated runs." in lines) == (count > MAX_PRINTED)
    assert not any(line.startswith("and 0 more") or line.startswith("No run dominates") for line in lines)
    by_mmd = printed(monkeypatch, capsys, collection("lagvae"), dominated(1, "yes"))
    assert any(line.endswith("1.25 nats in I, and in MMD") for line in by_mmd)


@pytest.mark.parametrize(("families", "said"), [(("lagvae",), False), (("lagvae", "lagvae"), False), (("lagvae", "vae"), True)])
def test_that_no_run_dominates_is_said_where_there_are_two_methods(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], families: tuple[str, ...], said: bool
) -> None:
    lines = printed(monkeypatch, capsys, collection(*families), [])
    told = "No run dominates a run of another method by more than 2.5 standard errors in both objectives."
    assert (told in lines) == said
    assert lines[-4:] == ["Training: [all of them]", "a note", "another [one]", "Written to out: pareto.md, pareto.csv"]


def test_runs_that_are_not_compared_are_named_five_of_each_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = collection("lagvae")
    given.unfinished = [f"u{k}" for k in range(5)]
    given.skipped = {f"s{k}": "it is damaged" for k in range(7)}
    lines = printed(monkeypatch, capsys, given, [])
    assert "Unfinished: u0, u1, u2, u3, u4" in lines
    skipped = ", ".join(f"s{k} (it is damaged)" for k in range(5))
    assert f"Skipped: {skipped}, and 2 more" in lines
    assert not any(line.startswith("Left out") for line in lines)
    given.left_out = {"[twice]": "it is there twice"}
    assert "Left out: [twice] (it is there twice)" in printed(monkeypatch, capsys, given, [])


@pytest.mark.parametrize("count", [1, MAX_PRINTED + 2])
def test_matched_runs_are_shown_below_each_other_and_the_rest_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    def pair(goal: str, k: int) -> tuple[str, ...]:
        return (goal, f"λ = {k}", "7", "23.00", "1e-3", "[4, 5]", "22.00", "2e-3", "[6, 7]", "met", f"+{k}.25", "+0.50")

    pairs = [pair("maximise", k) for k in range(count)] + [pair("minimise", 99)]
    lines = printed(monkeypatch, capsys, collection("lagvae", "infovae"), [], pairs)
    (title, other) = (k for k, line in enumerate(lines) if "LagVAE with InfoVAE's −ELBO and MMD as its bounds" in line)
    assert "maximise (train)" in lines[title]
    assert "minimise (train)" in lines[other]
    above, last = (next(k for k, line in enumerate(lines) if f"λ = {name} " in line) for name in (0, 99))
    assert title < above < other < last
    assert lines[above].split()[-5:] == ["23.00", "1e-3", "[4,", "5]", "+0.25"]
    assert lines[above + 1].split() == ["LagVAE", "(met)", "22.00", "2e-3", "[6,", "7]", "+0.50"]
    assert sum("LagVAE (met)" in line for line in lines) == min(count, MAX_PRINTED) + 1
    assert ("and 2 more matched runs." in lines) == (count > MAX_PRINTED)


def analysis_of(runs: list[RunPoint], groups: Any = (), unpaired: list[str] | None = None, curves: Any = ()) -> Any:
    return SimpleNamespace(
        collection=Collection([], "interval", runs), groups=groups, unpaired=unpaired or [], curves=list(curves)
    )


def test_a_reader_is_told_what_the_numbers_do_not_say() -> None:
    lag, info = run_point("a"), run_point("b", "infovae", seed=3, verdict="unconstrained", breaks_bound=True)
    assert notes(analysis_of([lag])) == ["Verdicts of the runs: LagVAE: 1 met."]
    groups = [
        SimpleNamespace(family="lagvae", runs=[lag], compared=[lag]),
        SimpleNamespace(family="infovae", runs=[info], compared=[]),
    ]
    violated, unmatched, verdicts = notes(analysis_of([lag, info], groups))
    assert violated == "In 1 of 2 runs this estimate of I violates bounds on I_q."
    assert unmatched.endswith("with the same seed and sign of α, and so not compared: InfoVAE seed 3.")
    assert verdicts == "Verdicts of the runs: LagVAE: 1 met; InfoVAE: 1 unconstrained."
    alone = [SimpleNamespace(family="lagvae", runs=[lag], compared=[])]
    assert len(notes(analysis_of([lag], alone))) == 1, "of one method no run is compared with another"
    for count, more in ((5, ""), (6, " …")):
        names = [f"n{k}" for k in range(count)]
        (lost, _) = notes(analysis_of([lag], unpaired=names))
        assert lost == f"Matched with a run that is not here, or was trained again since: n0, n1, n2, n3, n4{more}."


def test_runs_that_a_curve_averages_over_are_noted() -> None:
    once = [run_point("a", gamma=1.0), run_point("b", gamma=1.0, seed=1), run_point("c"), run_point("d")]
    assert len(notes(analysis_of(once, curves=[None]))) == 1
    twice = [*once, run_point("e", gamma=1.0)]
    assert notes(analysis_of(twice, curves=[None]))[0].startswith("The table of I over γ₁ averages over runs with the same α")
    assert len(notes(analysis_of(twice))) == 1, "without a curve there is no such table"


def test_a_comparison_is_written_beside_what_is_compared(tmp_path: Path) -> None:
    assert default_out([tmp_path / "a"]) == tmp_path / "a" / "pareto-analysis"
    assert default_out([tmp_path / "a" / "b", tmp_path / "a" / "c"]) == tmp_path / "a" / "pareto-analysis"
    with pytest.raises(SettingError, match=r"no common parent folder: say where to write with --out FOLDER"):
        default_out([Path("/a"), Path("/b")])


def test_a_comparison_of_runs_in_a_folder_that_cannot_be_written_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "collect", lambda *given: [])
    monkeypatch.setattr(report, "analyse", lambda *given: None)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SettingError, match=r"is not writable\)\. Name another folder with --out\."):
        report.write_comparison([tmp_path])
