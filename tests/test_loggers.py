"""What W&B and TensorBoard have of a run, read back from the files that they write without a server."""

from __future__ import annotations

import json
import socket
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import wandb
from helpers import QUICK, SHORT, settings
from PIL import Image, PngImagePlugin
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer import event_file_writer
from wandb_files import Offline, kill_core, read_offline

from lagvae.errors import SettingError
from lagvae.experiment.figures import CAPTIONS
from lagvae.experiment.run import train
from lagvae.runs import loggers, wandb_logger
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import close, flat_results, log_picture, replay, wandb_tags
from lagvae.runs.metrics_table import MetricsTable, read_rows
from lagvae.runs.tensorboard_logger import RunTensorBoardLogger
from lagvae.runs.wandb_logger import build_wandb_logger, calibration_of, has_key, wandb_id, wandb_mode
from lagvae.runs.wandb_view import ProjectRuns, ask_runs, charts, make_report, make_view, run_columns, save_dashboard

SUMMARY = {
    "splits": {"train": {"rate": 1.5, "rate_stderr": 0.1, "i_q_lower_by": "rate"}},
    "constraints": {"neg_elbo": {"bound": 2.0, "calibrated": None, "verdict": "active"}},
    "convergence": {"gain": None, "drift": {"neg_elbo": 0.5}},
    "verdict": "met",
    "steps": 7,
    "messages": ["one", "two"],
}


@dataclass
class Logged:
    folder: RunFolder
    summary: dict[str, Any]
    offline: Offline


SECRET = "swordfish-4711"
"""Such as a password, which a setting of the runs below takes from the environment."""


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """A run of a sweep that both loggers were told of."""
    root = tmp_path_factory.mktemp("root")
    wandb_words = ("mode=offline", "artifacts=true", "tags=mine")
    cfg = settings(
        root,
        *QUICK,
        "callbacks.figures=true",
        "training.log_every=10",
        "name=mysweep/cell",
        "logger=[wandb,tensorboard]",
        *(f"logger.wandb.{word}" for word in wandb_words),
    )
    cfg.paths.data = "${oc.env:SECRET}/data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET", SECRET)
        summary = train(cfg)
    folder = RunFolder(root / "runs" / "mysweep" / "cell")
    return Logged(folder, summary, read_offline(folder.path))


# ---- W&B


def test_wandb_has_the_results_of_a_run_with_errors_bounds_and_verdict(logged: Logged) -> None:
    kept, summary = logged.offline.summary, logged.summary
    for split, values in summary["splits"].items():
        for name, value in values.items():
            found = kept[f"final/{split}/{name}"]
            assert found == (None if value != value else value if isinstance(value, str) else pytest.approx(value)), name
    assert "final/test/neg_elbo_stderr" in kept
    for name, c in summary["constraints"].items():
        for key in ("bound", "divergence", "stderr", "multiplier", "violation"):
            assert kept[f"constraint/{name}/{key}"] == pytest.approx(c[key])
        assert kept[f"constraint/{name}/verdict"] == c["verdict"]
    assert kept["verdict"] == summary["verdict"]
    assert logged.offline.exit == 0


def test_wandb_has_the_curves_of_a_run_and_none_of_one_point(logged: Logged) -> None:
    history = logged.offline.history
    rows = read_rows(logged.folder.metrics)
    written: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        written[f"{row['split']}/{row['name']}"].append(float(row["value"]))
    curves = {key: values for key, values in history.items() if not isinstance(values[0], dict) and key[0] != "_"}
    assert curves.keys() == written.keys() | {loggers.STEP}
    assert [key for key, values in curves.items() if len(values) < 2] == []
    assert curves["train/rate"] == pytest.approx(written["train/rate"])
    named = {"train/neg_elbo", "train/rate", "train/distortion", "train_probe/i_q_lower", "train_probe/i_q_upper"}
    for name in ("neg_elbo", "mmd"):
        named |= {f"train/multiplier/{name}", f"train/violation/{name}"}
    assert named <= curves.keys()


