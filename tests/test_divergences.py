"""Kernels and MMD compared with explicit formulas, closed forms for Gaussians, and quadrature."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from lagvae.divergences import IMQ, RBF, Kernel, MedianRBF, MixtureRBF, ReferenceRBF, mmd, squared_distances
from lagvae.errors import SettingError

MeanIs = Callable[[Tensor, float | Tensor], float]

KERNELS: dict[str, tuple[Kernel, Callable[[Tensor, int], Tensor]]] = {
    "rbf": (RBF(), lambda r, d: torch.exp(-r / (2 * d))),
    "rbf, short": (RBF(0.5), lambda r, d: torch.exp(-r / (2 * d * 0.25))),
    "mixture": (
        MixtureRBF((0.5, 1.0, 2.0)),
        lambda r, d: (torch.exp(-r / (0.5 * d)) + torch.exp(-r / (2 * d)) + torch.exp(-r / (8 * d))) / 3,
    ),
    "imq": (IMQ(), lambda r, d: 1 / (1 + r / (2 * d))),
    "imq, long": (IMQ(2.0), lambda r, d: 1 / (1 + r / (8 * d))),
    "reference": (ReferenceRBF(), lambda r, d: torch.exp(-r / d**2)),
}
"""name → the kernel, and its formula as a function of r = ‖a − b‖² and d."""

each_kernel = pytest.mark.parametrize("name", KERNELS)


# ---- closed forms of the MMD between N(μ, s² I) and N(0, I) in d dimensions


def rbf_mean(c: float, d: int, variance: float, shift2: float = 0.0) -> float:
    """E exp(−‖u‖²/c) for u ∼ N(m, v I), ‖m‖² = shift2: a product of d one-dimensional Gaussian integrals."""
    return (1 + 2 * variance / c) ** (-d / 2) * float(np.exp(-shift2 / (c + 2 * variance)))


def means(mean_kernel: Callable[..., float], d: int, s: float, shift2: float) -> tuple[float, float, float]:
    """E k(z,z'), E k(w,w'), E k(z,w): the differences have variances 2s², 2 and s² + 1."""
    return mean_kernel(d, 2 * s * s), mean_kernel(d, 2.0), mean_kernel(d, s * s + 1, shift2)


def mean_kernel_of(name: str) -> Callable[..., float]:
    """E k(u) for u ∼ N(m, v I), as a function of (d, v, ‖m‖²)."""

    def rbf(factor: Callable[[int], float], d: int, variance: float, shift2: float = 0.0) -> float:
        return rbf_mean(factor(d), d, variance, shift2)

    def mixture(d: int, variance: float, shift2: float = 0.0) -> float:
        return sum(rbf_mean(2 * d * length**2, d, variance, shift2) for length in (0.5, 1.0, 2.0)) / 3

    def imq(length: float, d: int, variance: float, shift2: float = 0.0) -> float:
        # 1/(1 + r/c) = ∫ exp(−u) exp(−u r/c) du over u > 0: a mixture of RBF kernels of scale c/u.
        c = 2 * d * length**2
        return integrate.quad(lambda u: np.exp(-u) * rbf_mean(c / u, d, variance, shift2) if u > 0 else 1.0, 0, np.inf)[0]

    return {
        "rbf": partial(rbf, lambda d: 2 * d),
        "rbf, short": partial(rbf, lambda d: 2 * d * 0.25),
        "mixture": mixture,
        "imq": partial(imq, 1.0),
        "imq, long": partial(imq, 2.0),
        "reference": partial(rbf, lambda d: d**2),
    }[name]


# ---- kernels


def test_squared_distances(generator: torch.Generator) -> None:
    a = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    b = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    direct = (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(-1)
    torch.testing.assert_close(squared_distances(a, b), direct)


def test_squared_distances_are_never_negative(generator: torch.Generator) -> None:
    # Far from the origin ‖a‖² + ‖b‖² − 2 a·b may become negative in single precision by cancellation.
    a = torch.randn(50, 8, generator=generator) * 1e-3 + 100
    assert (squared_distances(a, a) >= 0).all()


@each_kernel
@pytest.mark.parametrize("d", [1, 3, 64])
def test_kernel_formula(name: str, d: int, generator: torch.Generator) -> None:
    kernel, formula = KERNELS[name]
    a = torch.randn(7, d, generator=generator, dtype=torch.float64)
    b = torch.randn(5, d, generator=generator, dtype=torch.float64)
    r = (a.unsqueeze(1) - b).square().sum(-1)
    torch.testing.assert_close(kernel(r / kernel.prepare(a, b)), formula(r, d))


@each_kernel
def test_kernels_are_positive_definite_and_one_at_zero(name: str, generator: torch.Generator) -> None:
    kernel, _ = KERNELS[name]
    a = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    gram = kernel(squared_distances(a, a) / kernel.prepare(a, a))
    torch.testing.assert_close(gram.diagonal(), torch.ones(40, dtype=torch.float64))
    # Rounding changes the eigenvalues of a 40×40 matrix with entries ≤ 1 by at most 40 times the error of one entry.
    assert torch.linalg.eigvalsh(gram).min() > -40 * 1e-14


def test_the_median_kernel_divides_by_the_median(generator: torch.Generator) -> None:
    a = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    median = np.median((a.numpy()[:, None] - b.numpy()[None]) ** 2 @ np.ones(3))  # of 63 numbers the median is one
    assert float(MedianRBF().prepare(a, b)) == pytest.approx(median)
    assert float(mmd(a, b, MedianRBF())) == pytest.approx(float(mmd(a, b, RBF((median / 6) ** 0.5))))


def test_the_median_is_constant_in_the_gradient(generator: torch.Generator) -> None:
    a = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    fitted = torch.autograd.grad(mmd(a, b, MedianRBF()), a)[0]
    fixed = torch.autograd.grad(mmd(a, b, RBF(float((MedianRBF().prepare(a, b) / 6).sqrt()))), a)[0]
    torch.testing.assert_close(fitted, fixed)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RBF(0.0),
        lambda: RBF(-1.0),
        lambda: RBF(float("inf")),
        lambda: RBF(float("nan")),
        lambda: IMQ(0.0),
        lambda: MixtureRBF(()),
        lambda: MixtureRBF((1.0, 0.0)),
    ],
)
def test_lengthscales_are_positive(make: Callable[[], Kernel]) -> None:
    with pytest.raises(SettingError, match="lengthscale"):
        make()


# ---- the two statistics


@each_kernel
@pytest.mark.parametrize("statistic", ["u", "v"])
def test_both_statistics_equal_double_loops(name: str, statistic: str, generator: torch.Generator) -> None:
    kernel, formula = KERNELS[name]
    z = torch.randn(6, 2, generator=generator, dtype=torch.float64) + 0.5
    w = torch.randn(4, 2, generator=generator, dtype=torch.float64)

    def k(a: Tensor, b: Tensor) -> float:
        return float(formula((a - b).square().sum(), 2))

    def within(s: Tensor) -> float:
        pairs = [k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if statistic == "v" or i != j]
        return sum(pairs) / len(pairs)

    across = sum(k(a, b) for a in z for b in w) / 24
    assert float(mmd(z, w, kernel, statistic)) == pytest.approx(within(z) + within(w) - 2 * across, abs=1e-12)


def batches(generator: torch.Generator, count: int, n: int, d: int, s: float, shift: float) -> tuple[Tensor, Tensor]:
    z = torch.randn(count, n, d, generator=generator, dtype=torch.float64) * s
    z[..., 0] += shift
    return z, torch.randn(count, n, d, generator=generator, dtype=torch.float64)


def statistics(z: Tensor, w: Tensor, kernel: Kernel, statistic: str) -> Tensor:
    """The statistic of each of many batches."""
    return torch.vmap(lambda a, b: mmd(a, b, kernel, statistic))(z, w)


@each_kernel
def test_the_u_statistic_has_mean_zero_for_equal_distributions(name: str, generator: torch.Generator, mean_is: MeanIs) -> None:
    values = statistics(*batches(generator, 4000, 8, 2, 1.0, 0.0), KERNELS[name][0], "u")
    mean_is(values, 0.0)
    assert (values < 0).any()


@each_kernel
@pytest.mark.parametrize(("s", "shift"), [(0.8, 0.0), (1.0, 0.7), (0.5, 0.3)])
def test_the_u_statistic_has_the_true_value_as_its_mean(
    name: str, s: float, shift: float, generator: torch.Generator, mean_is: MeanIs
) -> None:
    d = 3
    zz, ww, zw = means(mean_kernel_of(name), d, s, shift**2)
    values = statistics(*batches(generator, 2000, 16, d, s, shift), KERNELS[name][0], "u")
    mean_is(values, zz + ww - 2 * zw)


@each_kernel
@pytest.mark.parametrize(("n", "s", "shift"), [(4, 1.0, 0.0), (16, 0.8, 0.5)])
def test_the_bias_of_the_v_statistic(
    name: str, n: int, s: float, shift: float, generator: torch.Generator, mean_is: MeanIs
) -> None:
    # Diagonal entries are k(z,z) = 1, off-diagonal ones have mean E k(z,z'): each of the two samples adds (1 − E k)/n.
    d = 3
    zz, ww, zw = means(mean_kernel_of(name), d, s, shift**2)
    values = statistics(*batches(generator, 2000, n, d, s, shift), KERNELS[name][0], "v")
    mean_is(values, zz + ww - 2 * zw + (1 - zz) / n + (1 - ww) / n)
    assert (values >= -1e-12).all()


def test_the_bias_of_the_reference_kernel_where_the_distributions_are_equal(
    generator: torch.Generator, mean_is: MeanIs
) -> None:
    # d = 64, batches of 250, q = p. E k = (1 + 4/64²)^(−32) = 0.9693, so the bias is 2 · 0.0307 / 250 = 2.46e-4.
    d, n = 64, 250
    bias = 2 * (1 - (1 + 4 / d**2) ** (-d / 2)) / n
    assert bias == pytest.approx(2.46e-4, rel=0.01)
    values = statistics(*batches(generator, 60, n, d, 1.0, 0.0), ReferenceRBF(), "v")
    error = mean_is(values, bias)
    assert error < 0.05 * bias
    mean_is(statistics(*batches(generator, 60, n, d, 1.0, 0.0), ReferenceRBF(), "u"), 0.0)


def test_the_reference_kernel_is_less_sensitive_than_the_rbf(generator: torch.Generator, mean_is: MeanIs) -> None:
    # For q = N(0, 0.64 I) in 64 dimensions the MMD² is 0.3e-4 with the reference kernel, whose V-statistic has a bias of
    # 2.5e-4, and more than 30 times as large with the RBF kernel.
    d, s = 64, 0.8
    true = {name: (lambda m: m[0] + m[1] - 2 * m[2])(means(mean_kernel_of(name), d, s, 0.0)) for name in ("reference", "rbf")}
    assert true["reference"] == pytest.approx(0.3e-4, rel=0.1)
    assert true["rbf"] > 30 * true["reference"]
    mean_is(statistics(*batches(generator, 40, 250, d, s, 0.0), RBF(), "u"), true["rbf"])


@each_kernel
def test_the_distance_of_a_sample_to_itself(name: str, generator: torch.Generator) -> None:
    kernel, _ = KERNELS[name]
    z = torch.randn(30, 3, generator=generator)
    # Three equal means of numbers ≤ 1 in single precision.
    assert abs(float(mmd(z, z, kernel, "v"))) < 1e-6
    # "u" leaves the diagonal out of two of the three terms: 2 (m − (1 + (n−1) m)/n) = −2 (1 − m)/n for an off-diagonal mean m.
    gram = kernel(squared_distances(z, z) / kernel.prepare(z, z))
    off = (gram.sum() - 30) / (30 * 29)
    assert float(mmd(z, z, kernel, "u")) == pytest.approx(float(-2 * (1 - off) / 30), abs=1e-6)


@pytest.mark.parametrize("kernel", [*(k for k, _ in KERNELS.values()), MedianRBF()], ids=repr)
@pytest.mark.parametrize("statistic", ["u", "v"])
def test_symmetry_and_order(kernel: Kernel, statistic: str, generator: torch.Generator) -> None:
    z = torch.randn(9, 3, generator=generator, dtype=torch.float64) + 1
    w = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    value = mmd(z, w, kernel, statistic)
    torch.testing.assert_close(mmd(w, z, kernel, statistic), value)
    torch.testing.assert_close(mmd(z.flip(0), w, kernel, statistic), value)
    torch.testing.assert_close(mmd(z + 3, w + 3, kernel, statistic), value)


@each_kernel
@pytest.mark.parametrize("statistic", ["u", "v"])
def test_the_gradient_against_finite_differences(name: str, statistic: str, generator: torch.Generator) -> None:
    z = torch.randn(5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: mmd(a, b, KERNELS[name][0], statistic), (z, w))


@pytest.mark.parametrize("kernel", [*(k for k, _ in KERNELS.values()), MedianRBF()], ids=repr)
def test_vmap_over_batches_equals_a_loop(kernel: Kernel, generator: torch.Generator) -> None:
    z, w = batches(generator, 3, 6, 2, 1.0, 0.4)
    alone = torch.stack([mmd(a, b, kernel) for a, b in zip(z, w, strict=True)])
    torch.testing.assert_close(statistics(z, w, kernel, "u"), alone)


def test_it_stays_in_single_precision_under_autocast(generator: torch.Generator) -> None:
    # Values of 1e-4 are differences of means near 1, which half precision with its resolution of 4e-3 cannot represent.
    z, w = torch.randn(50, 4, generator=generator) * 0.9, torch.randn(50, 4, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        inside = mmd(z, w, RBF())
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, mmd(z, w, RBF()))
    half = mmd(z.bfloat16(), w.bfloat16(), RBF())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, mmd(z.bfloat16().float(), w.bfloat16().float(), RBF()))


def test_invalid_statistics_and_samples_are_rejected(generator: torch.Generator) -> None:
    z = torch.randn(5, 2, generator=generator)
    with pytest.raises(SettingError, match="unknown"):
        mmd(z, z, RBF(), "w")
    for a, b in ((z[:1], z), (z, z[:1])):
        with pytest.raises(SettingError, match="at least two"):
            mmd(a, b, RBF(), "u")
        assert mmd(a, b, RBF(), "v").isfinite()
