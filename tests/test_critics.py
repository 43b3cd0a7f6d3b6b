"""Critic divergences compared with closed forms for Gaussians, Wasserstein distances with sorting, invalid settings."""

from __future__ import annotations

from functools import partial
from math import exp, log, sqrt
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import ABSENT
from omegaconf import OmegaConf
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import Normal, StudentT
from torch.utils.data import DataLoader

from lagvae.distributions import (
    BernoulliDecoder,
    EmpiricalPrior,
    GaussianEncoder,
    JointModel,
    JointSamples,
    StandardNormalPrior,
    draw_noise,
)
from lagvae.divergences import (
    F_DIVERGENCES,
    AdversarialNegElbo,
    AdversarialRate,
    CriticDivergence,
    LogRatio,
    SlicedWasserstein,
    SymbolicObjective,
    VariationalFDivergence,
    Wasserstein,
    sliced_wasserstein,
    sorted_distance,
)
from lagvae.divergences.density_ratio import whitened_kl
from lagvae.errors import SettingError
from lagvae.experiment.calibration import uses_critics
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.model import LatentVariableModel
from lagvae.networks import MLP
from lagvae.noise import Noise

SHIFT = 1.0
"""q = N(1, 1) and p = N(0, 1) on the line, so that log q/p = x − ½."""
N = 200_000
network = partial(MLP, hidden=(64,), activation="leaky_relu")


def js_by_quadrature(m: float) -> float:
    q, p = stats.norm(m).pdf, stats.norm().pdf

    def integrand(x: float) -> float:
        a, b = q(x), p(x)
        middle = (a + b) / 2
        return 0.5 * (a * log(a / middle) + b * log(b / middle))

    return float(integrate.quad(integrand, -8, 8 + m)[0])


TRUTH = {
    "kl": SHIFT**2 / 2,
    "reverse_kl": SHIFT**2 / 2,
    "js": js_by_quadrature(SHIFT),
    "hellinger": 2 * (1 - exp(-(SHIFT**2) / 8)),
    "chi2": exp(SHIFT**2) - 1,
    "tv": 2 * float(stats.norm.cdf(SHIFT / 2)) - 1,
}


def draw(seed: int, n: int = N) -> tuple[Tensor, Tensor]:
    noise = Noise(seed)
    return SHIFT + noise.normal("q", 0, (n, 1)), noise.normal("p", 0, (n, 1))


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_the_best_critic_reaches_the_divergence_and_no_other_exceeds_it(name: str) -> None:
    f = F_DIVERGENCES[name]()
    assert f.nats == (name in ("kl", "reverse_kl", "js")), "the others are no expectations of logarithms"
    q, p = (x.double().squeeze(-1) for x in draw(0))

    def bound(v: Any) -> tuple[float, float]:
        on_q, on_p = f.witness(v(q)), f.conjugate(f.witness(v(p)))
        spread = sqrt(float(on_q.var()) / N + float(on_p.var()) / N)
        assert float(f.lower(v(q), v(p))) == pytest.approx(float(on_q.mean() - on_p.mean()), abs=1e-9)
        return float(on_q.mean() - on_p.mean()), spread

    # The tolerance is five standard errors of means of N independent numbers.
    value, spread = bound(lambda x: f.best(x - 0.5))
    assert abs(value - TRUTH[name]) < 5 * spread
    for other in (lambda x: f.best(0.7 * x - 0.5), lambda x: f.best(x), lambda x: 0 * x):
        value, spread = bound(other)
        assert value < TRUTH[name] + 5 * spread


@pytest.mark.parametrize("name", sorted(set(F_DIVERGENCES) - {"tv"}))
def test_the_conjugate_belongs_to_f(name: str) -> None:
    """T = f'(u) for the optimal critic, and f*(T) = u f'(u) − f(u) (Fenchel's equality)."""
    f = F_DIVERGENCES[name]()
    u = torch.linspace(0.1, 5, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f.f(u).sum(), u)
    t = f.witness(f.best(u.detach().log()))
    torch.testing.assert_close(t, slope)
    torch.testing.assert_close(f.conjugate(t), (u * slope - f.f(u)).detach())


def samples_of(z_q: Tensor, z_p: Tensor, **noise: Tensor) -> Any:
    return SimpleNamespace(z_q=z_q, z_p=z_p, noise=noise, gather=lambda t: t)