def test_wandb_draws_curves_over_training_steps_and_keeps_the_smallest_neg_elbo(logged: Logged) -> None:
    metrics, history = logged.offline.metrics, logged.offline.history
    assert metrics["*"].step_metric == "trainer/global_step"
    pictures = sum(key.startswith("figures/") for key in history)
    assert history["trainer/global_step"] == [10, 20, 30, 40] + [40] * pictures
    assert len(history["train/rate"]) == len(history["train/multiplier/mmd"]) == 4
    for key in ("train/neg_elbo", "train_probe/neg_elbo", "val/neg_elbo"):
        assert metrics[key].step_metric == "trainer/global_step"
        assert logged.offline.summary[key] == pytest.approx({"min": min(history[key]), "last": history[key][-1]})


def test_wandb_groups_runs_by_sweep_and_family_and_tags_them(logged: Logged) -> None:
    run = logged.offline.run
    assert (run.project, run.run_group, run.job_type, run.display_name) == ("lagvae", "mysweep", "lagvae", "mysweep/cell")
    assert list(run.tags) == ["lagvae", "linear_gaussian", "mlp", "maximize I_q", "mine"]


def test_the_config_in_wandb_is_that_of_the_run(logged: Logged) -> None:
    """W&B shows and searches it under dotted keys, as a command line has them: alpha.q."""
    config = logged.offline.config
    assert config["alpha"]["q"] == -1
    assert config["constraints"]["neg_elbo"]["gamma"] == 1.5
    assert config["paths"].pop("data") == "${oc.env:SECRET}/data", "what the environment has is not told"
    assert "${" not in json.dumps(config)


