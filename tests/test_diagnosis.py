"""Verdicts on constraints, their edges, and the distance from a KKT point where that point is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lagvae.distributions import JointModel, JointSamples, draw_noise
from lagvae.divergences import MMD, RBF, Distortion, Divergence, NegElbo
from lagvae.experiment.diagnostics import (
    DOMINANT,
    Finding,
    Verdict,
    explain_violation,
    judge,
    overall,
    regime,
    sensitivity,
    stationarity,
)
from lagvae.lagrangian import TOLERANCE, Constraint, Lagrangian, Preference
from lagvae.noise import Noise
from lagvae.oracles import LinearGaussian, WaterFilling


def nats(**settings: Any) -> Constraint:
    return Constraint("neg_elbo", NegElbo(), **({"bound": 80.0, "learned": True} | settings))


def unitless(**settings: Any) -> Constraint:
    return Constraint("mmd", MMD(RBF()), **({"bound": 0.002, "learned": True, "unit": 1e-3} | settings))


def verdict(constraint: Constraint, divergence: float, multiplier: float, stderr: float = 0.0, alpha: float = 1.0) -> Verdict:
    return judge(constraint, divergence, stderr, multiplier, alpha, best=divergence).verdict


# ---- each verdict


def test_near_the_bound_is_active_on_either_side() -> None:
    for off in (-0.09, 0.0, 0.09):
        assert verdict(nats(), 80 + off, 2.0) is Verdict.ACTIVE


def test_slack_with_a_multiplier_gone_is_inactive() -> None:
    # λ (D − bound) = −0.05: below a tenth of a nat.
    assert verdict(nats(), 75.0, 0.01) is Verdict.INACTIVE
    assert verdict(nats(), 75.0, 0.0) is Verdict.INACTIVE


def test_slack_with_a_multiplier_left_is_not_converged() -> None:
    # λ (D − bound) = −5 nats: the multiplier still pays for room that is not used.
    assert verdict(nats(), 75.0, 1.0) is Verdict.NOT_CONVERGED


def test_slack_under_a_fixed_multiplier_is_inactive() -> None:
    assert verdict(nats(learned=False), 75.0, 1.0) is Verdict.INACTIVE


def test_broken_under_a_dominant_multiplier_is_infeasible() -> None:
    assert verdict(nats(), 82.0, 40.0) is Verdict.INFEASIBLE


def test_broken_under_a_small_multiplier_is_not_converged() -> None:
    assert verdict(nats(), 82.0, 2.0) is Verdict.NOT_CONVERGED


def test_broken_under_a_fixed_multiplier_is_never_called_infeasible() -> None:
    # Nobody tried to meet the bound: λ did not ascend.
    assert verdict(nats(learned=False), 82.0, 1000.0) is Verdict.NOT_CONVERGED


def test_without_a_bound_it_is_a_penalty() -> None:
    finding = judge(nats(bound=None, learned=False), 82.0, 0.3, 1.0, 1.0, best=81.0)
    assert finding.verdict is Verdict.PENALTY
    assert (finding.bound, finding.violation, finding.complementarity) == (None, None, None)


# ---- edges


def just(value: float, other: float) -> tuple[float, float]:
    """A value a little inside and a little outside of an edge (rounding of 80.1 − 80 is 1e-14)."""
    return value - 1e-9 * other, value + 1e-9 * other


def test_the_tolerance_is_a_tenth_of_a_unit() -> None:
    assert TOLERANCE == 0.1
    inside, outside = just(80.1, 1)
    assert verdict(nats(), inside, 2.0) is Verdict.ACTIVE
    assert verdict(nats(), outside, 2.0) is Verdict.NOT_CONVERGED
    outside, inside = just(79.9, 1)
    assert verdict(nats(), inside, 2.0) is Verdict.ACTIVE
    assert verdict(nats(), outside, 2.0) is Verdict.NOT_CONVERGED
    # In the unit of the constraint: 0.1 · 1e-3.
    inside, outside = just(0.0021, 0.001)
    assert verdict(unitless(), inside, 2000.0) is Verdict.ACTIVE
    assert verdict(unitless(), outside, 2000.0) is Verdict.NOT_CONVERGED


def test_a_noisy_estimate_without_unit_has_two_standard_errors() -> None:
    inside, outside = just(0.0026, 0.001)
    assert verdict(unitless(), inside, 2000.0, stderr=3e-4) is Verdict.ACTIVE
    assert verdict(unitless(), outside, 2000.0, stderr=3e-4) is Verdict.NOT_CONVERGED
    # A small error does not make the tolerance smaller, and one that is not known says nothing.
    for stderr in (1e-9, nan, inf):
        assert judge(unitless(), 0.002, stderr, 2000.0, 1.0, 0.002).tolerance == pytest.approx(1e-4)
    # −ELBO is the bound's own quantity on the training images: sampling noise over images is no excuse.
    assert judge(nats(), 80.0, 5.0, 1.0, 1.0, 80.0).tolerance == 0.1


def test_complementarity_may_miss_by_a_tenth_of_a_nat_for_each_unit_of_preference() -> None:
    inside, outside = just(0.1 / 5, 0.02)
    assert verdict(nats(), 75.0, inside) is Verdict.INACTIVE
    assert verdict(nats(), 75.0, outside) is Verdict.NOT_CONVERGED
    # With |α| = 4 everything is four times as large; with |α| < 1 it is not smaller.
    inside, outside = just(0.4 / 5, 0.08)
    assert verdict(nats(), 75.0, inside, alpha=4.0) is Verdict.INACTIVE
    assert verdict(nats(), 75.0, outside, alpha=4.0) is Verdict.NOT_CONVERGED
    assert verdict(nats(), 75.0, 0.0199, alpha=0.0) is Verdict.INACTIVE


def test_a_multiplier_dominates_above_five_times_the_preference() -> None:
    assert DOMINANT == 5.0
    outside, inside = just(5.0, 1)
    assert verdict(nats(), 82.0, inside) is Verdict.INFEASIBLE
    assert verdict(nats(), 82.0, outside) is Verdict.NOT_CONVERGED
    outside, inside = just(15.0, 1)
    assert verdict(nats(), 82.0, inside, alpha=3.0) is Verdict.INFEASIBLE
    assert verdict(nats(), 82.0, outside, alpha=3.0) is Verdict.NOT_CONVERGED
    # λ · unit is what counts: λ = 4,999 against a divergence of 1e-3 is less than five nats.
    assert verdict(unitless(), 0.004, 4999.0) is Verdict.NOT_CONVERGED
    assert verdict(unitless(), 0.004, 5001.0) is Verdict.INFEASIBLE


@pytest.mark.parametrize("divergence", [nan, inf])
def test_a_divergence_that_is_no_number_is_never_met(divergence: float) -> None:
    assert verdict(nats(), divergence, 1.0) is Verdict.NOT_CONVERGED


def test_what_slack_buys_is_the_shadow_price_over_the_preference() -> None:
    active = judge(nats(), 80.0, 0.1, 0.6, 2.0, best=80.0)
    # V = α · (bound on I) and dV/dε = −λ: information gained where it is maximised, lost where it is minimised.
    assert sensitivity(active, 1.0, -2.0, 0.0) == pytest.approx(0.3)
    assert sensitivity(active, 1.0, 2.0, 0.0) == pytest.approx(-0.3)
    assert sensitivity(active, 1.0, 0.0, -1.0) == pytest.approx(0.6)
    # λ is per unit of D; what is told is per unit of slack.
    assert sensitivity(active, 1e-3, -2.0, 0.0) == pytest.approx(3e-4)
    # No price without a preference, with two of them, or away from the bound.
    assert sensitivity(active, 1.0, 0.0, 0.0) is None
    assert sensitivity(active, 1.0, -1.0, -1.0) is None
    assert sensitivity(judge(nats(), 70.0, 0.1, 0.0, 1.0, 70.0), 1.0, -1.0, 0.0) is None


def test_the_price_is_the_slope_of_the_exact_optimum() -> None:
    exact = WaterFilling(LinearGaussian.random(5, 2, 0.5, seed=0).cov_x, 2)
    epsilon, step = exact.least.neg_elbo + 0.5, 1e-4
    for alpha in (-1.0, 2.0):
        low, best, high = (exact.optimum(alpha, epsilon + d) for d in (-step, 0.0, step))
        found = sensitivity(judge(nats(bound=epsilon), epsilon, 0.0, best.multiplier, 1.0, epsilon), 1.0, alpha, 0.0)
        slope = (high.rate - low.rate if alpha > 0 else low.distortion - high.distortion) / (2 * step)
        assert found == pytest.approx(slope, rel=1e-5)
        # Where −ELBO stays at its bound the other bound moves by a nat more.
        other = (high.rate - low.rate if alpha < 0 else low.distortion - high.distortion) / (2 * step)
        assert other == pytest.approx(slope + (1 if alpha < 0 else -1), rel=1e-5)


def test_what_a_finding_says() -> None:
    finding = judge(nats(), 82.0, 0.25, 3.0, 1.0, best=81.5)
    assert (finding.name, finding.divergence, finding.stderr, finding.bound) == ("neg_elbo", 82.0, 0.25, 80.0)
    assert (finding.violation, finding.complementarity, finding.best) == (2.0, 6.0, 81.5)
    # A full evaluation may be better than any batch of training was.
    assert judge(nats(), 82.0, 0.25, 3.0, 1.0, best=90.0).best == 82
    assert json.loads(json.dumps(finding.as_dict()))["verdict"] == "not converged"


# ---- a whole run


def findings(*verdicts: Verdict) -> list[Finding]:
    return [Finding("d", 1.0, 0.0, 1.0, 1.0, 0.0, 0.1, 0.0, 1.0, v) for v in verdicts]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((Verdict.ACTIVE, Verdict.INACTIVE), "met"),
        ((Verdict.ACTIVE, Verdict.PENALTY), "met"),
        ((Verdict.INACTIVE, Verdict.NOT_CONVERGED), "not converged"),
        ((Verdict.NOT_CONVERGED, Verdict.INFEASIBLE, Verdict.ACTIVE), "infeasible"),
        ((Verdict.PENALTY, Verdict.PENALTY), "unconstrained"),
        ((), "unconstrained"),
    ],
)
def test_the_verdict_on_a_run_is_its_worst(verdicts: tuple[Verdict, ...], expected: str) -> None:
    assert overall(iter(findings(*verdicts))) == expected


def test_the_regime_of_a_maximising_run() -> None:
    def said(
        multiplier: float, alpha_q: float = -2.0, alpha_p: float = 0.0, value: float = 80.0, **settings: Any
    ) -> str | None:
        constraints = [unitless(), nats(**settings)]
        found = [judge(c, value, 0.0, multiplier, abs(alpha_q), value) for c in constraints]
        return regime(constraints, found, alpha_q, alpha_p)

    about = "with the decoder held fixed, maximising I_q itself, which the bound stands in for,"
    assert said(2.0) == f"λ = 2 ≥ |α| = 2: {about} has no duality gap in distribution space."
    assert said(1.99) == f"λ = 1.99 < |α| = 2: {about} may have a duality gap, even in distribution space."
    # Nothing is said where it does not apply: minimising, a preference on I_p too, λ fixed, a bound that is slack or broken.
    for nothing in (
        said(3.0, alpha_q=2.0),
        said(3.0, alpha_q=0.0),
        said(3.0, alpha_p=-1.0),
        said(3.0, learned=False),
        said(0.0, value=70.0),
        said(3.0, value=90.0),
        said(3.0, bound=None, learned=False),
        regime([unitless()], [judge(unitless(), 0.002, 0.0, 3.0, 1.0, 0.002)], -1.0, 0.0),
    ):
        assert nothing is None


def test_what_a_user_is_told() -> None:
    infeasible = judge(nats(), 82.0, 0.2, 40.0, 1.0, best=81.25)
    told = explain_violation(infeasible, 81.5, " nats")
    assert told is not None
    for part in ("neg_elbo", "80 nats", "81.25 nats", "81.5 nats", "constraints.neg_elbo.epsilon"):
        assert part in told
    assert "alibration" not in (explain_violation(infeasible, None, " nats") or "")
    for divergence, side in ((82.0, "2 nats above"), (75.0, "5 nats below")):
        assert side in (explain_violation(judge(nats(), divergence, 0.2, 1.0, 1.0, 70.0), None, " nats") or "")
    for met in (judge(nats(), 80.0, 0.2, 1.0, 1.0, 80.0), judge(nats(), 70.0, 0.2, 0.0, 1.0, 70.0)):
        assert explain_violation(met, None, " nats") is None


# ---- stationarity


class Of(Divergence):
    """A divergence that is a given function of the primal variable."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, samples: Any) -> Tensor:
        return self.function(samples.x)


