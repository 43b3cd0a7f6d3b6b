"""Strong duality where it holds: the minimising problem in distribution space, solved as a convex program.

    min  α E_q(x) KL(q(z|x)‖p(z))    subject to   KL(q(x,z)‖p(x,z)) ≤ ε,   MMD(q(z), p(z)) ≤ ε'       α > 0, q(x) given

over joint tables q(x,z) and p(x,z), where the decoder keeps a part of a given one: p(x|z) = (1 − s) base(x|z) + s r(x|z), any
table r. With s = 1 the problem is trivial: q(x,z) = p(x,z) = q(x) p(z) has V = 0 at every ε ≥ 0.

α KL(q(x,z)‖q(x) p(z)) and KL(q(x,z)‖p(x,z)) are jointly convex in both, for p(z) is linear in p(x,z); so is the squared MMD of
the two marginals; and the rule p(x,z) ≥ (1 − s) base(x|z) p(z) is linear in p(x,z) and p(z). Slater's condition needs one point
strictly within both bounds: then there is no duality gap, and λ* is the shadow price −dV/dε, where V has a slope (the
minimising half of Theorem 2; Zhao, Song, Ermon, UAI 2018).
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
"""Solvers of exponential cones and how precise they are asked to be: an interior point method, and a first order one."""


@dataclass(frozen=True)
class Program:
    """A minimising problem.

        p(x|z) = (1 − share) base(x|z) + share r(x|z),   r any table

    Args:
        q_x: q(x), (n,).
        base: base(x|z), (k, n). share: in [0, 1); 0: the decoder is `base`.
        p_z: p(z), (k,); None: it is free too.
        alpha: α > 0.
        epsilon: bound on KL(q(x,z)‖p(x,z)), in nats.
        kernel: K, (k, k), symmetric, positive semidefinite, of the second constraint; None: there is none.
        epsilon_mmd: its bound, ≥ 0.
        units: natural scales, > 0, of the two divergences, for an ascent of λ; they do not change the problem.

    Raises: SettingError for tables that are no distributions, a kernel that is none, and numbers out of range or not finite.
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
        if not all(isfinite(unit) and unit > 0 for unit in self.scales):
            raise SettingError(f"scales={self.scales} must be finite numbers above 0.")
        if not self.alpha > 0:
            raise SettingError(
                f"alpha={self.alpha} must be positive: maximising is not convex (see lagvae.oracles.maximising)."
            )
        if not self.epsilon >= 0:
            raise SettingError(f"epsilon={self.epsilon} must be at least 0: no KL divergence is below it.")
        if (self.kernel is None) != (self.epsilon_mmd is None):
            raise SettingError("kernel and epsilon_mmd belong together; give both, or neither.")
        if self.kernel is not None and self.epsilon_mmd is not None:
            check_kernel(self.kernel, k, "z")
            if self.epsilon_mmd < 0:
                raise SettingError(f"epsilon_mmd={self.epsilon_mmd} must be at least 0: no squared MMD is below it.")


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Args:
        value: V, in nats. multipliers: λ* of the KL, and of the MMD where it is constrained. world: both joints.
    """

    value: float
    multipliers: tuple[float, ...]
    world: Tabular


def solve_program(program: Program, solver: str = "CLARABEL") -> Solution:
    """Solve a program.

    Raises: SolverError where cvxpy is not installed, and for every status but "optimal".
    """
    tables = _Tables(program)
    goal = program.alpha * tables.rate
    return tables.solve(goal, tables.bounds(), solver)


def dual_value(program: Program, multipliers: tuple[float, ...], solver: str = "CLARABEL") -> float:
    """min over tables of f + Σ λ (D − bound), in nats: a lower bound on V for every λ ≥ 0, equal to it at λ*."""
    tables = _Tables(program)
    goal = program.alpha * tables.rate
    for multiplier, bound in zip(multipliers, tables.bounds(), strict=True):
        goal = goal + multiplier * bound.expr
    tables.solve(goal, [], solver)
    return float(goal.value)


def least_kl(program: Program, solver: str = "CLARABEL") -> float:
    """The least KL(q(x,z)‖p(x,z)) that the tables of a program reach, in nats, whatever the rate."""
    tables = _Tables(replace(program, kernel=None, epsilon_mmd=None))
    return float(tables.solve(tables.kl, [], solver).world.kl("x,z"))


def kl_without_information(program: Program, solver: str = "CLARABEL") -> float:
    """The least KL(q(x,z)‖p(x,z)) with q(z|x) = p(z), in nats: at and above it V = 0."""
    tables = _Tables(replace(program, kernel=None, epsilon_mmd=None))
    tables.rules.append(tables.q == tables.independent)
    return float(tables.solve(tables.kl, [], solver).world.kl("x,z"))


TINY = 1e-12
"""What stands for a probability of 0 in a solver's tables: it may come out as −1e-10, or as 0 where another table has 1e-10."""


