"""Algorithm 1 on tables: distributions as softmax tables, with exact expectations, trained by the package's own module.

A "sample" here is a vector of probabilities over the values: one-hot if a value is drawn, else the whole distribution. The log
densities are linear in it, so that the mean over a batch of `JointSamples` is the exact expectation, with its exact gradient.
q(x) is the empirical distribution of the rows of a batch, as for any data.
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


class SoftOneHotCategorical(OneHotCategorical):
    """A categorical distribution whose log_prob also takes vectors of probabilities: it is linear in its argument."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_v value_v log p(v), in nats, (…,)."""
        return torch.special.xlogy(value, self.probs).sum(-1)


def one_hot_from(probs: Tensor, uniform: Tensor) -> Tensor:
    """One-hot samples of the distributions `probs` (B, m) from uniform numbers (B,), by inverse transform sampling."""
    index = (uniform.unsqueeze(-1) >= probs.cumsum(-1)[..., :-1]).sum(-1)
    return nn.functional.one_hot(index, probs.shape[-1]).to(probs.dtype)


class _Table(nn.Module):
    """Base of the tables: how they are sampled."""

    has_density = True
    differentiable_samples = False
    noise_kind = "uniform"

    def __init__(self, drawn: bool) -> None:
        super().__init__()
        self.drawn = drawn
        self.noise_shape: tuple[int, ...] = () if drawn else (0,)

    def draw_or_pass(self, probs: Tensor, noise: Tensor) -> Tensor:
        """One-hot samples of the distributions `probs` (B, m) where samples are drawn, else `probs` itself."""
        return one_hot_from(probs, noise) if self.drawn else probs


class TableEncoder(_Table):
    """q(z|x) as a softmax table.

    Args:
        logits: (n, k). drawn: whether z is drawn from noise and one-hot; else z is the vector q(z|x) itself.

    Shapes: x (B, n), one-hot or probabilities → distributions of z, batch shape (B,), event shape (k,).
    """

    def __init__(self, logits: Tensor, drawn: bool = False) -> None:
        super().__init__(drawn)
        self.logits = nn.Parameter(logits.double())

    def forward(self, x: Tensor) -> SoftOneHotCategorical:
        return SoftOneHotCategorical(probs=x @ self.logits.softmax(-1), validate_args=False)

    def sample(self, distribution: SoftOneHotCategorical, noise: Tensor) -> Tensor:
        """z, (B, k)."""
        return self.draw_or_pass(distribution.probs, noise)


class TablePrior(_Table):
    """p(z) as a softmax of k logits, learned or not."""

    def __init__(self, logits: Tensor, learned: bool, drawn: bool = False) -> None:
        super().__init__(drawn)
        self.logits = nn.Parameter(logits.double(), requires_grad=learned)
        self.latent = len(logits)

    def forward(self) -> SoftOneHotCategorical:
        return SoftOneHotCategorical(logits=self.logits, validate_args=False)

    def sample(self, noise: Tensor) -> Tensor:
        """z, (B, k)."""
        probs = self.logits.softmax(-1)
        return self.draw_or_pass(probs.expand(len(noise), -1), noise)


class TableDecoder(_Table):
    """p(x|z) = (1 − share) base(x|z) + share · softmax table.

    Args:
        base: (k, n). share: weight of the learned table. logits: (k, n). drawn: as for `TableEncoder`.

    Shapes: z (B, k), one-hot or probabilities → a distribution of x whose log_prob is Σ_z z log p(x|z).
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

    def forward(self, z: Tensor) -> TableReconstruction:
        return TableReconstruction(z, self.table)

    def sample(self, distribution: TableReconstruction, noise: Tensor) -> Tensor:
        """x, (B, n)."""
        return self.draw_or_pass(distribution.z @ distribution.table, noise)


@dataclass
class TableReconstruction:
    """p(x|z) for one-hot vectors or probabilities z; log_prob is linear in x and in z.

    Attributes:
        z: (B, k). table: p(x|z), (k, n).
    """

    z: Tensor
    table: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Σ_z z Σ_x x log p(x|z) in nats, (B,)."""
        return (self.z @ self.table.log() * x).sum(-1)