def test_what_a_setting_has_from_the_environment_is_in_no_file(logged: Logged) -> None:
    files = [path for path in logged.folder.path.rglob("*") if path.is_file()]
    assert {".wandb", ".yaml", ".csv"} <= {path.suffix for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_wandb_shows_figures_with_captions(logged: Logged) -> None:
    media = {key: values for key, values in logged.offline.history.items() if key.startswith("figures/")}
    assert media.keys() == {f"figures/{path.stem}" for path in logged.folder.figures.glob("*.png")}
    assert {"figures/constraints", "figures/rate_distortion"} <= media.keys()
    for key, (value,) in media.items():
        assert value["captions"] == [CAPTIONS[key.removeprefix("figures/")]]
    stored = list((logged.folder.path / "wandb").glob("offline-run-*/files/media/images/figures/*.png"))
    assert len(stored) == len(media)


def test_wandb_stores_checkpoints_and_calibration_where_asked(logged: Logged) -> None:
    content = {a.type: {entry.path for entry in a.manifest.contents} for a in logged.offline.artifacts}
    assert content == {
        "model": {"config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"},
        "calibration": {"calibration.json", "theta.pt"},
    }
    names = {a.type: a.name for a in logged.offline.artifacts}
    assert names["model"] == f"model-{wandb_id(logged.folder)}"
    assert names["calibration"] in {path.name for path in (logged.folder.path.parents[2] / "calibrations").iterdir()}


def offline(folder: Path, config: Mapping[str, Any] | None = None, **own: Any) -> wandb_logger.RunWandbLogger:
    return build_wandb_logger(RunFolder(folder), config or {"name": folder.name}, "offline", project="lagvae", **own)


def test_a_run_of_its_own_has_no_group_no_artifact_and_the_group_that_its_user_names(tmp_path: Path) -> None:
    for name, group in {"alone": "", "grouped": "mine"}.items():
        offline(tmp_path / name, group=group or None, tags=None)
        RunFolder(tmp_path / name).write_summary(SUMMARY)
        kept = read_offline(tmp_path / name)
        assert (kept.run.run_group, kept.artifacts) == (group, [])
        assert kept.summary["final/train/rate"] == 1.5


def test_every_run_has_a_wandb_run_of_its_own_also_after_an_error_that_nobody_foresaw(tmp_path: Path) -> None:
    """A sweep goes on with the next run in the same process."""
    broken_logger = offline(tmp_path / "broken")
    for step in (1, 2):
        broken_logger.log_metrics({"train/rate": float(step)}, step)
    offline(tmp_path / "next").log_metrics({"train/rate": 2.0}, 1)
    RunFolder(tmp_path / "next").write_summary(SUMMARY)
    broken, following = (read_offline(tmp_path / name) for name in ("broken", "next"))
    assert (broken.history["train/rate"], broken.exit) == ([1.0], 1)
    assert (following.history["train/rate"], following.exit) == ([2.0], 0)
    RunFolder(tmp_path / "broken").write_summary(SUMMARY)
    assert read_offline(tmp_path / "broken").exit == 1, "it has ended, and is told no results"


def test_a_failed_run_fails_in_wandb(tmp_path: Path) -> None:
    close(offline(tmp_path / "a"), failed=True)
    assert read_offline(tmp_path / "a").exit == 1
    assert wandb.run is None


def test_a_resumed_run_goes_on_where_wandb_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps after the last checkpoint are trained again, and W&B has them already, each as one row."""
    rows: list[tuple[int, dict[str, Any]]] = []
    monkeypatch.setattr(wandb_logger.WandbLogger, "log_metrics", lambda self, row, step=None: rows.append((step, row)))
    logger = offline(tmp_path / "a")
    logger.known_to = 20
    for step in (10, 20, 30):
        logger.log_metrics({"train/rate": 1.0, "final/train/rate": 2.0}, step)
        logger.log_metrics({"val/rate": 2.0}, step)
    assert rows == [], "the last step may have more values"
    logger.save()
    assert rows == [(30, {"train/rate": 1.0, "val/rate": 2.0})]
    logger.log_metrics({"train/rate": 1.0}, 40)
    close(logger, failed=True)
    assert len(rows) == 1, "it is trained again when the run is resumed, and then has all of its values"


def test_a_picture_follows_the_row_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another process has trained the run, whose rows are in metrics.csv."""
    logged: list[Any] = []
    monkeypatch.setattr(wandb_logger.WandbLogger, "log_metrics", lambda self, row, step=None: logged.append(step))
    monkeypatch.setattr(wandb_logger.WandbLogger, "log_image", lambda self, key, images, **options: logged.append(key))
    table = MetricsTable(RunFolder(tmp_path / "a").metrics, per_epoch=10)
    table.path.parent.mkdir(parents=True)
    for step in (10, 20):
        table.log_metrics({"train/rate": float(step)}, step)
    table.save()
    logger = offline(tmp_path / "a")
    logger.log_image("figures/samples", [])
    close(logger, failed=True)
    assert logged == [10, 20, "figures/samples"]


def test_a_run_that_is_resumed_without_a_server_has_one_wandb_run_with_all_rows(tmp_path: Path) -> None:
    """W&B cannot go on with a run that it has not uploaded: `wandb sync` finds the last one, which is whole."""
    tables = [MetricsTable(RunFolder(tmp_path / "a").metrics, per_epoch=10) for _ in range(2)]
    for table, steps in zip(tables, ((10, 20, 30), (30, 40)), strict=True):
        logger = offline(tmp_path / "a")
        table.cut(20)  # the step of the checkpoint
        for step in steps:
            for row in ({"train/rate": float(step)}, {"val/rate": step + 0.5}):
                for each in (table, logger):
                    each.log_metrics(row, step)
                table.save()
        if table is tables[0]:
            close(logger, failed=True)
            (former,) = (tmp_path / "a" / "wandb").glob("offline-run-*")
            former.rename(former.with_name(former.name.replace("run-2", "run-1")))  # W&B names them by the second
    RunFolder(tmp_path / "a").write_summary(SUMMARY)
    kept = read_offline(tmp_path / "a")
    assert kept.history[loggers.STEP] == [10, 20, 30, 40]
    assert kept.history["train/rate"] == [10, 20, 30, 40]
    assert kept.history["val/rate"] == [10.5, 20.5, 30.5, 40.5]
    assert kept.run.run_id == wandb_id(RunFolder(tmp_path / "a"))
    assert [path.name[:13] for path in (tmp_path / "a" / "wandb" / "former").iterdir()] == ["offline-run-1"]


def test_a_run_that_is_resumed_after_training_has_its_curves_once(tmp_path: Path) -> None:
    """No further row is logged before it ends."""
    (tmp_path / "a").mkdir()
    table = MetricsTable(RunFolder(tmp_path / "a").metrics, per_epoch=10)
    for step in (10, 20):
        table.log_metrics({"train/rate": float(step)}, step)
    table.save()
    logger = offline(tmp_path / "a")
    logger.log_metrics({"final/train/rate": 1.0}, 20)
    RunFolder(tmp_path / "a").write_summary(SUMMARY)
    assert read_offline(tmp_path / "a").history["train/rate"] == [10, 20]


def test_what_wandb_refuses_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    logger = offline(tmp_path / "a")

    def refuse(*args: Any) -> None:
        raise wandb.errors.CommError("the network is gone")

    monkeypatch.setattr(type(logger.experiment.summary), "update", refuse)
    RunFolder(tmp_path / "a").write_summary(SUMMARY)
    assert RunFolder(tmp_path / "a").read_summary()["verdict"] == "met"
    assert "the network is gone" in capsys.readouterr().err
    assert wandb.run is None


def test_a_run_goes_on_without_wandb_where_the_process_of_wandb_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The next run of the same program has a new one."""
    write = wandb_logger.RunWandbLogger.write

    def kill_first(self: wandb_logger.RunWandbLogger, row: dict[str, Any], step: int | None) -> None:
        if step == 2:
            kill_core()
        write(self, row, step)

    monkeypatch.setattr(wandb_logger.RunWandbLogger, "write", kill_first)
    words = (*QUICK, *SHORT, "training.log_every=2", "logger=wandb", "logger.wandb.mode=offline")
    summary = train(settings(tmp_path, *words, "callbacks.figures=true", "name=killed"))
    assert RunFolder(tmp_path / "runs" / "killed").read_summary()["verdict"] == summary["verdict"]
    assert capsys.readouterr().err.count("W&B has ended") == 1
    monkeypatch.undo()
    train(settings(tmp_path, *words, "name=next"))
    assert read_offline(tmp_path / "runs" / "next").exit == 0


def test_an_agent_of_wandb_names_the_run_that_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = wandb_id(RunFolder(tmp_path))
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    assert wandb_id(RunFolder(tmp_path)) == own, "a name for one run is not for all of them"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert wandb_id(RunFolder(tmp_path)) == "agents"


def test_a_key_for_a_server_of_ones_own_counts_for_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("machine wandb.mine.org login user password 0")
    monkeypatch.setenv("NETRC", str(tmp_path / "keys"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert has_key("wandb.mine.org")
    assert not has_key()
    monkeypatch.setattr(wandb_logger, "answers", lambda url: True)
    for server, mode in {"https://wandb.mine.org": "online", "https://api.wandb.ai": "offline"}.items():
        monkeypatch.setenv("WANDB_BASE_URL", server)
        monkeypatch.setenv(wandb_logger.WANDB_ANSWER, "anothermachine online")
        assert wandb_mode() == mode


@pytest.mark.parametrize(
    ("config", "tags"),
    [
        ({}, []),
        ({"family": "vae", "data": {"name": "d" * 70}, "alpha": {"q": 0.0, "p": 2.0}}, ["vae", "d" * 64, "minimize I_p"]),
    ],
)
def test_tags_name_what_a_run_is(config: Mapping[str, Any], tags: list[str]) -> None:
    assert wandb_tags(config) == tags


def test_results_have_one_level_and_no_empty_value() -> None:
    assert flat_results(SUMMARY) == {
        "final/train/rate": 1.5,
        "final/train/rate_stderr": 0.1,
        "final/train/i_q_lower_by": "rate",
        "constraint/neg_elbo/bound": 2.0,
        "constraint/neg_elbo/verdict": "active",
        "convergence/drift/neg_elbo": 0.5,
        "verdict": "met",
        "steps": 7,
        "messages": "one\ntwo",
    }


def test_a_server_that_does_not_answer_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_logger, "answers", lambda url: False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0")
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.invalid")
    monkeypatch.setenv(wandb_logger.WANDB_ANSWER, "anothermachine online")
    assert [wandb_mode(), wandb_mode()] == ["offline"] * 2
    said = capsys.readouterr().err
    assert said.count("http://wandb.invalid does not answer: W&B works offline. Upload later with wandb sync.") == 1


@pytest.mark.parametrize("error", ["CommError", "AuthenticationError", "UsageError"])
def test_a_run_that_wandb_refuses_is_logged_offline_and_so_are_the_others_of_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: str
) -> None:
    tried: list[str] = []

    def logger(run: RunFolder, config: Any, mode: str, **settings: Any) -> str:
        tried.append(mode)
        if mode == "online" or refused:
            raise getattr(wandb.errors, error)("no such project\nand more")
        return mode

    refused = False
    monkeypatch.setattr(wandb_logger, "RunWandbLogger", logger)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv(wandb_logger.WANDB_ANSWER, f"{socket.gethostname()} online")
    for _ in range(2):
        assert build_wandb_logger(RunFolder(tmp_path), {}) == "offline"
    assert tried == ["online", "offline", "offline"]
    assert capsys.readouterr().err == "Note: W&B works offline: no such project. Upload later with wandb sync.\n"
    refused = True
    with pytest.raises(getattr(wandb.errors, error), match="no such project"):
        build_wandb_logger(RunFolder(tmp_path), {})


def test_the_calibration_of_a_run_is_known_by_its_values(tmp_path: Path) -> None:
    for name, content in {
        "a": '{"calibrated": {"neg_elbo": 20.0, "mmd": 0.5}}',
        "b": '{"calibrated": {"neg_elbo": 21.0, "mmd": 0.5}}',
        "broken": '{"calibrated": ',
        "list": "[]",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "calibration.json").write_text(content, encoding="utf-8")

    def found(**values: float | None) -> Path | None:
        return calibration_of({"constraints": {name: {"calibrated": value} for name, value in values.items()}}, tmp_path)

    assert found(neg_elbo=21.0, mmd=0.5) == tmp_path / "b"
    assert found(neg_elbo=20.0, mmd=None) == tmp_path / "a"
    assert found(neg_elbo=22.0, mmd=0.5) is None
    assert found(neg_elbo=None) is None


def test_the_table_of_a_run_is_told_to_a_logger_step_by_step(tmp_path: Path) -> None:
    written = MetricsTable(tmp_path / "metrics.csv", per_epoch=10)
    for step, name, value in ((20, "train/rate", 2.0), (10, "train/rate", 1.0), (20, "val/rate", 3.0)):
        written.log_metrics({name: value}, step)
    written.save()
    heard: list[Any] = []
    replay(written.path, SimpleNamespace(log_metrics=lambda values, step: heard.append((step, values))))  # type: ignore[arg-type]
    assert heard == [(10, {"train/rate": 1.0}), (20, {"train/rate": 2.0, "val/rate": 3.0})]


# ---- TensorBoard


def test_tensorboard_has_the_same_keys(logged: Logged) -> None:
    events = EventAccumulator(str(logged.folder.path / "tensorboard"))
    events.Reload()
    curves = {
        key: values for key, values in logged.offline.history.items() if not isinstance(values[0], dict) and key[0] != "_"
    }
    del curves[loggers.STEP]
    drawn = {key: [event.value for event in events.Scalars(key)] for key in events.Tags()["scalars"]}
    for key, values in curves.items():
        assert drawn[key] == pytest.approx(values, nan_ok=True), key
    results = flat_results(logged.summary)
    numbers = {key: value for key, value in results.items() if not isinstance(value, str)}
    assert drawn.keys() == curves.keys() | numbers.keys()
    for key, value in numbers.items():
        assert drawn[key] == pytest.approx([float(value)], nan_ok=True), key
    assert {f"{key}/text_summary" for key in results.keys() - numbers.keys()} <= set(events.Tags()["tensors"])
    (verdict,) = events.Tensors("verdict/text_summary")
    assert verdict.tensor_proto.string_val[0].decode() == logged.summary["verdict"]
    assert set(events.Tags()["images"]) == {key for key in logged.offline.history if key.startswith("figures/")}


def test_tensorboard_has_every_row_of_a_resumed_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first process was killed after the checkpoint of step 20, from which the second one goes on."""
    clock = count(1_700_000_000)  # files are read in the order of their names, which begin with the second they are made in
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: next(clock)))
    folder = RunFolder(tmp_path / "a")
    for steps in ((10, 20, 30), (30, 40)):
        logger = RunTensorBoardLogger(str(folder.path), name="", version="")
        assert logger.experiment, "as Lightning makes it before there are values"
        for step in steps:
            logger.log_metrics({"train/rate": float(step)}, step)
        logger.save()
    events = EventAccumulator(str(folder.path))
    events.Reload()
    assert [event.step for event in events.Scalars("train/rate")] == [10, 20, 30, 40]