def trained(estimator: CriticDivergence, steps: int = 400, batch: int = 500) -> float:
    """The estimate on new samples after training the critic."""
    torch.manual_seed(0)
    estimator.prepare("d", SimpleNamespace(latent=1), (1,))  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(estimator.critic.parameters(), lr=5e-3, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        q, p = draw(step + 1, batch)
        optimizer.zero_grad()
        estimator.critic_loss(samples_of(q, p, mix=Noise(step).uniform("mix", 0, (batch,)))).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float(estimator(samples_of(*draw(0))))


@pytest.mark.parametrize("name", ["js", "kl", "reverse_kl", "hellinger", "chi2"])
def test_a_trained_critic_approaches_the_divergence_from_below(name: str) -> None:
    # N samples estimate the bound to 1 %. An imperfect critic lowers it, most for χ², whose optimal critic is exponential.
    value = trained(VariationalFDivergence(network, f=name))
    assert 0.85 * TRUTH[name] < value < 1.02 * TRUTH[name]


def test_a_log_ratio_estimates_both_directions_of_kl() -> None:
    """The loss of the critic does not depend on the direction, so one critic is trained for all."""
    estimator = LogRatio(network, direction="both")
    assert trained(estimator) == pytest.approx(1.0, rel=0.1)
    for direction in ("q_p", "p_q"):
        other = LogRatio(network, direction=direction)
        other.critic = estimator.critic
        with torch.no_grad():
            few = samples_of(*draw(0, 100))
            assert torch.equal(other.critic_loss(few), estimator.critic_loss(few))
            assert float(other(samples_of(*draw(0)))) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("direction", ["q_p", "p_q", "both"])
def test_the_gradient_of_a_log_ratio_reaches_both_distributions(direction: str) -> None:
    """For q = N(m, 1) and p = N(s, 1) both KL divergences are ½ (m − s)², with the derivatives m − s in m and s − m in s."""
    m, s = torch.tensor(0.6, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    noise = Noise(5)
    z_q, z_p = m + noise.normal("q", 0, (N, 1)), s + noise.normal("p", 0, (N, 1))
    estimator = LogRatio(network, direction=direction)
    estimator.critic = lambda z: (0.6 * (z - 0.3)).squeeze(-1)  # log q/p for these m and s
    value = estimator(samples_of(z_q, z_p))
    times = 2 if direction == "both" else 1
    # Weighted means over N samples with weights exp(±v) of variance exp(0.36) − 1: five standard errors are below 0.01.
    assert float(value.detach()) == pytest.approx(times * 0.18, abs=0.01)
    assert [float(g) for g in torch.autograd.grad(value, (m, s))] == pytest.approx([times * 0.6, -times * 0.6], abs=0.01)


def test_wasserstein_is_the_distance_of_sorted_samples() -> None:
    q, p = draw(0)
    exact = float(sorted_distance(q.squeeze(-1), p.squeeze(-1)))
    assert exact == pytest.approx(SHIFT, abs=5 * sqrt(2 / N))
    # The penalty lets the slope exceed 1 by about distance / (2 · penalty) = 0.05.
    assert trained(Wasserstein(network)) == pytest.approx(exact, rel=0.1)
    assert 0.5 * exact < trained(Wasserstein(network, penalty=0.0, spectral=True)) < 1.01 * exact


def test_r1_makes_a_critic_less_steep() -> None:
    assert trained(LogRatio(network, r1=3.0), steps=150) < 0.8 * trained(LogRatio(network), steps=150)


def test_sliced_wasserstein_of_a_shift() -> None:
    """A shift by m shifts every projection by m·u, and the mean of (m·u)² over uniform directions u is ‖m‖²/d."""
    noise, d = Noise(3), 5
    z = noise.normal("z", 0, (100, d))
    m = torch.arange(float(d))
    directions = noise.normal("u", 0, (4000, d))
    # The standard deviation of (m·u)² is √(2(d−1)/(d+2)) = 1.07 times its mean ‖m‖²/d, so 5 % are three standard errors of
    # a mean over 4000 directions, and the seed is fixed.
    assert float(sliced_wasserstein(z + m, z, directions)) == pytest.approx(float(m.square().sum() / d), rel=0.05)
    estimator = SlicedWasserstein()
    assert float(estimator(samples_of(z + m, z, slices_z=directions))) == pytest.approx(float(m.square().sum() / d), rel=0.05)
    with pytest.raises(SettingError, match="must be equal"):
        sorted_distance(torch.zeros(3), torch.zeros(4))


def test_the_surrogate_changes_the_gradient_and_not_the_value() -> None:
    torch.manual_seed(0)
    found = {}
    for gradient in ("value", "non_saturating"):
        estimator = VariationalFDivergence(network, gradient=gradient)
        torch.manual_seed(1)
        estimator.prepare("d", SimpleNamespace(latent=1), (1,))  # type: ignore[arg-type]
        q, p = draw(0, 64)
        q.requires_grad_()
        value = estimator(samples_of(q, p))
        found[gradient] = float(value.detach()), torch.autograd.grad(value, q)[0]
        v_q = estimator.critic(q)
        # The derivative of −½ softplus(−v) is ½ σ(−v), and that of ½ softplus(v) is ½ σ(v).
        share = {"value": torch.sigmoid(-v_q), "non_saturating": torch.sigmoid(v_q)}[gradient]
        by_hand = torch.autograd.grad((0.5 * share.detach() * v_q).mean(), q)[0]
        torch.testing.assert_close(found[gradient][1], by_hand)
    assert found["value"][0] == found["non_saturating"][0]


def linear_joint() -> JointModel:
    torch.manual_seed(0)
    linear = partial(MLP, hidden=())
    encoder = GaussianEncoder(linear, (4,), 2)
    with torch.no_grad():
        encoder.network.layers[0].weight[:2] *= 2  # type: ignore[index,union-attr]
    return JointModel(StandardNormalPrior(2), encoder, BernoulliDecoder(linear, (4,), 2))


def test_the_adversarial_rate_is_that_of_the_closed_form() -> None:
    joint, noise = linear_joint(), Noise(0)
    estimator = AdversarialRate(partial(MLP, hidden=(32,)))
    estimator.prepare("rate", joint, (4,))
    optimizer = torch.optim.Adam(estimator.critic.parameters(), lr=1e-2)

    def samples(step: int, n: int) -> JointSamples:
        x = noise.normal("x", step, (n, 4))
        return JointSamples(joint, x, draw_noise(estimator.required_noise, joint, noise, step, x))

    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 200)
        optimizer.zero_grad()
        estimator.critic_loss(samples(step, 256)).backward()
        optimizer.step()
    last = samples(1000, 20_000)
    truth = float(last.rate.detach().mean())
    assert truth > 0.5
    # 20,000 samples estimate it to 1 %; the rest of the tolerance is for the error of the critic.
    assert float(estimator(last).detach()) == pytest.approx(truth, rel=0.05)


class Affine:
    """An implicit encoder z = b(x) + A e, whose rate is known; for the noise e of `JointSamples`."""

    has_density, noise_kind = False, "normal"

    def __init__(self, a: Tensor) -> None:
        self.a, self.noise_shape = a, (len(a),)  # A is lower triangular

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def sample(self, b: Tensor, noise: Tensor) -> Tensor:
        return b + noise @ self.a.mT


@pytest.mark.parametrize(("d", "draws"), [(3, 9), (16, 64)])
def test_with_the_best_critic_the_adversarial_rate_of_a_gaussian_is_exact(d: int, draws: int) -> None:
    """The best critic is log q(w)/N(w; 0, I) of the whitened w, a product of Student's distributions for a Gaussian q(z|x)."""
    generator, n = torch.Generator().manual_seed(0), 10_000
    a = torch.randn(d, d, generator=generator, dtype=torch.float64).tril() / d + torch.eye(d)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    noise = {f"z_q*{draws}": torch.randn(n, draws, d, generator=generator, dtype=torch.float64)}
    noise["z_q"] = torch.randn(n, d, generator=generator, dtype=torch.float64)
    joint = JointModel(StandardNormalPrior(d), Affine(a), ABSENT)  # type: ignore[arg-type]
    estimator = AdversarialRate(network, draws=draws)
    estimator.critic = best_critic(draws)  # type: ignore[assignment]
    samples = JointSamples(joint, x, noise)
    ratio = -0.5 * noise["z_q"].square().sum(-1) - a.diagonal().log().sum() + 0.5 * samples.z_q.square().sum(-1)  # log q/p
    rate = 0.5 * (a.square().sum() - d + x.square().sum(-1)).mean() - a.diagonal().log().sum()
    assert abs(float(ratio.mean() - rate)) < 5 * float(ratio.std()) / n**0.5
    error = estimator.rate(samples) - ratio
    # Five standard errors; what a critic finds of the error of the moments, 0.14 nat at d = 16, is more.
    assert abs(float(error.mean())) < 5 * float(error.std()) / n**0.5 < 0.7 * whitened_kl(draws, d)


def best_critic(draws: int) -> Any:
    def log_ratio(_: Tensor, w: Tensor) -> Tensor:
        d = w.shape[-1]
        raw, total, s = w / (draws - d - 2) ** 0.5, torch.zeros(len(w), dtype=w.dtype), torch.ones(len(w), dtype=w.dtype)
        for i in range(d):
            k = draws - 1 - i
            scale = (s / k).sqrt() * (draws - d - 2) ** 0.5
            total += StudentT(torch.tensor(float(k))).log_prob(w[:, i] / scale) - scale.log()
            s = s + raw[:, i].square()
        return total - Normal(0.0, 1.0).log_prob(w).sum(-1)

    return log_ratio


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: VariationalFDivergence(network, f="jsd"), "divergence.f='jsd' is unknown"),
        (lambda: VariationalFDivergence(network, over="y"), "divergence.over='y' is unknown"),
        (lambda: VariationalFDivergence(network, f="kl", gradient="non_saturating"), "use value, or non_saturating with f=js"),
        (lambda: VariationalFDivergence(network, r1=-1.0), "divergence.r1=-1.0"),
        (lambda: LogRatio(network, direction="up"), "divergence.direction='up'"),
        (lambda: Wasserstein(network, penalty=0.0), "nothing bounds the critic's slope"),
        (
            lambda: VariationalFDivergence(network, over="x").prepare("js_x", linear_joint(), (4,)),
            "constraints.js_x needs samples of p",
        ),
        (
            lambda: AdversarialRate(network).prepare("r", JointModel(EmpiricalPrior(torch.zeros(3, 2)), ABSENT, ABSENT), (4,)),
            "needs log p",
        ),
    ],
)
def test_invalid_settings_are_rejected(make: Any, match: str) -> None:
    with pytest.raises(SettingError, match=match):
        make()