class Point(nn.Module):
    def __init__(self, *x: float) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(x))
        self.unused = nn.Parameter(torch.ones(3))
        self.constant = nn.Parameter(torch.ones(2), requires_grad=False)

    def batch(self, f: Callable[[Tensor], Tensor]) -> Any:
        joint = SimpleNamespace(has_rate=True, has_distortion=True)
        return SimpleNamespace(x=self.x, joint=joint, rate=f(self.x), distortion=f(self.x))


def at(x: float, multiplier: float, alpha: float = 1.0) -> float:
    """Of min α x² s.t. 1 − x ≤ 0, whose solution is x = 1, λ = 2 α."""
    point = Point(x)
    constraint = Constraint("low", Of(lambda x: 1 - x[0]), bound=0.0, multiplier=multiplier, learned=True)
    lagrangian = Lagrangian(Preference(alpha), [constraint])
    return stationarity(point, lagrangian, [point.batch(torch.square)])  # type: ignore[arg-type]


def test_it_is_zero_at_a_kkt_point() -> None:
    assert at(1.0, 2.0) == pytest.approx(0, abs=1e-6)
    assert at(1.0, 6.0, alpha=3.0) == pytest.approx(0, abs=1e-6)


def test_it_is_one_where_nothing_balances() -> None:
    assert at(1.0, 0.0) == pytest.approx(1)  # no multiplier: only f has a gradient
    assert at(1.0, 2.0, alpha=0.0) is None  # no preference and one constraint: a single term has nothing to balance
    assert at(-1.0, 2.0) == pytest.approx(1)  # both push the same way