class _Tables:
    """The variables and expressions of a program: linear in q(x,z), p(x,z) and p(z), but for the relative entropies."""

    def __init__(self, program: Program) -> None:
        self.cp = cp = cvxpy()
        self.program = program
        n, k = len(program.q_x), len(program.base)
        q_x, base = program.q_x.double().numpy(), program.base.double().numpy()
        self.q = cp.Variable((n, k), nonneg=True)
        self.rules = [cp.sum(self.q, axis=1) == q_x]
        if program.p_z is None:
            self.p_z: Any = cp.Variable(k, nonneg=True)
            self.rules.append(cp.sum(self.p_z) == 1)
        else:
            self.p_z = cp.Constant(program.p_z.double().numpy())
        self.p = (1 - program.share) * base.T @ cp.diag(self.p_z)
        if program.share > 0:
            free = cp.Variable((n, k), nonneg=True)
            self.rules.append(cp.sum(free, axis=0) == program.share * self.p_z)
            self.p = self.p + free
        self.independent = cp.reshape(q_x, (n, 1), order="C") @ cp.reshape(self.p_z, (1, k), order="C")
        self.rate = cp.sum(cp.rel_entr(self.q, self.independent))
        self.kl = cp.sum(cp.rel_entr(self.q, self.p))

    def bounds(self) -> list[Any]:
        """The constraints that have multipliers."""
        program, cp = self.program, self.cp
        found = [self.kl <= program.epsilon]
        if program.kernel is not None:
            off = cp.sum(self.q, axis=0) - self.p_z
            found.append(cp.quad_form(off, cp.psd_wrap(program.kernel.double().numpy())) <= program.epsilon_mmd)
        return found

    def solve(self, goal: Any, bounds: list[Any], solver: str) -> Solution:
        problem = self.cp.Problem(self.cp.Minimize(goal), [*self.rules, *bounds])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they warn of is the status, which is read below
                problem.solve(solver=solver, **SOLVERS.get(solver, {}))
        except self.cp.error.SolverError as error:
            raise SolverError(f"{solver} did not solve the program: {error}".replace("\n", " ")) from None
        if problem.status != self.cp.OPTIMAL:
            program = self.program
            second = "" if program.epsilon_mmd is None else f", or epsilon_mmd={program.epsilon_mmd:g}"
            raise SolverError(
                f"{solver} ended with status {problem.status!r}: no dual value of it means anything. Where it is 'infeasible', "
                f"raise epsilon={program.epsilon:g} above what least_kl gives{second}; else try another solver."
            )
        q, p = (torch.from_numpy(table.value).clamp(min=TINY) for table in (self.q, self.p))
        # A solver meets its equations to some tolerance; tables do so to rounding.
        p_z = torch.as_tensor(self.p_z.value).clamp(min=TINY)
        p_z = p_z / p_z.sum()
        rows, columns = q / q.sum(1, keepdim=True), (p / p.sum(0)).mT
        world = Tabular(self.program.q_x, rows, p_z, columns)
        duals = tuple(float(torch.as_tensor(b.dual_value, dtype=torch.float64).sum()) for b in bounds)
        return Solution(self.program.alpha * float(world.rate), duals, world)


def cvxpy() -> Any:
    """The module, imported where it is needed: it is an extra."""
    try:
        import cvxpy as module
    except ImportError as error:
        raise SolverError(f"Convex programs need cvxpy ({error}): pip install -e '.[duality]'.") from None
    return module


def shadow_price(program: Program, step: float = 1e-3, solver: str = "CLARABEL") -> float:
    """−dV/dε by central differences: what λ* must be. The error of the difference is of order step².

    Raises: SolverError, naming the program's own ε, where there is no solution a step below it.
    """
    try:
        below, above = (solve_program(replace(program, epsilon=program.epsilon + s), solver).value for s in (-step, step))
    except (SettingError, SolverError) as error:
        raise SolverError(
            f"epsilon={program.epsilon:g}: no difference of V, which needs solutions at epsilon ± {step:g}; take a smaller "
            f"step, or raise epsilon further above what least_kl gives. ({error})"
        ) from None
    return (below - above) / (2 * step)


def random_program(seed: int) -> Program:
    """A random problem whose bounds bind: q(x) in twentieths; the prior free in every third, MMD constrained in others.

    ε lies between what is attainable at all and what is without information. ε' is half of the MMD that there is without it.
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
        found = float(solve_program(program).world.mmd(kernel, "z"))
        program = replace(program, kernel=kernel, epsilon_mmd=found / 2, scales=(most - least, 4 * found))
    return program
