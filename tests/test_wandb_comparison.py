"""The W&B run of a comparison: its table, its page, its figures as pictures and charts, and the run that it continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import wandb
from pareto_runs import write_run
from wandb_files import Offline, kill_core, read_offline

from lagvae.pareto.report import compare
from lagvae.runs import wandb_comparison
from lagvae.runs.layout import RunFolder
from lagvae.runs.wandb_logger import wandb_id
from lagvae.runs.wandb_view import charts


def in_wandb(folder: Path, name: str, family: str, alpha: float, point: tuple[float, float], **settings: Any) -> None:
    """Write a finished run that was logged to W&B, in a sweep named grid."""
    node = {"_target_": "pytorch_lightning.loggers.WandbLogger", "project": "mine", "mode": "offline", "group": None}
    write_run(folder / name, family, alpha, point, settings={"logger": {"wandb": node}, "name": f"grid/{name}"}, **settings)
    wandb_id(RunFolder(folder / name))


def table_of(folder: Path, offline: Offline) -> list[dict[str, Any]]:
    """The rows of the table of a W&B run."""
    (value,) = offline.history["pareto"]
    return rows_of(folder, value)


def chart_of(folder: Path, offline: Offline, figure: str) -> list[dict[str, Any]]:
    """The points of a chart of a W&B run, which W&B draws from a table by the settings of the chart."""
    settings = offline.changes["_wandb"]["visualize"][f"charts/{figure}"]["panel_config"]
    (value,) = offline.history[f"charts/{figure}_table"]
    rows = rows_of(folder, value)
    assert settings["fieldSettings"].keys() == {"x", "y"}
    assert set(settings["fieldSettings"].values()) <= rows[0].keys()
    return rows


def rows_of(folder: Path, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    (run,) = (folder / "wandb").glob("offline-run-*")
    content = json.loads((run / "files" / value["path"]).read_text(encoding="utf-8"))
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def test_a_comparison_has_a_wandb_run_with_its_table_figures_and_runs(tmp_path: Path) -> None:
    sweep = tmp_path / "runs" / "grid"
    in_wandb(sweep, "a", "lagvae", -1.0, (5.0, 23.0), gamma=1.0)
    in_wandb(sweep, "b", "lagvae", -1.0, (6.0, 24.0), gamma=2.0)
    in_wandb(sweep, "1e3", "infovae", 1.0, (2.0, 21.0))
    compare([sweep])
    out = sweep / "pareto-analysis"
    found = read_offline(out)
    run = found.run
    assert (run.project, run.run_group, run.job_type, run.display_name) == ("mine", "grid", "sweep", "grid compared")
    assert set(run.tags) == {"lagvae", "infovae", "digits", "mlp", "maximize I_q", "minimize I_q"}
    ids = {name: wandb_id(RunFolder(sweep / name)) for name in ("a", "b", "1e3")}
    assert found.config["runs"] == ids
    rows = table_of(out, found)
    assert len(rows) == 6, "a row for each run and split"
    (row,) = (row for row in rows if (row["run"], row["split"]) == ("a", "train"))
    assert (row["neg_elbo"], row["lower"], row["gamma"], row["verdict"], row["wandb_run"]) == (23, 5, 1, "met", ids["a"])
    assert {row["gamma"] for row in rows if row["run"] == "1e3"} == {None}
    media = {key: value for key, (value,) in found.history.items() if key.startswith("figures/")}
    assert {key: value["caption"].split(":")[0] for key, value in media.items()} == {
        "figures/figure1": "Figure 1",
        "figures/figure2": "Figure 2",
    }
    (page,) = found.history["pareto_page"]
    assert {key for chart in charts([])["Comparisons"] for key in chart.y} <= found.history.keys(), "what the dashboard shows"
    assert (page["_type"], page["size"]) == ("html-file", (out / "pareto.html").stat().st_size)
    shown = {axis: chart_of(out, found, figure) for figure, axis in (("figure1", "gamma"), ("figure2", "neg_elbo"))}
    assert [(point["gamma"], point["i_q"], point["run"]) for point in shown["gamma"]] == [(1, 5, "a"), (2, 6, "b")]
    assert {(point["neg_elbo"], point["i_q"]) for point in shown["neg_elbo"]} == {(23, 5), (24, 6), (21, 2)}
    assert found.exit == 0
    compare([sweep])
    assert len([*(out / "wandb").glob("offline-run-*")]) == 1, "wandb sync finds the last one, which is whole"
    assert len([*(out / "wandb" / "former").glob("offline-run-*")]) == 1


def test_a_comparison_made_again_continues_its_wandb_run_and_others_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[dict[str, Any]] = []

    def refuse(**settings: Any) -> Any:
        started.append(settings)
        raise wandb.errors.CommError("no such entity")

    monkeypatch.setattr(wandb, "init", refuse)
    write_run(tmp_path / "runs" / "plain" / "a", "lagvae", -1.0, (5.0, 23.0), gamma=1.0)
    compare([tmp_path / "runs" / "plain"])
    assert started == []
    in_wandb(tmp_path / "runs" / "grid", "a", "lagvae", -1.0, (5.0, 23.0), gamma=1.0)
    for _ in range(2):
        compare([tmp_path / "runs" / "grid"])
    assert (started[0]["id"], started[0]["resume"]) == (started[1]["id"], "allow")
    assert "W&B did not take the comparison in" in capsys.readouterr().err


def test_the_table_of_a_comparison_links_its_runs_on_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Online:
        offline, url, logged = False, "https://wandb.mine.org/me/mine/runs/compared", dict[str, Any]()

        def log(self, values: dict[str, Any]) -> None:
            self.logged |= values

        def finish(self) -> None: ...

    monkeypatch.setattr(wandb, "init", lambda **settings: Online())
    sweep = tmp_path / "runs" / "grid"
    in_wandb(sweep, "a", "lagvae", -1.0, (5.0, 23.0), gamma=1.0)
    compare([sweep])
    address = f"https://wandb.mine.org/me/mine/runs/{wandb_id(RunFolder(sweep / 'a'))}"
    assert {row[-1] for row in Online.logged["pareto"].data} == {address}


def test_a_comparison_is_whole_where_the_process_of_wandb_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "runs" / "grid"
    in_wandb(sweep, "a", "lagvae", -1.0, (5.0, 23.0), gamma=1.0)
    in_wandb(sweep, "b", "infovae", -1.0, (6.0, 24.0))
    charts = wandb_comparison.figure_charts

    def killed(*given: Any) -> dict[str, Any]:
        kill_core()
        return charts(*given)

    with monkeypatch.context() as patch:
        patch.setattr(wandb_comparison, "figure_charts", killed)
        compare([sweep])
    assert "W&B did not take the comparison" in capsys.readouterr().err
    assert (sweep / "pareto-analysis" / "pareto.html").is_file()
    assert wandb.run is None
    compare([sweep])
    assert len(table_of(sweep / "pareto-analysis", read_offline(sweep / "pareto-analysis"))) == 4
