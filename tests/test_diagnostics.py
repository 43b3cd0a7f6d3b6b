"""Verdicts on constraints and their thresholds, and the distance from a KKT point in problems with a known solution."""

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
    DOMINANT_MULTIPLIER,
    SATURATION_MARGIN,
    ConstraintResult,
    Verdict,
    assess_constraint,
    duality_gap_note,
    explain_critic,
    explain_violation,
    overall_verdict,
    sensitivity,
    stationarity,
)
from lagvae.experiment.report import constraint_rows, remarks
from lagvae.lagrangian import TOLERANCE, Constraint, Lagrangian, Preference
from lagvae.noise import Noise
from lagvae.oracles import LinearGaussian, WaterFilling


def nats(**settings: Any) -> Constraint:
    return Constraint("neg_elbo", NegElbo(), **({"bound": 80.0, "learned": True} | settings))


def unitless(**settings: Any) -> Constraint:
    return Constraint("mmd", MMD(RBF()), **({"bound": 0.002, "learned": True, "scale": 1e-3} | settings))


def verdict(constraint: Constraint, divergence: float, multiplier: float, stderr: float = 0.0, alpha: float = 1.0) -> Verdict:
    return assess_constraint(constraint, divergence, stderr, multiplier, alpha, best=divergence).verdict


# ---- each verdict


def test_within_the_tolerance_of_its_bound_a_constraint_is_active() -> None:
    for violation in (-0.09, 0.0, 0.09):
        assert verdict(nats(), 80 + violation, 2.0) is Verdict.ACTIVE


@pytest.mark.parametrize(
    ("constraint", "divergence", "stderr", "words", "told"),
    [
        (
            nats(),
            80.06,
            0.0,
            "at its bound",
            "neg_elbo ended 0.06 nats above its bound, which is within noise: up to 0.1 nats",
        ),
        (
            unitless(),
            0.00215,
            1e-4,
            "at its bound",
            "mmd ended 1.50e-04 above its bound, which is within noise: up to 0.0002",
        ),
        (nats(), 79.94, 0.0, "active", None),
        (nats(), 80.2, 0.0, "not converged", None),
        (nats(bound=None, learned=False), 80.0, 0.0, "penalty", None),
    ],
)
def test_readers_are_told_where_a_bound_that_is_met_is_exceeded_within_noise(
    constraint: Constraint, divergence: float, stderr: float, words: str, told: str | None
) -> None:
    result = assess_constraint(constraint, divergence, stderr, 2.0, 1.0, best=divergence).as_dict()
    result |= {"nats": constraint.divergence.nats, "train": divergence}
    summary = {"splits": {"train": {}}, "constraints": {constraint.name: result}, "stationarity": None}
    ((*_, shown),) = constraint_rows(summary)  # of one split, so that no value of another one follows
    assert shown == words
    assert [line.split(" it counts")[0] for line in remarks(summary)] == ([] if told is None else [told])


def test_unused_slack_with_a_vanishing_multiplier_is_inactive() -> None:
    # λ (D − bound) = −0.05: below a tenth of a nat.
    assert verdict(nats(), 75.0, 0.01) is Verdict.INACTIVE
    assert verdict(nats(), 75.0, 0.0) is Verdict.INACTIVE


def test_unused_slack_with_a_positive_multiplier_is_not_converged() -> None:
    # λ (D − bound) = −5 nats: complementary slackness does not hold.
    assert verdict(nats(), 75.0, 1.0) is Verdict.NOT_CONVERGED


def test_unused_slack_with_a_fixed_multiplier_is_inactive() -> None:
    assert verdict(nats(learned=False), 75.0, 1.0) is Verdict.INACTIVE


def test_a_violation_despite_a_dominant_multiplier_is_infeasible() -> None:
    assert verdict(nats(), 82.0, 40.0) is Verdict.INFEASIBLE


def test_a_violation_with_a_small_multiplier_is_not_converged() -> None:
    assert verdict(nats(), 82.0, 2.0) is Verdict.NOT_CONVERGED