@pytest.mark.parametrize(("name", "expected"), [("MMD", False), ("SlicedWasserstein", False), ("LogRatio", True)])
def test_the_class_of_a_divergence_says_whether_it_has_a_critic(name: str, expected: bool) -> None:
    """Not the name of a setting, because a class of a user may call its network anything."""
    constraints = {"d": {"divergence": {"_target_": f"lagvae.divergences.{name}", "net": None}}}
    assert uses_critics(OmegaConf.create({"constraints": constraints})) is expected


@pytest.mark.parametrize(("objective", "expected"), [("KL(q(x,z)||p(x,z))", False), ("KL(q(z)||p(z))", True)])
def test_a_written_objective_has_a_critic_only_for_a_ratio_of_densities(objective: str, expected: bool) -> None:
    assert SymbolicObjective(objective, network).uses_critic is expected


def test_a_model_refuses_a_critic_that_its_class_does_not_name() -> None:
    class Silent(LogRatio):
        uses_critic = False

    joint = JointModel(StandardNormalPrior(2), GaussianEncoder(network, (3,), 2), BernoulliDecoder(network, (3,), 2))
    divergence = Silent(network)
    divergence.prepare("d", joint, (3,))
    lagrangian = Lagrangian(Preference(0.0), [Constraint("d", divergence)])
    with pytest.raises(SettingError, match=r"constraints\.d: Silent has uses_critic=False, but it has a critic"):
        LatentVariableModel(joint, lagrangian, torch.optim.Adam, critic=torch.optim.Adam)