def test_it_is_the_share_of_the_gradient_that_is_left() -> None:
    # |2x − λ| / (2x + λ) for x > 0.
    for x, multiplier in ((1.0, 1.0), (0.5, 2.0), (1.05, 2.0)):
        assert at(x, multiplier) == pytest.approx(abs(2 * x - multiplier) / (2 * x + multiplier), rel=1e-5)


def test_orthogonal_gradients() -> None:
    # ∇f = (2, 0), λ ∇D = (0, 3): √13 / 5.
    point = Point(1.0, 1.0)
    lagrangian = Lagrangian(Preference(1.0), [Constraint("d", Of(lambda x: x[1]), bound=0.0, multiplier=3.0)])
    value = stationarity(point, lagrangian, [point.batch(lambda x: x[:1] ** 2)])  # type: ignore[arg-type]
    assert value == pytest.approx(13**0.5 / 5)


def test_gradients_are_averaged_over_batches_before_they_are_measured() -> None:
    # Two batches push by ±5 and cancel: f = x² ± 5x. Norms of single batches would not cancel.
    point = Point(1.0)
    constraint = Constraint("low", Of(lambda x: 1 - x[0]), bound=0.0, multiplier=2.0, learned=True)
    lagrangian = Lagrangian(Preference(1.0), [constraint])
    batches = [point.batch(lambda x, push=push: x**2 + push * x) for push in (5.0, -5.0)]
    assert stationarity(point, lagrangian, iter(batches)) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]