def test_a_violation_with_a_fixed_multiplier_is_never_infeasible() -> None:
    # A fixed λ does not ascend, so the run does not show that the bound cannot be met.
    assert verdict(nats(learned=False), 82.0, 1000.0) is Verdict.NOT_CONVERGED


def test_a_constraint_without_a_bound_is_a_penalty() -> None:
    result = assess_constraint(nats(bound=None, learned=False), 82.0, 0.3, 1.0, 1.0, best=81.0)
    assert result.verdict is Verdict.PENALTY
    assert (result.bound, result.violation, result.complementarity) == (None, None, None)


# ---- thresholds


def around(threshold: float, size: float) -> tuple[float, float]:
    """Values just below and just above a threshold: 1e-9 · size is far above rounding, which is 1e-14 for 80.1 − 80."""
    return threshold - 1e-9 * size, threshold + 1e-9 * size


def test_the_tolerance_is_a_tenth_of_the_scale() -> None:
    assert TOLERANCE == 0.1
    inside, outside = around(80.1, 1)
    assert verdict(nats(), inside, 2.0) is Verdict.ACTIVE
    assert verdict(nats(), outside, 2.0) is Verdict.NOT_CONVERGED
    outside, inside = around(79.9, 1)
    assert verdict(nats(), inside, 2.0) is Verdict.ACTIVE
    assert verdict(nats(), outside, 2.0) is Verdict.NOT_CONVERGED
    # With a scale of 1e-3 the tolerance is 1e-4.
    inside, outside = around(0.0021, 0.001)
    assert verdict(unitless(), inside, 2000.0) is Verdict.ACTIVE
    assert verdict(unitless(), outside, 2000.0) is Verdict.NOT_CONVERGED


def test_the_tolerance_of_an_estimate_that_is_not_in_nats_is_at_least_two_standard_errors() -> None:
    inside, outside = around(0.0026, 0.001)
    assert verdict(unitless(), inside, 2000.0, stderr=3e-4) is Verdict.ACTIVE
    assert verdict(unitless(), outside, 2000.0, stderr=3e-4) is Verdict.NOT_CONVERGED
    # A small standard error does not reduce the tolerance, and an unknown one does not change it.
    for stderr in (1e-9, nan, inf):
        assert assess_constraint(unitless(), 0.002, stderr, 2000.0, 1.0, 0.002).tolerance == pytest.approx(1e-4)
    # −ELBO is constrained on the training samples themselves, so their sampling error does not widen its tolerance.
    assert assess_constraint(nats(), 80.0, 5.0, 1.0, 1.0, 80.0).tolerance == 0.1


def test_the_tolerance_of_complementarity_is_a_tenth_of_a_nat_times_the_preference() -> None:
    inside, outside = around(0.1 / 5, 0.02)
    assert verdict(nats(), 75.0, inside) is Verdict.INACTIVE
    assert verdict(nats(), 75.0, outside) is Verdict.NOT_CONVERGED
    # It is four times as large for |α| = 4, but not smaller for |α| < 1.
    inside, outside = around(0.4 / 5, 0.08)
    assert verdict(nats(), 75.0, inside, alpha=4.0) is Verdict.INACTIVE
    assert verdict(nats(), 75.0, outside, alpha=4.0) is Verdict.NOT_CONVERGED
    assert verdict(nats(), 75.0, 0.0199, alpha=0.0) is Verdict.INACTIVE


def test_a_multiplier_is_dominant_from_five_times_the_preference() -> None:
    assert DOMINANT_MULTIPLIER == 5.0
    outside, inside = around(5.0, 1)
    assert verdict(nats(), 82.0, inside) is Verdict.INFEASIBLE
    assert verdict(nats(), 82.0, outside) is Verdict.NOT_CONVERGED
    outside, inside = around(15.0, 1)
    assert verdict(nats(), 82.0, inside, alpha=3.0) is Verdict.INFEASIBLE
    assert verdict(nats(), 82.0, outside, alpha=3.0) is Verdict.NOT_CONVERGED
    # The criterion is λ · scale: with a scale of 1e-3, λ = 4,999 is below five nats.
    assert verdict(unitless(), 0.004, 4999.0) is Verdict.NOT_CONVERGED
    assert verdict(unitless(), 0.004, 5001.0) is Verdict.INFEASIBLE


