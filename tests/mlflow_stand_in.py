"""What a run uses of MLflow, without a server, files or the package: what it was told is kept in the client of its address."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class MlflowException(Exception):
    pass


class Client:
    """The runs of an address; as `mlflow.tracking.MlflowClient`."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name, lifecycle_stage="active")

    def create_run(self, experiment_id: str, tags: dict[str, str]) -> Any:
        info = SimpleNamespace(run_id=f"run{len(self.runs)}", experiment_id=experiment_id, status="RUNNING")
        data = SimpleNamespace(metrics={}, params={}, tags=dict(tags), rows=[])
        run = self.runs[info.run_id] = SimpleNamespace(info=info, data=data)
        return run

    def get_run(self, run_id: str) -> Any:
        return self.runs[run_id]

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id].info.status = status

    set_terminated = update_run

    def log_batch(self, run_id: str, metrics: tuple[Any, ...] = (), params: tuple[Any, ...] = ()) -> None:
        data = self.runs[run_id].data
        data.rows += [(metric.step, metric.key, metric.value) for metric in metrics]
        data.metrics |= {metric.key: metric.value for metric in metrics}
        data.params |= {param.key: param.value for param in params}

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.runs[run_id].data.tags[key] = value


def install(patch: pytest.MonkeyPatch) -> dict[str, Client]:
    """Put the stand-in in place of the package; returns its clients by their address."""
    clients: dict[str, Client] = {}
    content: dict[str, dict[str, Any]] = {
        "mlflow": {"set_tracking_uri": lambda uri: None},
        "mlflow.tracking": {"MlflowClient": lambda uri: clients.setdefault(uri, Client())},
        "mlflow.tracking.context": {},
        "mlflow.tracking.context.registry": {"resolve_tags": dict},
        "mlflow.entities": {"Param": SimpleNamespace, "Metric": SimpleNamespace},
        "mlflow.exceptions": {"MlflowException": MlflowException},
        "mlflow.utils": {},
        "mlflow.utils.mlflow_tags": {"MLFLOW_RUN_NAME": "mlflow.runName"},
    }
    for name, names in content.items():
        module = ModuleType(name)
        vars(module).update(names)
        patch.setitem(sys.modules, name, module)
    patch.setattr("pytorch_lightning.loggers.mlflow._MLFLOW_AVAILABLE", True)
    return clients