def test_tensorboard_compares_runs_by_settings_and_results(logged: Logged) -> None:
    events = EventAccumulator(str(logged.folder.path / "tensorboard"))
    events.Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert given["alpha.q"].number_value == -1
    assert given["family"].string_value == "lagvae"
    described = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    shown = {info.name.tag for info in HParamsPluginData.FromString(described).experiment.metric_infos}
    assert {"final/test/neg_elbo", "constraint/neg_elbo/bound"} <= shown


def test_a_picture_without_a_description_is_shown_under_its_name(tmp_path: Path) -> None:
    said = PngImagePlugin.PngInfo()
    said.add_text("Description", "what it shows")
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "told.png", pnginfo=said)
    logger = offline(tmp_path / "a")
    for name in ("plain", "told"):
        log_picture(logger, tmp_path / f"{name}.png")
    RunFolder(tmp_path / "a").write_summary(SUMMARY)
    history = read_offline(tmp_path / "a").history
    assert [history[f"figures/{name}"][0]["captions"] for name in ("plain", "told")] == [["plain"], ["what it shows"]]


# ---- the dashboard


def test_every_key_of_the_dashboard_is_logged(logged: Logged) -> None:
    """But for pictures of samples, which only images have, and what a comparison logs, which has a test of its own."""
    kept = {f"summary:{key}" for key in logged.offline.summary} | {"run:displayName", "config:family.value"}
    assert set(run_columns(["neg_elbo", "mmd"])) <= kept
    sections = charts(["neg_elbo", "mmd"])
    del sections["Comparisons"]
    for chart in (chart for section in sections.values() for chart in section):
        known = {"curves": logged.offline.history, "pictures": {f"figures/{name}" for name in CAPTIONS}}.get(
            chart.kind, logged.offline.summary
        )
        assert set(chart.y) <= set(known), chart.title
        assert chart.x in logged.offline.history or chart.x in logged.offline.summary


