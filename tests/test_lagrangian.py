"""The Lagrangian compared with the formulas of the paper, and constrained problems with known solutions x* and λ*."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, fields
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.optim import SGD, Optimizer, RMSprop

from lagvae.distributions import (
    BernoulliDecoder,
    GaussianEncoder,
    JointModel,
    JointSamples,
    NormalDecoder,
    StandardNormalPrior,
    draw_noise,
)
from lagvae.divergences import MMD, RBF, Distortion, Divergence, NegElbo, Rate
from lagvae.errors import SettingError
from lagvae.experiment.schema import ConstraintConfig
from lagvae.lagrangian import MEMORY, Constraint, Lagrangian, Preference, Values
from lagvae.log_ascent import LogAscent
from lagvae.networks import MLP
from lagvae.noise import Noise
from lagvae.nupi import NuPI

# ---- the loss of known objectives on fixed tensors

B, PIXELS, LATENT = 12, 6, 2


@pytest.fixture
def batch(generator: torch.Generator) -> JointSamples:
    torch.manual_seed(0)
    network = partial(MLP, hidden=(5,), activation="tanh")
    joint = JointModel(
        StandardNormalPrior(LATENT),
        GaussianEncoder(network, (PIXELS,), LATENT),
        BernoulliDecoder(network, (PIXELS,), LATENT),
    )
    for parameter in joint.parameters():
        parameter.data.mul_(2)  # near zero, rate and distortion would hardly differ between the objectives
    x = (torch.rand(B, PIXELS, generator=generator) < 0.5).float()
    noise = {name: torch.randn(B, LATENT, generator=generator) for name in ("z_q", "z_p")}
    return JointSamples(joint, x, noise)


def by_hand(batch: JointSamples) -> tuple[Tensor, Tensor, Tensor]:
    """Rate, distortion and MMD of a batch, computed from the outputs of the networks."""
    x, noise = batch.x_q, batch.noise
    out = batch.joint.encoder.network(x)
    mean, scale = out[:, 0], torch.log(1 + torch.exp(out[:, 1])) + 1e-4
    z, w = mean + scale * noise["z_q"], noise["z_p"]
    p = 1 / (1 + torch.exp(-batch.joint.decoder.network(z)))
    distortion = -(x * torch.log(p) + (1 - x) * torch.log(1 - p)).sum(1).mean()
    rate = (0.5 * (mean**2 + scale**2 - 1) - torch.log(scale)).sum(1).mean()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * LATENT))

    off = 1 - torch.eye(B)
    mmd = ((kernel(z, z) + kernel(w, w)) * off).sum() / (B * (B - 1)) - 2 * kernel(z, w).mean()
    return rate, distortion, mmd


def neg_elbo(**settings: Any) -> Constraint:
    return Constraint("neg_elbo", NegElbo(), **settings)


def mmd(**settings: Any) -> Constraint:
    return Constraint("mmd", MMD(RBF()), **settings)


Formula = Callable[[Tensor, Tensor, Tensor], Tensor]

MEMBERS: dict[str, tuple[float, Sequence[Constraint], Formula]] = {
    "vae": (0, [neg_elbo()], lambda rate, distortion, mmd: distortion + rate),
    "beta_vae": (3, [neg_elbo()], lambda rate, distortion, mmd: distortion + 4 * rate),
    "infovae, minimise": (
        2,
        [neg_elbo(multiplier=5), mmd(multiplier=1000)],
        lambda rate, distortion, mmd: 2 * rate + 5 * (distortion + rate) + 1000 * mmd,
    ),
    # α < 0 maximises the lower bound E_q log p(x|z) + H_q(x) on I_q, where the entropy is a constant of the data.
    "infovae, maximise": (
        -2,
        [neg_elbo(multiplier=5), mmd(multiplier=1000)],
        lambda rate, distortion, mmd: 2 * distortion + 5 * (distortion + rate) + 1000 * mmd,
    ),
    "lagvae, minimise": (
        1,
        [neg_elbo(bound=3.5, multiplier=1.5, learned=True), mmd(bound=0.01, multiplier=200, learned=True, scale=1e-3)],
        lambda rate, distortion, mmd: rate + 1.5 * (distortion + rate - 3.5) + 200 * (mmd - 0.01),
    ),
    "lagvae, maximise": (
        -1,
        [neg_elbo(bound=3.5, multiplier=1.5, learned=True), mmd(bound=0.01, multiplier=200, learned=True, scale=1e-3)],
        lambda rate, distortion, mmd: distortion + 1.5 * (distortion + rate - 3.5) + 200 * (mmd - 0.01),
    ),
}


@pytest.mark.parametrize("member", MEMBERS)
def test_the_loss_and_its_gradient_are_the_papers(member: str, batch: JointSamples) -> None:
    alpha, constraints, formula = MEMBERS[member]
    lagrangian = Lagrangian(Preference(alpha), constraints)
    loss, expected = lagrangian(lagrangian.measure(batch)), formula(*by_hand(batch))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    parameters = list(batch.joint.parameters())
    for ours, theirs in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        # λ = 1000 amplifies the rounding errors of sums of B² kernel values in single precision.
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3 if len(constraints) > 1 else 1e-5)


def test_members_differ(batch: JointSamples) -> None:
    # The comparison above could not distinguish the objectives if rate and distortion were similar, or MMD near zero.
    rate, distortion, mmd = (float(v.detach()) for v in by_hand(batch))
    assert abs(rate - distortion) > 0.1
    assert min(rate, distortion, abs(mmd) * 200) > 0.1


@pytest.mark.parametrize("scale", [1e-4, 0.5, 30.0])
def test_the_loss_does_not_depend_on_the_scale(scale: float, batch: JointSamples) -> None:
    def of(scale: float) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        chosen = [
            neg_elbo(bound=3.5, multiplier=1.5, scale=scale),
            mmd(bound=0.01, multiplier=20, scale=scale, max_multiplier=1e6),
        ]
        lagrangian = Lagrangian(Preference(-1), chosen)
        loss = lagrangian(lagrangian.measure(batch))
        return loss, torch.autograd.grad(loss, list(batch.joint.parameters()), retain_graph=True), lagrangian.multiplier

    for ours, theirs in zip(of(scale), of(1.0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_penalty_has_no_bound_but_the_violation_of_the_others_counts(batch: JointSamples) -> None:
    lagrangian = Lagrangian(Preference(0), [neg_elbo(multiplier=2), Constraint("rate", Rate(), bound=4.0, multiplier=3)])
    rate, distortion, _ = by_hand(batch)
    torch.testing.assert_close(lagrangian(lagrangian.measure(batch)), 2 * (rate + distortion) + 3 * (rate - 4))


def test_no_constraints_at_all(batch: JointSamples) -> None:
    lagrangian = Lagrangian(Preference(-1.5), [])
    torch.testing.assert_close(lagrangian(lagrangian.measure(batch)), 1.5 * by_hand(batch)[1])
    assert lagrangian.multiplier.shape == (0,)


def test_the_loss_has_no_gradient_in_the_multipliers(batch: JointSamples) -> None:
    lagrangian = Lagrangian(Preference(-1), [neg_elbo(bound=3.0, learned=True)])
    lagrangian.scaled.requires_grad_(True)  # even if gradients were requested
    loss = lagrangian(lagrangian.measure(batch))
    assert torch.autograd.grad(loss, lagrangian.scaled, allow_unused=True) == (None,)
    loss.backward()
    assert lagrangian.scaled.grad is None
    assert not lagrangian.multiplier.requires_grad


def test_the_objective_states_the_noise_it_needs() -> None:
    assert Lagrangian(Preference(0), [neg_elbo()]).required_noise == {"z_q"}
    assert Lagrangian(Preference(1), [neg_elbo(), mmd()]).required_noise == {"z_q", "z_p"}
    assert Lagrangian(Preference(0, 1), [neg_elbo()]).required_noise == {"z_q", "z_p", "x_p"}
    assert Lagrangian(Preference(0), []).required_noise == {"z_q"}


@pytest.mark.parametrize(("alpha_p", "term"), [(2.0, "i_p_upper"), (-2.0, "neg_i_p_lower")])
def test_a_preference_on_the_models_information(alpha_p: float, term: str, generator: torch.Generator) -> None:
    torch.manual_seed(0)
    network = partial(MLP, hidden=())
    encoder, decoder = GaussianEncoder(network, (PIXELS,), LATENT), NormalDecoder(network, (PIXELS,), LATENT)
    joint = JointModel(StandardNormalPrior(LATENT), encoder, decoder)
    x = torch.randn(B, PIXELS, generator=generator)
    lagrangian = Lagrangian(Preference(3.0, alpha_p), [neg_elbo()])
    samples = JointSamples(joint, x, draw_noise(lagrangian.required_noise, joint, Noise(0), 0, x))
    values = lagrangian.measure(samples)
    # The expected values follow from z ∼ p(z), x = μ(z) + s · noise, and log p(x_i|z_j) of all pairs.
    z = samples.noise["z_p"]
    mean, scale = decoder.network(z), torch.ones(())  # where the learned scale starts
    x_p = mean + scale * samples.noise["x_p"]
    pairs = torch.distributions.Normal(mean, scale).log_prob(x_p[:, None]).sum(-1)
    others = pairs.masked_fill(torch.eye(B, dtype=torch.bool), float("-inf"))
    out = encoder.network(x_p)
    posterior = torch.distributions.Normal(out[:, 0], torch.log(1 + torch.exp(out[:, 1])) + 1e-4)
    expected = {
        "i_p_upper": (pairs.diagonal() - others.logsumexp(1) + torch.tensor(B - 1.0).log()).mean(),
        "neg_i_p_lower": -posterior.log_prob(z).sum(1).mean(),
    }[term]
    total = 3 * samples.rate.mean() + 2 * expected + (samples.rate + samples.distortion).mean()
    torch.testing.assert_close(lagrangian(values), total, rtol=1e-5, atol=1e-4)


# ---- a leading axis: ensembles


def test_the_signs_of_preferences_may_differ_within_an_ensemble(generator: torch.Generator) -> None:
    terms = {name: torch.rand(4, generator=generator) for name in ("rate", "distortion", "i_p_upper", "neg_i_p_lower")}
    alpha_q, alpha_p = torch.tensor([1.0, -2.0, 0.0, 0.5]), torch.tensor([0.0, 0.5, -1.5, 2.0])
    preference = Preference(1.0, 1.0)
    preference.alpha_q, preference.alpha_p = alpha_q, alpha_p
    stacked = preference(terms)
    assert stacked.shape == (4,)
    for k in range(4):
        one = {name: value[k] for name, value in terms.items()}
        torch.testing.assert_close(stacked[k], Preference(float(alpha_q[k]), float(alpha_p[k]))(one))


def test_violations_and_losses_of_an_ensemble_are_elementwise(generator: torch.Generator) -> None:
    lagrangian = Lagrangian(
        Preference(-1),
        [
            neg_elbo(bound=3.5, multiplier=1.5),
            mmd(multiplier=7),
            Constraint("rate", Rate(), bound=1.0, multiplier=2, scale=0.5),
        ],
    )
    divergences = torch.rand(5, 3, generator=generator)
    terms = {name: torch.rand(5, generator=generator) for name in ("rate", "distortion")}
    violation, loss = lagrangian.scaled_violation(divergences), lagrangian(Values(terms, divergences))
    assert (violation.shape, loss.shape) == ((5, 3), (5,))
    for k in range(5):
        torch.testing.assert_close(violation[k], lagrangian.scaled_violation(divergences[k]))
        one = Values({name: value[k] for name, value in terms.items()}, divergences[k])
        torch.testing.assert_close(loss[k], lagrangian(one))
    expected = (divergences - torch.tensor([3.5, 0.0, 1.0])) / torch.tensor([1.0, 1.0, 0.5])
    torch.testing.assert_close(violation, expected)


def test_measures_can_be_mapped_over_the_members_of_an_ensemble(generator: torch.Generator) -> None:
    network = partial(MLP, hidden=(5,), activation="tanh")

    class Measure(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.joint = JointModel(
                StandardNormalPrior(LATENT),
                GaussianEncoder(network, (PIXELS,), LATENT),
                BernoulliDecoder(network, (PIXELS,), LATENT),
            )

        def forward(self, noise: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
            values = lagrangian.measure(JointSamples(self.joint, x, noise))
            return values.terms, values.divergences

    lagrangian = Lagrangian(Preference(-1), [neg_elbo(bound=3.0), mmd(bound=0.01, multiplier=10)])
    x = (torch.rand(B, PIXELS, generator=generator) < 0.5).float()
    noise = {name: torch.randn(3, B, LATENT, generator=generator) for name in ("z_q", "z_p")}
    members = [Measure(seed) for seed in range(3)]
    parameters, buffers = stack_module_state(members)
    stacked = torch.vmap(lambda p, b, e: functional_call(members[0], (p, b), (e,)))(parameters, buffers, noise)
    losses = lagrangian(Values(*stacked))
    for k, member in enumerate(members):
        alone = Values(*member({name: value[k] for name, value in noise.items()}))
        torch.testing.assert_close(losses[k], lagrangian(alone))
    # The gradient of the sum over the ensemble is, for each member, its own gradient.
    gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
    alone = lagrangian(Values(*members[1]({name: value[1] for name, value in noise.items()})))
    for ours, theirs in zip(gradients, torch.autograd.grad(alone, list(members[1].parameters())), strict=True):
        torch.testing.assert_close(ours[1], theirs)


# ---- constrained problems with known solutions


class Of(Divergence):
    """A divergence given as a function of the primal variables."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, samples: Any) -> Tensor:
        return self.function(samples.x)


