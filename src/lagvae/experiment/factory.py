"""Build the objects of a run from its config: data, joint model, Lagrangian, model, callbacks and trainer."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from math import inf
from pathlib import Path
from pydoc import locate
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from lagvae import __version__
from lagvae.algebra import classify, parse, total
from lagvae.callbacks.checkpoints import AtomicCheckpointIO
from lagvae.data import DataModule
from lagvae.data.datamodule import content_digest
from lagvae.data.tables import Table
from lagvae.distributions import (
    BernoulliDecoder,
    DiscretizedLogisticDecoder,
    EmpiricalPrior,
    JointModel,
    NormalDecoder,
    RowDecoder,
    TorchPrior,
    make_encoder,
)
from lagvae.divergences import Divergence, SymbolicObjective, check_preference
from lagvae.errors import LagvaeError, SettingError
from lagvae.experiment.calibration import Calibration, uses_attribute
from lagvae.experiment.data_profile import describe_likelihood, print_data, profile_data
from lagvae.experiment.precision import BY_MACHINE, choose_precision
from lagvae.experiment.settings import flatten, stored_settings
from lagvae.front import Front, FrontLagrangian, Slacks
from lagvae.introspection import class_of, first_line, full_name, is_of_lagvae
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.metrics import LatentMetric, as_latent_metric
from lagvae.model import LatentVariableModel, SchedulerFactory
from lagvae.terminal import is_silent, quiet_libraries

DECODERS: dict[str, Any] = {"bernoulli": BernoulliDecoder, "normal": NormalDecoder, "table": RowDecoder}

WARM_UP_START, WARM_UP = 0.15, 0.2
"""Where a learned λ starts, in units of |α|, and the share of a run in which it does not rise, if information is maximised and
these are not given (see docs/decisions.md)."""

SPREAD_SAMPLES = 500
"""Number of training samples whose spread a learned scale of the decoder starts from."""


@contextmanager
def error_context(key: str) -> Iterator[None]:
    """Turn any error inside into a SettingError that names the setting; errors of this package pass unchanged."""
    try:
        yield
    except LagvaeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise SettingError(f"{key} does not work: {(str(error).splitlines() or [repr(error)])[0]}") from error


NO_MEMORY = re.compile(
    r"(can't allocate|not enough|out of) memory|size calculation overflow|multiplication overflow", re.IGNORECASE
)
"""What torch says of sizes for which there is no memory, or no number."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether something could not be allocated."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None)


SIZES = ("data.", "model.", "callbacks.", "critic.", "calibration.")
"""The settings among which there are sizes."""


