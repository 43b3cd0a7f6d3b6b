"""The discrete world: x and z take finitely many values, and both joints are tables. Every quantity of the paper is a sum.

q(x,z) = q(x) q(z|x),   p(x,z) = p(z) p(x|z);   in nats, in double precision, with gradients to the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae.errors import SettingError

ROUNDING = 1e-6
"""How far the sum of a distribution may be from 1: tables may come in single precision."""

MARGINALS = {"x": 1, "z": 0}
"""The axis of a joint table, x down and z across, that is summed out for a marginal."""

OVER = ("x", "z", "x,z", "x|z", "z|x")


def check_table(name: str, table: Tensor, shape: tuple[int, ...]) -> None:
    """Raise SettingError unless a table has a shape and its last axis holds distributions."""
    if tuple(table.shape) != shape:
        raise SettingError(f"{name} has shape {tuple(table.shape)}; it must be {shape}, the last axis holding distributions.")
    table = table.detach()
    bad = table[~(table.isfinite() & (table >= 0))]
    if len(bad):
        raise SettingError(f"{name} has the entry {float(bad[0]):g}; probabilities are numbers ≥ 0, and here they sum to 1.")
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
    """Both joints over x of n and z of k values.

    Args:
        q_x: q(x), (n,), the data. q_z_given_x: q(z|x), (n, k).
        p_z: p(z), (k,). p_x_given_z: p(x|z), (k, n).

    `over` is what a quantity is over: "x", "z", "x,z", "x|z" or "z|x". A conditional divergence D(q‖p) is expected under q, the
    law that stands first. All values are (), in nats where logarithms are in them.

    Raises: SettingError for a table that is no distribution, naming it and its sum.

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
        """A world with tables drawn from flat Dirichlet distributions."""
        generator = torch.Generator().manual_seed(seed)

        def flat(*shape: int) -> Tensor:
            drawn = -torch.rand(shape, generator=generator, dtype=torch.float64).clamp(min=1e-12).log()
            return drawn / drawn.sum(-1, keepdim=True)

        return cls(flat(n), flat(n, k), flat(k), flat(k, n))

    # ---- densities

    def joint(self, law: str) -> Tensor:
        """q(x,z) or p(x,z), (n, k)."""
        if law == "q":
            return self.q_x[:, None] * self.q_z_given_x
        if law == "p":
            return self.p_z * self.p_x_given_z.mT
        raise SettingError(f"law={law!r} is unknown; choose q or p.")

    def density(self, law: str, over: str) -> Tensor:
        """The density of a law, as a table that lines up with the joint: (n, k), (n, 1) over x, (1, k) over z."""
        joint = self.joint(law)
        if over in MARGINALS:
            return joint.sum(MARGINALS[over], keepdim=True)
        if over == "x,z":
            return joint
        if over not in OVER:
            raise SettingError(f"over={over!r} is unknown; choose one of {', '.join(OVER)}.")
        if (law, over) == ("q", "z|x"):
            return self.q_z_given_x  # as given: the other law may have an x that never happens here
        if (law, over) == ("p", "x|z"):
            return self.p_x_given_z.mT
        axis = MARGINALS[over[2]]
        given = joint.sum(axis, keepdim=True)
        # Given what never happens Bayes' rule says nothing; a uniform law stands there.
        return torch.where(given > 0, joint, 1.0) / torch.where(given > 0, given, float(joint.shape[axis]))

    def expected_log(self, side: str, law: str, over: str) -> Tensor:
        """E_side log law(over): −∞ where the law rules out what happens."""
        joint, density = torch.broadcast_tensors(self.joint(side), self.density(law, over))
        return torch.special.xlogy(joint, density).sum()

    def entropy(self, law: str, over: str) -> Tensor:
        """H(over) = −E log of the law's own density, conditional where `over` is."""
        return -self.expected_log(law, law, over)

    # ---- information and its bounds (eq. 13)

    def information(self, law: str) -> Tensor:
        """I(x;z) under a law: H(x) + H(z) − H(x,z)."""
        return self.entropy(law, "x") + self.entropy(law, "z") - self.entropy(law, "x,z")

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
        """KL(first‖other) = E_first log first − E_first log other ≥ 0; ∞ where the other rules out what happens."""
        return self.expected_log(first, first, over) - self.expected_log(first, "p" if first == "q" else "q", over)

    def js(self, over: str) -> Tensor:
        """JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m), m = ½ (q + p); at most log 2."""

        def entropy(table: Tensor) -> Tensor:
            return -torch.special.xlogy(table, table).sum((-2, -1))

        return self._expected(over, lambda q, p: entropy((q + p) / 2) - (entropy(q) + entropy(p)) / 2)

    def f_divergence(self, f: Callable[[Tensor], Tensor], over: str) -> Tensor:
        """D_f(q‖p) = E_p f(q/p), for f convex with f(1) = 0.

        Raises: SettingError where a density has zeros: f(0) and the slope of f at ∞ are not asked for.
        """
        for law in ("q", "p"):
            if (self.density(law, over) == 0).any():
                raise SettingError(f"The f-divergence over {over} needs {law}({over}) without zeros; take kl or js.")
        return self._expected(over, lambda q, p: (p * f(q / p)).sum((-2, -1)))

    def mmd(self, kernel: Tensor, over: str) -> Tensor:
        """The squared MMD (q − p)ᵀ K (q − p), without unit.

        Args:
            kernel: K, (m, m), symmetric, positive semidefinite, over the m values of what it is over: of (x,z) in the order of
                the flattened joint table, of a conditional those of the variable that stands first.

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
        """A divergence of tables (…, a, b) → (…,); of conditionals the mean over what they are given, under q."""
        q, p = self.density("q", over), self.density("p", over)
        if "|" not in over:
            return divergence(q, p)
        given = self.density("q", over[2]).flatten()
        if over[0] == "x":
            q, p = q.mT, p.mT
        return (given * divergence(q[:, None], p[:, None])).sum()
