"""One fit of Lightning's trainer, with its model, data, loggers and callbacks."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from lagvae.callbacks import Checkpoints, Evaluation, FeasibilityWatch, StopOnSigterm, TrainingProgress
from lagvae.data import DataModule
from lagvae.errors import CheckpointError, LagvaeError, SettingError, Stopped
from lagvae.experiment.diagnostics import stationarity
from lagvae.experiment.factory import build_callbacks, build_trainer, choose_threads, instantiate, metric_nodes
from lagvae.experiment.logger_settings import build_loggers
from lagvae.front import Front
from lagvae.io import check_archive
from lagvae.metrics import DivergenceValues
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import close
from lagvae.runs.metrics_table import MetricsTable, digest_up_to

STATIONARITY_BATCHES = 20

CURVE_REDUCTION = 10
"""A point of the curve of a front is measured with so many times fewer draws than the model at its own slack."""

PARTS = ("training", "final")

M_MMAP_THRESHOLD, LARGE, LARGEST = -3, 2**23, 2**25
"""The parameter of glibc's mallopt, and bytes from which a block is given back when it is freed: here, and at most in glibc."""


@contextmanager
def returned_memory() -> Iterator[None]:
    """A context in which glibc gives blocks of 8 MiB or more back to the system when they are freed.

    Otherwise it keeps those of up to 32 MiB, between others that are in use. Blocks that fit into memory that was freed before
    the context are taken from there, and not given back. A smaller size than 8 MiB makes the evaluation of small models
    slower. Systems without glibc are left as they are.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        yield
        return
    libc.malloc_trim(0)
    libc.mallopt(M_MMAP_THRESHOLD, LARGE)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)


@contextmanager
def interrupted(trainer: pl.Trainer) -> Iterator[None]:
    """Raise Stopped, which names the step, where Lightning would end the program because the user interrupted it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and trainer.state.status != "interrupted":
            raise
        raise Stopped(f"Stopped at step {trainer.global_step} of {trainer.max_steps}.") from None


@contextmanager
def refused_callbacks(cfg: DictConfig, trainer: pl.Trainer) -> Iterator[None]:
    """Raise SettingError where a callback of callbacks.lightning refuses the trainer, or lacks the value that it monitors."""
    try:
        yield
    except (RuntimeError, MisconfigurationException) as error:  # which EarlyStopping and ModelCheckpoint raise
        known = [str(name) for name in trainer.callback_metrics]
        nodes = cfg.callbacks.get("lightning") or {}
        for name, node in nodes.items():
            monitor = str(node.get("monitor"))
            if monitor in str(error) and monitor not in known:
                near = get_close_matches(monitor, known, 1)
                hint = f"did you mean {near[0]}? It has" if near else "it has"
                raise SettingError(
                    f"callbacks.lightning.{name}.monitor={monitor} is no value of this run; {hint} {', '.join(sorted(known))}."
                ) from error
        if nodes and isinstance(error, MisconfigurationException):
            reason = " ".join(str(error).split()).rstrip(".")
            raise SettingError(
                f"Lightning refuses what callbacks.lightning adds ({', '.join(map(str, nodes))}): {reason}."
            ) from error
        raise