@pytest.mark.parametrize("divergence", [nan, inf])
def test_a_divergence_that_is_not_finite_is_not_converged(divergence: float) -> None:
    assert verdict(nats(), divergence, 1.0) is Verdict.NOT_CONVERGED


def test_the_sensitivity_is_the_shadow_price_divided_by_the_preference() -> None:
    active = assess_constraint(nats(), 80.0, 0.1, 0.6, 2.0, best=80.0)
    # V = α · (bound on I) and dV/dε = −λ: more slack increases information if it is maximised, and reduces it otherwise.
    assert sensitivity(active, 1.0, -2.0, 0.0) == pytest.approx(0.3)
    assert sensitivity(active, 1.0, 2.0, 0.0) == pytest.approx(-0.3)
    assert sensitivity(active, 1.0, 0.0, -1.0) == pytest.approx(0.6)
    # λ is a change per unit of D, the sensitivity a change per scale.
    assert sensitivity(active, 1e-3, -2.0, 0.0) == pytest.approx(3e-4)
    # There is none without a preference, with two preferences, or if the constraint is not active.
    assert sensitivity(active, 1.0, 0.0, 0.0) is None
    assert sensitivity(active, 1.0, -1.0, -1.0) is None
    assert sensitivity(assess_constraint(nats(), 70.0, 0.1, 0.0, 1.0, 70.0), 1.0, -1.0, 0.0) is None


def test_the_sensitivity_is_the_slope_of_the_exact_optimum() -> None:
    exact = WaterFilling(LinearGaussian.random(5, 2, 0.5, seed=0).cov_x, 2)
    epsilon, step = exact.least.neg_elbo + 0.5, 1e-4
    for alpha in (-1.0, 2.0):
        low, best, high = (exact.optimum(alpha, epsilon + d) for d in (-step, 0.0, step))
        found = sensitivity(
            assess_constraint(nats(bound=epsilon), epsilon, 0.0, best.multiplier, 1.0, epsilon), 1.0, alpha, 0.0
        )
        slope = (high.rate - low.rate if alpha > 0 else low.distortion - high.distortion) / (2 * step)
        assert found == pytest.approx(slope, rel=1e-5)
        # Rate + distortion is at its bound, so per nat of slack the other bound on I changes by one nat more.
        other = (high.rate - low.rate if alpha < 0 else low.distortion - high.distortion) / (2 * step)
        assert other == pytest.approx(slope + (1 if alpha < 0 else -1), rel=1e-5)


def test_the_attributes_of_a_constraint_result() -> None:
    result = assess_constraint(nats(), 82.0, 0.25, 3.0, 1.0, best=81.5)
    assert (result.name, result.divergence, result.stderr, result.bound) == ("neg_elbo", 82.0, 0.25, 80.0)
    assert (result.violation, result.complementarity, result.best) == (2.0, 6.0, 81.5)
    # The final evaluation may give a smaller value than all evaluations during training.
    assert assess_constraint(nats(), 82.0, 0.25, 3.0, 1.0, best=90.0).best == 82
    assert json.loads(json.dumps(result.as_dict()))["verdict"] == "not converged"


# ---- a whole run


def results(*verdicts: Verdict) -> list[ConstraintResult]:
    return [ConstraintResult("d", 1.0, 0.0, 1.0, 1.0, 0.0, 0.1, 0.0, 1.0, v) for v in verdicts]


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
def test_the_verdict_on_a_run_is_that_of_its_worst_constraint(verdicts: tuple[Verdict, ...], expected: str) -> None:
    assert overall_verdict(iter(results(*verdicts))) == expected