@contextmanager
def enough_memory(cfg: DictConfig) -> Iterator[None]:
    """Turn the error that something cannot be allocated into a SettingError with the largest sizes of the config."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        plain = flatten(OmegaConf.to_container(cfg))
        sizes = {
            f"{key}={value}": max(numbers)
            for key, value in plain.items()
            if key.startswith(SIZES) and not key.endswith(("seed", "steps"))
            if (numbers := [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int)])
        }
        largest = sorted(sizes, key=lambda size: -sizes[size])[:2]
        asked = re.search(r"tried to allocate (\d+(\.\d+)? \w+)", str(error), re.IGNORECASE)
        reason = f"{asked[1]} were asked for" if asked else first_line(error).rstrip(".")
        raise SettingError(
            f"There is not enough memory ({reason}). Lower a size; the largest are {' and '.join(largest)}."
            if largest
            else f"There is not enough memory ({reason}). Free some, or lower a size."
        ) from error


def instantiate(node: Any, **kwargs: Any) -> Any:
    """Instantiate a config node. Errors of this package pass unchanged, others become a SettingError."""
    try:
        return hydra_instantiate(node, **kwargs)
    except InstantiationException as error:
        cause = error.__cause__
        if cause is not None and (isinstance(cause, LagvaeError) or is_out_of_memory(cause)):
            raise cause from None
        raise SettingError(f"{node._get_full_key('')}: {node.get('_target_')} cannot be built: {cause or error}") from error


def build_data(cfg: DictConfig) -> DataModule:
    """Load, check and split the data, and say what they are."""
    data = load_data(cfg)
    if not is_silent():
        print_data(profile_data(data), data, describe_likelihood(likelihood_name(cfg), data))
    for part in ("training", "final"):
        for name, node in metric_nodes(cfg, part).items():
            key = f"callbacks.{part}.{name}"
            if getattr(locate(str(node._target_)), "check", None) is not LatentMetric.check:  # else there is nothing to check
                build_metric(node, str(name), key).check(data, key)
    data.interval = (cfg.training.interval, cfg.training.steps)
    return data


def build_metric(node: DictConfig, name: str, key: str) -> LatentMetric:
    """The metric of a config node.

    Args:
        key: the setting that names it.

    Raises: SettingError, with the key and the class, if it cannot be built, or is not a torchmetrics.Metric.
    """
    try:
        metric = instantiate(node)()
    except LagvaeError:
        raise
    except Exception as error:  # user code can raise anything
        if is_out_of_memory(error):
            raise
        raise SettingError(
            f"{key}: {node._target_} cannot be built ({first_line(error)}). It gets the settings beside {key}._target_."
        ) from error
    return as_latent_metric(name, metric, key)


def load_data(cfg: DictConfig, look: bool = False) -> DataModule:
    """Load, check and split the data, which may be too few for a batch where one only wants to `look` at them."""
    data: DataModule = instantiate(cfg.data)
    data.check(look)
    if cfg.get("constraints") and uses_attribute(cfg):
        data.use_attribute()
    return data


def metric_nodes(cfg: DictConfig, part: str) -> dict[Any, Any]:
    """Name → config node of the metrics of a part of callbacks, "training" or "final"."""
    return {name: node for name, node in cfg.callbacks[part].items() if name != "budget"}


def build_joint(cfg: DictConfig, data: DataModule) -> JointModel:
    """p(z), p(x|z) and q(z|x) for the shape of the data, initialised from the seed; the scale of p(x|z) from the data."""
    joint = assemble_joint(cfg, data.shape, data.likelihood, lambda: second_domain(data), data.arrays.table)
    if isinstance(joint.decoder, NormalDecoder | RowDecoder):
        joint.decoder.start_scale(data.first_samples("train", SPREAD_SAMPLES))
    return joint


def assemble_joint(
    cfg: DictConfig, shape: tuple[int, ...], likelihood: str, rows: Callable[[], Tensor], table: Table | None = None
) -> JointModel:
    """p(z), p(x|z) and q(z|x), initialised from the seed, without the data.

    Args:
        shape: of one x. likelihood: that of the data. rows: returns the samples of which an empirical prior consists.
        table: what the columns of x are, where x is a row of a table.
    """
    torch.manual_seed(cfg.seed)
    model = cfg.model
    kind = decoder_class(model.likelihood)
    if kind is BernoulliDecoder and likelihood != "bernoulli":
        raise SettingError("model.likelihood=bernoulli needs data.likelihood=bernoulli, which makes the data binary.")
    if class_of(kind) is DiscretizedLogisticDecoder and likelihood == "bernoulli":
        raise SettingError(
            "likelihood=discretized_logistic needs the levels of pixels, and data.likelihood=bernoulli draws 0 or 1 for each; "
            "set data.likelihood=normal, which takes them as they are."
        )
    columns = table_columns(kind, likelihood_name(cfg), table)
    prior = build_prior(instantiate(model.prior), model.latent, rows)
    posterior, encoder, decoder = instantiate(model.posterior), instantiate(model.encoder), instantiate(model.decoder)
    joint = JointModel(
        prior,
        make_encoder(posterior, encoder, shape, prior)
        if is_of_lagvae(posterior)
        else build_own("model.posterior", posterior, network=encoder, shape=shape, latent=prior.latent),
        kind(decoder, shape, prior.latent, **columns)
        if is_of_lagvae(kind)
        else build_own("model.likelihood", kind, network=decoder, shape=shape, latent=prior.latent, **columns),
        shape,
    )
    check_preference(cfg.alpha.q, cfg.alpha.p, joint)
    return joint


def table_columns(kind: Any, name: str, table: Table | None) -> dict[str, Any]:
    """What a decoder is told of the columns of a table. Raises SettingError for one of ours that is not made for them.

    Args:
        kind: its class, or a partial of it. name: what it is called.
    """
    of_table = kind is RowDecoder or getattr(kind, "func", None) is RowDecoder
    if of_table and table is None:
        raise SettingError("model.likelihood=table is for data=table, whose columns have names; leave it out.")
    if table is None or (is_of_lagvae(kind) and not of_table and table.plain):
        return {}
    if is_of_lagvae(kind) and not of_table:
        raise SettingError(
            f"model.likelihood: a {name} p(x|z) knows neither categories nor missing values, and the data are "
            f"{table.describe()}; use likelihood=auto."
        )
    return {"numbers": table.numbers, "missing": table.missing, "categories": table.sizes}


def likelihood_name(cfg: DictConfig) -> str:
    """The name of p(x|z), such as Bernoulli or Laplace."""
    node = cfg.model.likelihood
    name = node if isinstance(node, str) else str(node._target_).rpartition(".")[2]
    return name.removesuffix("Decoder").capitalize() if name in DECODERS else name.removesuffix("Decoder")


def decoder_class(node: Any) -> Any:
    """The class of the decoder, or a partial of it, from a config node or a name in `DECODERS`."""
    if not isinstance(node, str):
        return instantiate(node)
    if node not in DECODERS:
        raise SettingError(f"model.likelihood={node!r} is unknown; choose one of {', '.join(DECODERS)}.")
    return DECODERS[node]


def build_prior(kind: Any, latent: int, rows: Callable[[], Tensor]) -> Any:
    """p(z). An empirical prior is built from the samples that `rows` returns."""
    if not is_of_lagvae(kind):
        own = build_own("model.prior", kind, latent=latent)
        prior = own if hasattr(own, "noise_kind") else TorchPrior(own)
        if prior.latent != latent:
            raise SettingError(
                f"model.prior: {full_name(kind)} has z of {prior.latent} dimensions, and model.latent={latent}; set "
                f"model.latent={prior.latent}."
            )
        return prior
    return kind(rows()) if kind.func is EmpiricalPrior else kind(latent)


def build_own(key: str, kind: Any, **known: Any) -> nn.Module:
    """Build a user-defined prior, encoder or decoder, from those of the `known` values whose names it takes.

    Args:
        key: the setting that names it. kind: its class, or a partial with further settings.

    Raises: SettingError, with the class and what is known, if it cannot be built.
    """
    parameters = inspect.signature(kind).parameters
    # A class without an __init__ of its own has that of nn.Module, which says that it takes all names and refuses them.
    plain = getattr(class_of(kind), "__init__", None) is nn.Module.__init__
    takes_all = not plain and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {name: value for name, value in known.items() if takes_all or name in parameters}
    try:
        part = kind(**given)
    except LagvaeError:
        raise
    except Exception as error:  # user code can raise anything
        raise SettingError(
            f"{key}: {full_name(kind)} cannot be built ({first_line(error)}). It gets what its __init__ names of "
            f"{', '.join(known)}, and the settings beside {key}._target_."
        ) from error
    if not isinstance(part, nn.Module):
        raise SettingError(f"{key}: {full_name(kind)} is not a torch.nn.Module, but a {type(part).__name__}.")
    return part


def second_domain(data: DataModule) -> Tensor:
    """The training samples of the second domain of the data. Raises SettingError if there is none."""
    rows = data.second("train")
    if rows is None:
        raise SettingError(
            f"prior=data takes z from a second domain, which data={data.name} does not have; use data=digits_pairs, or "
            'data=array with an array "second" beside the samples.'
        )
    return rows


def build_lagrangian(cfg: DictConfig, calibration: Calibration | None, simplex: bool = False) -> Lagrangian:
    """The Lagrangian of the preference and of the constraints with their bounds."""
    parts = merge_symbolic_penalties(cfg.alpha.q, cfg.alpha.p, build_constraints(cfg, calibration))
    if (slacks := cfg.training.get("slacks")) is not None:  # runs of earlier versions do not have the setting
        return FrontLagrangian(*parts, build_slacks(cfg, slacks))
    return Lagrangian(*parts, simplex=simplex)


def build_slacks(cfg: DictConfig, slacks: Sequence[float]) -> Slacks:
    """The range of slacks of a front."""
    own = cfg.constraints.get("neg_elbo")
    if len(slacks) != 2 or own is None or own.gamma_relative:
        raise SettingError(
            f"training.slacks={list(slacks)} must be two slacks of −ELBO in nats, [LOW,HIGH], or null for a single bound; the "
            "constraint neg_elbo must be there, with gamma_relative=false."
        )
    return Slacks(slacks[0], slacks[1], own=own.gamma)


def build_constraints(cfg: DictConfig, calibration: Calibration | None) -> list[Constraint]:
    """The constraints with their bounds, as they are configured."""
    constraints = []
    for name, c in cfg.constraints.items():
        bound, divergence = c.epsilon, instantiate(c.divergence)
        if not isinstance(divergence, Divergence):
            raise SettingError(
                f"constraints.{name}.divergence: {c.divergence.get('_target_')} is not a lagvae.divergences.Divergence, but a "
                f"{type(divergence).__name__}; derive it from that class."
            )
        if bound is None and calibration is not None and cfg.epsilon.source == "calibrated":
            bound = calibration.bound(str(name), c.gamma, c.gamma_relative, divergence.smallest)
        constraints.append(
            Constraint(
                name=str(name),
                divergence=divergence,
                bound=bound,
                multiplier=initial_multiplier(cfg, c) if c.multiplier is None else c.multiplier,
                learned=c.learned,
                scale=c.scale,
                max_multiplier=c.max_multiplier,
                warm_up_steps=round(warm_up(cfg, str(name), bound, calibration) * cfg.training.steps),
            )
        )
    return constraints


def initial_multiplier(cfg: DictConfig, constraint: DictConfig) -> float:
    """λ where `multiplier` is null: 1, but `WARM_UP_START` where it is learned and information is maximised."""
    return WARM_UP_START if constraint.learned and cfg.alpha.q < 0 else 1.0


def warm_up(cfg: DictConfig, name: str, bound: float | None, calibration: Calibration | None) -> float:
    """The share of a run in which the λ of a constraint does not rise.

    Where the setting is null it is `WARM_UP`, if λ is learned to maximise information under a bound that the calibrated model
    meets, and otherwise 0: a bound below ε̂ takes all of the run to be met.
    """
    constraint = cfg.constraints[name]
    share: float | None = constraint.get("warm_up", 0.0)  # runs of earlier versions do not have the setting
    if share is not None:
        return share
    is_met = calibration is not None and bound is not None and bound >= calibration.calibrated.get(name, inf)
    return WARM_UP if constraint.learned and cfg.alpha.q < 0 and is_met else 0.0


def merge_symbolic_penalties(
    alpha_q: float, alpha_p: float, constraints: list[Constraint]
) -> tuple[Preference, list[Constraint]]:
    """Replace the preference and the symbolic penalties by their sum if the sum needs a smaller class of objectives.

    Only penalties with a fixed λ are summed, because a learned λ needs the value of its own divergence. The sum contains I
    itself, not a bound on it. Without such a gain, preference and constraints are returned unchanged.
    """
    penalties = [c for c in constraints if isinstance(c.divergence, SymbolicObjective) and not c.learned and c.bound is None]
    if penalties:
        objective = exact_fraction(alpha_q) * parse("I_q") + exact_fraction(alpha_p) * parse("I_p")
        objective = objective + total((exact_fraction(c.multiplier), c.divergence.stated) for c in penalties)  # type: ignore[attr-defined]
        if classify(objective) < max(c.divergence.form.level for c in penalties):  # type: ignore[attr-defined]
            first = penalties[0]
            merged = replace(first, divergence=first.divergence.restated(objective), multiplier=1.0)  # type: ignore[attr-defined]
            constraints = [merged if c is first else c for c in constraints if c is first or c not in penalties]
            return Preference(0.0, 0.0), constraints
    return Preference(alpha_q, alpha_p), constraints


def exact_fraction(value: float) -> Fraction:
    """The exact value of the decimal number that the user typed."""
    return Fraction(repr(float(value)))


def build_schedule(cfg: DictConfig) -> SchedulerFactory | None:
    """The learning rate schedule: "cosine" over all training steps, the config node of a torch scheduler, or None."""
    schedule = cfg.model.schedule
    if schedule is None:
        return None
    if schedule == "cosine":
        return partial(CosineAnnealingLR, T_max=cfg.training.steps)
    if isinstance(schedule, str):
        raise SettingError(f"model.schedule={schedule!r} is unknown; use cosine, null, or a config node with _target_.")
    factory: SchedulerFactory = instantiate(schedule)
    return factory


def build_model(
    cfg: DictConfig, data: DataModule, calibration: Calibration | None = None, simplex: bool = False
) -> LatentVariableModel:
    """The LightningModule. `simplex` is passed to `Lagrangian`."""
    joint, lagrangian = build_joint(cfg, data), build_lagrangian(cfg, calibration, simplex)
    for c in lagrangian.constraints:
        c.divergence.size = data.size("train")
    model = assemble_model(cfg, joint, lagrangian, data.shape, data.attribute_shares)
    model.origin = {
        "version": __version__,
        "config": stored_settings(cfg),
        "shape": list(data.shape),
        "likelihood": data.likelihood,
        "levels": data.levels,
        "table": None if data.arrays.table is None else data.arrays.table.as_dict(),
        "standardization": None if data.standardization is None else data.standardization.as_dict(),
        "range": list(data.value_range),
        "second": list(joint.prior.shape) if isinstance(joint.prior, EmpiricalPrior) else None,
        "attribute": data.attribute_shares,
        "bounds": {c.name: c.bound for c in lagrangian.configured},
        "calibration": None if calibration is None else calibration.numbers,
        "digest": content_digest(data),
    }
    return model


def assemble_model(
    cfg: DictConfig,
    joint: JointModel,
    lagrangian: Lagrangian,
    shape: tuple[int, ...],
    attribute: Sequence[float] | None = None,
) -> LatentVariableModel:
    """The LightningModule of a joint model and a Lagrangian, with the optimizers of the config.

    Args:
        shape: that of one x. attribute: the share of each value of u, where batches have it.
    """
    for c in lagrangian.constraints:
        c.divergence.attribute_shares = attribute
        c.divergence.prepare(c.name, joint, shape)
    return (Front if isinstance(lagrangian, FrontLagrangian) else LatentVariableModel)(
        joint=joint,
        lagrangian=lagrangian,  # type: ignore[arg-type]
        primal=instantiate(cfg.model.optimizer),
        dual=instantiate(cfg.multiplier.optimizer) if cfg.multiplier.optimizer is not None else None,
        schedule=build_schedule(cfg),
        gradient_clip=cfg.training.gradient_clip,
        seed=cfg.seed,
        log_every=cfg.training.log_every,
        critic=instantiate(cfg.critic.optimizer),
        critic_steps=cfg.critic.steps,
        average=cfg.training.average,
    )


def build_callbacks(cfg: DictConfig, checkpoints: Path) -> list[pl.Callback]:
    """The callbacks of callbacks.lightning. A ModelCheckpoint without a folder of its own gets one in `checkpoints`."""
    callbacks = []
    for name, node in (cfg.callbacks.get("lightning") or {}).items():
        key = f"callbacks.lightning.{name}"
        with error_context(key):
            callback = instantiate(node)
        if not isinstance(callback, pl.Callback):
            raise SettingError(f"{key} is {type(callback).__name__}, which is not a callback of Lightning; name one.")
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(checkpoints / str(name))
        callbacks.append(callback)
    return callbacks


SMALL = 10_000_000
"""The largest product of parameters and rows of a batch that one thread trains as fast as several do."""


def choose_threads(cfg: DictConfig, model: LatentVariableModel, members: int = 1) -> int:
    """The number of threads for a model, or for an ensemble of so many: `training.threads`, else one if it is small, else all.

    The operations of a small model are too short to be shared: threads that wait for each other many times in a step gain
    little, and are as slow as the busiest core. The choice depends on nothing that changes from one start to the next.
    """
    available = available_threads()  # asked before any choice is made
    if cfg.training.threads is not None:
        return int(cfg.training.threads)
    work = members * cfg.data.batch * sum(p.numel() for p in model.parameters())
    return 1 if work <= SMALL else available


@cache
def available_threads() -> int:
    """The number of threads that torch would use by itself, at the first call."""
    return torch.get_num_threads()


def build_trainer(
    cfg: DictConfig, folder: Path, callbacks: Sequence[pl.Callback] = (), loggers: Sequence[Logger] = (), **settings: Any
) -> pl.Trainer:
    """Lightning's trainer, configured for a fit of this package: its length, our callbacks, no progress bar of Lightning's.

    Args:
        folder: where Lightning keeps the files that it writes itself. settings: further arguments of `pl.Trainer`.
    """
    quiet_libraries()
    fixed: dict[str, Any] = {
        "max_steps": cfg.training.steps,
        "max_epochs": -1,  # an epoch is an interval of a run
        "callbacks": list(callbacks),
        "logger": list(loggers) or False,
        "log_every_n_steps": cfg.training.log_every,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "default_root_dir": str(folder),
    }
    with error_context(f"trainer ({', '.join(f'{key}={value}' for key, value in cfg.trainer.items())})"):
        given = {"plugins": [AtomicCheckpointIO()]} | {str(key): value for key, value in cfg.trainer.items()} | settings
        if given.get("precision") == BY_MACHINE:
            given["precision"] = choose_precision(cfg)
        return pl.Trainer(**given, **fixed)
