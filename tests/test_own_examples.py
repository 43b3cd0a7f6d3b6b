"""The examples and the page about parts of one's own: each command and each program of them runs."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, SHORT, Outcome, program
from small import ROOT
from test_own_parts import own, summary

import lagvae


@pytest.mark.parametrize("name", ["minimal", "custom_network", "custom_divergence"])
def test_an_example_meets_its_bound(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"](300)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(rows) == 5
    first, last = (float(row.split("neg_elbo ")[1].split(",")[0]) for row in (rows[0], rows[-1]))
    assert last < first
    assert last < 29  # nats; it starts at 64 log 2 = 44, and the bounds are 26 and 27


def test_the_example_of_ones_own_data_trains_loads_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its command runs in this process, with few steps, since a later word of a command line wins."""
    reports: list[Outcome] = []

    def run(command: list[str], check: bool) -> None:
        assert command[:4] == [sys.executable, "-m", "lagvae", "train"]
        small = [word for word in QUICK if not word.startswith(("data", "model", "calibration"))]
        reports.append(program(tmp_path, *command[4:], *small, "data.draws=40", "calibration.steps=150"))
        assert reports[0].status == 0, reports[0].err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path))
    monkeypatch.setattr("subprocess.run", run)
    runpy.run_path(str(ROOT / "examples" / "your_own_data.py"))
    out = capsys.readouterr().out
    assert "x has shape (600, 1, 8, 8), values from 0.00 to 1.00" in out
    found = re.search(r"codes: \(600, 2\); squared error of reconstructions: (.*), of the mean image: (.*)\n", out)
    assert found is not None
    assert float(found[1]) < float(found[2])
    assert "Verdict: " in reports[0].out
    assert (tmp_path / "discs.png").read_bytes()[:4] == b"\x89PNG"


def test_the_classes_of_the_example_are_named_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ["model.encoder._target_=custom_network.ResidualNet", "+model.encoder.width=8"]
    words += ["model.posterior._target_=custom_network.FullGaussian", "model.prior._target_=custom_network.Mixture"]
    words += ["+constraints.moments.divergence._target_=custom_divergence.MomentMismatch", "constraints.moments.gamma=0.1"]
    done = program(tmp_path, *(w for w in QUICK if "encoder" not in w), *SHORT, *words, "name=a")
    assert done.status == 0, done.err
    assert set(summary(tmp_path)["constraints"]) == {"neg_elbo", "mmd", "moments"}


def test_a_folder_of_ones_own_has_a_family_a_data_set_and_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = [w for w in QUICK if not w.startswith("data")]
    words += [*SHORT, "data.batch=50", "data.draws=40", "--config-dir", str(ROOT / "examples" / "custom_family")]
    done = program(tmp_path, *words, "family=uncorrelated_vae", "data=rings", "data.source.n=200", "name=a")
    assert done.status == 0, done.err
    assert summary(tmp_path)["constraints"]["correlation"]["train"] >= 0
    done = program(tmp_path, "-m", *words, "sweep=correlation", "launcher.compile=false")
    assert done.status == 0, done.err
    assert "1 job of 4 runs" in done.out
    assert len(list((tmp_path / "runs" / "correlation").glob("*/summary.json"))) == 4
    done = program(tmp_path, *words, "family=uncorelated_vae")
    assert "did you mean uncorrelated_vae?" in done.err


# ---- the page about it

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("   #")[0].split()[2:] for line in PAGE.splitlines() if line.startswith("    lagvae train")]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files of the page."""
    for language, block in re.findall(r"```(python|yaml)\n(.*?)```", PAGE, re.DOTALL):
        named = re.search(r"^# (mine/\S+)$", block, re.MULTILINE)
        file = tmp_path / (named[1] if named else "mynet.py")
        assert (language == "yaml") == bool(named)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as opened:
            opened.write(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_of_the_page_runs(page: Path, words: list[str]) -> None:
    keys = {word.lstrip("+").partition("=")[0].partition("._target_")[0] for word in words}
    array = ["data", "data.source"] if "data=array" in words else []
    keys -= {"data"}  # of which a command replaces only the source
    quick = [w for w in QUICK if w.partition("=")[0] not in array and not any(w.startswith(f"{key}.") for key in keys)]
    name = [] if "-m" in words else ["name=a"]
    done = program(page, *(w for w in quick if not array or not w.startswith("data.source")), *SHORT, *words, *name)
    assert done.status == 0, done.err
    if "-m" in words:
        assert "2 of 2 runs finished" in done.out
    elif "mynet.Spread" in " ".join(words):
        assert ("spread of z" in done.out) == ("final" in " ".join(words))


def test_the_last_line_of_the_page_loads_a_run(page: Path) -> None:
    assert program(page, *own(*SHORT, "family=vae", "model.encoder._target_=mynet.Net"), "name=a").status == 0
    line = next(line for line in PAGE.splitlines() if "lagvae.load" in line)
    found: dict[str, Any] = {"lagvae": lagvae}
    exec(line.strip().replace('"latest"', repr(str(page / "runs" / "a"))), found)
    assert found["model"].encode(torch.zeros(2, 8)).shape[0] == 2
