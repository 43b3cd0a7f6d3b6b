"""Faults are done, noticed and counted: a sample of `make faults`, and broken code that its judges must not let pass."""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import faults
from disturbed import TOLD, Place, Said, run_here, unlike

from lagvae.runs.metrics_table import MetricsTable


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where faults happen, with a run that was killed after its first checkpoint as the state half."""
    place = Place(tmp_path_factory.mktemp("faults").resolve())
    run_here("train", faults.RUN, place.base / "warm")
    faults.make_states(place)
    faults.rehearsed(place, "train")
    place.keep("done")
    yield place
    faults.rehearsed.cache_clear()


def operation(place: Place, sign: str, count: int = 0) -> int:
    """The number of a file operation of a run."""
    operations = faults.rehearsed(place, "train").operations
    return [n for n, line in enumerate(operations) if sign in line][count]


def test_a_run_that_is_killed_goes_on_to_the_bit(place: Place) -> None:
    said = faults.signalled(place, "train", operation(place, "open runs/a/metrics.csv", 1), signal.SIGKILL)
    assert said == faults.EQUAL, said


def test_a_full_disk_loses_nothing(place: Place) -> None:
    n = operation(place, "rename runs/a/checkpoints/last.ckpt", 1) - 2
    said = faults.denied(place, "train", n, faults.fails(errno.ENOSPC), faults.WRITING)
    assert said == faults.EQUAL, said


def test_a_damaged_table_is_told(place: Place) -> None:
    said = faults.damaged(place, "resume", "metrics.csv", faults.ROWS["another number in"])
    assert said == faults.survived("told"), said


def test_a_stored_config_executes_nothing(place: Place) -> None:
    said = faults.stored(place, "model.encoder", faults.HARM, "half", "train", "resume=a")
    assert said.state == "survived", said
    assert "is not loaded" in said.message


def test_broken_code_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run that keeps the rows after its checkpoint has them twice."""
    monkeypatch.setattr(MetricsTable, "cut", lambda self, step: None)
    said = faults.signalled(place, "train", operation(place, "open runs/a/metrics.csv", 1) + 2, signal.SIGKILL)
    assert said.state == "silent", said


def changed(folder: Path, what: str) -> None:
    """Break what a run has left."""
    if what == "a number":
        summary = json.loads((folder / "summary.json").read_text())
        summary["splits"]["val"]["neg_elbo"] += 1e-12
        (folder / "summary.json").write_text(json.dumps(summary))
    elif what == "a row less":
        rows = (folder / "metrics.csv").read_text().splitlines(keepends=True)
        (folder / "metrics.csv").write_text("".join(rows[:-1]))
    elif what == "other weights":
        earlier = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
        earlier["state_dict"]["joint.decoder.network.layers.0.weight"][0, 0] += 1e-6
        torch.save(earlier, folder / "checkpoints/last.ckpt")
    elif what == "a file left behind":
        (folder / ".last.ckpt.0123abcd.ckpt").touch()


@pytest.mark.parametrize(
    ("what", "state"),
    [
        ("", "survived"),
        ("a number", "silent"),
        ("a row less", "silent"),
        ("other weights", "silent"),
        ("a file left behind", "wrong"),
    ],
)
def test_the_judge_sees_what_is_unlike(place: Place, what: str, state: str) -> None:
    place.put("done")
    run = place.root / "runs" / "a"
    changed(run, what)
    expected = faults.rehearsed(place, "train").expected
    assert faults.judged(place, faults.TASKS["train"], expected, Said(0, "")).state == state


@pytest.mark.parametrize(
    ("status", "text", "state"),
    [
        (0, "", "survived"),
        (1, "Error: The disk is full.", "lost"),
        (1, "Traceback (most recent call last):\nError: x", "wrong"),
        (124, "", "wrong"),
    ],
)
def test_the_judge_reads_what_was_said(place: Place, status: int, text: str, state: str) -> None:
    place.put("done")
    expected = faults.rehearsed(place, "train").expected
    assert faults.judged(place, faults.TASKS["train"], expected, Said(status, text)).state == state


@pytest.mark.parametrize(("message", "state"), [("metrics.csv is not what the run had written", "survived"), ("", "silent")])
def test_what_is_unlike_is_told_in_a_summary_too(place: Place, message: str, state: str) -> None:
    place.put("done")
    changed(place.run_a, "a row less")
    summary = json.loads((place.run_a / "summary.json").read_text())
    (place.run_a / "summary.json").write_text(json.dumps(summary | {"messages": [message]}))
    assert faults.told_or_like(place, "resume", Said(0, ""), ()).state == state


def test_a_program_that_is_stopped_says_so_once(place: Place) -> None:
    place.put("empty")
    said = place.run("train", *faults.RUN, before=faults.at_step(3, signal.SIGINT))
    assert (said.status, said.refused, len(TOLD.findall(said.text))) == (130, True, 1), said
    assert "Resume with" in said.message


def test_work_that_is_done_again_is_lost(place: Place) -> None:
    place.put("done")
    place.cuts.write_text("a 2\n")
    expected = faults.rehearsed(place, "train").expected
    judged = [faults.judged(place, faults.TASKS["train"], expected, Said(0, ""), {"a": step}).state for step in (2, 4)]
    assert judged == ["survived", "lost"]


def test_code_that_ran_is_told_from_code_that_did_not(place: Place, tmp_path: Path) -> None:
    assert faults.harmless(place, Said(1, "Error: no"), tmp_path / "harm").state == "survived"
    (tmp_path / "harm").mkdir()
    assert faults.harmless(place, Said(1, "Error: no"), tmp_path / "harm").state == "executed"


def test_outcomes_are_kept_and_counted(place: Place, tmp_path: Path) -> None:
    tried: list[str] = []

    def fault(name: str, state: str) -> faults.Fault:
        def try_out(place: Any) -> faults.Outcome:
            tried.append(name)
            return faults.Outcome(state, f"about {name}")

        return faults.Fault("damage", name, try_out)

    chosen, file = [fault("one", "survived"), fault("two", "silent")], tmp_path / "faults.jsonl"
    faults.campaign(place, chosen, {}, file, "now", keep=False)
    outcomes = faults.campaign(place, chosen, faults.read_outcomes(file), file, "now", keep=False)
    assert tried == ["one", "two"]
    said = faults.table(outcomes, "now")
    assert "| damage | 2 | 1 | 0 | 1 | 0 | 0 |" in said
    assert "- damage: `two`: about two" in said
    faults.campaign(place, chosen, faults.read_outcomes(file), file, "later", keep=True)
    assert tried == ["one", "two", "two"]


def test_what_differs_is_named() -> None:
    assert unlike({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b"]