def solve(
    f: Callable[[Tensor], Tensor],
    constraints: Sequence[Constraint],
    dual: Callable[[list[Tensor]], Optimizer],
    start: Sequence[float],
    steps: int = 800,
) -> tuple[Tensor, Lagrangian]:
    """Descend in x and ascend in λ with the step of training, with f in place of the rate."""
    x = nn.Parameter(torch.tensor(start))
    lagrangian = Lagrangian(Preference(1.0), constraints)
    ascent = dual([lagrangian.scaled])
    for _ in range(steps):
        joint = SimpleNamespace(has_rate=True, has_distortion=True)
        values = lagrangian.measure(SimpleNamespace(x=x, joint=joint, rate=f(x), distortion=f(x)))  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(lagrangian(values), x)
        x.data.sub_(gradient, alpha=0.1)
        lagrangian.ascend(lagrangian.scaled_violation(values.divergences), ascent)
    return x.detach(), lagrangian


DUALS: dict[str, tuple[Callable[[list[Tensor]], Optimizer], float]] = {
    "ascent": (partial(SGD, lr=0.05, maximize=True), 1e-3),
    "nupi": (partial(NuPI, lr=0.05, kp=0.5, nu=0.5, maximize=True), 1e-3),
    "rmsprop": (partial(RMSprop, lr=0.005, maximize=True), 0.05),
    "log_ascent": (partial(LogAscent, steps=800, beta=0.9, maximize=True), 0.05),
}
"""name → optimizer of λ, and the largest allowed distance to (x*, λ*) at the end.

Ascent and νPI: on min x² s.t. 1 − x ≤ 0 the error follows a linear recursion. For ascent with steps 0.1 and 0.05 its
eigenvalues solve r² − 1.8 r + 0.8 + 0.005 g = 0, where g = 1 is the squared gradient of the constraint; the larger is 0.97.
With two active constraints, g is an eigenvalue of their Gram matrix, at least 0.38 below, and r = 0.99; 0.99^800 = 3e-4, and
the start is 2 away. RMSprop divides by the root mean square of about its last hundred violations, so it does not converge. Its
steps are about as large as its learning rate, and at most 1/√(1 − 0.99) = 10 times as large, which is 0.05; to move a
multiplier by 4 at the learning rate takes it 800 steps. LogAscent divides by such a mean as well, so that
without noise it circles around λ* until its steps have shrunk to zero. With a share δ of the 800 steps left it circles by about
what it moves while it and x lag behind, 10 + 5 steps: 15 · (π δ)² / 2 · 8 / 800 of λ. What it can still move is 8 π² δ³ / 6. It
comes to rest where the two are equal, δ = 3 · 15 / 800, at 0.0023 of λ, of which 0.05 leaves room for slower directions of x.
"""