class Fit:
    """Trains or evaluates one model on its data with Lightning's trainer, the loggers and the callbacks.

    An epoch of the trainer is an interval, training.interval steps, after which the model is evaluated and saved; the "epoch"
    in metrics.csv counts passes over the data. `Trainer.test` evaluates on every split, not only on that for testing.

    Attributes:
        results: split → name → value of the latest evaluation. watch: notes the smallest value of each
            constrained divergence so far (`FeasibilityWatch.best`).
        ensemble: size and duration of the ensemble that trained the model, or None. step: the training step of the weights.
        messages: what to tell of the files that it goes on from. whole: whether metrics.csv has all rows that were written.
        started: when the fit was created. trained_in: seconds until training ended, None before that.
    """

    trained_in: float | None

    def __init__(self, cfg: DictConfig, data: DataModule, model: LatentVariableModel, folder: RunFolder, title: str) -> None:
        torch.set_num_threads(choose_threads(cfg, model))
        self.cfg, self.data, self.model, self.folder = cfg, data, model, folder
        self.ensemble: dict[str, Any] | None = None
        self.step = 0
        self.messages: list[str] = []
        self.whole = True
        self.started, self.trained_in = time.perf_counter(), None
        data.interval = (cfg.training.interval, cfg.training.steps)
        self.evaluation = build_evaluation(cfg, model)
        self.watch = FeasibilityWatch(self.evaluation)
        self.loggers = build_loggers(cfg, folder, data)
        table = next(logger for logger in self.loggers if isinstance(logger, MetricsTable))

        def digest() -> str:
            # Where the table is not whole, the digest is that of no table, so that a run stopped once more tells it too.
            return table.digest() if self.whole else "not whole"

        checkpoints = Checkpoints(folder.checkpoints, self.evaluation, digest)
        callbacks = [StopOnSigterm(), self.evaluation, self.watch, TrainingProgress(title, self.evaluation), checkpoints]
        of_user = build_callbacks(cfg, folder.checkpoints)
        self.trainer = build_trainer(cfg, folder.path, [*callbacks, *of_user], self.loggers)

    @property
    def first_process(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.trainer.is_global_zero

    @property
    def results(self) -> dict[str, dict[str, float]]:
        return self.evaluation.results

    def train(self, checkpoint: Path | None = None) -> None:
        """Train, from a checkpoint if one is given. Raises Stopped if the user interrupts it."""
        content = {} if checkpoint is None else read_training(checkpoint, self.model, self.cfg.training.steps)
        self.ensemble = content.get("ensemble")
        for logger in self.loggers:
            if isinstance(logger, MetricsTable) and self.first_process:
                logger.cut(content.get("global_step", 0))
                self._compare_table(content, logger.path)
        with interrupted(self.trainer), refused_callbacks(self.cfg, self.trainer):
            self.trainer.fit(self.model, self.data, ckpt_path=checkpoint, weights_only=True)
        self.step, self.trained_in = self.trainer.global_step, time.perf_counter() - self.started

    def _compare_table(self, content: dict[str, Any], metrics: Path) -> None:
        """Note where a metrics.csv does not have the rows that it had when the checkpoint with this content was written."""
        written = content.get("callbacks", {}).get(Checkpoints.__qualname__, {}).get("table")
        if written and digest_up_to(metrics, content["global_step"]) != written:
            self.whole = False
            self.messages.append(
                f"{metrics.name} is not what the run had written up to step {content['global_step']}: rows are lost or "
                "changed, and so may be what is said of convergence."
            )

    def load(self, checkpoint: Path, metrics: Path | None = None) -> None:
        """Load the weights of a checkpoint. Raises CheckpointError if it is damaged or of another model.

        Args:
            metrics: the metrics.csv of the run, which is compared with what the checkpoint says of it.
        """
        content = read_content(checkpoint)
        check_weights(checkpoint, content, self.model)
        if metrics is not None:
            self._compare_table(content, metrics)
        self.model.load_state_dict(content["state_dict"])
        self.step = content["global_step"]

    @returned_memory()
    def evaluate(self) -> None:
        """Run the full evaluation on every split and store it in `results`."""
        with interrupted(self.trainer):
            self.trainer.test(self.model, self.data, verbose=False)

    def measure_curve(self, model: Front, curve: list[dict[str, Any]]) -> None:
        """Add to every point of the curve of a front what the terms and the information are there, on the training split."""
        nodes = {name: node for name, node in metric_nodes(self.cfg, "final").items() if name in ("terms", "information")}
        if "pairs" in nodes.get("information", {}):
            nodes["information"] = OmegaConf.merge(
                nodes["information"], {"pairs": nodes["information"].pairs // CURVE_REDUCTION}
            )
        evaluation = Evaluation({name: instantiate(node) for name, node in nodes.items()}, {})
        self.data.trainer = None  # as in `stationarity`
        most = self.data.most_draws or self.data.draws
        passes = max(1, most // CURVE_REDUCTION // self.data.size("train"))
        noise = self.data.noise("curve")
        loader = self.data.eval_loader("train", model.device, passes, most)
        batches = [self.data.observed(batch, noise) for batch in loader]
        for point in curve:
            with model.slacks.at(point["gamma"]):
                evaluation.run(model, self.data, {"train": batches})
            point |= {"neg_elbo": point["train"], "neg_elbo_stderr": point["train_stderr"]}
            point |= {name: v for name, v in evaluation.results["train"].items() if name not in point}

    def stationarity(self) -> float | None:
        """The KKT stationarity residual of θ on batches of the training split; None for a front, which has no single one."""
        if isinstance(self.model, Front):
            return None
        device = self.model.device
        self.data.trainer = None  # the loader then yields the batches of a single process, from the first step on
        share = (self.data.most_draws or self.data.draws) / self.data.draws
        batches = max(1, int(STATIONARITY_BATCHES * share))
        loader = self.data.eval_loader("train", device, most=batches * self.data.batch)
        self.model.eval()
        noise = self.data.noise("stationarity")
        samples = (self.model.samples(self.data.observed(b, noise), "stationarity") for b in loader)
        with torch.enable_grad():
            return stationarity(self.model.joint, self.model.lagrangian, samples)

    @contextmanager
    def resumable(self, instruction: str) -> Iterator[None]:
        """Close the loggers if training inside fails or is interrupted. `instruction` tells the user how to resume."""
        try:
            yield
        except LagvaeError as error:
            for logger in self.loggers:
                close(logger, failed=True)
            if isinstance(error, Stopped):
                raise Stopped(f"{error} {self._what_is_kept()} {instruction}") from None
            raise

    def _what_is_kept(self) -> str:
        """A sentence on the step from which the run goes on: that of its last checkpoint."""
        try:
            return f"Its last checkpoint is that of step {read_content(self.folder.last)['global_step']}."
        except (CheckpointError, KeyError):
            return "There is no checkpoint yet, so that it will start anew."


def build_evaluation(cfg: DictConfig, model: LatentVariableModel, final: bool = True) -> Evaluation:
    """The evaluation of a model: the metrics that the config names, and every constrained divergence.

    Args:
        final: whether to include the metrics of the final evaluation, and not only those of every interval.
    """
    named = {f"constraint/{c.name}": c.divergence for c in model.lagrangian.constraints}
    constraints = {"constraints": lambda: DivergenceValues(named)}
    training, after = ({name: instantiate(node) for name, node in metric_nodes(cfg, part).items()} for part in PARTS)
    return Evaluation(
        training | constraints,
        (after if final else {}) | constraints,
        budget=cfg.callbacks.final.get("budget"),
        steps=cfg.training.steps,
    )


def read_content(path: Path) -> dict[str, Any]:
    """Read a checkpoint, without executing code that it may hold. Raises CheckpointError if it is damaged."""
    try:
        check_archive(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"]
    except Exception as error:  # unpickling can raise almost any exception
        raise CheckpointError(
            f"{path} is missing, damaged or not a checkpoint of this program. Use another checkpoint, or start a new run."
        ) from error
    if not isinstance(step := content.get("global_step", 0), int) or step < 0:  # weights alone need none
        raise damaged_by(path, f"its step is {step!r}")
    return content


TRAINING = ("optimizer_states", "lr_schedulers", "loops", "callbacks")
"""What Lightning needs of a checkpoint to go on with training."""


def read_checkpoint(path: Path, model: LatentVariableModel) -> dict[str, Any]:
    """Read a checkpoint from which training can go on. Raises CheckpointError if it is damaged or of another model."""
    content = read_content(path)
    check_weights(path, content, model)
    if lacking := [key for key in TRAINING if key not in content]:
        raise CheckpointError(
            f"{path} lacks {', '.join(lacking)}: it holds a model, and no training that can go on. Restore it, or start a new "
            "run."
        )
    try:
        what = next(impossible_training(content, model), None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"its optimizers or its loops cannot be read ({error!r})"
    if what is not None:
        raise damaged_by(path, what)
    return content


def read_training(path: Path, model: LatentVariableModel, steps: int) -> dict[str, Any]:
    """`read_checkpoint` of a run. Raises CheckpointError also where it has trained for longer than it should.

    Args:
        steps: the number of steps to which the model is trained.
    """
    content = read_checkpoint(path, model)
    if content["global_step"] > steps:
        raise CheckpointError(
            f"{path} is of step {content['global_step']}, after training.steps={steps}. Restore config.yaml, or start a new "
            "run."
        )
    return content


def check_weights(path: Path, content: dict[str, Any], model: LatentVariableModel) -> None:
    """Raise CheckpointError unless a checkpoint, the content of `path`, has weights that training the model can have left.

    They have the shapes of the model's and are finite, and multipliers lie in their ranges.
    """
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    shapes = {k: tuple(v.shape) for k, v in content["state_dict"].items()}
    if expected != shapes:
        key = min(k for k in expected.keys() | shapes.keys() if expected.get(k) != shapes.get(k))
        there, here = (f"shape {found[key]}" if key in found else "missing" for found in (shapes, expected))
        raise CheckpointError(
            f"{path} is of another model: {key}: {there} there, {here} here. Put the checkpoint into the folder of the run "
            "that wrote it, or train this run again."
        )
    if (what := next(impossible_weights(content, model), None)) is not None:
        raise damaged_by(path, what)


def impossible_weights(content: Mapping[str, Any], model: LatentVariableModel) -> Iterator[str]:
    """What no training leaves among the weights of a checkpoint: θ, ψ or λ that is not finite, and λ outside its range."""
    weights, lagrangian = content["state_dict"], model.lagrangian
    most = torch.ones_like(lagrangian.max_multiplier) if lagrangian.simplex else lagrangian.max_multiplier
    most = torch.where(lagrangian.learned, most, torch.inf).cpu()
    unit = (lagrangian.weight.unsqueeze(-1) / lagrangian.scale).cpu()
    # In the checkpoint of an ensemble, the running mean of a member that has diverged may be anything.
    for key in ("scaled", "running")[: 1 if lagrangian.scaled.dim() > 1 else 2]:
        scaled = weights[f"lagrangian.{key}"]
        outside = ~((scaled >= 0) & (scaled <= most * (1 + ROUNDING)) & scaled.isfinite())
        for at in map(tuple, outside.nonzero().tolist()[:1]):
            what = "λ" if key == "scaled" else "the running mean of λ"
            value, limit = (float((unit * each)[at]) for each in (scaled, most))
            yield f"{what} of constraints.{lagrangian.names[at[-1]]} is {value:g}, and not between 0 and {limit:g}"
    for name, _ in model.named_parameters():
        if not (finite := weights[name].isfinite()).all():
            yield f"{name} holds {float(weights[name][~finite][0]):g}"
    steps = weights["lagrangian.steps"]
    if not bool(((steps >= 0) & (steps <= content.get("global_step", torch.inf))).all()):
        yield f"λ has taken {float(steps.max()):g} steps, of {content.get('global_step')}"


def impossible_training(content: Mapping[str, Any], model: LatentVariableModel) -> Iterator[str]:
    """What no training leaves in the optimizers of a checkpoint: moments that are NaN, and other steps than it has taken."""
    step = content["global_step"]
    expected = {"θ": step}
    if model.lagrangian.learned.any():
        expected["λ"] = step
    if model.critics:
        expected["ψ"] = step * model.critic_steps
    if len(content["optimizer_states"]) != len(expected):
        yield f"it has {len(content['optimizer_states'])} optimizers, and its model those of {', '.join(expected)}"
    for (of, steps), optimizer in zip(expected.items(), content["optimizer_states"], strict=False):
        entries = [*optimizer["state"].values(), *optimizer["param_groups"]]
        for name, value in ((name, value) for entry in entries for name, value in entry.items()):
            if isinstance(value, torch.Tensor) and value.isnan().any():
                yield f"{name} of the optimizer of {of} holds nan"
        taken = max((float(entry["step"]) for entry in entries if "step" in entry), default=steps)
        # Half precision leaves out the steps whose gradients overflow, and keeps the factor of the gradients in a checkpoint.
        if not (0 <= taken <= steps if "MixedPrecision" in content else taken == steps):
            yield f"the optimizer of {of} has taken {taken:g} steps, of {steps}"
    loop = content["loops"]["fit_loop"]["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"]
    if loop != step:
        yield f"its trainer has taken {loop} steps, of {step}"


ROUNDING = 1e-4
"""By how much a multiplier may be above its limit, relative to that, for the rounding of projections."""


def damaged_by(path: Path, what: str) -> CheckpointError:
    """The error for a checkpoint with a number that no training leaves, and what to do: the run may have another one."""
    other = path.with_name("best.ckpt" if path.name == "last.ckpt" else "last.ckpt")
    copy = f"Put a copy of {other.name}, which lies beside it, in its place, or train" if other.is_file() else "Train"
    return CheckpointError(
        f"{path} is damaged: {what}, which no training leaves. {copy} the run again under another name (name=NAME)."
    )
