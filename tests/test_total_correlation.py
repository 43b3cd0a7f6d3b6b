"""The total correlation of q(z), and the parts of the rate, against closed forms for Gaussians and against whole mixtures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from lagvae.distributions import ImplicitEncoder, JointModel, JointSamples, NormalDecoder, StandardNormalPrior
from lagvae.divergences import (
    AdversarialTotalCorrelation,
    CovarianceDistance,
    TotalCorrelation,
    covariance_distance,
    total_correlation,
)
from lagvae.errors import SettingError
from lagvae.metrics import RateDecomposition
from lagvae.networks import MLP

SCALE = 0.8
MIXING = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.5, 0.7]], dtype=torch.float64)
"""x = MIXING · N(0, I) and z = x + SCALE · N(0, I), so that q(z) is Gaussian."""

COVARIANCE = MIXING @ MIXING.mT + SCALE**2 * torch.eye(3, dtype=torch.float64)
VARIANCE = COVARIANCE.diagonal()
INFORMATION = 0.5 * float(torch.logdet(COVARIANCE / SCALE**2))
CORRELATION = -0.5 * float(torch.logdet(COVARIANCE / (VARIANCE[:, None] * VARIANCE).sqrt()))
"""The total correlation, −½ log det of the correlation matrix."""
DIMENSION_WISE = 0.5 * float((VARIANCE - 1 - VARIANCE.log()).sum())


def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """z, loc and scale of n independent draws, each (n, 3)."""
    loc, noise = torch.randn(2, n, 3, generator=generator, dtype=torch.float64)
    loc = loc @ MIXING.mT
    return loc + SCALE * noise, loc, torch.full_like(loc, SCALE)


def batches(n: int, times: int, weighted: bool, generator: torch.Generator) -> Tensor:
    """Estimates on batches of n independent draws, (times,)."""
    own = 1 / n if weighted else 0.0
    return torch.stack([total_correlation(*draw(n, generator), own) for _ in range(times)])


@pytest.mark.parametrize("weighted", [False, True])
def test_of_a_gaussian_it_is_that_of_its_correlation_matrix(weighted: bool, generator: torch.Generator) -> None:
    small, large = batches(150, 120, weighted, generator), batches(300, 60, weighted, generator)
    value = 2 * large.mean() - small.mean()  # the bias is of order 1/n: this leaves what is of order 1/n²
    stderr = (4 * large.var() / len(large) + small.var() / len(small)).sqrt()
    assert stderr < 0.08 * CORRELATION
    assert float(value) == pytest.approx(CORRELATION, abs=4 * float(stderr))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_small_batch_errs_to_the_side_that_is_stated(weighted: bool, generator: torch.Generator) -> None:
    few = batches(12, 1000, weighted, generator)
    bias = float(few.mean()) - CORRELATION
    assert (1 if weighted else -1) * bias > 4 * float(few.std()) / len(few) ** 0.5


def by_hand(z: Tensor, loc: Tensor, scale: Tensor, own: float) -> float:
    """The formula, term by term."""
    n, total = len(z), 0.0
    for i in range(n):
        weights = torch.full((n, 1), (1 - own) / (n - 1), dtype=torch.float64)
        weights[i] = own
        q = Normal(loc, scale).log_prob(z[i]).exp()
        total += float((weights[:, 0] * q.prod(-1)).sum().log() - (weights * q).sum(0).log().sum())
    return total / n


def test_a_batch_with_a_run_of_n_samples_weights_its_own_by_one_in_n(generator: torch.Generator) -> None:
    z, loc, scale = draw(7, generator)
    samples = SimpleNamespace(z_q=z, q_z_given_x=Independent(Normal(loc, scale), 1), gather=lambda t: t)
    stratified = TotalCorrelation()
    assert float(stratified(samples)) == pytest.approx(by_hand(z, loc, scale, 0.0))
    stratified.size = 50
    assert float(stratified(samples)) == pytest.approx(by_hand(z, loc, scale, 1 / 50))
    assert float(TotalCorrelation("weighted")(samples)) == pytest.approx(by_hand(z, loc, scale, 1 / 7))


def test_an_ensemble_maps_the_estimates_over_its_members(generator: torch.Generator) -> None:
    z, loc, scale = (torch.stack(part) for part in zip(*(draw(9, generator) for _ in range(3)), strict=True))
    mapped = torch.vmap(lambda *one: total_correlation(*one, 0.05))(z, loc, scale)
    torch.testing.assert_close(mapped, torch.stack([total_correlation(*one, 0.05) for one in zip(z, loc, scale, strict=True)]))
    mapped = torch.vmap(covariance_distance)(loc, scale)
    torch.testing.assert_close(mapped, torch.stack([covariance_distance(*one) for one in zip(loc, scale, strict=True)]))


def test_it_has_a_gradient_where_no_neighbour_is_near() -> None:
    loc = (100 * torch.arange(4.0)).unsqueeze(-1).repeat(1, 2).requires_grad_()
    value = total_correlation(loc + torch.tensor([0.5, -0.5]), loc, torch.ones_like(loc), own=0.1)
    value.backward()
    assert torch.isfinite(value)
    assert loc.grad is not None
    assert torch.isfinite(loc.grad).all()


def test_what_it_needs_is_named() -> None:
    with pytest.raises(SettingError, match="estimator='both' is unknown; choose one of stratified, weighted"):
        TotalCorrelation("both")
    with pytest.raises(SettingError, match="at least two samples, not 1"):
        total_correlation(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2), own=0.0)
    joint = JointModel(StandardNormalPrior(2), ImplicitEncoder(MLP, (3,), 2), NormalDecoder(MLP, (3,), 2))
    with pytest.raises(SettingError, match=r"constraints\.tc needs a diagonal Gaussian q\(z\|x\), which ImplicitEncoder"):
        TotalCorrelation().prepare("tc", joint, (3,))


# ---- its relatives: by a critic, and of second moments alone


def test_a_critic_finds_the_total_correlation_and_sees_permuted_codes(generator: torch.Generator) -> None:
    class Exact(nn.Module):
        """log q(z) − Σ_k log q(z_k) of the Gaussian."""

        def forward(self, z: Tensor) -> Tensor:
            zero = torch.zeros(3, dtype=z.dtype)
            joint = torch.distributions.MultivariateNormal(zero, COVARIANCE).log_prob(z)
            return joint - Normal(zero, VARIANCE.sqrt()).log_prob(z).sum(-1)

    z, _, _ = draw(20_000, generator)
    samples = SimpleNamespace(z_q=z.requires_grad_(), noise={"slices_z": torch.randn(z.shape, generator=generator)})
    estimator = AdversarialTotalCorrelation(MLP)
    estimator.critic = Exact()
    ((codes,), (permuted,)) = estimator.critic_inputs(samples)  # type: ignore[arg-type]
    stderr = float(estimator.critic(codes).detach().std()) / len(z) ** 0.5
    assert float(estimator(samples).detach()) == pytest.approx(CORRELATION, abs=4 * stderr)  # type: ignore[arg-type]
    torch.testing.assert_close(permuted.sort(0).values, z.detach().sort(0).values)  # each marginal distribution is the same
    correlation = torch.corrcoef(permuted.mT) - torch.eye(3, dtype=torch.float64)
    assert correlation.abs().max() < 4 / len(z) ** 0.5  # the standard error of a correlation of 0
    assert float(torch.corrcoef(codes.detach().mT)[0, 1]) > 0.3
    estimator(samples).backward()  # type: ignore[arg-type]
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


def test_the_distance_of_a_covariance_has_the_expectation_of_its_closed_form(generator: torch.Generator) -> None:
    n, of_means = 50, MIXING @ MIXING.mT
    values = torch.stack([covariance_distance(*draw(n, generator)[1:]) for _ in range(2000)])
    excess = (1 - 1 / n) * of_means + (SCALE**2 - 1) * torch.eye(3, dtype=torch.float64)
    # The variances of a covariance of n Gaussian samples sum to (n − 1)/n² (‖A‖² + (tr A)²).
    expected = excess.square().sum() + (n - 1) / n**2 * (of_means.square().sum() + of_means.trace() ** 2)
    assert float(values.mean()) == pytest.approx(float(expected), abs=4 * float(values.std()) / len(values) ** 0.5)
    joint = JointModel(StandardNormalPrior(2), ImplicitEncoder(MLP, (3,), 2), NormalDecoder(MLP, (3,), 2))
    with pytest.raises(SettingError, match=r"constraints\.cov needs a diagonal Gaussian q\(z\|x\), which ImplicitEncoder"):
        CovarianceDistance().prepare("cov", joint, (3,))


# ---- the parts of the rate


class Channel(nn.Module):
    """q(z|x) = N(x, SCALE²)."""

    def forward(self, given: Tensor) -> Independent:
        return Independent(Normal(given, SCALE), 1)


def parts(n: int, generator: torch.Generator, split: str, stochastic: bool, size: int, times: int = 1) -> dict[str, Tensor]:
    z, loc, _ = draw(n, generator)
    joint = JointModel(StandardNormalPrior(3), Channel(), Channel())
    metric = RateDecomposition()
    data = SimpleNamespace(size=lambda _: size, is_stochastic=stochastic)
    assert metric.is_applicable(joint, data, split)
    for _ in range(times):
        samples = JointSamples(joint, loc.float(), {"z_q": ((z - loc) / SCALE).float()})
        metric.update(samples, torch.arange(n))
    return metric.compute()


def test_the_parts_of_the_rate_lie_in_their_intervals(generator: torch.Generator) -> None:
    found = parts(2000, generator, "test", False, 2000)
    true = {"index_code": INFORMATION, "total_correlation": CORRELATION, "dimension_wise_kl": DIMENSION_WISE}
    for name, value in true.items():
        lower, upper = (float(found[f"{name}_{end}"]) for end in ("lower", "upper"))
        stderr = max(float(found[f"{name}_{end}_stderr"]) for end in ("lower", "upper"))
        assert lower - 4 * stderr < value < upper + 4 * stderr, name
        assert upper - lower < 0.1, name
        assert 0 < stderr < 0.1


def test_of_fixed_samples_that_are_all_there_the_parts_are_exact_and_sum_to_the_rate(generator: torch.Generator) -> None:
    found = parts(300, generator, "train", False, 300, times=2)  # drawing an x again adds nothing
    for name in ("index_code", "total_correlation", "dimension_wise_kl"):
        assert found[f"{name}_lower"] == found[f"{name}_upper"]
    generator.manual_seed(0)
    z, loc, scale = draw(300, generator)
    rate = (Normal(loc, scale).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1).mean()
    generator.manual_seed(0)
    found = parts(300, generator, "train", False, 300)
    total = sum(found[f"{name}_lower"] for name in ("index_code", "total_correlation", "dimension_wise_kl"))
    assert float(total) == pytest.approx(float(rate), rel=1e-5)
    assert float(found["total_correlation_lower"]) == pytest.approx(by_hand(z, loc, scale, 1 / 300), rel=1e-4)


def test_of_a_part_of_the_samples_the_interval_is_wider(generator: torch.Generator) -> None:
    for split, stochastic, size in (("train", False, 5000), ("train", True, 300), ("val", False, 300)):
        found = parts(300, generator, split, stochastic, size)
        assert found["total_correlation_lower"] < found["total_correlation_upper"], split


def test_the_decomposition_names_what_it_needs() -> None:
    with pytest.raises(SettingError, match="at least 4 samples, not most=3"):
        RateDecomposition(most=3)
    metric = RateDecomposition()
    assert metric.limit(0.25) == {"most": (4000, 2000)}  # the cost is that of pairs
