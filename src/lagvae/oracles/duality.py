"""Strong duality for the minimising problem: over joint distributions it is a convex program, which a solver solves.

    min  α E_q(x) KL(q(z|x)‖p(z))    subject to   KL(q(x,z)‖p(x,z)) ≤ ε,   MMD(q(z), p(z)) ≤ ε'       α > 0, q(x) given

over joint tables q(x,z) and p(x,z). The decoder is a mixture of a given table and a free one:
p(x|z) = (1 − s) base(x|z) + s r(x|z), where r is any table. With s = 1 the problem is trivial: q(x,z) = p(x,z) = q(x) p(z) has
V = 0 at every ε ≥ 0.

α KL(q(x,z)‖q(x) p(z)) and KL(q(x,z)‖p(x,z)) are jointly convex in both tables, since p(z) is linear in p(x,z). So is the
squared MMD of the two marginals. The constraint p(x,z) ≥ (1 − s) base(x|z) p(z) is linear in p(x,z) and p(z). Slater's
condition asks for one point strictly within both bounds; then there is no duality gap, and λ* is the shadow price −dV/dε
wherever V is differentiable (the minimising half of Theorem 2; Zhao, Song, Ermon, UAI 2018).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from lagvae.errors import SettingError, SolverError
from lagvae.oracles.tabular import Tabular, check_kernel, check_table

SOLVERS = {
    "CLARABEL": {},
    "SCS": {"eps_abs": 1e-9, "eps_rel": 1e-9, "max_iters": 200_000},
}
"""Solvers that support exponential cones, with their tolerances: an interior-point method and a first-order method."""


@dataclass(frozen=True)
class Program:
    """A minimising problem.

        p(x|z) = (1 − share) base(x|z) + share r(x|z),   r any table

    Args:
        q_x: q(x), (n,).
        base: base(x|z), (k, n). share: s, in [0, 1); with 0 the decoder is `base`.
        p_z: p(z), (k,); None makes it free too.
        alpha: α > 0.
        epsilon: bound on KL(q(x,z)‖p(x,z)), in nats.
        kernel: K of the MMD constraint, (k, k), symmetric and positive semidefinite; None for no such constraint.
        epsilon_mmd: bound on the squared MMD, ≥ 0.
        scales: natural scales of the two divergences, > 0, for the ascent of λ; they do not change the problem.

    Raises: SettingError for tables that are not distributions, an invalid kernel, and numbers out of range or not finite.
    """

    q_x: Tensor
    base: Tensor
    share: float
    p_z: Tensor | None
    alpha: float
    epsilon: float
    kernel: Tensor | None = None
    epsilon_mmd: float | None = None
    scales: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        n, k = len(self.q_x), len(self.base)
        check_table("q_x", self.q_x, (n,))
        check_table("base", self.base, (k, n))
        if self.p_z is not None:
            check_table("p_z", self.p_z, (k,))
        if not 0 <= self.share < 1:
            raise SettingError(f"share={self.share} must be at least 0 and below 1.")
        for name in ("alpha", "epsilon", "epsilon_mmd"):
            number = getattr(self, name)
            if number is not None and not isfinite(number):
                raise SettingError(f"{name}={number} must be a finite number.")
        if not all(isfinite(scale) and scale > 0 for scale in self.scales):
            raise SettingError(f"scales={self.scales} must be finite numbers above 0.")
        if not self.alpha > 0:
            raise SettingError(
                f"alpha={self.alpha} must be positive: the maximising problem is not convex (see lagvae.oracles.maximising)."
            )
        if not self.epsilon >= 0:
            raise SettingError(f"epsilon={self.epsilon} must be at least 0: a KL divergence is never negative.")
        if (self.kernel is None) != (self.epsilon_mmd is None):
            raise SettingError("kernel and epsilon_mmd belong together; give both or neither.")
        if self.kernel is not None and self.epsilon_mmd is not None:
            check_kernel(self.kernel, k, "z")
            if self.epsilon_mmd < 0:
                raise SettingError(f"epsilon_mmd={self.epsilon_mmd} must be at least 0: a squared MMD is never negative.")


@dataclass(frozen=True)
class Solution:
    """A solution of a program.

    Args:
        value: V, the optimal value, in nats. multipliers: λ* of the KL constraint, and of the MMD constraint if there is one.
        world: both joint distributions.
    """

    value: float
    multipliers: tuple[float, ...]
    world: Tabular


def solve_program(program: Program, solver: str = "CLARABEL") -> Solution:
    """Solve a program.

    Raises: SolverError where cvxpy is not installed, and for every status other than "optimal".
    """
    tables = _Tables(program)
    objective = program.alpha * tables.rate
    return tables.solve(objective, tables.bounds(), solver)


def dual_value(program: Program, multipliers: tuple[float, ...], solver: str = "CLARABEL") -> float:
    """min over tables of f + Σ λ (D − bound), in nats: a lower bound on V for every λ ≥ 0, equal to V at λ*."""
    tables = _Tables(program)
    lagrangian = program.alpha * tables.rate
    for multiplier, bound in zip(multipliers, tables.bounds(), strict=True):
        lagrangian = lagrangian + multiplier * bound.expr
    tables.solve(lagrangian, [], solver)
    return float(lagrangian.value)


def least_kl(program: Program, solver: str = "CLARABEL") -> float:
    """The smallest KL(q(x,z)‖p(x,z)) over the tables of a program, in nats, whatever the rate."""
    tables = _Tables(replace(program, kernel=None, epsilon_mmd=None))
    return float(tables.solve(tables.kl, [], solver).world.kl("x,z"))


def kl_without_information(program: Program, solver: str = "CLARABEL") -> float:
    """The smallest KL(q(x,z)‖p(x,z)) with q(z|x) = p(z), in nats; V = 0 for every ε at or above it."""
    tables = _Tables(replace(program, kernel=None, epsilon_mmd=None))
    tables.equalities.append(tables.q == tables.independent)
    return float(tables.solve(tables.kl, [], solver).world.kl("x,z"))


TINY = 1e-12
"""Lower limit of the probabilities in a solver's tables, which may return −1e-10 for 0, or 0 where another table has 1e-10."""


