"""A trial of user-defined code on a few rows of the data, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from lagvae.data import DataModule
from lagvae.distributions import JointSamples
from lagvae.errors import LagvaeError, SettingError
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.factory import build_metric, build_model, metric_nodes
from lagvae.experiment.own_code import find_targets, is_own
from lagvae.introspection import evaluating, first_line, full_name
from lagvae.metrics import OwnMetric
from lagvae.model import LatentVariableModel

ROWS = 8
"""Number of rows of the data that a trial uses."""


def has_own_code(cfg: DictConfig | Mapping[str, Any]) -> bool:
    """Whether a config, or one as resolved plain dicts, names a user-defined class or function, besides its data."""
    return any(is_own(target) for key, target in find_targets(cfg) if not key.startswith("data"))


def trial_model(cfg: DictConfig, data: DataModule) -> LatentVariableModel:
    """The model of a config, as if all calibrated values were 0."""
    zeros = {str(name): 0.0 for name in cfg.constraints}
    return build_model(cfg, data, Calibration(zeros, zeros, cfg.calibration.split, {}, {}))


def try_own_code(cfg: DictConfig, data: DataModule) -> None:
    """Evaluate the user-defined divergences and metrics once.

    Raises: SettingError, with the class and the shapes, for one that fails or whose result is not a number.
    """
    metrics: dict[str, Any] = {}
    for part in ("training", "final"):
        for name, node in metric_nodes(cfg, part).items():
            key, target = f"callbacks.{part}.{name}", str(node._target_)
            if not target.startswith("lagvae."):
                metric = build_metric(node, str(name), key)
                if is_own(target) or isinstance(metric, OwnMetric):
                    metrics[key] = metric
    if not metrics and not has_own_code(cfg):
        return
    model = trial_model(cfg, data)
    batch = data.first_batch(ROWS)
    x = batch.x
    every = model.samples(batch, "trial", model.eval_model)
    noise = {name: every.noise[name] for name in model.lagrangian.required_noise}
    training = JointSamples(model.joint, x, noise, u=batch.u)
    shapes = f"on a batch with x of shape {tuple(x.shape)} and z of shape {(len(x), model.joint.latent)}"
    with evaluating(model):
        for c in model.lagrangian.constraints:
            key = f"constraints.{c.name}: {full_name(type(c.divergence))}"
            try:
                value: Any = c.divergence(training)
            except LagvaeError:
                raise
            except KeyError as error:
                raise SettingError(f"{key} needs the noise {error}; add it to its required_noise.") from error
            except Exception as error:  # user code can raise anything
                raise SettingError(f"{key} fails {shapes}: {first_line(error)}.") from error
            if not isinstance(value, Tensor) or value.shape != ():
                found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise SettingError(f"{key} returns {found} {shapes}; it must return a tensor of shape (), the mean over rows.")
        for key, metric in metrics.items():
            if not metric.is_applicable(model.joint, data, "train"):
                continue
            name = full_name(metric.metric if isinstance(metric, OwnMetric) else metric)
            try:
                metric.update(every, batch.index)
                metric.compute()
            except LagvaeError as error:
                raise SettingError(f"{key}: {error}") from error
            except Exception as error:  # user code can raise anything
                raise SettingError(f"{key}: {name} fails {shapes}: {first_line(error)}.") from error