def test_the_regime_of_a_maximising_run() -> None:
    def sentence(
        multiplier: float, alpha_q: float = -2.0, alpha_p: float = 0.0, value: float = 80.0, **settings: Any
    ) -> str | None:
        constraints = [unitless(), nats(**settings)]
        assessed = [assess_constraint(c, value, 0.0, multiplier, abs(alpha_q), value) for c in constraints]
        return duality_gap_note(constraints, assessed, alpha_q, alpha_p)

    problem = "with the decoder held fixed, maximising I_q itself, which the bound stands in for,"
    assert sentence(2.0) == f"λ = 2 ≥ |α| = 2: {problem} has no duality gap in distribution space."
    assert sentence(1.99) == f"λ = 1.99 < |α| = 2: {problem} may have a duality gap, even in distribution space."
    # None for a minimising run, with a preference on I_p, with a fixed λ, and if the bound is inactive or violated.
    for other in (
        sentence(3.0, alpha_q=2.0),
        sentence(3.0, alpha_q=0.0),
        sentence(3.0, alpha_p=-1.0),
        sentence(3.0, learned=False),
        sentence(0.0, value=70.0),
        sentence(3.0, value=90.0),
        sentence(3.0, bound=None, learned=False),
        duality_gap_note([unitless()], [assess_constraint(unitless(), 0.002, 0.0, 3.0, 1.0, 0.002)], -1.0, 0.0),
    ):
        assert other is None


def test_the_messages_about_constraints_that_are_not_met() -> None:
    infeasible = assess_constraint(nats(), 82.0, 0.2, 40.0, 1.0, best=81.25)
    message = explain_violation(infeasible, 81.5, " nats")
    assert message is not None
    for part in ("neg_elbo", "80 nats", "81.25 nats", "81.5 nats", "constraints.neg_elbo.epsilon"):
        assert part in message
    assert "alibration" not in (explain_violation(infeasible, None, " nats") or "")
    for divergence, side in ((82.0, "2 nats above"), (75.0, "5 nats below")):
        assert side in (explain_violation(assess_constraint(nats(), divergence, 0.2, 1.0, 1.0, 70.0), None, " nats") or "")
    for met in (assess_constraint(nats(), 80.0, 0.2, 1.0, 1.0, 80.0), assess_constraint(nats(), 70.0, 0.2, 0.0, 1.0, 70.0)):
        assert explain_violation(met, None, " nats") is None


def test_the_messages_about_critics_whose_divergence_is_saturated() -> None:
    largest, unsaturated = 0.7, [0.3] * 6
    high, low = (1 - SATURATION_MARGIN / 2) * largest, SATURATION_MARGIN / 2 * largest
    for value, part in ((high, "separates the two distributions completely"), (low, "does not separate")):
        message = explain_critic("js_z", unsaturated + [value] * 6, largest)
        assert message is not None
        assert part in message
        assert "constraints.js_z.divergence.r1" in message
        # Only the second half of training counts, and most of it must be saturated.
        assert explain_critic("js_z", [value] * 6 + unsaturated, largest) is None
        assert explain_critic("js_z", unsaturated + [value] * 3 + [0.3] * 3, largest) is None
    # Nothing is known from a few values, or of a divergence without a largest value.
    assert explain_critic("js_z", [high] * 6, largest) is None
    assert explain_critic("wasserstein_z", [low] * 20, inf) is None


# ---- stationarity


class FunctionDivergence(Divergence):
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


def residual(x: float, multiplier: float, alpha: float = 1.0) -> float | None:
    """The stationarity residual of min α x² subject to 1 − x ≤ 0, whose solution is x = 1, λ = 2 α."""
    point = Point(x)
    start = multiplier / alpha if alpha else multiplier  # a learned λ is given in units of |α|
    constraint = Constraint("low", FunctionDivergence(lambda x: 1 - x[0]), bound=0.0, multiplier=start, learned=True)
    lagrangian = Lagrangian(Preference(alpha), [constraint])
    return stationarity(point, lagrangian, [point.batch(torch.square)])  # type: ignore[arg-type]


def test_the_residual_is_zero_at_a_kkt_point() -> None:
    assert residual(1.0, 2.0) == pytest.approx(0, abs=1e-6)
    assert residual(1.0, 6.0, alpha=3.0) == pytest.approx(0, abs=1e-6)


def test_the_residual_is_one_if_no_gradients_cancel() -> None:
    assert residual(1.0, 0.0) == pytest.approx(1)  # λ = 0: only f has a gradient
    assert residual(1.0, 2.0, alpha=0.0) is None  # no preference and one constraint: the objective has a single term
    assert residual(-1.0, 2.0) == pytest.approx(1)  # the gradients have the same sign


