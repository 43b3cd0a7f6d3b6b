"""An ensemble: K models of the same architecture that train together, by vmap over their parameters.

Everything that differs between the members (α, bounds, λ, which λ are learned, seeds, learning rates) is a tensor with a
leading axis; everything else is the ordinary module. Each member trains as it would alone, on the same batches with the same
noise.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from lagvae.data import Batch, DataModule
from lagvae.distributions import JointModel, JointSamples, draw_noise
from lagvae.errors import DivergedError
from lagvae.lagrangian import Values
from lagvae.model import LatentVariableModel, nonfinite_error
from lagvae.noise import Noise

M = TypeVar("M", bound=nn.Module)

Seeds = tuple[int, int]
"""The seed of a member's noise and the seed of its batches."""


def named_tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Every parameter and buffer of a module: the submodule that owns it, its name there, and its full name."""
    for prefix, owner in module.named_modules():
        for leaf in (*owner._parameters, *owner._buffers):
            if getattr(owner, leaf) is not None:
                yield owner, leaf, f"{prefix}.{leaf}" if prefix else leaf


def stack_modules(modules: Sequence[M]) -> M:
    """A module of the same class whose parameters and buffers are those of all modules, stacked along a new first axis."""
    stacked = copy.deepcopy(modules[0])
    tensors = [{name: getattr(owner, leaf) for owner, leaf, name in named_tensors(m)} for m in modules]
    for owner, leaf, name in list(named_tensors(stacked)):
        values = torch.stack([of_module[name].detach() for of_module in tensors])
        if leaf in owner._parameters:
            values = nn.Parameter(values, requires_grad=tensors[0][name].requires_grad)
        setattr(owner, leaf, values)
    return stacked


def share_memory(member: nn.Module, ensemble: nn.Module, k: int) -> None:
    """Make the parameters and buffers of member k views of the ensemble's, so that they change as the ensemble trains."""
    stacked = {name: getattr(owner, leaf) for owner, leaf, name in named_tensors(ensemble)}
    for owner, leaf, name in list(named_tensors(member)):
        if leaf in owner._parameters:
            getattr(owner, leaf).data = stacked[name].data[k]
        else:
            setattr(owner, leaf, stacked[name].data[k])