def take_one_step(joint: JointModel, divergence: CriticDivergence, critic_steps: int) -> None:
    """A training step of θ and `critic_steps` of the critic, on ten samples in three dimensions."""
    divergence.prepare("d", joint, (3,))
    lagrangian = Lagrangian(Preference(0.0), [Constraint("d", divergence)])
    model = LatentVariableModel(joint, lagrangian, torch.optim.Adam, critic=torch.optim.Adam, critic_steps=critic_steps)
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    pl.Trainer(max_steps=1, accelerator="cpu", **quiet).fit(model, DataLoader(torch.ones(20, 3), 10))


@pytest.mark.parametrize("steps", [1, 3])
def test_theta_descends_what_the_first_step_of_a_critic_has_seen(steps: int) -> None:
    """Further steps of the critic draw samples of their own, and leave those of θ their gradient."""
    joint = JointModel(StandardNormalPrior(2), GaussianEncoder(network, (3,), 2), BernoulliDecoder(network, (3,), 2))
    before = [p.detach().clone() for p in joint.encoder.parameters()]
    take_one_step(joint, LogRatio(network), steps)
    assert any(not torch.equal(a, b) for a, b in zip(before, joint.encoder.parameters(), strict=True))


def test_each_step_of_a_critic_has_samples_of_its_own() -> None:
    seen = []

    class Seen(LogRatio):
        def critic_loss(self, samples: JointSamples) -> Tensor:
            seen.append(samples.z_q.detach().clone())
            return super().critic_loss(samples)

    joint = JointModel(StandardNormalPrior(2), GaussianEncoder(network, (3,), 2), BernoulliDecoder(network, (3,), 2))
    take_one_step(joint, Seen(network), critic_steps=3)
    assert len(seen) == 3
    assert not any(torch.allclose(a, b) for a, b in ((seen[0], seen[1]), (seen[0], seen[2]), (seen[1], seen[2])))


