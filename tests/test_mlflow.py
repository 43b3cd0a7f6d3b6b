"""What MLflow has of a run, read back from the files that it keeps without a server."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow_stand_in
import pytest
from helpers import QUICK, program, refuses, settings

from lagvae.experiment.logger_settings import build_other_loggers
from lagvae.experiment.run import train
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import STEP, close, flat_results
from lagvae.runs.metrics_table import MetricsTable, read_rows
from lagvae.runs.mlflow_logger import RunMLFlowLogger

WORDS = ("logger=mlflow", "training.log_every=10", "name=grid/cell")


def test_without_its_package_it_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    refuses(program(tmp_path, *QUICK, *WORDS), "logger=", "pip install -e '.[mlflow]'")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of the files below a folder, which is its attribute `root`."""
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")  # Lightning sets it
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = MlflowClient((root / "mlruns").as_uri())
        client.root = root
        yield client


def run_of(client: Any, folder: RunFolder) -> Any:
    return client.get_run((folder.path / "mlflow" / "id").read_text().strip())


def curve(client: Any, run: Any, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def test_mlflow_has_the_rows_the_figures_the_settings_and_the_results_of_a_run(client: Any) -> None:
    summary = train(settings(client.root, *QUICK, *WORDS, "callbacks.figures=true"))
    folder = RunFolder(client.root / "runs" / "grid" / "cell")
    run = run_of(client, folder)
    rows: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in read_rows(folder.metrics):
        rows[f"{row['split']}/{row['name']}"].append((int(row["step"]), float(row["value"])))
    for key, points in rows.items():
        found = curve(client, run, key)
        assert [step for step, _ in found] == [step for step, _ in points], key
        assert [value for _, value in found] == pytest.approx([value for _, value in points], nan_ok=True), key
    results = flat_results(summary)
    numbers = {key: value for key, value in results.items() if not isinstance(value, str)}
    assert run.data.metrics.keys() == rows.keys() | numbers.keys() | {STEP}
    assert run.data.metrics["final/test/neg_elbo"] == pytest.approx(numbers["final/test/neg_elbo"])
    assert {key: run.data.tags[key] for key in results.keys() - numbers.keys()} == {
        key: value for key, value in results.items() if isinstance(value, str)
    }
    tags = {key: run.data.tags[key] for key in ("group", "job_type", "mlflow.runName")}
    assert tags == {"group": "grid", "job_type": "lagvae", "mlflow.runName": "grid/cell"}
    assert (run.data.params["alpha.q"], run.data.params["family"], run.info.status) == ("-1.0", "lagvae", "FINISHED")
    pictures = {f"figures/{path.name}" for path in folder.figures.glob("*.png")}
    assert pictures
    assert {item.path for item in client.list_artifacts(run.info.run_id, "figures")} == pictures


def test_a_resumed_run_continues_its_mlflow_run_and_has_every_row_once(client: Any) -> None:
    cfg = settings(client.root, *WORDS[:2], "name=resumed")
    folder = RunFolder(client.root / "runs" / "resumed")
    table = MetricsTable(folder.metrics, per_epoch=10)
    folder.path.mkdir(parents=True)
    for steps in ((10, 20, 30), (30, 40)):
        (logger,) = build_other_loggers(cfg, folder)
        assert run_of(client, folder).info.status == "RUNNING"
        table.cut(20)  # the step of the checkpoint
        for step in steps:
            for each in (table, logger):
                each.log_metrics({"train/rate": float(step)}, step)
                each.log_metrics({"val/rate": step + 0.5}, step)
            table.save()
            if step == 20:
                logger.save()
        close(logger, failed=True)
    run = run_of(client, folder)
    assert run.info.status == "FAILED"
    assert curve(client, run, "train/rate") == [(10, 10.0), (20, 20.0), (30, 30.0)], "the last step may have more values"
    assert [step for step, _ in curve(client, run, "val/rate")] == [10, 20, 30]
    (logger,) = build_other_loggers(cfg, folder)
    logger.log_metrics({"train/rate": 50.0}, 50)
    logger.save()
    assert [step for step, _ in curve(client, run, "train/rate")] == [10, 20, 30, 40, 50], "also what it had not been told"
    close(logger, failed=True)


def test_a_run_goes_on_where_mlflow_fails(client: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from mlflow.exceptions import MlflowException

    folder = RunFolder(client.root / "runs" / "lost")
    folder.path.mkdir(parents=True)
    (logger,) = build_other_loggers(settings(client.root, *WORDS[:2], "name=lost"), folder)

    def refuse(*args: Any, **settings: Any) -> None:
        raise MlflowException("the server is gone")

    monkeypatch.setattr(logger.experiment, "log_batch", refuse)  # type: ignore[attr-defined]
    for step in (10, 20, 30):
        logger.log_metrics({"train/rate": 1.0}, step)
    folder.write_summary({"splits": {}, "constraints": {}, "steps": 30})
    assert folder.finished
    assert capsys.readouterr().err.count("the server is gone") == 1


# ---- what a run tells MLflow, without the package


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")  # what a logger sets is undone
    return mlflow_stand_in.install(monkeypatch)


def logger_of(root: Path, *words: str, name: str = "grid/cell") -> tuple[RunFolder, Any]:
    folder = RunFolder(root / "runs" / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    (logger,) = build_other_loggers(settings(root, *WORDS[:2], f"name={name}", *words), folder)
    return folder, logger


def test_a_run_says_what_it_is_and_what_it_found(tmp_path: Path, clients: dict[str, Any]) -> None:
    folder, logger = logger_of(tmp_path)
    assert list(clients) == [(tmp_path / "mlruns").as_uri()], "beside runs/"
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"
    (client,) = clients.values()
    ((known, run),) = client.runs.items()
    assert (folder.path / "mlflow" / "id").read_text() == known
    tags = {"group": "grid", "job_type": "lagvae", "mlflow.runName": "grid/cell"}
    assert tags.items() <= run.data.tags.items()
    assert (run.data.params["alpha.q"], run.data.params["family"]) == ("-1.0", "lagvae")
    logger.log_metrics({"train/rate": 2.0}, 10)
    logger.log_metrics({"val/rate": 2.5}, 10)
    assert run.data.rows == [], "the step has not ended"
    logger.log_metrics({"train/rate": 3.0}, 20)
    assert run.data.rows == [(10, "train/rate", 2.0), (10, "val/rate", 2.5), (10, STEP, 10)]
    text = "x" * 6000
    summary = {"splits": {"val": {"rate": 4.0}}, "constraints": {}, "steps": 30, "verdict": text, "messages": []}
    folder.write_summary(summary)
    results = flat_results(folder.read_summary())
    texts = {key: value for key, value in results.items() if isinstance(value, str)}
    assert {key: run.data.tags[key] for key in texts} == {key: value[:5000] for key, value in texts.items()}
    numbers = {key: value for key, value in results.items() if key not in texts}
    assert "final/val/rate" in numbers
    assert [row for row in run.data.rows if row[0] == 20] == [(20, "train/rate", 3.0), (20, STEP, 20)], "what was waiting"
    assert sorted(row for row in run.data.rows if row[0] == 30) == sorted((30, key, float(v)) for key, v in numbers.items())
    assert run.info.status == "FINISHED"


def test_a_run_goes_on_in_its_mlflow_run(tmp_path: Path, clients: dict[str, Any]) -> None:
    _, logger = logger_of(tmp_path)
    logger.log_metrics({"train/rate": 2.0}, 10)
    close(logger)
    (client,) = clients.values()
    (run,) = client.runs.values()
    assert run.info.status == "RUNNING"
    close(logger, failed=True)
    assert run.info.status == "FAILED"
    _, again = logger_of(tmp_path)
    assert (len(client.runs), run.info.status, again.known_to) == (1, "RUNNING", 10)
    for step in (10, 20):
        again.log_metrics({"train/rate": float(step)}, step)
    close(again)
    assert [row for row in run.data.rows if row[1] == "train/rate"] == [(10, "train/rate", 2.0), (20, "train/rate", 20.0)]
    again.leave(failed=False)
    assert run.info.status == "FINISHED"


def test_a_run_that_is_resumed_after_training_has_its_curves(tmp_path: Path, clients: dict[str, Any]) -> None:
    """The process that trained it was killed before MLflow had them."""
    folder, _ = logger_of(tmp_path)
    table = MetricsTable(folder.metrics, per_epoch=10)
    for step in (10, 20):
        table.log_metrics({"train/rate": float(step)}, step)
    table.save()
    folder.unfollow()  # what is left of a process that was killed
    logger_of(tmp_path)
    folder.write_summary({"splits": {}, "constraints": {}, "steps": 20, "verdict": "met", "messages": []})
    (client,) = clients.values()
    (run,) = client.runs.values()
    assert [row for row in run.data.rows if row[1] == "train/rate"] == [(10, "train/rate", 10.0), (20, "train/rate", 20.0)]


def test_other_processes_of_a_run_begin_none(tmp_path: Path, clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}.items():
        monkeypatch.setenv(name, value)
    folder, _ = logger_of(tmp_path)
    assert not any(client.runs for client in clients.values())
    assert not (folder.path / "mlflow").exists()


def test_a_server_that_fails_is_named_once_and_told_no_more(
    tmp_path: Path, clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    folder, logger = logger_of(tmp_path)
    assert list(clients) == ["http://there"]
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    client, tried = clients["http://there"], []

    def refuse(**batch: Any) -> None:
        tried.append(batch)
        raise mlflow_stand_in.MlflowException("it is gone\nand more")

    client.log_batch = refuse
    for step in (10, 20, 30):
        logger.log_metrics({"train/rate": 1.0}, step)
    folder.write_summary({"splits": {}, "constraints": {}, "steps": 30, "verdict": "met"})
    assert len(tried) == 1
    assert " ".join(capsys.readouterr().err.split()).endswith("MLflow takes no more of " + str(folder.path) + ": it is gone")
    (run,) = client.runs.values()
    assert run.info.status == "RUNNING"
    logger.end(failed=True)
    assert run.info.status == "RUNNING"


def test_settings_of_the_logger_reach_mlflow(tmp_path: Path, clients: dict[str, Any]) -> None:
    config = {"paths": {"root": str(tmp_path)}, "name": "one", "family": "vae"}
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.path.mkdir(parents=True)
    RunMLFlowLogger(folder, config, experiment_name="mine", run_name=None, tracking_uri="http://here", tags={"a": "b"})
    (run,) = clients["http://here"].runs.values()
    assert run.info.experiment_id == "mine"
    assert (run.data.tags["a"], run.data.tags["mlflow.runName"]) == ("b", "one"), "null is as if it were not there"
