"""`lagvae watch`: what the files of runs and sweeps say of them while another process trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import program
from rich.console import Console

from lagvae.cli import watch as module
from lagvae.cli.watch import Curves, JobFiles, View, WatchedRun, bounded, find_view, since, sparkline, watch
from lagvae.errors import SettingError
from lagvae.runs.layout import RunFolder
from lagvae.terminal import short_names

STEPS = 100
FAMILIES = ("lagvae", "infovae")

RESULTS = {
    "splits": {"train": {"i_q_lower": 4.0, "i_q_upper": 5.0}},
    "constraints": {"neg_elbo": {"divergence": 24.25, "bound": 24.5, "multiplier": 0.5, "learned": True}},
    "verdict": "met",
    "steps": STEPS,
    "messages": [],
}


def config_of(root: Path, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "family": "lagvae",
        "alpha": {"q": -1.0, "p": 0.0},
        "data": {"name": "digits"},
        "training": {"steps": STEPS},
        "constraints": {"neg_elbo": {"learned": True}, "mmd": {"learned": False}},
        "paths": {"runs": str(root / "runs")},
    }


def rows(*steps: int) -> str:
    lines = []
    for step in steps:
        named = {
            "train/neg_elbo": 26.0 - step / 100,
            "train/violation/neg_elbo": 1.5 - step / 100,
            "train/multiplier/neg_elbo": step / 100,
            "train/mmd": 0.002,
            "train/multiplier/mmd": 1000.0,
            "train_probe/constraint/neg_elbo": 25.0,
            "train_probe/i_q_lower": 3.0,
            "train_probe/i_q_upper": 3.5,
        }
        for key, value in named.items():
            split, _, name = key.partition("/")
            lines.append(f"{step},1,{split},{name},{value}\n")
    return "".join(lines)


def own(folder: Path, pid: int | None = None, ago: float = 60.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - ago))
    note = {"host": socket.gethostname(), "pid": pid or os.getpid(), "since": began}
    (folder / ".owner.json").write_text(json.dumps(note))


def make_run(root: Path, name: str, *steps: int, owned: bool = False) -> RunFolder:
    run = RunFolder(root / "runs" / name)
    run.path.mkdir(parents=True)
    run.config.write_text(yaml.safe_dump(config_of(root, name)))
    if steps:
        run.metrics.write_text("step,epoch,split,name,value\n" + rows(*steps))
    if owned:
        own(run.path)
    return run


def make_job(root: Path, *names: str, kind: str = "train", owned: bool = True, **progress: Any) -> Path:
    folder = root / "runs" / ".jobs" / f"{kind}-{len(names)}"
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps({"kind": kind, "runs": [config_of(root, n) for n in names], "options": {}}))
    if progress:
        (folder / "progress.json").write_text(json.dumps(progress))
    if owned:
        own(folder)
    return folder


def seen(view: View) -> str:
    console = Console(width=80, file=StringIO(), record=True)
    console.print(view.look())
    return console.export_text()


def line_of(text: str, *words: str) -> str:
    (line,) = (line for line in text.splitlines() if all(word in line for word in words))
    return line


def test_a_run_in_training_is_shown_against_its_bounds(tmp_path: Path) -> None:
    make_run(tmp_path, "one", 10, 20, 40, owned=True)
    said = program(tmp_path, "one", script="watch")
    assert (said.status, said.err, said.new) == (0, "", set())
    assert line_of(said.out, "one ", "training")
    assert line_of(said.out, "step 40 of 100: lagvae, digits, maximize I_q")
    assert line_of(said.out, "−ELBO").split() == ["−ELBO", "25", "24.5", "0.4", "▁▃█"]
    assert line_of(said.out, "MMD").split() == ["MMD", "0.002", "–", "1e+03"], "neither a bound nor a curve: its λ is fixed"
    assert line_of(said.out, "I_q ", " to ").split() == ["I_q", "3.00", "to", "3.50"]
    assert "27%" in said.out, "40 of 100 steps, and half as long to measure it"


def test_a_finished_run_is_shown_as_it_ended(tmp_path: Path) -> None:
    make_run(tmp_path, "one", 50, 100).write_summary(RESULTS)
    said = program(tmp_path, "one", script="watch")
    assert line_of(said.out, "one ", "finished")
    assert line_of(said.out, "step 100 of 100", "met")
    assert line_of(said.out, "−ELBO").split()[1:4] == ["24.25", "24.5", "0.5"]
    assert line_of(said.out, "I_q ", " to ").split() == ["I_q", "4.00", "to", "5.00"]
    assert "100%" in said.out


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_every_state_of_a_run_is_told_from_its_files(tmp_path: Path) -> None:
    make_run(tmp_path, "s/training", 40, owned=True)
    make_run(tmp_path, "s/measuring", 100, owned=True)
    make_run(tmp_path, "s/trained", 100)
    make_run(tmp_path, "s/stopped", 40)
    own(make_run(tmp_path, "s/killed", 40).path, ended_process())
    make_run(tmp_path, "s/finished", 100).write_summary(RESULTS)
    make_run(tmp_path, "s/damaged", 100).summary.write_text('{"cut')
    make_run(tmp_path, "s/failed", 40).failure.write_text('{"error": "it diverged"}')
    view = find_view(tmp_path / "runs", "s")
    text = seen(view)
    states = {run.name: run.state for run in view.watched.values()}
    assert states.pop("killed") == "stopped"
    assert states.pop("damaged") == "trained"
    assert states == {name: name for name in states}
    assert len(states) == 6
    counted = text.splitlines()[0]
    assert counted.split(maxsplit=1)[1] == "1 failed, 1 training, 1 measuring, 2 stopped, 2 trained, 1 finished"
    assert "it diverged" in text
    assert not view.ended


def test_runs_of_a_sweep_that_do_not_exist_yet_wait(tmp_path: Path) -> None:
    """The jobs that have no result name them, and those that train together say how far they are."""
    make_run(tmp_path, "s/a", 10, owned=True)
    job = make_job(tmp_path, "s/a", "s/b", steps=60)
    make_job(tmp_path, "s/c", owned=False)
    (tmp_path / "runs" / ".jobs" / "train-1" / "result.json").write_text("{}")
    make_job(tmp_path, "other/d", "other/e", "other/f")
    (job / "log.txt").write_text("first\nwhat it said last\n  warn(\n\n")
    view = find_view(tmp_path / "runs", "s")
    text = seen(view)
    assert line_of(text, "1 training, 1 waiting")
    assert line_of(text, " a ", "training").split()[2] == "30", "60 steps of two runs"
    assert line_of(text, " b ", "waiting")
    assert {run.name for run in view.watched.values()} == {"a", "b"}
    assert text.rstrip().endswith("what it said last")


def test_a_sweep_that_calibrates_has_no_folder_yet(tmp_path: Path) -> None:
    make_job(tmp_path, "s/a", "s/b", owned=False)
    make_job(tmp_path, "s/a", kind="calibrate")
    calibration = tmp_path / "calibrations" / "digits-1234"
    own(calibration)
    (calibration / "metrics.csv").write_text("step,epoch,split,name,value\n" + rows(30))
    said = program(tmp_path, "s", script="watch")
    assert said.status == 0
    assert line_of(said.out, "2 waiting")
    assert line_of(said.out, "calibrating digits-1234: step 30")


IDLE = "No process works on "


def test_runs_that_no_process_works_on_are_told_with_what_goes_on_with_them(tmp_path: Path) -> None:
    """A sweep that was killed has jobs whose process has ended, and runs that have not begun."""
    own(make_run(tmp_path, "s/a", 10).path, ended_process())
    own(make_job(tmp_path, "s/a", "s/b", owned=False), ended_process())
    text = seen(find_view(tmp_path / "runs", "s"))
    assert line_of(text, "1 stopped, 1 waiting")
    assert " ".join(text.split()).endswith("Where none waits in a queue, the command of the sweep goes on with them.")
    make_run(tmp_path, "alone", 10)
    assert "resume=alone" in line_of(seen(find_view(tmp_path / "runs", "alone")), IDLE)


@pytest.mark.parametrize("busy", ["run", "job", "calibration", "none left"])
def test_nothing_is_said_of_resuming_where_a_process_works_or_all_have_ended(tmp_path: Path, busy: str) -> None:
    run = make_run(tmp_path, "s/a", 10, owned=busy == "run")
    if busy == "job":
        make_job(tmp_path, "s/a", "s/b")
    elif busy == "calibration":
        own(tmp_path / "calibrations" / "digits-1234")
    elif busy == "none left":
        run.write_summary(RESULTS)
    assert IDLE not in seen(find_view(tmp_path / "runs", "s"))


def test_eighty_columns_hold_it(tmp_path: Path) -> None:
    for k in range(3):
        make_run(tmp_path, f"s/{'long-' * 20}{k}", 10, 20, 30, 40, 50, 60, 70, 80, 90, owned=True)
    said = program(tmp_path, "s", script="watch")
    assert max(map(len, said.out.splitlines())) <= 80
    assert said.out.count("24.5") == said.out.count("3.00 to 3.50") == 3
    assert "long-long-" in said.out
    assert {line.split()[0] for line in said.out.splitlines() if "24.5" in line} == {"long-0", "long-1", "long-2"}


def test_runs_of_a_sweep_are_told_apart_where_their_names_are_too_long(tmp_path: Path) -> None:
    """Families, signs and last settings are seen beside the longest verdict; what all share is said once."""
    summary = RESULTS | {"verdict": "met, not converged"}
    of_all = [
        f"{family}-q{sign}-neg_elbo{weight}-mmd300-seed0" for family in FAMILIES for sign in (-1, 1) for weight in (1, 10)
    ]
    for name in of_all:
        make_run(tmp_path, f"s/{name}", 100).write_summary(summary)
    said = program(tmp_path, "s", script="watch").out
    names = [line.split()[0] for line in said.splitlines() if "met" in line]
    assert len(set(names)) == len(of_all)
    assert all(name.startswith(FAMILIES) for name in names)
    assert max(map(len, said.splitlines())) <= 80
    assert "…-mmd300-seed0" in said
    make_run(tmp_path, "s/lagvae", 100)
    assert line_of(program(tmp_path, "s", script="watch").out, "lagvae "), "a name that others begin with is whole"


@pytest.mark.parametrize("room", [12, 15, 20, 25])
def test_names_that_are_cut_differ(room: int) -> None:
    """In signs, exponents and settings in the middle too, for which a name may take two lines."""
    both = ("0", "1")
    names = [f"lagvae-q{a}-beta1e-0{b}-gamma{g}-seed{s}" for a in ("-1", "-2", "1") for b in "45" for g in both for s in both]
    short, shared = short_names(names, room)
    assert len(set(short)) == len(names)
    assert shared == "lagvae-…"
    assert {name[:3] for name in short} == {"q-1", "q-2", "q1-"}
    assert short_names([], room) == ([], "")


def test_a_name_with_brackets_is_shown_as_it_is(tmp_path: Path) -> None:
    for k in range(2):
        make_run(tmp_path, f"s/[bold]-{'long-' * 12}a{k}", 10)
    assert "[bold]-long" in program(tmp_path, "s", script="watch").out


def test_a_low_terminal_shows_the_first_runs_and_counts_the_rest(tmp_path: Path) -> None:
    for k in range(20):
        make_run(tmp_path, f"s/{k}", 10)
    console = Console(width=80, height=20, file=StringIO(), record=True)
    console.print(find_view(tmp_path / "runs", "s").look(height=20))
    text = console.export_text()
    assert len(text.splitlines()) <= 20
    assert "9 more" in text


def test_what_is_no_run_is_answered_in_a_line(tmp_path: Path) -> None:
    make_run(tmp_path, "mine", 10)
    said = program(tmp_path, "yours", script="watch")
    assert (said.status, said.out) == (1, "")
    assert "'yours' is not a folder of runs" in said.err
    assert "There are mine." in said.err


def test_curves_read_what_is_new_and_start_again_where_rows_were_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    curves = Curves(path)
    curves.read()
    assert (curves.step, curves.last("train/mmd")) == (0, None)
    path.write_text("step,epoch,split,name,value\n10,1,train,mmd,1.0\n20,1,train,mmd,2.")
    curves.read()
    assert (curves.step, curves.values) == (10, {"train/mmd": [1.0]}), "half a row is none"
    with path.open("a") as file:
        file.write("5\n\0damaged,row\n30,1,train,mmd,3.0\n30,1,train,rate,\n")
    curves.read()
    assert (curves.step, curves.values) == (30, {"train/mmd": [1.0, 2.5, 3.0]})
    path.write_text("step,epoch,split,name,value\n10,1,train,mmd,1.0\n")
    curves.read()
    assert (curves.step, curves.values) == (10, {"train/mmd": [1.0]})


def test_the_time_left_is_that_of_the_work_that_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1.8e9]
    monkeypatch.setattr(module.time, "time", lambda: clock[0])
    run = make_run(tmp_path, "one", 50, owned=True)
    view = find_view(tmp_path / "runs", "one")
    assert "0:02:00 left" in seen(view), "50 of 150 in the first minute"
    clock[0] += 10
    run.metrics.write_text(run.metrics.read_text() + rows(60))
    assert "0:01:30 left" in seen(view), "10 in ten seconds, 90 to go"


def test_the_time_left_of_a_sweep_is_by_the_process_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is measured has an owner since a moment ago, and its job since a minute."""
    monkeypatch.setattr(module.time, "time", lambda: 1.8e9)
    own(make_run(tmp_path, "s/a", 100).path, ago=1)
    make_job(tmp_path, "s/a")
    make_run(tmp_path, "s/of-another-job", 100).write_summary(RESULTS)
    assert "0:00:30 left" in seen(find_view(tmp_path / "runs", "s")), "100 of 150 in the first minute"