each_dual = pytest.mark.parametrize("dual", DUALS)


def learned(name: str, function: Callable[[Tensor], Tensor], **settings: Any) -> Constraint:
    return Constraint(name, Of(function), **({"bound": 0.0, "learned": True} | settings))


@each_dual
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_an_active_and_an_inactive_constraint(dual: str, scale: float) -> None:
    # min x² s.t. 1 − x ≤ 0 and x ≤ 3. Stationarity: 2x − λ₁ + λ₂ = 0. At x* = 1 the second is inactive, so λ* = (2, 0).
    # λ is per unit of D and does not depend on the scale.
    make, near = DUALS[dual]
    constraints = [learned("low", lambda x: 1 - x[0], scale=scale), learned("high", lambda x: x[0], bound=3.0, multiplier=0.5)]
    x, lagrangian = solve(lambda x: x.square(), constraints, make, [0.0])
    assert float(x) == pytest.approx(1, abs=near)
    assert lagrangian.multiplier.tolist() == pytest.approx([2, 0], abs=near / scale)
    lowest = 1e-3 if dual == "log_ascent" else 0.0  # from which log λ can rise again
    assert 0 <= float(lagrangian.multiplier[1]) <= lowest / scale


@each_dual
def test_a_projection_on_a_half_plane(dual: str) -> None:
    # min (x − 2)² + (y − 1)² s.t. x + y ≤ 2: the projection of (2, 1) on the line is (1.5, 0.5), and 2 (1.5 − 2) + λ = 0.
    make, near = DUALS[dual]
    target = torch.tensor([2.0, 1.0])
    x, lagrangian = solve(lambda x: (x - target).square().sum()[None], [learned("sum", torch.sum, bound=2.0)], make, [0.0, 0.0])
    assert x.tolist() == pytest.approx([1.5, 0.5], abs=near)
    assert lagrangian.multiplier.tolist() == pytest.approx([1], abs=near)


