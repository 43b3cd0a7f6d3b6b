"""Algorithm 1 on tables: softmax tables as laws, whose expectations are sums, trained by the package's own module.

A "sample" is a measure on values: its one-hot where it is drawn, the whole law where it is not. log densities are linear in it,
so that the mean over a batch of `JointSamples` is the exact expectation, with its exact gradient. q(x) is the law of the
rows of a batch, as it is for any data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributions import OneHotCategorical

from lagvae.data import Batch
from lagvae.distributions import JointModel, JointSamples
from lagvae.divergences import Divergence, NegElbo
from lagvae.errors import SettingError
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.model import LatentVariableModel
from lagvae.nupi import NuPI
from lagvae.oracles.duality import Program
from lagvae.oracles.tabular import Tabular


class MeasureCategorical(OneHotCategorical):
    """A law on values, one-hot or measures of them: log_prob is linear in the value."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_v value_v log p(v), in nats, (…,)."""
        return torch.special.xlogy(value, self.probs).sum(-1)


def one_hot_from(probs: Tensor, uniform: Tensor) -> Tensor:
    """One-hot values of laws (B, m) from uniform numbers (B,): the inverse of the distribution function."""
    index = (uniform.unsqueeze(-1) >= probs.cumsum(-1)[..., :-1]).sum(-1)
    return nn.functional.one_hot(index, probs.shape[-1]).to(probs.dtype)


class _Table(nn.Module):
    """What laws of values have in common: how they are sampled."""

    has_density = True
    differentiable_samples = False
    noise_kind = "uniform"

    def __init__(self, drawn: bool) -> None:
        super().__init__()
        self.drawn = drawn
        self.noise_shape: tuple[int, ...] = () if drawn else (0,)

    def of(self, probs: Tensor, noise: Tensor) -> Tensor:
        """Values drawn from laws (B, m), or the laws themselves."""
        return one_hot_from(probs, noise) if self.drawn else probs


class TableEncoder(_Table):
    """q(z|x) as a softmax table.

    Args:
        logits: (n, k). drawn: whether z is drawn from noise, one-hot; else it is the law q(z|x) itself.

    Shapes: x (B, n) one-hot or measures → laws of z, batch shape (B,), event shape (k,).
    """

    def __init__(self, logits: Tensor, drawn: bool = False) -> None:
        super().__init__(drawn)
        self.logits = nn.Parameter(logits.double())

    def forward(self, x: Tensor) -> MeasureCategorical:
        return MeasureCategorical(probs=x @ self.logits.softmax(-1), validate_args=False)

    def sample(self, distribution: MeasureCategorical, noise: Tensor) -> Tensor:
        """z, (B, k)."""
        return self.of(distribution.probs, noise)


class TablePrior(_Table):
    """p(z) as a softmax of k logits, learned or not."""

    def __init__(self, logits: Tensor, learned: bool, drawn: bool = False) -> None:
        super().__init__(drawn)
        self.logits = nn.Parameter(logits.double(), requires_grad=learned)
        self.latent = len(logits)

    def forward(self) -> MeasureCategorical:
        return MeasureCategorical(logits=self.logits, validate_args=False)

    def sample(self, noise: Tensor) -> Tensor:
        """z, (B, k)."""
        probs = self.logits.softmax(-1)
        return self.of(probs.expand(len(noise), -1), noise)


class TableDecoder(_Table):
    """p(x|z) = (1 − share) base(x|z) + share · softmax table.

    Args:
        base: (k, n). share: of the table that is learned. logits: (k, n). drawn: as of the encoder.

    Shapes: z (B, k) one-hot or measures → a law of x, whose log_prob is Σ_z z log p(x|z).
    """

    base: Tensor

    def __init__(self, base: Tensor, share: float, logits: Tensor, drawn: bool = False) -> None:
        super().__init__(drawn)
        self.share = share
        self.register_buffer("base", base.double())
        self.logits = nn.Parameter(logits.double(), requires_grad=share > 0)

    @property
    def table(self) -> Tensor:
        """p(x|z), (k, n)."""
        return (1 - self.share) * self.base + self.share * self.logits.softmax(-1)

    def forward(self, z: Tensor) -> ReconstructionMeasure:
        return ReconstructionMeasure(z, self.table)

    def sample(self, distribution: ReconstructionMeasure, noise: Tensor) -> Tensor:
        """x, (B, n)."""
        return self.of(distribution.z @ distribution.table, noise)


