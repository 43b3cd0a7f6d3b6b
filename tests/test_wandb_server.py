"""What a server of W&B is asked, by a stand-in on this machine: by `lagvae dashboard`, and by runs where it does not answer."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
from helpers import QUICK, SHORT, program
from wandb_files import core, read_file, read_offline

from lagvae.errors import SettingError
from lagvae.runs import loggers, wandb_logger
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import STEP
from lagvae.runs.wandb_view import TITLE, charts, run_columns, save_dashboard

KEY = "k" * 40

Asked = list[tuple[str, dict[str, Any]]]
"""The name of each query, and its variables."""


def connection(*nodes: dict[str, Any]) -> dict[str, Any]:
    """A page of a list, as GraphQL has it."""
    return {
        "totalCount": len(nodes),
        "edges": [{"node": node, "cursor": "end"} for node in nodes],
        "pageInfo": {"endCursor": "end", "hasNextPage": False},
    }


USER: dict[str, Any] = {
    **{"id": "1", "entity": "me", "name": "me", "username": "me", "email": "me@mine.org", "flags": "{}", "admin": False},
    **{"deletedAt": None, "apiKeys": connection(), "teams": connection()},
}


def run(name: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    empty = {**dict.fromkeys(("group", "heartbeatAt", "commit", "sweepName")), "user": USER}
    values = {"config": json.dumps(config), "systemMetrics": "{}", "summaryMetrics": "{}", "historyLineCount": 1}
    of_run = {"id": name, "name": name, "displayName": name, "state": "finished", "jobType": kind, "tags": []}
    return empty | values | of_run | {"createdAt": "2026-01-01T00:00:00", "projectId": "1", "readOnly": False}


RUNS = (
    run("a", "lagvae", {"family": {"value": "lagvae"}, "constraints": {"value": {"neg_elbo": {}, "mmd": {}}}}),
    run("compared", "sweep", {"runs": {"value": {}}}),
)


def answer(name: str, variables: dict[str, Any], query: str) -> dict[str, Any] | None:
    """What W&B says to a query of a name; None for what it is not known to say. Of runs it says what it is asked."""
    runs = [{key: value for key, value in each.items() if re.search(rf"\b{key}\b", query)} for each in RUNS]
    project = {"id": "p", "internalId": "1", "name": "mine", "entityName": "me", "readOnly": False, "runCount": len(RUNS)}
    project |= {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": USER}
    view = {"id": "1", "type": variables.get("type"), "updatedAt": "2026-01-01T00:00:00", "project": project}
    view |= {key: variables.get(key) for key in ("name", "displayName", "description", "spec")}
    there = variables.get("project", variables.get("projectName")) == "mine"
    one = next((each for each, whole in zip(runs, RUNS, strict=True) if whole["name"] == variables.get("name")), None)
    answers: dict[str, Any] = {
        "Viewer": {"viewer": USER},
        "GetDefaultEntity": {"viewer": USER},
        "Runs": {"project": project | {"runs": connection(*runs)} if there else None},
        "Run": {"project": project | {"run": one}},
        "ProjectInternalId": {"project": project},
        "GetProjects": {"models": connection(project)},
        "UpsertView2": {"upsertView": {"view": view, "inserted": True}},
        "upsertView": {"upsertView": {"view": view, "inserted": True}},
    }
    return answers.get(name)


def answer_run(name: str, variables: dict[str, Any], query: str) -> dict[str, Any] | None:
    """What W&B says to a run that begins."""
    place = {"name": "mine", "entity": {"id": "e", "name": "me"}}
    bucket = {"id": "r", "name": variables.get("name"), "displayName": "a", "config": "{}", "historyLineCount": 0}
    answers: dict[str, Any] = {
        "RunResumeStatus": {"model": {"id": "p", "bucket": None} | place},
        "UpsertBucket": {"upsertBucket": {"bucket": bucket | {"project": {"id": "p"} | place}, "inserted": True}},
        "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    }
    return answers.get(name)


class StandIn(ThreadingHTTPServer):
    """A server of W&B on this machine. It keeps what it is asked; what is no query it accepts."""

    daemon_threads = True

    def __init__(self, say: Callable[[str, dict[str, Any], str], dict[str, Any] | None]) -> None:
        self.say, self.heard = say, Asked()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self.reply(b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        said = b"{}"
        if self.path == "/graphql":
            content = json.loads(body)
            name, variables = re.search(r"(?:query|mutation) (\w+)", content["query"]), content.get("variables") or {}
            assert name is not None
            self.server.heard.append((name[1], variables))
            data = self.server.say(name[1], variables, content["query"])
            said = json.dumps({"data": data} if data else {"errors": [{"message": f"What is {name[1]}?"}]}).encode()
        self.reply(said)

    def reply(self, said: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """What the stand-in is asked, which has one project, me/mine."""
    with StandIn(answer) as server:
        wandb.teardown()
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server.heard
        wandb.teardown()
        server.shutdown()


def keys_of(spec: Any) -> set[str]:
    """Every text in a specification, as what panels name stands at several places in it."""
    if isinstance(spec, dict):
        return set().union(*map(keys_of, spec.values()), map(str, spec))
    if isinstance(spec, list):
        return set().union(*map(keys_of, spec))
    return {spec} if isinstance(spec, str) else set()


def test_the_dashboard_is_saved_with_the_keys_that_runs_log(asked: Asked) -> None:
    """That they log these is shown by `test_every_key_of_the_dashboard_is_logged`."""
    view, report = save_dashboard("mine", lambda families: dict.fromkeys(families, "#0072B2"))
    assert view.startswith(wandb.Api().settings["base_url"] + "/me/mine?nw=")
    assert "/me/mine/reports/" in report
    looked = [variables for name, variables in asked if name == "Runs"]
    assert [(v["entity"], v["project"]) for v in looked] == [("me", "mine")]
    saved = {name: variables for name, variables in asked if name in ("UpsertView2", "upsertView")}
    assert saved["UpsertView2"]["type"] == "project-view"
    assert saved["upsertView"]["type"] == "runs"
    names = ["neg_elbo", "mmd"]
    shown = {key for section in charts(names).values() for chart in section for key in (*chart.y, chart.x)} - {STEP}
    for variables in saved.values():
        assert (variables["entityName"], variables["projectName"], variables["displayName"]) == ("me", "mine", TITLE)
        texts = keys_of(json.loads(variables["spec"]))
        named = {text.removeprefix("summary:") for text in texts}
        assert shown <= named
        assert {"a", "#0072B2"} <= texts, "the colour of a run"
        known = shown | {column.partition(":")[2] for column in run_columns(names)}
        alike = {text for text in named if re.match(r"(final|constraint|train|train_probe|val|figures)/", text)}
        assert alike <= known, "no panel names what no run logs"


def test_a_server_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()
    with socket.create_server(("127.0.0.1", 0)) as server:  # closed, and with it the port
        port = server.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(wandb, "Api", lambda: pytest.fail("asks a server that is not there"))
    with pytest.raises(SettingError, match=f"http://127.0.0.1:{port} does not answer"):
        save_dashboard("me/mine", lambda families: {})
    wandb.teardown()


def test_a_project_that_does_not_exist_is_answered_in_a_line_and_nothing_is_saved(asked: Asked) -> None:
    with pytest.raises(SettingError, match="me/none has no runs of lagvae on W&B"):
        save_dashboard("me/none", dict.fromkeys)
    assert not {"UpsertView2", "upsertView"} & {name for name, _ in asked}


def test_a_server_that_does_not_answer_is_asked_once_by_all_runs_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and says nothing, as does a network that lets nothing through; the runs are logged offline.

    W&B's process does not report on itself either, as it does at the end of a long run, and waits for an answer.
    """
    wandb.teardown()
    monkeypatch.setattr(wandb_logger, "answers", partial(wandb_logger.answers, patience=0.5))
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING", wandb_logger.WANDB_ANSWER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    asked: list[bytes] = []

    def listen(server: socket.socket) -> None:
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):  # until the server is closed
            while True:
                asked.append(held.enter_context(server.accept()[0]).recv(30))

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=listen, args=(server,), daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        outcome = program(tmp_path, "-m", *QUICK, *SHORT, "launcher.compile=false", "logger=wandb", "seed=0,1")
        assert outcome.status == 0, outcome.err
        assert "--no-observability" in core().cmdline()
    wandb.teardown()
    assert asked == [b"GET / HTTP/1.1\r\nAccept-Encoding"[:30]]
    for folder in ("lagvae-seed0", "lagvae-seed1", "pareto-analysis"):
        assert read_offline(tmp_path / "runs" / "sweep" / folder).exit == 0
    logs = "".join(file.read_text() for file in tmp_path.rglob("log.txt"))
    assert (outcome.err + logs).count("does not answer: W&B works offline. Upload later with wandb sync.") == 1