def test_the_residual_is_the_fraction_of_the_gradients_that_does_not_cancel() -> None:
    # |2x − λ| / (2x + λ) for x > 0.
    for x, multiplier in ((1.0, 1.0), (0.5, 2.0), (1.05, 2.0)):
        assert residual(x, multiplier) == pytest.approx(abs(2 * x - multiplier) / (2 * x + multiplier), rel=1e-5)


def test_the_residual_of_orthogonal_gradients() -> None:
    # ∇f = (2, 0), λ ∇D = (0, 3): √13 / 5.
    point = Point(1.0, 1.0)
    constraint = Constraint("d", FunctionDivergence(lambda x: x[1]), bound=0.0, multiplier=3.0)
    lagrangian = Lagrangian(Preference(1.0), [constraint])
    value = stationarity(point, lagrangian, [point.batch(lambda x: x[:1] ** 2)])  # type: ignore[arg-type]
    assert value == pytest.approx(13**0.5 / 5)


def test_gradients_are_averaged_over_batches_before_their_norm_is_taken() -> None:
    # On two batches f = x² ± 5x: the extra gradients ±5 cancel in the mean, but would not cancel in a mean of norms.
    point = Point(1.0)
    constraint = Constraint("low", FunctionDivergence(lambda x: 1 - x[0]), bound=0.0, multiplier=2.0, learned=True)
    lagrangian = Lagrangian(Preference(1.0), [constraint])
    batches = [point.batch(lambda x, slope=slope: x**2 + slope * x) for slope in (5.0, -5.0)]
    assert stationarity(point, lagrangian, iter(batches)) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]


def test_the_residual_is_zero_if_all_gradients_vanish() -> None:
    assert residual(0.0, 0.0) == 0


def test_the_exact_posterior_is_a_kkt_point_of_a_latent_variable_model(
    linear_joint: Callable[[LinearGaussian, Tensor, Tensor], JointModel],
) -> None:
    # min rate subject to distortion ≤ δ. With λ = 1 the Lagrangian is −ELBO, which is stationary if q(z|x) = p(z|x) and
    # p(x) = q(x). The columns of W are orthogonal, so that the encoder can be the posterior. The gradients of rate and
    # distortion are large there.
    columns = torch.linalg.qr(torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    world = LinearGaussian(columns * torch.tensor([1.0, 0.7], dtype=torch.float64), 1.0)
    a, cov = world.posterior()
    data, noise = Noise(1, "data"), Noise(2)

    def residual_and_error(mean: Tensor, multiplier: float) -> tuple[float, float]:
        joint = linear_joint(world, mean, cov.diagonal().sqrt())
        lagrangian = Lagrangian(Preference(1.0), [Constraint("distortion", Distortion(), bound=1.0, multiplier=multiplier)])
        batches = []
        for step in range(20):
            x = world.sample(data.normal("z", step, (1000, 2)), data.normal("e", step, (1000, 4)))
            batches.append(JointSamples(joint, x, draw_noise(lagrangian.required_noise, joint, noise, step, x)))
        parameters = list(joint.parameters())

        def gradient(value: Tensor) -> Tensor:
            gradients = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
            return torch.cat([g.flatten() for g in gradients])

        rate = torch.stack([gradient(b.rate.mean()) for b in batches])
        distortion = multiplier * torch.stack([gradient(b.distortion.mean()) for b in batches])
        # The norm of the standard error of the mean gradient, divided by the denominator of the residual.
        error = (rate + distortion).var(0).sum().sqrt() / 20**0.5 / (rate.mean(0).norm() + distortion.mean(0).norm())
        value = stationarity(joint, lagrangian, batches)
        assert value is not None
        return value, float(error)

    value, error = residual_and_error(a, 1.0)
    assert value <= 4 * error < 0.1
    for other in ((1.3 * a, 1.0), (a, 0.3)):
        value, error = residual_and_error(*other)
        assert value > 0.1 + 4 * error