class _Tables:
    """Variables and expressions of a program, all linear in q(x,z), p(x,z) and p(z) except the relative entropies."""

    def __init__(self, program: Program) -> None:
        self.cp = cp = cvxpy()
        self.program = program
        n, k = len(program.q_x), len(program.base)
        q_x, base = program.q_x.double().numpy(), program.base.double().numpy()
        self.q = cp.Variable((n, k), nonneg=True)
        self.equalities = [cp.sum(self.q, axis=1) == q_x]
        if program.p_z is None:
            self.p_z: Any = cp.Variable(k, nonneg=True)
            self.equalities.append(cp.sum(self.p_z) == 1)
        else:
            self.p_z = cp.Constant(program.p_z.double().numpy())
        self.p = (1 - program.share) * base.T @ cp.diag(self.p_z)
        if program.share > 0:
            free = cp.Variable((n, k), nonneg=True)
            self.equalities.append(cp.sum(free, axis=0) == program.share * self.p_z)
            self.p = self.p + free
        self.independent = cp.reshape(q_x, (n, 1), order="C") @ cp.reshape(self.p_z, (1, k), order="C")
        self.rate = cp.sum(cp.rel_entr(self.q, self.independent))
        self.kl = cp.sum(cp.rel_entr(self.q, self.p))

    def bounds(self) -> list[Any]:
        """The inequality constraints, whose multipliers are of interest."""
        program, cp = self.program, self.cp
        constraints = [self.kl <= program.epsilon]
        if program.kernel is not None:
            difference = cp.sum(self.q, axis=0) - self.p_z
            kernel = cp.psd_wrap(program.kernel.double().numpy())
            constraints.append(cp.quad_form(difference, kernel) <= program.epsilon_mmd)
        return constraints

    def solve(self, objective: Any, bounds: list[Any], solver: str) -> Solution:
        problem = self.cp.Problem(self.cp.Minimize(objective), [*self.equalities, *bounds])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the warnings repeat the status, which is checked below
                problem.solve(solver=solver, **SOLVERS.get(solver, {}))
        except self.cp.error.SolverError as error:
            raise SolverError(f"{solver} did not solve the program: {error}".replace("\n", " ")) from None
        if problem.status != self.cp.OPTIMAL:
            program = self.program
            second = "" if program.epsilon_mmd is None else f", or epsilon_mmd={program.epsilon_mmd:g}"
            raise SolverError(
                f"{solver} ended with status {problem.status!r}, so its dual values are meaningless. If it is 'infeasible', "
                f"raise epsilon={program.epsilon:g} above the value of least_kl{second}; otherwise try another solver."
            )
        q, p = (torch.from_numpy(table.value).clamp(min=TINY) for table in (self.q, self.p))
        # A solver satisfies the equalities to some tolerance; tables have to satisfy them to rounding.
        p_z = torch.as_tensor(self.p_z.value).clamp(min=TINY)
        p_z = p_z / p_z.sum()
        rows, columns = q / q.sum(1, keepdim=True), (p / p.sum(0)).mT
        world = Tabular(self.program.q_x, rows, p_z, columns)
        duals = tuple(float(torch.as_tensor(b.dual_value, dtype=torch.float64).sum()) for b in bounds)
        return Solution(self.program.alpha * float(world.rate), duals, world)