@each_dual
def test_two_active_constraints(dual: str) -> None:
    # min x² + y² s.t. x ≥ 1, x + y ≥ 3: the first is inactive at (1.5, 1.5). With x ≥ 2 instead, both are active at (2, 1):
    # 4 = λ₁ + λ₂ and 2 = λ₂.
    make, near = DUALS[dual]
    constraints = [learned("x", lambda x: 2 - x[0]), learned("sum", lambda x: 3 - x.sum())]
    x, lagrangian = solve(lambda x: x.square().sum()[None], constraints, make, [0.0, 0.0])
    assert x.tolist() == pytest.approx([2, 1], abs=near)
    assert lagrangian.multiplier.tolist() == pytest.approx([2, 2], abs=2 * near)


@each_dual
def test_an_infeasible_bound_takes_the_multiplier_to_its_limit(dual: str) -> None:
    # x² ≤ −1 is infeasible. max_multiplier limits λ · scale to 4, so λ = 8.
    make, _ = DUALS[dual]
    x, lagrangian = solve(
        lambda x: (x - 1).square(),
        [learned("square", lambda x: x[0] ** 2, bound=-1.0, scale=0.5, max_multiplier=4.0)],
        make,
        [1.0],
    )
    assert lagrangian.multiplier.tolist() == [8]
    # (x − 1)² + 8 x² is minimal at 1/9.
    assert float(x) == pytest.approx(1 / 9, abs=1e-4)