class TableJoint(JointModel):
    """Both joint distributions as tables; the rate is a finite sum."""

    has_rate = True  # type: ignore[assignment]

    def world(self, x: Tensor) -> Tabular:
        """The two joints with all their exact quantities and gradients; q(x) is the mean of the rows x, (B, n)."""
        return Tabular(x.mean(0), self.encoder.logits.softmax(-1), self.prior().probs, self.decoder.table)


class ExactDivergence(Divergence):
    """A divergence that is computed exactly from the tables, so that any quantity of `Tabular` can be a constraint.

    Args:
        quantity: maps the tables to the value, (). nats: whether it is in nats. symbol: its formula in the notation of
            `lagvae.algebra`.
    """

    def __init__(self, quantity: Callable[[Tabular], Tensor], nats: bool = True, symbol: str = "") -> None:
        self.quantity, self.nats, self.symbol = quantity, nats, symbol

    def __call__(self, samples: JointSamples) -> Tensor:
        if not isinstance(samples.joint, TableJoint):
            raise SettingError(f"ExactDivergence needs a TableJoint, not {type(samples.joint).__name__}.")
        return self.quantity(samples.joint.world(samples.x_q))


def rows(q_x: Tensor, most: int = 1000) -> Tensor:
    """The smallest set of one-hot rows, (B, n), whose empirical distribution is q(x).

    Raises: SettingError unless all q(x) are multiples of 1/B for some B up to `most`.
    """
    for size in range(1, most + 1):
        counts = q_x.double() * size
        if torch.allclose(counts, counts.round(), atol=1e-9, rtol=0):
            return torch.eye(len(q_x), dtype=torch.float64).repeat_interleave(counts.round().long(), 0)
    raise SettingError(
        f"q_x={[round(float(v), 6) for v in q_x]} is not the distribution of {most} rows or fewer; "
        "round it to multiples of 1/20."
    )


@dataclass(frozen=True)
class TrainedTables:
    """The result of Algorithm 1: f in nats, λ after the last step, and both joint distributions."""

    value: float
    multipliers: tuple[float, ...]
    world: Tabular


def build_table_model(program: Program, steps: int = 3000, seed: int = 0) -> LatentVariableModel:
    """The module that trains softmax tables on a program: rate, −ELBO ≤ ε + H_q(x), and the exact MMD.

    Raises: SettingError where a fixed table of the model has zeros; a softmax table has none, so that KL would be infinite.
    """
    fixed_tables = {"base": program.base if program.share == 0 else None, "p_z": program.p_z}
    for name in (name for name, table in fixed_tables.items() if table is not None and (table == 0).any()):
        raise SettingError(
            f"{name} has zeros and softmax tables have none, so that KL is infinite. Raise the zeros, or use solve_program."
        )
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
        mmd = ExactDivergence(lambda world: world.mmd(kernel, "z"), nats=False, symbol="MMD(q(z)||p(z))")
        constraints.append(Constraint("mmd", mmd, program.epsilon_mmd, learned=True, scale=program.scales[1]))
    return LatentVariableModel(
        joint,
        Lagrangian(Preference(program.alpha), constraints),
        # Adam keeps taking steps where the gradient vanishes, which disturbs λ under two constraints; AMSGrad's steps shrink.
        primal=lambda parameters: torch.optim.Adam(parameters, lr=0.1, betas=(0.9, 0.99), amsgrad=len(constraints) > 1),
        dual=lambda parameters: NuPI(parameters, lr=0.02, kp=1.0, nu=0.9, maximize=True),
        schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-4),
        log_every=steps,
    )


class ConstantLoader:
    """Yields the same batch, the whole data set, for a number of steps."""

    def __init__(self, x: Tensor, steps: int) -> None:
        self.x, self.steps = x, steps

    def __iter__(self) -> Iterator[Batch]:
        return (Batch(self.x, torch.arange(len(self.x)), step) for step in range(self.steps))

    def __len__(self) -> int:
        return self.steps


def train_tables(program: Program, steps: int = 3000, seed: int = 0) -> TrainedTables:
    """Run Algorithm 1 on a program with the package's own module, Lagrangian and ascent of λ."""
    x, model = rows(program.q_x), build_table_model(program, steps, seed)
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, train_dataloaders=ConstantLoader(x, steps))
    with torch.no_grad():
        world = model.joint.world(x)  # type: ignore[operator]
    return TrainedTables(program.alpha * float(world.rate), tuple(model.lagrangian.multiplier.tolist()), world)