def test_the_view_and_the_report_hold_every_chart() -> None:
    constraints = ["neg_elbo", "mmd"]
    keys = {key for section in charts(constraints).values() for chart in section for key in chart.y}
    shown = make_view("me", "lagvae", constraints, {"abcd": "#0072B2"})
    assert all(section.is_open for section in shown.sections)
    view = shown._to_model().model_dump_json()
    report = make_report("", "lagvae", constraints, {"abcd": "#0072B2"})._to_model().model_dump_json()
    for text in (view, report):
        assert {key for key in keys if key not in text} == set()
        assert "abcd" in text
        assert "#0072B2" in text
        assert "constraint/neg_elbo/slack" in text
    assert "summary:constraint/mmd/bound" in report


def test_a_project_without_runs_or_a_package_is_answered_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str, **how: Any) -> Any:
        raise ValueError("Could not find project")

    with pytest.raises(SettingError, match="me/none has no runs of lagvae on W&B"):
        ask_runs(SimpleNamespace(runs=missing), "me/none")
    with pytest.raises(SettingError, match="no runs with constraints"):
        ask_runs(SimpleNamespace(runs=lambda path, **how: []), "me/none")
    runs = [
        SimpleNamespace(id=str(k), job_type="vae", config={"family": "vae", "constraints": {name: {}}})
        for k, name in enumerate(("mmd", "neg_elbo", "mmd"))
    ]
    runs.append(SimpleNamespace(id="3", job_type="sweep", config={"runs": {}}))
    runs.append(SimpleNamespace(id="4", job_type=None, config={"of": "another program"}))
    found = ask_runs(SimpleNamespace(runs=lambda path, **how: runs), "me/some")
    assert found == ProjectRuns(["mmd", "neg_elbo"], {"0": "vae", "1": "vae", "2": "vae"})
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(SettingError, match="needs the package wandb-workspaces"):
        save_dashboard("lagvae", blue)