# ---- the step of λ


@pytest.mark.parametrize("dual", ["ascent", "nupi", "rmsprop"])  # log λ has no zero
def test_multipliers_stay_between_zero_and_their_limit(dual: str, generator: torch.Generator) -> None:
    constraints = [
        learned("a", torch.sum, max_multiplier=0.3, multiplier=0.1),
        learned("b", torch.sum, max_multiplier=0.8, multiplier=0.0),
        learned("c", torch.sum, max_multiplier=0.5, multiplier=0.0, scale=0.1),
    ]
    lagrangian = Lagrangian(Preference(0), constraints)
    optimizer = DUALS[dual][0]([lagrangian.scaled])
    path = []
    for step in range(800):
        # 200 steps up and 200 down reach both limits even with RMSprop, the slowest, which takes steps of 0.005.
        sign = 1 if step % 400 < 200 else -1
        lagrangian.ascend(sign * 20 * torch.rand(3, generator=generator), optimizer)
        path.append(lagrangian.scaled.clone())
    assert torch.stack(path).amin(0).tolist() == [0, 0, 0]
    assert torch.equal(torch.stack(path).amax(0), lagrangian.max_multiplier)
    assert lagrangian.multiplier.tolist() == pytest.approx((lagrangian.scaled / torch.tensor([1.0, 1.0, 0.1])).tolist())