@pytest.mark.parametrize("f", F_DIVERGENCES)
def test_a_critic_of_an_f_divergence_has_its_unit_and_range(f: str) -> None:
    divergence = VariationalFDivergence(network, f=f)
    largest = {"js": log(2), "hellinger": 2.0, "tv": 1.0}.get(f, float("inf"))
    assert divergence.largest == pytest.approx(largest), "what the explanation of a saturated critic compares with"
    assert divergence.nats == (f in ("kl", "reverse_kl", "js"))
    assert divergence.smallest == 0


def test_r1_adds_a_quarter_of_the_mean_squared_gradients_of_both_sides() -> None:
    """Roth et al. 2017: γ/2 · E‖∇v‖² with γ = r1/2, over q and p. The gradient of v(z) = a·z is a everywhere."""
    a, noise = torch.tensor([0.5, -2.0]), Noise(7)
    samples = samples_of(noise.normal("q", 0, (9, 2)), noise.normal("p", 0, (9, 2)))

    def loss(r1: float) -> float:
        estimator = LogRatio(network, r1=r1)
        estimator.critic = lambda z: z @ a
        return float(estimator.critic_loss(samples).detach())

    assert loss(3.0) - loss(0.0) == pytest.approx(0.25 * 3.0 * 2 * float(a @ a), rel=1e-5)


@pytest.mark.parametrize(
    ("without", "needed", "cure"),
    [("decoder", r"log p\(x\|z\)", "likelihood=normal"), ("encoder", r"log q\(z\|x\)", "posterior=gaussian")],
)
def test_a_written_objective_is_refused_where_a_density_is_missing_that_it_has(without: str, needed: str, cure: str) -> None:
    parts = {"prior": StandardNormalPrior(2), "encoder": GaussianEncoder(MLP, (3,), 2)}
    joint = JointModel(**(parts | {"decoder": BernoulliDecoder(MLP, (3,), 2)}))
    lacking = JointModel(**(parts | {"decoder": BernoulliDecoder(MLP, (3,), 2)} | {without: ABSENT}))
    with_it, without_it = (SymbolicObjective(text, network) for text in ("KL(q(x,z)||p(x,z))", "KL(q(z)||p(z))"))
    with_it.prepare("d", joint, (3,))
    without_it.prepare("d", lacking, (3,))
    with pytest.raises(SettingError, match=f"d needs {needed}.*{cure}"):
        with_it.prepare("d", lacking, (3,))


def test_neg_elbo_by_a_critic_is_refused_for_a_decoder_without_a_density() -> None:
    lacking = JointModel(StandardNormalPrior(2), GaussianEncoder(MLP, (3,), 2), ABSENT)
    with pytest.raises(SettingError, match=r"constraints.d needs .*log p\(x\|z\).*likelihood=normal or likelihood=laplace"):
        AdversarialNegElbo(network).prepare("d", lacking, (3,))


def test_the_penalty_on_the_slope_has_the_weight_of_its_authors() -> None:
    divergence = Wasserstein(network)
    assert (divergence.penalty, divergence.r1, divergence.smallest, divergence.nats) == (10.0, 0.0, 0.0, False)
    assert "mix" in divergence.required_noise
