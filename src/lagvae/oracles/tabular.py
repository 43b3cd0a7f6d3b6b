"""A discrete model: x and z take finitely many values, both joints are tables, and every quantity of the paper is a finite sum.

q(x,z) = q(x) q(z|x),   p(x,z) = p(z) p(x|z);   in nats, in double precision, with gradients to the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae.errors import SettingError

ROUNDING = 1e-6
"""Tolerance for the sum of a distribution, since tables may be given in single precision."""

MARGINALS = {"x": 1, "z": 0}
"""The axis of a joint table, with x along axis 0 and z along axis 1, that is summed out for a marginal."""

OVER = ("x", "z", "x,z", "x|z", "z|x")


def check_table(name: str, table: Tensor, shape: tuple[int, ...]) -> None:
    """Raise SettingError unless a table has a given shape and its last axis holds distributions."""
    if tuple(table.shape) != shape:
        raise SettingError(f"{name} has shape {tuple(table.shape)}; it must be {shape}, the last axis holding distributions.")
    table = table.detach()
    bad = table[~(table.isfinite() & (table >= 0))]
    if len(bad):
        raise SettingError(f"{name} has the entry {float(bad[0]):g}; probabilities must be finite and ≥ 0.")
    sums = table.sum(-1).flatten()
    worst = float(sums[(sums - 1).abs().argmax()])
    if abs(worst - 1) > ROUNDING:
        raise SettingError(f"{name} sums to {worst:.8g}, not to 1; divide by the sum.")


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
    """Both joints q(x,z) = q(x) q(z|x) and p(x,z) = p(z) p(x|z) for x with n values and z with k values.

    The argument `over` names the variables of a quantity: "x", "z", "x,z", "x|z" or "z|x". A conditional divergence D(q‖p) is
    an expectation under q, the first argument. All values are scalars (), in nats if they contain logarithms.

    Args:
        q_x: the distribution of the data q(x), (n,).
        q_z_given_x: the encoder q(z|x), (n, k).
        p_z: the prior p(z), (k,).
        p_x_given_z: the decoder p(x|z), (k, n).

    Raises: SettingError for a table that is not a distribution. The message names the table and its sum.

    Reference: Zhao, Song, Ermon, UAI 2018, Sections 3 and 4.
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
        """A model whose tables are drawn from flat Dirichlet distributions."""
        generator = torch.Generator().manual_seed(seed)

        def flat(*shape: int) -> Tensor:
            drawn = -torch.rand(shape, generator=generator, dtype=torch.float64).clamp(min=1e-12).log()
            return drawn / drawn.sum(-1, keepdim=True)

        return cls(flat(n), flat(n, k), flat(k), flat(k, n))

    # ---- densities

    def joint(self, joint: str) -> Tensor:
        """The joint density q(x,z) or p(x,z), (n, k), for `joint` "q" or "p"."""
        if joint == "q":
            return self.q_x[:, None] * self.q_z_given_x
        if joint == "p":
            return self.p_z * self.p_x_given_z.mT
        raise SettingError(f"joint={joint!r} is unknown; choose q or p.")

    def density(self, joint: str, over: str) -> Tensor:
        """A density of a joint, as a table that broadcasts with the joint: (n, k), or (n, 1) over x, or (1, k) over z."""
        table = self.joint(joint)
        if over in MARGINALS:
            return table.sum(MARGINALS[over], keepdim=True)
        if over == "x,z":
            return table
        if over not in OVER:
            raise SettingError(f"over={over!r} is unknown; choose one of {', '.join(OVER)}.")
        if (joint, over) == ("q", "z|x"):
            return self.q_z_given_x  # the table itself, which is also defined for x with q(x) = 0
        if (joint, over) == ("p", "x|z"):
            return self.p_x_given_z.mT
        axis = MARGINALS[over[2]]
        given = table.sum(axis, keepdim=True)
        # The conditional given an event of probability 0 is undefined; it is set to the uniform distribution.
        return torch.where(given > 0, table, 1.0) / torch.where(given > 0, given, float(table.shape[axis]))

    def expected_log(self, side: str, joint: str, over: str) -> Tensor:
        """E_side[log joint(over)], (), in nats; −∞ where `joint` gives probability 0 to an event that `side` does not."""
        weights, density = torch.broadcast_tensors(self.joint(side), self.density(joint, over))
        return torch.special.xlogy(weights, density).sum()

    def entropy(self, joint: str, over: str) -> Tensor:
        """The entropy H(over) = −E_joint[log joint(over)], (), in nats; conditional for "x|z" and "z|x"."""
        return -self.expected_log(joint, joint, over)

    # ---- information and its bounds (eq. 13)

    def information(self, joint: str) -> Tensor:
        """The mutual information I(x;z) = H(x) + H(z) − H(x,z) under a joint, (), in nats."""
        return self.entropy(joint, "x") + self.entropy(joint, "z") - self.entropy(joint, "x,z")

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
        """KL(first‖other) = E_first log first − E_first log other ≥ 0; ∞ where the other is 0 and first is not."""
        return self.expected_log(first, first, over) - self.expected_log(first, "p" if first == "q" else "q", over)

    def js(self, over: str) -> Tensor:
        """JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m), m = ½ (q + p); at most log 2."""

        def entropy(table: Tensor) -> Tensor:
            return -torch.special.xlogy(table, table).sum((-2, -1))

        return self._expected(over, lambda q, p: entropy((q + p) / 2) - (entropy(q) + entropy(p)) / 2)

    def f_divergence(self, f: Callable[[Tensor], Tensor], over: str) -> Tensor:
        """D_f(q‖p) = E_p f(q/p), for f convex with f(1) = 0.

        Raises: SettingError if a density has zeros, which would need f(0) and the slope of f at ∞.
        """
        for joint in ("q", "p"):
            if (self.density(joint, over) == 0).any():
                raise SettingError(f"The f-divergence over {over} needs {joint}({over}) without zeros; take kl or js.")
        return self._expected(over, lambda q, p: (p * f(q / p)).sum((-2, -1)))

    def mmd(self, kernel: Tensor, over: str) -> Tensor:
        """The squared MMD (q − p)ᵀ K (q − p), without unit.

        Args:
            kernel: K, (m, m), symmetric and positive semidefinite, where m is the number of values of x, of z, of (x,z) in the
                order of the flattened joint table, or of the first variable of a conditional distribution.
            over: the variables of the divergence.

        Raises: SettingError for another shape, or a kernel that is not symmetric and positive semidefinite.
        """
        kernel = kernel.double()
        sizes = {"x": len(self.q_x), "z": len(self.p_z)}
        check_kernel(kernel, sizes["x"] * sizes["z"] if over == "x,z" else sizes.get(over[:1], 0), over)

        def quadratic(q: Tensor, p: Tensor) -> Tensor:
            d = (q - p).flatten(-2)
            return ((d @ kernel) * d).sum(-1)

        return self._expected(over, quadratic)

    def _expected(self, over: str, divergence: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A divergence of tables (…, a, b) → (…,). For conditional distributions, its mean over the condition under q."""
        q, p = self.density("q", over), self.density("p", over)
        if "|" not in over:
            return divergence(q, p)
        given = self.density("q", over[2]).flatten()
        if over[0] == "x":
            q, p = q.mT, p.mT
        return (given * divergence(q[:, None], p[:, None])).sum()