def test_no_gradient_at_all_is_stationary() -> None:
    assert at(0.0, 0.0) == 0


def test_the_exact_posterior_is_a_kkt_point_of_a_latent_variable_model(
    linear_joint: Callable[[LinearGaussian, Tensor, Tensor], JointModel],
) -> None:
    # min rate s.t. distortion ≤ δ. With λ = 1 the Lagrangian is −ELBO, which is stationary where q(z|x) = p(z|x) and
    # p(x) = q(x): orthogonal columns of W let the encoder be the posterior. Rate and distortion each pull hard there.
    columns = torch.linalg.qr(torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    world = LinearGaussian(columns * torch.tensor([1.0, 0.7], dtype=torch.float64), 1.0)
    a, cov = world.posterior()
    data, noise = Noise(1, "data"), Noise(2)

    def look(mean: Tensor, multiplier: float) -> tuple[float, float]:
        joint = linear_joint(world, mean, cov.diagonal().sqrt())
        lagrangian = Lagrangian(Preference(1.0), [Constraint("distortion", Distortion(), bound=1.0, multiplier=multiplier)])
        batches = []
        for step in range(20):
            x = world.sample(data.normal("z", step, (1000, 2)), data.normal("e", step, (1000, 4)))
            batches.append(JointSamples(joint, x, draw_noise(lagrangian.required_noise, joint, noise, step, x)))
        parameters = list(joint.parameters())

        def gradient(value: Tensor) -> Tensor:
            found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
            return torch.cat([g.flatten() for g in found])

        rate = torch.stack([gradient(b.rate.mean()) for b in batches])
        distortion = multiplier * torch.stack([gradient(b.distortion.mean()) for b in batches])
        # The standard error of the mean gradient, as a length, in units of what the ratio divides by.
        error = (rate + distortion).var(0).sum().sqrt() / 20**0.5 / (rate.mean(0).norm() + distortion.mean(0).norm())
        return stationarity(joint, lagrangian, batches), float(error)

    value, error = look(a, 1.0)
    assert value <= 4 * error < 0.1
    for other in ((1.3 * a, 1.0), (a, 0.3)):
        value, error = look(*other)
        assert value > 0.1 + 4 * error