def blue(families: Sequence[str]) -> dict[str, str]:
    """The same colour for every family."""
    return dict.fromkeys(families, "#0072B2")


class Saved:
    """A view or a report that W&B gives an address when it is saved, or answers with an error."""

    def __init__(
        self, kind: str, entity: str, project: str, constraints: list[str], colours: dict[str, str], answer: str
    ) -> None:
        assert colours == {"abcd": "#0072B2"}
        self.url, self.answer = f"https://wandb.ai/{entity}/{project}/{kind}/{'+'.join(constraints)}/unsaved", answer

    def save(self) -> None:
        if self.answer:
            raise RuntimeError(self.answer)
        self.url = self.url.removesuffix("/unsaved")


@pytest.mark.parametrize(
    ("path", "refused", "said"),
    [
        ("lagvae", "", "me/lagvae"),
        ("team/own", "", "team/own"),
        ("team/own", "view", "W&B did not save the dashboard of team/own: no view"),
        ("team/own", "report", "W&B did not save the dashboard of team/own: no report"),
    ],
)
def test_the_view_and_the_report_are_saved_and_their_addresses_told(
    monkeypatch: pytest.MonkeyPatch, path: str, refused: str, said: str
) -> None:
    asked: list[str] = []

    def runs(project: str, **how: Any) -> list[Any]:
        asked.append(project)
        return [SimpleNamespace(id="abcd", config={"family": "lagvae", "constraints": {"mmd": {}}}, job_type="lagvae")]

    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity="me", runs=runs))
    monkeypatch.setattr("lagvae.runs.wandb_view.answers", lambda url: True)
    for module in ("wandb_workspaces", "wandb_workspaces.workspaces"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    for kind in ("view", "report"):
        answer = f"no {kind}" if kind == refused else ""
        monkeypatch.setattr(f"lagvae.runs.wandb_view.make_{kind}", partial(Saved, kind, answer=answer))
    if refused:
        with pytest.raises(SettingError, match=said):
            save_dashboard(path, blue)
        return
    assert save_dashboard(path, blue) == tuple(f"https://wandb.ai/{said}/{kind}/mmd" for kind in ("view", "report"))
    assert asked == [said]


def test_a_wandb_that_lets_nobody_in_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise ValueError("no key\nand much more")

    monkeypatch.setattr(wandb, "Api", refuse)
    monkeypatch.setattr("lagvae.runs.wandb_view.answers", lambda url: True)
    for module in ("wandb_workspaces", "wandb_workspaces.workspaces"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    with pytest.raises(
        SettingError, match=r"W&B does not let us in \(no key\)\. Check the network, or give it a key with wandb login\."
    ):
        save_dashboard("lagvae", blue)