class MeasuredObjective(nn.Module):
    """The terms and divergences of a joint model as a function of x and noise alone, as vmap requires."""

    def __init__(self, joint: JointModel, measure: Callable[[JointSamples], Values]) -> None:
        super().__init__()
        self.joint, self.measure = joint, measure

    def forward(self, x: Tensor, noise: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        values = self.measure(JointSamples(self.joint, x, noise))
        return values.terms, values.divergences


class Ensemble(LatentVariableModel):
    """K models that train together: the ordinary module, with a leading axis of members.

    The loss is the sum of the members' L, so that each member descends its own; the members do not affect one another. A member
    that is deactivated (a term is no longer finite, or its training has ended) is set to zero and left out of the sum.

    Args:
        members: ordinary models of the same architecture; their parameters become views of those of the ensemble.
        seeds: of the noise and of the batches of each member.
        tables: the logger of each member.
        compile: whether to compile the step; if compiling fails the step runs uncompiled, and `note` says so.

    Attributes:
        alive: (K,), whether a member still trains. failed: member → the error that stopped it.
        parts: the distinct pairs of seeds; members with the same pair share their batches and noise.
        part: (K,), the index of each member's pair. factors: (K,), its learning rate divided by that of the first member.
    """

    def __init__(
        self,
        members: Sequence[LatentVariableModel],
        seeds: Sequence[Seeds],
        tables: Sequence[Logger],
        compile: bool = False,
    ) -> None:
        first = members[0]
        dual = next((member.dual for member in members if member.lagrangian.learned.any()), None)
        super().__init__(
            joint=stack_modules([member.joint for member in members]),
            lagrangian=stack_modules([member.lagrangian for member in members]),
            primal=first.primal,
            dual=dual if dual is not None else first.dual,
            schedule=first.schedule,
            gradient_clip=first.gradient_clip,
            seed=first.seed,
            log_every=first.log_every,
        )
        self.members, self.tables = tuple(members), tuple(tables)  # in a tuple they are not submodules
        self.parts = sorted(set(seeds))
        self.part = torch.tensor([self.parts.index(s) for s in seeds])
        rates = torch.tensor([learning_rate(member) for member in members], dtype=torch.float64)
        self.factors = rates / rates[0]
        self.failed: dict[int, DivergedError] = {}
        self.note = ""
        self.register_buffer("alive", torch.ones(len(members), dtype=torch.bool), persistent=False)
        measured = MeasuredObjective(self.joint, self.lagrangian.measure)
        data_axis = None if len(self.parts) == 1 else 0

        def measure_member(state: dict[str, Tensor], x: Tensor, noise: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
            return functional_call(measured, state, (x, noise))

        self._map = self._uncompiled = vmap(measure_member, in_dims=(0, data_axis, data_axis))
        self._compile = compile

    alive: Tensor

    def link_members(self) -> None:
        """Make the members' tensors views of the ensemble's again, after these were moved to another device."""
        for k, member in enumerate(self.members):
            share_memory(member.joint, self.joint, k)
            share_memory(member.lagrangian, self.lagrangian, k)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.part = self.part.to(self.device)
        self.link_members()

    # ---- the step

    def measure(self, batch: Batch) -> Values:
        """The terms, each (K,), and divergences, (K, m), of a training batch."""
        return self.measure_drawn(*self.draw(batch))

    def draw(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The observations and the noise of a training batch: of all members if they share them, else with a leading axis."""
        required_noise = self.lagrangian.required_noise
        single = len(self.parts) == 1
        if "train" not in self._noises:
            self._noises |= {f"train {seed}": Noise(seed, "train") for seed, _ in self.parts} | {"train": Noise(0)}
        drawn = [
            draw_noise(required_noise, self.joint, self._noises[f"train {seed}"], batch.step, batch.x if single else batch.x[i])
            for i, (seed, _) in enumerate(self.parts)
        ]
        if single:
            return batch.x, drawn[0]
        return batch.x[self.part], {name: torch.stack([d[name] for d in drawn])[self.part] for name in drawn[0]}

    def measure_drawn(self, x: Tensor, noise: dict[str, Tensor]) -> Values:
        """The terms, each (K,), and divergences, (K, m), of what `draw` returns."""
        state = {f"joint.{name}": getattr(owner, leaf) for owner, leaf, name in named_tensors(self.joint)}
        terms, divergences = self._mapped(state, x, noise)
        return Values(terms, divergences)

    def _mapped(self, *inputs: Any) -> tuple[dict[str, Tensor], Tensor]:
        if self._compile:
            self._compile = False
            try:
                self._map = compile_step(self._uncompiled, inputs)
            except Exception as error:  # a missing compiler or any other failure of compilation
                self.note = "not compiled, so slower"
                print(f"The step could not be compiled, so it is slower: {(str(error).splitlines() or [repr(error)])[0]}")
                torch._dynamo.reset()
        values: tuple[dict[str, Tensor], Tensor] = self._map(*inputs)
        return values

    def reduce_loss(self, loss: Tensor) -> Tensor:
        """The sum of L over the active members, shape ()."""
        return torch.where(self.alive, loss, 0.0).sum()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient ∇_θ L of each member by its own norm."""
        if self.gradient_clip is None:
            return
        gradients = [p.grad for p in self.joint.parameters() if p.grad is not None]
        norm = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients]).norm(dim=0)
        factor = (self.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(broadcast_along(factor, g))

    def primal_step(self) -> None:
        """Take a step of θ; for members whose learning rate differs from the first one's it is scaled accordingly."""
        if bool((self.factors == 1).all()):
            super().primal_step()
            return
        parameters = list(self.joint.parameters())
        before = [p.detach().clone() for p in parameters]
        super().primal_step()
        with torch.no_grad():
            for p, old in zip(parameters, before, strict=True):
                factors = self.factors.to(p.device, p.dtype)
                p.copy_(torch.lerp(old, p, broadcast_along(factors, p)))

    def deactivate(self, k: int) -> None:
        """End the training of a member: its tensors are set to zero, so that all its values stay finite."""
        self.alive[k] = False
        self.lagrangian.learned[k] = False
        optimizers = [self._primal_optimizer.optimizer, *([self._dual_optimizer] if self._dual_optimizer is not None else [])]
        tensors = [p.data for p in (*self.joint.parameters(), self.lagrangian.scaled)]
        tensors += [t for o in optimizers for state in o.state.values() for t in state.values() if t.dim()]
        for t in tensors:
            t[k].zero_()

    # ---- checks and logging

    def log_rows(self, logged: dict[str, Tensor], lr: float, step: int) -> None:
        """Pass the values of each member to its own logger."""
        columns = {name: value.tolist() for name, value in logged.items()}
        bounded = self.lagrangian.bounded.tolist()
        violations = {f"violation/{name}": i for i, name in enumerate(self.lagrangian.names)}
        for k in self.alive.nonzero().flatten().tolist():
            row = {f"train/{n}": v[k] for n, v in columns.items() if n not in violations or bounded[k][violations[n]]}
            self.tables[k].log_metrics(row | {"train/learning_rate": lr * float(self.factors[k])}, step)

    def log_for_callbacks(self, named: dict[str, Tensor]) -> None:
        """Do nothing: an ensemble has no callback that monitors a value."""

    def handle_nonfinite(self, evaluated_loss: float = 0.0) -> None:
        """Deactivate the members with a term that is not finite; nothing is raised, and the others continue to train.

        Members are evaluated one by one, elsewhere, so there is no loss of all of them.
        """
        if not len(self._first_nonfinite):
            return
        first_nonfinite = self._first_nonfinite.tolist()
        for k in self.alive.nonzero().flatten().tolist():
            error = nonfinite_error(first_nonfinite[k], self._checked, self.global_step)
            if error is not None:
                self.failed[k] = error
                self.deactivate(k)


def compile_step(step: Callable[..., Any], inputs: Sequence[Any]) -> Callable[..., Any]:
    """Compile a step and its gradient with torch.compile and run both once, so that any failure is raised here."""
    torch._dynamo.reset()  # an earlier ensemble's code is of other sizes, and there is a limit to how much is kept
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with torch.no_grad():
        step(*inputs)  # fills caches of torch.distributions that cannot be traced
    compiled: Callable[..., Any] = torch.compile(step, dynamic=False)  # sizes are those of this ensemble alone
    terms, divergences = compiled(*inputs)
    parameters = [t for t in inputs[0].values() if t.requires_grad]
    torch.autograd.grad(sum(terms.values()).sum() + divergences.sum(), parameters)
    return compiled


def broadcast_along(values: Tensor, like: Tensor) -> Tensor:
    """Values (K,) as (K, 1, …), to broadcast against a tensor (K, …)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def learning_rate(model: LatentVariableModel) -> float:
    """The initial learning rate of a model's optimizer."""
    return float(model.primal([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"])


def member_checkpoint(content: dict[str, Any], k: int, factor: float, learns: bool) -> dict[str, Any]:
    """The part of an ensemble's checkpoint that belongs to a member, in the format of an ordinary run's checkpoint.

    Args:
        content: a checkpoint of an ensemble. k: the member. factor: its learning rate divided by the first member's.
        learns: whether it has a learned multiplier; otherwise an ordinary model has no optimizer of λ.
    """
    optimizers: list[dict[str, Any]] = []
    for state in content["optimizer_states"][: 1 + learns]:
        groups = [dict(group) for group in state["param_groups"]]
        if not optimizers:
            for group in groups:
                group |= {key: group[key] * factor for key in ("lr", "initial_lr") if key in group}
        own = {i: {n: slice_member(v, k) for n, v in values.items()} for i, values in state["state"].items()}
        optimizers.append({"state": own, "param_groups": groups})
    schedulers = copy.deepcopy(content["lr_schedulers"])
    for scheduler in schedulers:
        scheduler |= {key: [lr * factor for lr in scheduler[key]] for key in ("base_lrs", "_last_lr") if key in scheduler}
    return content | {
        "state_dict": {name: slice_member(value, k) for name, value in content["state_dict"].items()},
        "optimizer_states": optimizers,
        "lr_schedulers": schedulers,
        "callbacks": {},
    }


def slice_member(value: Any, k: int) -> Any:
    """The k-th slice of a tensor with an axis of members; scalars, such as a count of steps, are shared by all members."""
    return value[k].detach().cpu().clone() if isinstance(value, Tensor) and value.dim() else value


class EnsembleData(pl.LightningDataModule):
    """The batches of an ensemble: (B, …) if all members share them, else (parts, B, …), with one for each pair of seeds.

    Args:
        parts: the data of each pair of seeds.
    """

    def __init__(self, parts: Sequence[DataModule]) -> None:
        super().__init__()
        self.parts = list(parts)

    def train_dataloader(self) -> JoinedLoader:
        trainer: Any = self.trainer
        return JoinedLoader([d.train_loader(lambda: trainer.global_step, trainer.strategy.root_device) for d in self.parts])

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Replace stored samples by observed ones, each part with its own noise."""
        if len(self.parts) == 1:
            return self.parts[0].observed(batch, self.parts[0].noise("train"))
        observed = [
            data.observed(Batch(x, index, batch.step), data.noise("train"))
            for data, x, index in zip(self.parts, *batch[:2], strict=True)
        ]
        return Batch(torch.stack([part.x for part in observed]), batch.index, batch.step)


class JoinedLoader:
    """Iterates over several loaders at once and stacks their batches."""

    def __init__(self, loaders: Sequence[Any]) -> None:
        self.loaders = list(loaders)

    def __iter__(self) -> Iterator[Batch]:
        for batches in zip(*self.loaders, strict=True):
            if len(batches) == 1:
                yield batches[0]
            else:
                yield Batch(torch.stack([b.x for b in batches]), torch.stack([b.index for b in batches]), batches[0].step)
