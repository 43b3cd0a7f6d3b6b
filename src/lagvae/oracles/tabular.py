"""The discrete model: x and z take finitely many values, both joints are tables, and every quantity of the paper is a sum.

q(x,z) = q(x) q(z|x),   p(x,z) = p(z) p(x|z);   in nats, in double precision, with gradients to the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae.errors import SettingError

ROUNDING = 1e-6
"""Largest deviation from 1 of the sum of a distribution, since tables may be given in single precision."""

MARGINALS = {"x": 1, "z": 0}
"""Variable → the axis of a joint table (rows x, columns z) over which its marginal sums."""

OVER = ("x", "z", "x,z", "x|z", "z|x")


def check_table(name: str, table: Tensor, shape: tuple[int, ...]) -> None:
    """Raise SettingError unless a table has the given shape and its last axis holds distributions."""
    if tuple(table.shape) != shape:
        raise SettingError(f"{name} has shape {tuple(table.shape)}; it must be {shape}, the last axis holding distributions.")
    table = table.detach()
    invalid = table[~(table.isfinite() & (table >= 0))]
    if len(invalid):
        raise SettingError(f"{name} has the entry {float(invalid[0]):g}; probabilities must be numbers ≥ 0 that sum to 1.")
    sums = table.sum(-1).flatten()
    furthest = float(sums[(sums - 1).abs().argmax()])
    if abs(furthest - 1) > ROUNDING:
        raise SettingError(f"{name} sums to {furthest:.8g}, not to 1; divide it by the sum.")


def check_kernel(kernel: Tensor, m: int, over: str) -> None:
    """Raise SettingError unless K is (m, m), finite, symmetric and positive semidefinite."""
    if tuple(kernel.shape) != (m, m):
        raise SettingError(f"kernel has shape {tuple(kernel.shape)}; over {over} it must be {(m, m)}.")
    kernel = kernel.detach().double()
    if not kernel.isfinite().all():
        raise SettingError("kernel must hold finite numbers.")
    least = float(torch.linalg.eigvalsh(kernel)[0])
    if least < -ROUNDING or not torch.allclose(kernel, kernel.mT):
        raise SettingError(f"kernel must be symmetric and positive semidefinite; its least eigenvalue is {least:.3g}.")


@dataclass(frozen=True)
class Tabular:
    """Both joint distributions of an x of n values and a z of k values.

    Args:
        q_x: q(x), (n,), the data. q_z_given_x: q(z|x), (n, k).
        p_z: p(z), (k,). p_x_given_z: p(x|z), (k, n).

    In all methods `side` is the distribution, "q" or "p", and `over` says which of its densities is meant: "x", "z", "x,z",
    "x|z" or "z|x". A conditional divergence D(q‖p) is the expectation over its condition under q, the first argument. All
    values have shape (); those that contain logarithms are in nats.

    Raises: SettingError for a table that is not a distribution; the message states its name and its sum.

    Reference: Zhao, Song, Ermon, UAI 2018, Sections 3 and 4.

    Examples:
        >>> half, copy = torch.full((2,), 0.5), torch.eye(2)
        >>> Tabular(half, copy, half, copy).information("q")  # z is a copy of a fair bit: log 2
        tensor(0.6931, dtype=torch.float64)
    """

    q_x: Tensor
    q_z_given_x: Tensor
    p_z: Tensor
    p_x_given_z: Tensor

    def __post_init__(self) -> None:
        for name in ("q_x", "q_z_given_x", "p_z", "p_x_given_z"):
            object.__setattr__(self, name, getattr(self, name).double())
        if self.q_x.dim() != 1 or self.p_z.dim() != 1:
            raise SettingError(f"q_x and p_z must be vectors, not {tuple(self.q_x.shape)} and {tuple(self.p_z.shape)}.")
        n, k = len(self.q_x), len(self.p_z)
        shapes = {"q_x": (n,), "q_z_given_x": (n, k), "p_z": (k,), "p_x_given_z": (k, n)}
        for name, shape in shapes.items():
            check_table(name, getattr(self, name), shape)

    @classmethod
    def random(cls, n: int, k: int, seed: int) -> Tabular:
        """A model with tables drawn from flat Dirichlet distributions."""
        generator = torch.Generator().manual_seed(seed)

        def flat(*shape: int) -> Tensor:
            drawn = -torch.rand(shape, generator=generator, dtype=torch.float64).clamp(min=1e-12).log()
            return drawn / drawn.sum(-1, keepdim=True)

        return cls(flat(n), flat(n, k), flat(k), flat(k, n))

    # ---- densities

    def joint(self, side: str) -> Tensor:
        """q(x,z) or p(x,z), (n, k)."""
        if side == "q":
            return self.q_x[:, None] * self.q_z_given_x
        if side == "p":
            return self.p_z * self.p_x_given_z.mT
        raise SettingError(f"side={side!r} is unknown; choose q or p.")

    def density(self, side: str, over: str) -> Tensor:
        """A density as a table that broadcasts against the joint: (n, k), or (n, 1) over x, or (1, k) over z."""
        joint = self.joint(side)
        if over in MARGINALS:
            return joint.sum(MARGINALS[over], keepdim=True)
        if over == "x,z":
            return joint
        if over not in OVER:
            raise SettingError(f"over={over!r} is unknown; choose one of {', '.join(OVER)}.")
        if (side, over) == ("q", "z|x"):
            return self.q_z_given_x  # as given: p may have values of x whose probability is zero under q
        if (side, over) == ("p", "x|z"):
            return self.p_x_given_z.mT
        axis = MARGINALS[over[2]]
        given = joint.sum(axis, keepdim=True)
        # Bayes' rule is undefined where the condition has probability zero; the uniform distribution is used there.
        return torch.where(given > 0, joint, 1.0) / torch.where(given > 0, given, float(joint.shape[axis]))

    def expected_log(self, side: str, density_of: str, over: str) -> Tensor:
        """E_side log density_of(over), e.g. E_q log p(x|z); −∞ where the density is zero and the joint is not."""
        joint, density = torch.broadcast_tensors(self.joint(side), self.density(density_of, over))
        return torch.special.xlogy(joint, density).sum()

    def entropy(self, side: str, over: str) -> Tensor:
        """H(over) = −E log density(over) under the same distribution; a conditional entropy where `over` is conditional."""
        return -self.expected_log(side, side, over)

    # ---- information and its bounds (eq. 13)

    def information(self, side: str) -> Tensor:
        """I(x;z) under q or p: H(x) + H(z) − H(x,z)."""
        return self.entropy(side, "x") + self.entropy(side, "z") - self.entropy(side, "x,z")

    @property
    def rate(self) -> Tensor:
        """E_q(x) KL(q(z|x)‖p(z))."""
        return self.expected_log("q", "q", "z|x") - self.expected_log("q", "p", "z")

    @property
    def distortion(self) -> Tensor:
        """−E_q log p(x|z)."""
        return -self.expected_log("q", "p", "x|z")

    @property
    def neg_elbo(self) -> Tensor:
        """Rate + distortion = KL(q(x,z)‖p(x,z)) + H_q(x)."""
        return self.rate + self.distortion

    @property
    def i_q_upper(self) -> Tensor:
        """Ī_q = E_q(x) KL(q(z|x)‖p(z)) = I_q + KL(q(z)‖p(z))."""
        return self.rate

    @property
    def i_q_lower(self) -> Tensor:
        """I̲_q = E_q log p(x|z) + H_q(x) = I_q − E_q(z) KL(q(x|z)‖p(x|z))."""
        return self.entropy("q", "x") - self.distortion

    @property
    def i_p_upper(self) -> Tensor:
        """Ī_p = E_p(z) KL(p(x|z)‖q(x)) = I_p + KL(p(x)‖q(x))."""
        return self.expected_log("p", "p", "x|z") - self.expected_log("p", "q", "x")

    @property
    def i_p_lower(self) -> Tensor:
        """I̲_p = E_p log q(z|x) + H_p(z) = I_p − E_p(x) KL(p(z|x)‖q(z|x))."""
        return self.expected_log("p", "q", "z|x") + self.entropy("p", "z")

    # ---- divergences

    def kl(self, over: str, first: str = "q") -> Tensor:
        """KL(first‖second) = E_first log first − E_first log second ≥ 0; ∞ where only the second density is zero."""
        return self.expected_log(first, first, over) - self.expected_log(first, "p" if first == "q" else "q", over)

    def js(self, over: str) -> Tensor:
        """JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m), m = ½ (q + p); at most log 2."""

        def entropy(table: Tensor) -> Tensor:
            return -torch.special.xlogy(table, table).sum((-2, -1))

        return self._expected(over, lambda q, p: entropy((q + p) / 2) - (entropy(q) + entropy(p)) / 2)

    def f_divergence(self, f: Callable[[Tensor], Tensor], over: str) -> Tensor:
        """D_f(q‖p) = E_p f(q/p), for f convex with f(1) = 0.

        Raises: SettingError where a density has zeros, since f(0) and the slope of f at ∞ are not among the arguments.
        """
        for side in ("q", "p"):
            if (self.density(side, over) == 0).any():
                raise SettingError(f"The f-divergence over {over} needs {side}({over}) without zeros; use kl or js.")
        return self._expected(over, lambda q, p: (p * f(q / p)).sum((-2, -1)))

    def mmd(self, kernel: Tensor, over: str) -> Tensor:
        """The squared MMD (q − p)ᵀ K (q − p), dimensionless.

        Args:
            kernel: K, (m, m), symmetric and positive semidefinite, over the m values of the variable: for (x,z) in the order of
                the flattened joint table, for a conditional the values of its first variable.

        Raises: SettingError for another shape, or a negative eigenvalue.
        """
        kernel = kernel.double()
        sizes = {"x": len(self.q_x), "z": len(self.p_z)}
        check_kernel(kernel, sizes["x"] * sizes["z"] if over == "x,z" else sizes.get(over[:1], 0), over)

        def quadratic(q: Tensor, p: Tensor) -> Tensor:
            d = (q - p).flatten(-2)
            return ((d @ kernel) * d).sum(-1)

        return self._expected(over, quadratic)

    def _expected(self, over: str, divergence: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A divergence of tables (…, a, b) → (…,); for conditionals its mean over the condition, under q."""
        q, p = self.density("q", over), self.density("p", over)
        if "|" not in over:
            return divergence(q, p)
        given = self.density("q", over[2]).flatten()
        if over[0] == "x":
            q, p = q.mT, p.mT
        return (given * divergence(q[:, None], p[:, None])).sum()