def test_a_terminal_shows_it_until_the_last_run_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, "one", 40, owned=True)
    looks = []

    def finish(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            run.write_summary(RESULTS)

    monkeypatch.setattr(module.time, "sleep", finish)
    monkeypatch.setattr(module, "Console", lambda **own: Console(force_terminal=True, width=80, height=30, **own))
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path))
    watch(tmp_path, ["one"])
    assert len(looks) == 2
    out = capsys.readouterr().out
    assert out.index("training") < out.index("finished")


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "failure.json", ".owner.json", "summary.json"])
def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path, "one", 40, owned=True)
    (run.path / name).write_bytes(b"\xff{[\0")
    said = program(tmp_path, "one", script="watch")
    assert (said.status, said.err) == (0, "")


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 4, ""),
        ([2.0, 2.0], 4, "▁▁"),
        ([0.0, float("nan"), 7.0], 4, "▁█"),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 3, "▁▁█"),
    ],
)
def test_a_sparkline_ends_with_the_last_value(values: list[float], width: int, line: str) -> None:
    assert sparkline(values, width) == line


def test_who_owns_a_folder_is_alive_on_this_machine_or_taken_at_his_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "one"
    assert since(folder) is None
    own(folder)
    began = since(folder)
    assert began is not None
    assert time.time() - began == pytest.approx(60, abs=5)
    own(folder, ended_process())
    assert since(folder) is None
    note = json.loads((folder / ".owner.json").read_text())
    (folder / ".owner.json").write_text(json.dumps(note | {"host": "another machine"}))
    assert since(folder) == time.mktime(time.strptime(note["since"], "%Y-%m-%d %H:%M:%S"))
    for lost in ("host", "pid", "since"):
        (folder / ".owner.json").write_text(json.dumps({key: value for key, value in note.items() if key != lost}))
        assert since(folder) is None
    own(folder)

    def of_another_user(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", of_another_user)
    assert since(folder) == pytest.approx(time.time(), abs=5)


def test_the_message_of_a_job_is_its_last_line_that_tells_something(tmp_path: Path) -> None:
    job = JobFiles(tmp_path, "train", [{}, {}], None)
    assert (job.message, job.steps) == ("", 0)
    for text, told in {
        "first\nsecond \n\n": "second",
        "told\nfile.py:3: UserWarning: beware\n  warnings.warn(\n": "told",
        "file.py:3: UserWarning: beware\n": "",
        "told\ndata=digits: grey images of shape (1, 8, 8)\n": "told",
        "told\nwandb: View this run in the terminal with `wandb leet`\n": "told",
    }.items():
        (tmp_path / "log.txt").write_text(text)
        assert job.message == told
    (tmp_path / "progress.json").write_text('{"steps": 61}')
    assert job.steps == 30
    (tmp_path / "progress.json").write_text("[61]")
    assert job.steps == 0


def test_what_settings_leave_open_is_shown_as_far_as_it_is_known(tmp_path: Path) -> None:
    run = WatchedRun(RunFolder(tmp_path), "one")
    assert (run.steps, run.constraints(), run.interval("q"), run.sides) == (0, {}, None, ["q"])
    run.config = {"constraints": {"a": {}, "b": None, "c": {"learned": False}}, "alpha": {"q": 0.0, "p": 2.0}}
    assert {name: c["learned"] for name, c in run.constraints().items()} == {"a": True, "b": False, "c": False}
    assert {(c["divergence"], c["bound"], c["multiplier"]) for c in run.constraints().values()} == {(None, None, None)}
    assert run.sides == ["p"]
    run.curves.values = {"train/a": [3.0, 4.0], "train/violation/a": [0.5, -1.0], "train_probe/i_p_lower": [1.0]}
    assert run.constraints()["a"]["divergence"] == 4.0
    assert run.constraints()["a"]["bound"] == 5.0
    assert run.interval("p") is None, "an interval has two ends"
    run.curves.values |= {"train_probe/i_p_upper": [1.5]}
    assert run.interval("p") == (1.0, 1.5)
    run.config["alpha"] = {"q": -1.0, "p": 2.0}
    assert run.sides == ["q", "p"]


@pytest.mark.parametrize(
    ("value", "bound", "shown", "style"),
    [
        (24.0, 24.5, ("24", "24.5"), ""),
        (24.5, 24.5, ("24.5", "24.5"), ""),
        (24.61, 24.5, ("24.61", "24.5"), "red"),
        (123456.0, None, ("1.235e+05", "–"), ""),
        (None, 24.5, ("–", "24.5"), ""),
        (float("nan"), None, ("–", "–"), ""),
    ],
)
def test_a_value_above_its_bound_is_red(value: float | None, bound: float | None, shown: tuple[str, str], style: str) -> None:
    text, of_bound = bounded({"divergence": value, "bound": bound})
    assert ((text.plain, of_bound), text.style) == (shown, style)


def test_a_line_of_a_sweep_says_how_its_run_is(tmp_path: Path) -> None:
    make_run(tmp_path, "s/learned", 10, 20, 40, owned=True)
    fixed = make_run(tmp_path, "s/fixed", 30)
    fixed.config.write_text(yaml.safe_dump(config_of(tmp_path, "s/fixed") | {"constraints": {"mmd": {"learned": False}}}))
    with fixed.metrics.open("a") as file:
        file.write("30,1,train_probe,neg_elbo,23.456\n")
    make_run(tmp_path, "s/met", 50, 100).write_summary(RESULTS)
    make_run(tmp_path, "s/[new]")
    text = seen(find_view(tmp_path / "runs", "s"))
    found = {words[0]: words[1:] for line in text.splitlines()[2:] if (words := line.split())}
    assert found["learned"] == ["training", "40", "25", "24.5", "3.00", "to", "3.50", "▁▃█"]
    assert found["fixed"] == ["stopped", "30", "23.46", "3.00", "to", "3.50"]
    assert found["met"] == ["met", "100", "24.25", "24.5", "4.00", "to", "5.00", "▁█"]
    assert found["[new]"] == ["stopped", "0", "–", "–", "–"]


def test_a_long_verdict_leaves_room_for_names(tmp_path: Path) -> None:
    for name in ("infovae-q-1-mmd3", "infovae-q1-mmd15"):
        make_run(tmp_path, f"s/{name}", 50, 100).write_summary(RESULTS | {"verdict": "met, calibration too short"})
    lines = seen(find_view(tmp_path / "runs", "s")).splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if "met, calibration…" in line and "mmd" in line]) == 2