def test_runs_are_logged_offline_where_what_answers_is_no_server_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the gateway of a network does that lets nothing through. A run that W&B could not start keeps its id."""

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def do_POST(self) -> None:
            self.send_error(404)

        def log_message(self, *given: Any) -> None: ...

    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING", wandb_logger.WANDB_ANSWER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
        wandb.teardown()  # it reads the environment once
        outcome = program(tmp_path, *QUICK, *SHORT, "logger=wandb", "name=a")
        wandb.teardown()
        server.shutdown()
    assert outcome.status == 0, outcome.err
    assert "W&B works offline: " in outcome.err
    assert read_offline(tmp_path / "runs" / "a").exit == 0


def test_runs_end_where_the_server_of_wandb_gets_out_of_reach_and_are_kept_for_its_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B would try for hours. Of several runs of a process one is waited for, and a later one works offline."""
    monkeypatch.setattr(wandb_logger.RunWandbLogger, "unreachable", False)
    for name in ("WANDB_MODE", wandb_logger.WANDB_ANSWER):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"API_KEY": KEY, "ERROR_REPORTING": "false", "FINISH_TIMEOUT": "1"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()
    runs = [RunFolder(tmp_path / name) for name in ("a", "b", "c")]
    left: list[Any] = []
    with StandIn(answer_run) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        for run in runs:
            logger: Any = wandb_logger.build_wandb_logger(run, {"name": run.path.name}, project="mine", reinit="create_new")
            left.append(logger.experiment)
            assert not left[-1].offline
            for step in (1, 2):
                logger.log_metrics({"train/rate": float(step)}, step)
        server.shutdown()
    for run in runs[:2]:
        run.write_summary({"splits": {"train": {"rate": 1.5}}, "constraints": {}})
    loggers.close(logger, failed=True)  # as those of an ensemble that is interrupted
    (file,) = (runs[0].path / "wandb").glob("run-*/*.wandb")
    said = capsys.readouterr().err
    assert said.count("W&B does not answer any more") == 1
    assert f"wandb sync {file.parent}." in " ".join(said.split())
    assert wandb_logger.wandb_mode() == "offline"
    for wandb_run in left[1:]:  # its threads ask W&B's process, which ends here before this one
        wandb_run._run_status_checker.stop()
        wandb_run._run_status_checker.join()
    wandb.teardown()
    for run in runs[:2]:
        (file,) = (run.path / "wandb").glob("run-*/*.wandb")
        kept = read_file(file)
        assert (kept.history["train/rate"], kept.summary["final/train/rate"], kept.exit) == ([1, 2], 1.5, 0)