@each_dual
def test_a_multiplier_in_its_warm_up_falls_but_does_not_rise(dual: str) -> None:
    make, _ = DUALS[dual]
    lagrangian = Lagrangian(Preference(0), [learned("late", torch.sum, warm_up_steps=6), learned("now", torch.sum)])
    optimizer, path = make([lagrangian.scaled]), [lagrangian.scaled.clone()]
    for violation in (*[1.0] * 4, *[-8.0] * 2, *[8.0] * 12):
        lagrangian.ascend(torch.full((2,), violation), optimizer)
        path.append(lagrangian.scaled.clone())
    late, now = torch.stack(path).T
    assert (late[:5] == 1).all()
    assert (now[:5].diff() > 0).all()
    assert late[6] < late[4]
    assert late[-1] > late[6], "it rises once the warm-up is over"


def test_a_constraint_in_python_has_the_defaults_of_a_config() -> None:
    own, given = ({field.name: field.default for field in fields(kind)} for kind in (Constraint, ConstraintConfig))
    for name in ("multiplier", "scale", "max_multiplier"):
        assert own[name] == given[name], name


def test_a_warm_up_is_no_negative_number_of_steps() -> None:
    with pytest.raises(SettingError, match=r"constraints\.a\.warm_up_steps=-1 must be at least 0"):
        learned("a", torch.sum, warm_up_steps=-1)


@pytest.mark.parametrize(
    "dual",
    [
        *(make for make, _ in DUALS.values()),
        partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1, maximize=True),
        partial(torch.optim.Adam, lr=0.1, maximize=True),
    ],
)
def test_fixed_multipliers_never_move(dual: Callable[[list[Tensor]], Optimizer], generator: torch.Generator) -> None:
    constraints = [
        neg_elbo(multiplier=0.7, bound=1.0),
        learned("moves", torch.sum),
        mmd(multiplier=1e7),  # above `max_multiplier`, which limits dual ascent but not a fixed weight
        Constraint("off", Of(torch.sum), multiplier=0.0),
    ]
    lagrangian = Lagrangian(Preference(0), constraints)
    before = lagrangian.multiplier.clone()
    optimizer = dual([lagrangian.scaled])
    for step in range(50):
        violation = torch.randn(4, generator=generator) + 0.5
        violation[2] = float("nan") if step == 10 else violation[2]  # the violation of a fixed term does not affect λ
        lagrangian.ascend(violation, optimizer)
        assert torch.equal(lagrangian.multiplier[[0, 2, 3]], before[[0, 2, 3]])
    assert float(lagrangian.multiplier[1]) != 1.0