def test_a_folder_without_runs_is_not_watched(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match="holds no runs"):
        find_view(tmp_path / "runs", str(tmp_path / "empty"))


def test_as_many_runs_are_shown_as_there_is_room_for_and_three_at_least(tmp_path: Path) -> None:
    for k in range(5):
        make_run(tmp_path, f"s/{k}", 10)
    for height, counted in ((5, "2 more"), (12, "2 more"), (13, "1 more"), (14, None)):
        console = Console(width=80, file=StringIO(), record=True)
        console.print(find_view(tmp_path / "runs", "s").look(height=height))
        text = console.export_text()
        assert ("more" in text) == (counted is not None)
        assert counted is None or counted in text


def test_no_time_is_told_where_nothing_is_known_of_it(tmp_path: Path) -> None:
    make_run(tmp_path, "s/a", 100).write_summary(RESULTS)
    assert "left" not in seen(find_view(tmp_path / "runs", "s")), "nothing is left"
    make_run(tmp_path, "s/b", 10)
    assert "left" not in seen(find_view(tmp_path / "runs", "s")), "nobody works on it"
    make_run(tmp_path, "t/c", owned=True)
    assert "left" not in seen(find_view(tmp_path / "runs", "t")), "nothing is done yet"


def test_a_narrow_terminal_cuts_words_and_no_line_in_two(tmp_path: Path) -> None:
    make_run(tmp_path, "a-name-that-is-long", 10, 20, 30, 40, owned=True)
    view, shown = find_view(tmp_path / "runs", "a-name-that-is-long"), {}
    for width in (28, 44):
        console = Console(width=width, file=StringIO(), record=True)
        console.print(view.look(width=width))
        shown[width] = console.export_text().splitlines()
    assert shown[28][0] == "a-name-that-is-lo…  training"
    assert shown[28][1].partition("27%")[0] == "━━" + 9 * " ", "a bar as wide as what is left"
    assert shown[44][0] == "a-name-that-is-long" + 17 * " " + "training"
    (head,) = [line for line in shown[44] if "value" in line]
    assert "λ over st" in head
    (line,) = [line for line in shown[44] if "▁▃▆█" in line]
    assert line.split()[-4:] == ["25", "24.5", "0.4", "▁▃▆█"]
