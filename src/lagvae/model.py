"""The LightningModule of every member of the family: θ descends the Lagrangian, λ ascends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import isfinite
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, LearningRateMonitor, ModelSummary, ProgressBar, Timer
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lagvae.data import Batch, eval_splits
from lagvae.distributions import JointModel, JointSamples, NoiseOnDemand, draw_noise
from lagvae.errors import DataError, DivergedError, SettingError
from lagvae.inference import Inference
from lagvae.introspection import draws_by_itself, first_line, is_of_lagvae
from lagvae.lagrangian import Lagrangian, Values
from lagvae.noise import Noise, generators_seeded
from lagvae.recorded import RecordedStep

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]

SchedulerFactory = Callable[[Optimizer], LRScheduler]

STEPS_BEFORE_RECORDING = 3
"""The number of steps before the one that is recorded on a GPU, in which libraries allocate what they need."""


class LatentVariableModel(Inference, pl.LightningModule):
    """Trains the joint model on a Lagrangian, by manual optimisation.

    In each step both joints are sampled, as far as its terms need them, with noise that is a function of (seed, step); the
    critics, if there are any, take their steps; the terms and divergences are estimated; θ descends L(θ, λ); and λ ascends the
    violation, which is the same number on every rank. `global_step` counts batches. `Inference` has the methods of a trained
    model.

    A batch is what `lagvae.data.DataModule` yields or, of any other loader, a tensor x, a tuple or list that starts with x, or
    a dict with x under "x"; such an x is used as it is, and its step is `global_step`. The values of a batch are logged as
    "train/…"; those of a validation or test loader, as means over all rows, as "val/…" or "test/…": the terms, −ELBO
    ("neg_elbo"), every divergence by the name of its constraint, and its violation D − bound ("violation/NAME").

    Args:
        joint: p(z), p(x|z), q(z|x).
        lagrangian: preference, constraints, multipliers.
        primal: builds the optimizer of θ from parameters.
        dual: builds the optimizer of λ (with maximize=True); required if a multiplier is learned.
        schedule: builds a learning rate schedule, which is stepped with every batch; None for a constant rate.
        gradient_clip: largest norm of ∇_θ L; None for no clipping.
        seed: of all noise in training and evaluation.
        log_every: number of steps between two logged rows, and between two checks that all terms are finite. The last batch of
            an epoch is logged too, unless it is one of a `DataModule`.
        critic: builds the optimizer of ψ, the parameters of all critics.
        critic_steps: steps of the critics per step of θ; the first uses the samples of θ, the others use new noise.
        average: decay of an exponential moving average of θ that evaluation and figures use; None to use θ itself.

    Attributes:
        origin: what `lagvae.load` builds the model from, which checkpoints hold; None for a model that no config describes.
        logs_evaluation: whether evaluation batches are measured and logged; a callback that measures them sets it to false.

    Raises: SettingError for invalid settings, and for a trainer that cannot train the model; DataError for a batch whose x has
        another shape, type or range than the model takes; DivergedError in training, if a term is no longer finite.

    Examples:
        >>> from functools import partial
        >>> from lagvae.distributions import BernoulliDecoder, GaussianEncoder, StandardNormalPrior
        >>> from lagvae.divergences import NegElbo
        >>> from lagvae.lagrangian import Constraint, Preference
        >>> from lagvae.log_ascent import LogAscent
        >>> from lagvae.networks import MLP
        >>> network, shape = partial(MLP, hidden=[32]), (1, 8, 8)
        >>> joint = JointModel(StandardNormalPrior(4), GaussianEncoder(network, shape, 4), BernoulliDecoder(network, shape, 4))
        >>> lagrangian = Lagrangian(Preference(-1.0), [Constraint("neg_elbo", NegElbo(), bound=24.0, learned=True)])
        >>> dual = partial(LogAscent, steps=1000, maximize=True)
        >>> model = LatentVariableModel(joint, lagrangian, primal=torch.optim.Adam, dual=dual)
        >>> model.encode(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        joint: JointModel,
        lagrangian: Lagrangian,
        primal: OptimizerFactory,
        dual: OptimizerFactory | None = None,
        schedule: SchedulerFactory | None = None,
        gradient_clip: float | None = None,
        seed: int = 0,
        log_every: int = 50,
        critic: OptimizerFactory | None = None,
        critic_steps: int = 1,
        average: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if gradient_clip is not None and not gradient_clip > 0:
            raise SettingError(f"training.gradient_clip={gradient_clip} must be positive, or null for none.")
        if log_every < 1:
            raise SettingError(f"training.log_every={log_every} must be at least 1.")
        if dual is None and any(c.learned for c in lagrangian.constraints):
            raise SettingError("A learned multiplier needs an optimizer; set multiplier=learned.")
        self.joint, self.lagrangian = joint, lagrangian
        self.primal, self.dual, self.schedule = primal, dual, schedule
        self.gradient_clip, self.seed, self.log_every = gradient_clip, seed, log_every
        critics = {c.name: c.divergence.critic for c in lagrangian.constraints if c.divergence.critic is not None}
        for c in lagrangian.constraints:
            if c.divergence.uses_critic != (c.name in critics):
                said = f"{type(c.divergence).__name__} has uses_critic={c.divergence.uses_critic}"
                raise SettingError(f"constraints.{c.name}: {said}, but it has {'a' if c.name in critics else 'no'} critic.")
        self.critics = nn.ModuleDict(critics)
        if self.critics and critic is None:
            raise SettingError("A divergence with a critic needs critic.optimizer.")
        if critic_steps < 1:
            raise SettingError(f"critic.steps={critic_steps} must be at least 1.")
        if average is not None and not 0 < average < 1:
            raise SettingError(f"training.average={average} must lie between 0 and 1, or be null for none.")
        self.critic, self.critic_steps = critic, critic_steps
        self.averaged: AveragedModel | None = None
        if average is not None:
            self.averaged = AveragedModel(joint, multi_avg_fn=get_ema_multi_avg_fn(average)).requires_grad_(False)
        self.origin: dict[str, Any] | None = None
        self.logs_evaluation = True
        self.last_logged: dict[str, Tensor] = {}
        self._noises: dict[str, Noise] = {}
        self._checked: list[str] = []
        self._first_nonfinite = torch.zeros(0)
        self._observation_shape: tuple[int, ...] | None = None
        self._recorded: RecordedStep | None = None
        self._can_record, self._steps_before_recording, self._terms = False, STEPS_BEFORE_RECORDING, list[str]()
        self._full_shape: torch.Size | None = None
        self._values_checked = False

    # ---- the parts of a step

    def as_batch(self, batch: Any, batch_idx: int) -> Batch:
        """A batch of any loader, with its step: `global_step` in training, the number of the batch in an evaluation.

        Raises: DataError for an x of another shape, type or range than the model takes.
        """
        if isinstance(batch, Batch):
            return batch
        training = self.trainer.training
        x = observation_of(batch)
        # A look at the values of a tensor on an accelerator waits for it: in training only the first batch is worth that.
        values = not (training and self._values_checked and on_accelerator(x))
        if self._observation_shape is None:
            self._observation_shape = self._shape
        dtype: Any = self.dtype
        x = self.observations(x, self._observation_shape, values).to(self.device, dtype)
        self._values_checked |= training
        step = self.global_step if training else batch_idx * self.trainer.world_size + self.global_rank
        return Batch(x, torch.arange(len(x)), step, self._attribute_of(batch, x, values))

    def _attribute_of(self, batch: Any, x: Tensor, check: bool) -> Tensor | None:
        """u of a batch (x, u, …) or {"x": x, "u": u}, where an objective needs it; `check`: whether to look at its values."""
        dependent = [c.divergence for c in self.lagrangian.constraints if c.divergence.uses_attribute]
        if not dependent:
            return None
        several = isinstance(batch, tuple | list) and len(batch) > 1
        u = batch.get("u") if isinstance(batch, Mapping) else batch[1] if several else None
        number = len(dependent[0].attribute_shares or ())
        if u is None:
            raise DataError("A batch has no attribute u, which the objective needs: yield (x, u), or a dict with x and u.")
        u = torch.as_tensor(u)
        whole = u.shape == x.shape[:1] and not u.is_floating_point()
        if not whole or (check and not 0 <= int(u.min()) <= int(u.max()) < number):
            raise DataError(f"The attribute u of a batch must be {len(x)} whole numbers from 0 to {number - 1}.")
        return u.to(x.device, torch.long)

    def samples(self, batch: Batch, purpose: str, joint: JointModel | None = None) -> JointSamples:
        """Lazy samples of both joints for an observed batch, with the noise of its step.

        Args:
            purpose: the name of the noise stream: "train…" in training, the split in an evaluation.
            joint: the model that is sampled, such as `eval_model`; by default that of θ.
        """
        training = purpose.startswith("train") and self._attached and self.trainer.training
        rank, world = (self.global_rank, self.trainer.world_size) if training else (0, 1)
        key = purpose if world == 1 else f"{purpose}, shared"  # the training split is also evaluated, whole
        if key not in self._noises:
            self._noises[key] = Noise(self.seed, purpose, rank, world)
        joint = self.joint if joint is None else joint
        draw = draw_noise if training else NoiseOnDemand  # the metrics of an evaluation may need any noise
        noise = draw(self.lagrangian.required_noise, joint, self._noises[key], batch.step, batch.x)
        return JointSamples(joint, batch.x, noise, self._gather if training else lambda t: t, batch.u)

    @property
    def eval_model(self) -> JointModel:
        """The joint model that evaluation and figures use: that of θ, or of its moving average."""
        joint: Any = self.joint if self.averaged is None else self.averaged.module
        return joint  # type: ignore[no-any-return]

    def warm_start_state(self) -> dict[str, Tensor]:
        """The state from which another run may start: the parameters of `eval_model`, and the critics."""
        return self.eval_model.state_dict() | {f"critics.{name}": value for name, value in self.critics.state_dict().items()}

    def warm_start(self, state: Mapping[str, Tensor]) -> None:
        """Load the `warm_start_state` of another model; RuntimeError if the shapes differ."""
        critics = {name.removeprefix("critics."): v for name, v in state.items() if name.startswith("critics.")}
        self.joint.load_state_dict({name: v for name, v in state.items() if not name.startswith("critics.")})
        self.critics.load_state_dict(critics)

    def measure(self, batch: Batch) -> Values:
        """Estimate the terms and divergences on a training batch, after the steps of the critics, if there are any."""
        samples = self.samples(batch, "train")
        if self.critics:
            self.step_critics(batch, samples)
        with frozen(self.critics):
            return self.lagrangian.measure(samples)

    def draw(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The observations and the noise of a training batch, of which `measure_drawn` is a function."""
        return batch.x, dict(self.samples(batch, "train").noise)

    def measure_drawn(self, x: Tensor, noise: dict[str, Tensor]) -> Values:
        """`measure` of what `draw` returns, for a model without critics in a single process."""
        return self.lagrangian.measure(JointSamples(self.joint, x, noise))

    def step_critics(self, batch: Batch, samples: JointSamples) -> None:
        """Take the steps of ψ, without a gradient to the samples."""
        estimators: list[Any] = [c.divergence for c in self.lagrangian.constraints if c.name in self.critics]
        for k in range(self.critic_steps):
            drawn = samples if k == 0 else self.samples(batch, f"train critics {k}")
            with torch.set_grad_enabled(k == 0):
                for estimator in estimators:
                    estimator.critic_inputs(drawn)  # draws the samples; the step of θ uses those of k = 0, with their gradient
            self._critic_optimizer.zero_grad()
            self.manual_backward(torch.stack([estimator.critic_loss(drawn) for estimator in estimators]).sum())
            self._critic_optimizer.step()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step: of the critics, in `measure`; of θ; and of λ, which ascends the violation measured before the step of θ."""
        from_datamodule, batch = isinstance(batch, Batch), self.as_batch(batch, batch_idx)
        values, loss = self._replay(batch) or self._forward_backward(batch)
        self.primal_step()
        if self._scheduler is not None:
            self._scheduler.step()

        values, loss = self._mean_over_ranks(values, loss)
        violation = self.lagrangian.scaled_violation(values.divergences)
        self._note_nonfinite(values, loss)
        if self._dual_optimizer is not None:
            self.lagrangian.ascend(violation, self._dual_optimizer)
        step = batch.step + 1
        ends = self.trainer.is_last_batch
        logs = step % self.log_every == 0 or step == self.trainer.max_steps or (ends and not from_datamodule)
        if logs or ends:
            named = self._named(values, violation, self.lagrangian.multiplier)
            if logs:
                self._report(named, step)
            # Where an epoch is an interval of a run, no callback needs a value before its end.
            if ends or not from_datamodule:
                self.log_for_callbacks(named)

    def _forward_backward(self, batch: Batch) -> tuple[Values, Tensor]:
        """The values of a batch and L, with ∇_θ L in the gradients of θ."""
        with self._generators(batch.step):
            values = self.measure(batch)
        loss = self.lagrangian(values)
        self._primal_optimizer.zero_grad()
        self.manual_backward(self.reduce_loss(loss))
        self._steps_before_recording -= 1
        if self._full_shape is None or batch.x.numel() > self._full_shape.numel():
            self._full_shape, self._recorded = batch.x.shape, None
        return values, loss

    def _replay(self, batch: Batch) -> tuple[Values, Tensor] | None:
        """`_forward_backward` as a CUDA graph, recorded at the first call that may; None where it is no recorded step."""
        if not self._can_record or self._steps_before_recording > 0 or batch.x.shape != self._full_shape:
            return None
        x, noise = self.draw(batch)
        if self._recorded is None:
            self._can_record = self.can_record()  # once more: a callback may have changed the model since
            if not self._can_record:
                return None
            self._primal_optimizer.zero_grad()
            try:
                compute = partial(self._compute, tuple(noise))
                self._recorded = RecordedStep(compute, trained_parameters(self.joint), (x, *noise.values()))
            except RuntimeError as error:
                self._can_record = False
                print(f"The step could not be recorded as a CUDA graph, so it is slower: {first_line(error)}")
                return None
        *terms, divergences, loss = self._recorded((x, *noise.values()))
        return Values(dict(zip(self._terms, terms, strict=True)), divergences), loss

    def _compute(self, names: Sequence[str], x: Tensor, *noise: Tensor) -> tuple[list[Tensor], Tensor]:
        """The terms, the divergences and L of what was drawn, and the scalar that θ descends."""
        values = self.measure_drawn(x, dict(zip(names, noise, strict=True)))
        loss = self.lagrangian(values)
        self._terms = list(values.terms)
        return [*values.terms.values(), values.divergences, loss], self.reduce_loss(loss)

    def can_record(self) -> bool:
        """Whether every step is the same operations on one device, of this package and torch alone, which nobody changes."""
        joint, divergences = self.joint, [c.divergence for c in self.lagrangian.constraints]
        parts = [type(self), joint.prior, joint.encoder, joint.decoder, *divergences]
        parts += [kernel for d in divergences if (kernel := getattr(d, "kernel", None)) is not None]
        return (
            isinstance(self.trainer.strategy, SingleDeviceStrategy)
            and not self.critics
            and not self._draws_by_itself
            and not draws_by_itself(self.lagrangian)
            and all(map(is_of_lagvae, parts))
            and getattr(self.trainer.precision_plugin, "scaler", None) is None
            and all(map(only_watches, self.trainer.callbacks))  # type: ignore[attr-defined]
            and not has_hooks(joint)
        )

    def _generators(self, step: int) -> AbstractContextManager[None]:
        """A context in which user-defined code draws what it would draw at this step of any run, also a resumed one."""
        if not self._draws_by_itself:
            return nullcontext()
        return generators_seeded(f"{self.seed}/train/{self.global_rank}/{step}", self.device)

    def reduce_loss(self, loss: Tensor) -> Tensor:
        """The scalar that θ descends: L itself, shape ()."""
        return loss

    def primal_step(self) -> None:
        """Take a step of θ."""
        self._primal_optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.joint)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip ∇_θ L; Lightning calls this after the gradient scaler of half precision has removed its factor."""
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.joint.parameters(), self.gradient_clip)

    def validation_step(  # type: ignore[override]
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> JointSamples:
        """Samples for an evaluation batch, which the metrics use."""
        from_datamodule = isinstance(batch, Batch)
        split = eval_splits(self.trainer)[dataloader_idx] if from_datamodule else "test" if self.trainer.testing else "val"
        samples = self.samples(self.as_batch(batch, batch_idx), split, self.eval_model)
        if self.logs_evaluation:
            self._log_evaluation(samples, LOGGED_AS.get(split, split), several=not from_datamodule)
        return samples

    test_step = validation_step  # type: ignore[assignment]

    # ---- a trained model

    def forward(self, x: Tensor) -> Tensor:
        """The codes of x: `encode`."""
        return self.encode(x)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """The codes of a batch: a tensor x, a tuple or list that starts with one, such as (x, label), or {"x": x}."""
        x = observation_of(batch)
        return self.encode(self._in_units(x) if isinstance(batch, Batch) else x)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.origin is not None:
            checkpoint["lagvae"] = self.origin

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: Any, map_location: Any = None, trust: Sequence[str] = (), **arguments: Any
    ) -> LatentVariableModel:
        """`lagvae.load`; with arguments of the constructor, Lightning's own method, for a model that no config describes.

        Raises: as `lagvae.load`; SettingError for arguments of the constructor without `joint`.
        """
        if "joint" in arguments:
            return super().load_from_checkpoint(checkpoint_path, map_location, **arguments)
        if unused := arguments.keys() - {"hparams_file", "strict", "weights_only"}:  # of Lightning, and of no effect here
            raise SettingError(
                f"load_from_checkpoint takes no {', '.join(sorted(unused))} for a model that the checkpoint describes; leave "
                "it out. For a model that was built in Python, pass joint, lagrangian and primal."
            )
        import lagvae

        return lagvae.load(checkpoint_path, map_location or "cpu", trust)

    # ---- the trainer

    def configure_callbacks(self) -> list[pl.Callback]:
        """None. Lightning calls this method before all others and before its own checks, so the trainer is checked here."""
        fits = self.trainer.state.fn == TrainerFn.FITTING
        check_trainer(self.trainer, fits)
        if fits and self.critics and self.trainer.world_size > 1:
            raise SettingError(f"A model with critics trains on one device, not on {self.trainer.world_size}; use devices=1.")
        self.logs_evaluation = True
        return []

    def configure_optimizers(self) -> list[Optimizer] | tuple[list[Optimizer], list[LRScheduler]]:  # type: ignore[override]
        optimizers = [self.primal(self.joint.parameters())]
        if self.lagrangian.learned.any():
            assert self.dual is not None
            dual = self.dual([self.lagrangian.scaled])
            if not dual.param_groups[0].get("maximize", False):
                raise SettingError("multiplier.optimizer must ascend: set multiplier.optimizer.maximize=true.")
            optimizers.append(dual)
        if self.critics:
            assert self.critic is not None
            optimizers.append(self.critic(self.critics.parameters()))
        if self.schedule is None:
            return optimizers
        return optimizers, [self.schedule(optimizers[0])]

    def on_fit_start(self) -> None:
        wrapped = self.optimizers()
        wrapped = wrapped if isinstance(wrapped, list) else [wrapped]
        if self.device.type == "cpu":
            for each in wrapped:
                skip_accelerator_check(each.optimizer)
        self._primal_optimizer = wrapped[0]
        # λ and ψ use the unwrapped optimizers, since Lightning would count a step of a wrapped one as a batch.
        others: list[Any] = [o.optimizer for o in wrapped[1:]]
        self._critic_optimizer: Any = others.pop() if self.critics else None
        self._dual_optimizer = others.pop() if others else None
        schedulers = self.lr_schedulers()
        self._scheduler = schedulers[0] if isinstance(schedulers, list) else schedulers
        self._draws_by_itself = draws_by_itself(self.joint) or draws_by_itself(self.critics)
        self._noises.clear()
        self._first_nonfinite = torch.zeros(0)
        self._values_checked = False
        self._recorded, self._steps_before_recording, self._full_shape = None, STEPS_BEFORE_RECORDING, None
        self._can_record = self.device.type == "cuda" and self.can_record()

    def on_fit_end(self) -> None:
        self._recorded = None  # frees its memory

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Forget a recording when the module is moved, as it also is after a fit that failed."""
        self._recorded = None
        return super()._apply(fn, recurse)

    # ---- several ranks

    @property
    def _attached(self) -> bool:
        return self._trainer is not None

    def _gather(self, t: Tensor) -> Tensor:
        """Concatenate the batches of all ranks, with gradients."""
        if self.trainer.world_size == 1:
            return t
        gathered: Any = self.all_gather(t, sync_grads=True)
        return gathered.flatten(0, 1)

    def _mean_over_ranks(self, values: Values, loss: Tensor) -> tuple[Values, Tensor]:
        """The values and the loss of the global batch, without gradients: means over ranks, equal on every rank.

        So λ ascends the same violation everywhere and stays equal, and all ranks see the same number that is not finite.
        """
        terms, divergences, loss = {n: t.detach() for n, t in values.terms.items()}, values.divergences.detach(), loss.detach()
        if self.trainer.world_size == 1:
            return Values(terms, divergences), loss
        row = torch.cat([t.float().reshape(-1) for t in (*terms.values(), loss, divergences)])
        row = self.trainer.strategy.reduce(row, reduce_op="mean")
        *means, loss = row[: len(terms) + 1]
        return Values(dict(zip(terms, means, strict=True)), row[len(terms) + 1 :]), loss

    # ---- checks and logging, every `log_every` steps

    def _note_nonfinite(self, values: Values, loss: Tensor) -> None:
        """Record, without synchronising with the device, the first step at which each term was not finite."""
        if not len(self._first_nonfinite):
            self._checked = [*sorted(values.terms), *self.lagrangian.names, "the Lagrangian"]
            self._first_nonfinite = torch.full((*self.lagrangian.steps.shape, len(self._checked)), -1, device=self.device)
        terms = torch.stack([*(values.terms[n] for n in sorted(values.terms)), *values.divergences.unbind(-1), loss], -1)
        new = (self._first_nonfinite < 0) & ~terms.detach().isfinite()
        self._first_nonfinite = torch.where(new, self.global_step, self._first_nonfinite)

    def _report(self, named: dict[str, Tensor], step: int) -> None:
        self.handle_nonfinite()
        self.last_logged = named
        self.log_rows(named, self._primal_optimizer.param_groups[0]["lr"], step)

    def _named(self, values: Values, violation: Tensor, multiplier: Tensor | None = None) -> dict[str, Tensor]:
        """Name → value of the terms, the objective, the divergences, their violations, and λ where it is given."""
        logged = {name: value.detach() for name, value in values.terms.items()}
        logged["objective"] = self.lagrangian.preference(values.terms).detach()
        for i, name in enumerate(self.lagrangian.names):
            logged[name] = values.divergences[..., i]
            if multiplier is not None:
                logged[f"multiplier/{name}"] = multiplier[..., i]
            if self.lagrangian.bounded[..., i].any():
                logged[f"violation/{name}"] = (violation * self.lagrangian.scale)[..., i]
        return logged

    def _log_evaluation(self, samples: JointSamples, prefix: str, several: bool) -> None:
        """Log the values of an evaluation batch, of which Lightning takes the means over all rows and ranks.

        Args:
            several: whether the names of several loaders are told apart by "/dataloader_idx_K".
        """
        values = self.lagrangian.measure(samples)
        logged = self._named(values, self.lagrangian.scaled_violation(values.divergences))
        if "rate" in logged and "distortion" in logged:
            logged.setdefault("neg_elbo", logged["rate"] + logged["distortion"])
        named = {f"{prefix}/{name}": value for name, value in logged.items()}
        self.log_dict(named, batch_size=len(samples.x_q), sync_dist=True, add_dataloader_idx=several)

    def log_rows(self, logged: dict[str, Tensor], lr: float, step: int) -> None:
        """Pass the values of a batch to the loggers."""
        if self.trainer.logger is not None and self.trainer.is_global_zero:
            row = {f"train/{name}": float(value) for name, value in logged.items()} | {"train/learning_rate": lr}
            for logger in self.trainer.loggers:
                logger.log_metrics(row, step)

    def log_for_callbacks(self, named: dict[str, Tensor]) -> None:
        """Put the values of a batch into `callback_metrics`, without the overhead of `log_dict`."""
        self.trainer.callback_metrics.update({f"train/{name}": value for name, value in named.items()})

    def handle_nonfinite(self, evaluated_loss: float = 0.0) -> None:
        """Raise DivergedError if a term of some step was not finite, or if the loss of an evaluation is not."""
        error = nonfinite_error(self._first_nonfinite.tolist(), self._checked, self.global_step, evaluated_loss)
        if error is not None:
            raise error


LOGGED_AS = {"train": "train_probe"}
"""Split → what its evaluations are logged as, where it has another name: "train" holds the values of single batches."""


WATCHING = (Checkpoint, EarlyStopping, LearningRateMonitor, Timer, ProgressBar, ModelSummary)
"""Lightning's callbacks that change nothing of a step."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_post_accumulate_grad_hooks")


def only_watches(callback: pl.Callback) -> bool:
    """Whether a callback is of this package, or one of Lightning's that changes nothing of a step."""
    return is_of_lagvae(callback) or (
        type(callback).__module__.startswith("pytorch_lightning.") and isinstance(callback, WATCHING)
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a module, a part of it or a parameter has a hook."""
    return any(getattr(part, name, None) for part in (*module.modules(), *module.parameters()) for name in HOOKS)


def skip_accelerator_check(optimizer: Optimizer) -> None:
    """Let an optimizer of parameters on a CPU not ask in every step whether a GPU records it, as Adam does.

    Where Lightning is imported, torch loads a library of the driver for the answer, which slows short steps.
    """
    if hasattr(optimizer, ACCELERATOR_CHECK):
        setattr(optimizer, ACCELERATOR_CHECK, lambda: None)


ACCELERATOR_CHECK = "_accelerator_graph_capture_health_check"
"""The method of torch's optimizers that asks it."""


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [p for p in module.parameters() if p.requires_grad]


def observation_of(batch: Any) -> Any:
    """The x of a batch: x itself, (x, …), [x, …] or {"x": x}. Raises DataError for anything else."""
    if isinstance(batch, Mapping):
        if "x" not in batch:
            raise DataError(f'A batch is a dict with {", ".join(map(str, batch)) or "no keys"}; it needs x under "x".')
        return batch["x"]
    if isinstance(batch, tuple | list):
        if not batch:
            raise DataError("A batch is empty; it must start with x.")
        return batch[0]
    return batch


def on_accelerator(x: Any) -> bool:
    """Whether x is a tensor of another device than the CPU."""
    return isinstance(x, Tensor) and x.device.type != "cpu"


def check_trainer(trainer: pl.Trainer, fits: bool = True) -> None:
    """Raise SettingError for a setting of Lightning's trainer that does not work with a model here.

    Args:
        fits: whether it is to train the model.
    """
    if fits and trainer.accumulate_grad_batches != 1:
        raise SettingError(
            f"accumulate_grad_batches={trainer.accumulate_grad_batches} does not work here, because λ takes a step with every "
            "batch; use larger batches."
        )
    if fits and trainer.gradient_clip_val:
        raise SettingError(
            f"gradient_clip_val={trainer.gradient_clip_val} does not work here, because the model clips ∇_θ L itself; set its "
            "gradient_clip (training.gradient_clip)."
        )
    if trainer.precision in HALF:
        raise SettingError(
            f"precision={trainer.precision} does not work here, because densities and λ need 32 bits; use "
            f"{trainer.precision.removesuffix('true')}mixed."
        )


HALF = ("16-true", "bf16-true")
"""Precisions of Lightning's trainer that have no 32-bit numbers at all."""


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """A context in which the parameters of a module require no gradient."""
    parameters = list(module.parameters())
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def nonfinite_error(first: list[int], names: list[str], step: int, evaluated: float = 0.0) -> DivergedError | None:
    """The error of a model whose terms were first not finite at the steps `first` (−1: never), or whose loss is not finite.

    Args:
        first: for each of `names` a step or −1. step: the step at which the loss was `evaluated`.

    Returns: None if everything is finite.
    """
    if max(first, default=-1) >= 0:
        when = min(f for f in first if f >= 0)
        nonfinite = [n for n, f in zip(names, first, strict=True) if f == when]
    elif not isfinite(evaluated):
        when, nonfinite = step, ["−ELBO"]
    else:
        return None
    what = "the gradient: all terms" if len(nonfinite) == len(names) > 2 else nonfinite[0]
    return DivergedError(
        f"Training stopped: {what} became NaN or infinite at step {when}. Checkpoints from before are kept. "
        "Lower model.optimizer.lr, set training.gradient_clip=10, or check the data for extreme values."
    )