def test_one_step_of_plain_ascent() -> None:
    # λ · scale ← max(0, λ · scale + lr · (D − bound) / scale).
    constraints = [learned("up", torch.sum, bound=1.0, scale=0.5), learned("down", torch.sum, bound=3.0, multiplier=0.05)]
    lagrangian = Lagrangian(Preference(0), constraints)
    lagrangian.ascend(lagrangian.scaled_violation(torch.tensor([2.0, 2.0])), SGD([lagrangian.scaled], lr=0.1, maximize=True))
    assert lagrangian.multiplier.tolist() == pytest.approx([(0.5 + 0.1 * 2) / 0.5, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_multipliers_and_bounds_stay_in_single_precision(dtype: torch.dtype) -> None:
    # In bfloat16 a multiplier of 1 could not grow by 0.003, and a bound of 83.4 would equal one of 83.5.
    lagrangian = Lagrangian(Preference(-1), [neg_elbo(bound=83.4, multiplier=1.003, learned=True), mmd(scale=1e-3)])
    optimizer = SGD([lagrangian.scaled], lr=1e-3, maximize=True)
    lagrangian.to(dtype)
    for tensor in (lagrangian.scaled, lagrangian.bound, lagrangian.scale, lagrangian.max_multiplier, lagrangian.multiplier):
        assert tensor.dtype == torch.float32
    assert float(lagrangian.bound[0]) == pytest.approx(83.4, abs=1e-5)
    violation = lagrangian.scaled_violation(torch.tensor([84.0, 0.0], dtype=dtype))
    assert violation.dtype == torch.float32
    lagrangian.ascend(violation, optimizer)  # the optimizer still refers to the parameter in use
    assert float(lagrangian.multiplier[0]) == pytest.approx(1.003 + 1e-3 * 0.6, abs=1e-6)


def test_all_tensors_go_to_another_device() -> None:
    lagrangian = Lagrangian(Preference(-1), [neg_elbo(bound=1.0, multiplier=2.0, learned=True)]).to("meta")
    tensors = [*lagrangian.parameters(), *lagrangian.buffers()]
    assert len(tensors) >= 10
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_checkpoint_saves_the_multipliers_only() -> None:
    # Bounds come from the config of a run and are not saved, so that a checkpoint cannot contradict it.
    lagrangian = Lagrangian(Preference(-1), [neg_elbo(bound=1.0, multiplier=2.0, learned=True)])
    assert set(lagrangian.state_dict()) == {"scaled", "running", "steps"}
    assert not any(p.requires_grad for p in lagrangian.parameters())
    other = Lagrangian(Preference(-1), [neg_elbo(bound=1.0, learned=True)])
    other.load_state_dict(lagrangian.state_dict())
    assert other.multiplier.tolist() == [2]


def test_the_reported_multiplier_is_the_mean_over_its_memory() -> None:
    # λ rises by 1e-3 per step from 2, so after n ≤ MEMORY steps the mean is 2 + 1e-3 (n + 1) / 2. Later the mean lags by
    # MEMORY − 1 steps, the mean age under the weights (1 − 1/MEMORY)^k, once the start has negligible weight (e^−10).
    lagrangian = Lagrangian(Preference(-1), [neg_elbo(bound=0.0, multiplier=2.0, learned=True)])
    optimizer = SGD([lagrangian.scaled], lr=1e-3, maximize=True)
    assert lagrangian.mean_multiplier.tolist() == [2]
    for _ in range(100):
        lagrangian.ascend(torch.ones(1), optimizer)
    assert float(lagrangian.mean_multiplier) == pytest.approx(2 + 1e-3 * 101 / 2, abs=1e-4)
    for _ in range(11 * MEMORY):
        lagrangian.ascend(torch.ones(1), optimizer)
    lag = float(lagrangian.multiplier - lagrangian.mean_multiplier) / 1e-3
    assert lag == pytest.approx(MEMORY - 1, rel=2e-3)


# ---- invalid settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learned": True}, "needs a bound"),
        ({"bound": float("nan")}, "finite"),
        ({"bound": float("inf")}, "finite"),
        ({"scale": 0.0}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"multiplier": -1.0}, "never negative"),
        ({"multiplier": float("nan")}, "≥ 0"),
        ({"max_multiplier": 0.0}, "max_multiplier"),
        ({"bound": 1.0, "learned": True, "multiplier": 11.0, "max_multiplier": 10.0}, "starts above"),
    ],
)
def test_invalid_constraints_are_rejected_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message) as error:
        Constraint("capacity", Rate(), **settings)
    assert "constraints.capacity" in str(error.value)