@dataclass
class ReconstructionMeasure:
    """p(x|z) at a value z, or at a measure of values: log_prob is linear in x and in z.

    z: (B, k). table: p(x|z), (k, n).
    """

    z: Tensor
    table: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Σ_z z Σ_x x log p(x|z) in nats, (B,)."""
        return (self.z @ self.table.log() * x).sum(-1)


class TableJoint(JointModel):
    """Both joints as tables; the rate is a sum."""

    has_rate = True  # type: ignore[assignment]

    def world(self, x: Tensor) -> Tabular:
        """Every quantity of the two joints, q(x) being the law of the rows x, (B, n); with gradients."""
        return Tabular(x.mean(0), self.encoder.logits.softmax(-1), self.prior().probs, self.decoder.table)


class ExactSamples(Divergence):
    """A quantity of the discrete world, computed as a sum: with it anything the oracle knows may be a constraint.

    Args:
        quantity: of the world, (). nats: whether it is in nats. symbol: in the words of `lagvae.algebra`.
    """

    def __init__(self, quantity: Callable[[Tabular], Tensor], nats: bool = True, symbol: str = "") -> None:
        self.quantity, self.nats, self.symbol = quantity, nats, symbol

    def __call__(self, samples: JointSamples) -> Tensor:
        if not isinstance(samples.joint, TableJoint):
            raise SettingError(f"Exactly takes the laws of tables, not {type(samples.joint).__name__}.")
        return self.quantity(samples.joint.world(samples.x_q))


def rows(q_x: Tensor, most: int = 1000) -> Tensor:
    """One-hot rows of which q(x) is the law, (B, n): the fewest.

    Raises: SettingError where q(x) is no multiple of 1/B for any B up to `most`.
    """
    for size in range(1, most + 1):
        counts = q_x.double() * size
        if torch.allclose(counts, counts.round(), atol=1e-9, rtol=0):
            return torch.eye(len(q_x), dtype=torch.float64).repeat_interleave(counts.round().long(), 0)
    raise SettingError(
        f"q_x={[round(float(v), 6) for v in q_x]} is the law of no {most} rows or fewer; round it to multiples of 1/20."
    )


@dataclass(frozen=True)
class Ended:
    """Where Algorithm 1 ended: f in nats, λ at its last step, and both joints."""

    value: float
    multipliers: tuple[float, ...]
    world: Tabular


def model_of(program: Program, steps: int = 3000, seed: int = 0) -> LatentVariableModel:
    """The module that trains softmax tables on a program: rate, −ELBO ≤ ε + H_q(x), and MMD as the oracle has it.

    Raises: SettingError where the model rules out what a softmax table does not, so that KL is infinite.
    """
    kept = {"base": program.base if program.share == 0 else None, "p_z": program.p_z}
    for name in (name for name, table in kept.items() if table is not None and (table == 0).any()):
        raise SettingError(f"{name} has zeros, and softmax tables have none: KL is infinite. Raise them, or use duality.solve.")
    generator = torch.Generator().manual_seed(seed)
    n, k = len(program.q_x), len(program.base)

    def start(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)

    fixed = program.p_z is not None
    joint = TableJoint(
        TablePrior(program.p_z.log() if program.p_z is not None else torch.zeros(k), learned=not fixed),
        TableEncoder(start(n, k)),
        TableDecoder(program.base, program.share, start(k, n)),
    )
    entropy = float(-torch.special.xlogy(program.q_x, program.q_x).sum())
    constraints = [Constraint("neg_elbo", NegElbo(), program.epsilon + entropy, learned=True, scale=program.scales[0])]
    if program.kernel is not None:
        kernel = program.kernel
        mmd = ExactSamples(lambda world: world.mmd(kernel, "z"), nats=False, symbol="MMD(q(z)||p(z))")
        constraints.append(Constraint("mmd", mmd, program.epsilon_mmd, learned=True, scale=program.scales[1]))
    return LatentVariableModel(
        joint,
        Lagrangian(Preference(program.alpha), constraints),
        # Under two constraints λ feels the steps that Adam keeps taking where the gradient vanishes; AMSGrad's shrink.
        primal=lambda parameters: torch.optim.Adam(parameters, lr=0.1, betas=(0.9, 0.99), amsgrad=len(constraints) > 1),
        dual=lambda parameters: NuPI(parameters, lr=0.02, kp=1.0, nu=0.9, maximize=True),
        schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-4),
        log_every=steps,
    )


class _Same:
    """The same batch for a number of steps: all of the data."""

    def __init__(self, x: Tensor, steps: int) -> None:
        self.x, self.steps = x, steps

    def __iter__(self) -> Iterator[Batch]:
        return (Batch(self.x, torch.arange(len(self.x)), step) for step in range(self.steps))

    def __len__(self) -> int:
        return self.steps


def train_tables(program: Program, steps: int = 3000, seed: int = 0) -> Ended:
    """Algorithm 1 on a program, by the package's module, Lagrangian and ascent of λ."""
    x, model = rows(program.q_x), model_of(program, steps, seed)
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, train_dataloaders=_Same(x, steps))
    with torch.no_grad():
        world = model.joint.world(x)  # type: ignore[operator]
    return Ended(program.alpha * float(world.rate), tuple(model.lagrangian.multiplier.tolist()), world)