def cvxpy() -> Any:
    """The cvxpy module, imported only where it is needed because it is an optional dependency."""
    try:
        import cvxpy as module
    except ImportError as error:
        raise SolverError(f"Convex programs need cvxpy ({error}): pip install -e '.[duality]'.") from None
    return module


def shadow_price(program: Program, step: float = 1e-3, solver: str = "CLARABEL") -> float:
    """−dV/dε by central differences, which λ* must equal. The error of the difference is of order step².

    Raises: SolverError, naming the program's own ε, where there is no solution at ε − step.
    """
    try:
        below, above = (solve_program(replace(program, epsilon=program.epsilon + s), solver).value for s in (-step, step))
    except (SettingError, SolverError) as error:
        raise SolverError(
            f"epsilon={program.epsilon:g}: the difference of V needs solutions at epsilon ± {step:g}; take a smaller "
            f"step, or raise epsilon further above the value of least_kl. ({error})"
        ) from None
    return (below - above) / (2 * step)


def random_program(seed: int) -> Program:
    """A random program whose bounds are active.

    q(x) consists of multiples of 1/20. The prior is free where seed mod 3 = 2; otherwise MMD is constrained where
    seed mod 4 = 3. ε lies between the smallest KL and the smallest KL without information; ε' is half of the MMD of the
    solution without the MMD constraint.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    n, k = (int(size) for size in torch.randint(3, 6, (2,), generator=generator))
    counts = 2 + torch.bincount(torch.randint(n, (20 - 2 * n,), generator=generator), minlength=n)
    base = uniform(k, n).clamp(min=1e-3).log().neg() ** 5 + 0.05
    p_z = None if seed % 3 == 2 else 0.5 + uniform(k)
    program = Program(
        q_x=counts.double() / 20,
        base=base / base.sum(-1, keepdim=True),
        share=0.1 + 0.2 * float(uniform(1)),
        p_z=None if p_z is None else p_z / p_z.sum(),
        alpha=0.5 + 1.5 * float(uniform(1)),
        epsilon=0.0,
    )
    least, most = least_kl(program), kl_without_information(program)
    epsilon = least + (0.2 + 0.4 * float(uniform(1))) * (most - least)
    program = replace(program, epsilon=epsilon, scales=(most - least, 1.0))
    if seed % 4 == 3 and program.p_z is not None:
        root = uniform(k, k) - 0.5
        kernel = root @ root.mT + 0.1 * torch.eye(k, dtype=torch.float64)
        mmd = float(solve_program(program).world.mmd(kernel, "z"))
        program = replace(program, kernel=kernel, epsilon_mmd=mmd / 2, scales=(most - least, 4 * mmd))
    return program