def test_a_negative_bound_is_allowed() -> None:
    # −ELBO may be negative for continuous x.
    assert Constraint("neg_elbo", NegElbo(), bound=-12.0, learned=True).bound == -12


def test_a_constraint_stays_as_it_is() -> None:
    with pytest.raises(FrozenInstanceError):
        neg_elbo(bound=1.0).bound = 2.0  # type: ignore[misc]


def test_names_are_distinct() -> None:
    with pytest.raises(SettingError, match="distinct"):
        Lagrangian(Preference(0), [neg_elbo(), Constraint("neg_elbo", Distortion())])


@pytest.mark.parametrize("alphas", [(float("nan"), 0.0), (0.0, float("inf"))])
def test_a_preference_is_a_finite_number(alphas: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match="finite"):
        Preference(*alphas)


# ---- the size of α


@pytest.mark.parametrize(("q", "p"), [(-4.0, 0.0), (0.5, 0.0), (0.0, 2.0), (-1.0, 8.0)])
def test_a_learned_multiplier_is_in_units_of_the_larger_preference_and_a_fixed_one_is_not(q: float, p: float) -> None:
    size = max(abs(q), abs(p))
    lagrangian = Lagrangian(Preference(q, p), [learned("a", torch.sum, multiplier=0.25, scale=0.5), mmd(multiplier=3.0)])
    assert lagrangian.multiplier.tolist() == pytest.approx([0.25 * size, 3.0])
    assert lagrangian.mean_multiplier.tolist() == pytest.approx([0.25 * size, 3.0])
    f = lagrangian.preference({"rate": torch.tensor(0.0), "distortion": torch.tensor(0.0)})
    values = Values({"rate": torch.tensor(0.0), "distortion": torch.tensor(0.0)}, torch.tensor([2.0, 5.0]))
    assert float(lagrangian(values) - f) == pytest.approx(0.25 * size * 2.0 + 3.0 * 5.0)


@each_dual
def test_only_the_sign_of_alpha_matters(dual: str) -> None:
    """α x² under 1 − x ≤ 0: for every α > 0 the path of x is the same where its step is 0.1 / α, and λ / α as well."""
    ends = []
    for alpha in (1.0, 4.0, 0.5):
        x = nn.Parameter(torch.tensor([0.0]))
        lagrangian = Lagrangian(Preference(alpha), [learned("low", lambda x: 1 - x[0])])
        ascent = DUALS[dual][0]([lagrangian.scaled])
        for _ in range(300):
            joint = SimpleNamespace(has_rate=True, has_distortion=True)
            samples = SimpleNamespace(x=x, joint=joint, rate=x.square(), distortion=x.square())
            values = lagrangian.measure(samples)  # type: ignore[arg-type]
            (gradient,) = torch.autograd.grad(lagrangian(values), x)
            x.data.sub_(gradient, alpha=0.1 / alpha)
            lagrangian.ascend(lagrangian.scaled_violation(values.divergences), ascent)
        ends.append((float(x.detach()), float(lagrangian.multiplier) / alpha))
    assert ends[1] == pytest.approx(ends[0], rel=1e-4)
    assert ends[2] == pytest.approx(ends[0], rel=1e-4)
