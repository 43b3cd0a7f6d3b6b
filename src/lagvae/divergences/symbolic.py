"""An estimator of any objective in the notation of `lagvae.algebra`, computed term by term."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lagvae.algebra import Class, Objective, computable_form, parse
from lagvae.distributions import JointModel, JointSamples
from lagvae.divergences.base import require
from lagvae.divergences.critic import CriticDivergence
from lagvae.divergences.density_ratio import LogRatio, kl_of_ratio
from lagvae.errors import SettingError
from lagvae.networks import Network

RATIOS = {"log q(x)/p(x)": "x", "log q(z)/p(z)": "z", "log q(x,z)/p(x,z)": "xz"}


class SymbolicObjective(CriticDivergence):
    """The computable form Σ c E_s[…] of an objective in nats, up to constants of the data and the prior.

    Every log ratio in it is estimated with a critic of its own. For example, KL(q(x|z)‖p(x|z)) is, up to a constant,
    −E_q log p(x|z) − E_q log p(z) + E_q log q(z|x) − E_q log q(z)/p(z), where the last term needs a critic of z.

    Args:
        objective: an objective in the notation of `lagvae.algebra`, such as "KL(q(x|z)||p(x|z))".
        network: builds a critic's network from (shape_in, shape_out).
        within: the largest class of terms that may be used: "likelihood", "unary" or "binary".
        r1, spectral: see `CriticDivergence`.

    Raises: SettingError for an objective that cannot be parsed, contains an opaque divergence, or is not computable in the
        class; in `prepare`, if the joint model does not have a density that it needs.

    Examples:
        >>> from lagvae.networks import MLP
        >>> SymbolicObjective("KL(q(x,z)||p(x,z))", MLP)  # −ELBO, which takes no critic
        KL(q(x,z)‖p(x,z)) as −E_q[log p(x|z)] − E_q[log p(z)] + E_q[log q(z|x)]
    """

    def __init__(
        self, objective: str, network: Network, within: str = "binary", r1: float = 0.0, spectral: bool = False
    ) -> None:
        super().__init__(network, "z", r1, spectral)
        levels = {level.name.lower(): level for level in Class}
        if within not in levels:
            raise SettingError(f"divergence.within={within!r} is unknown; choose one of {', '.join(levels)}.")
        self.stated = parse(objective, name="divergence.objective")
        if self.stated.opaque:
            opaque = ", ".join(map(str, self.stated.opaque))
            raise SettingError(
                f"divergence.objective={objective}: {opaque} is not a sum of log densities; make it a separate constraint."
            )
        self.form = computable_form(self.stated, levels[within], name="divergence.objective")
        self.symbol = objective
        self.ratios = [over for text, over in RATIOS.items() if any(text in str(term) for _, term in self.form.terms)]
        self.required_noise = frozenset({"z_q", "z_p", "x_p"})
        self.uses_critic = bool(self.ratios)

    def restated(self, objective: Objective) -> SymbolicObjective:
        """An estimator of another objective with the same settings."""
        return SymbolicObjective(str(objective), self.network, r1=self.r1, spectral=self.spectral)

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        terms = " ".join(str(term) for _, term in self.form.terms)
        require("p(x|z)" not in terms or joint.has_distortion, name, "log p(x|z)", joint.decoder, "set likelihood=normal")
        require("q(z|x)" not in terms or joint.encoder.has_density, name, "log q(z|x)", joint.encoder, "set posterior=gaussian")
        require("log p(z)" not in terms or joint.prior.has_density, name, "log p(z)", joint.prior, "set prior=normal")
        self.parts = {over: LogRatio(self.network, over, r1=self.r1, spectral=self.spectral) for over in self.ratios}
        for part in self.parts.values():
            part.prepare(name, joint, shape)
        self.critic = nn.ModuleDict({over: part.critic for over, part in self.parts.items()}) if self.parts else None

    def critic_inputs(self, samples: JointSamples) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        found = [part.critic_inputs(samples) for part in self.parts.values()]
        return found[0] if found else ((), ())

    def critic_loss(self, samples: JointSamples) -> Tensor:
        return torch.stack([part.critic_loss(samples) for part in self.parts.values()]).sum()

    def critic_objective(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        raise NotImplementedError("every log ratio has an objective of its own")

    def term(self, symbol: str, samples: JointSamples) -> Tensor:
        """The value of an elementary term E_s[…], (), in nats."""
        s, log = symbol[2], symbol[4:-1]
        z = samples.z_q if s == "q" else samples.z_p
        if log in RATIOS:
            v_q, v_p = self.parts[RATIOS[log]].scores(samples)
            return kl_of_ratio(v_q, v_p) if s == "q" else -kl_of_ratio(-v_p, -v_q)
        if log == "log p(x|z)":
            distribution, at = (samples.p_x_given_z_q, samples.x_q) if s == "q" else (samples.p_x_given_z_p, samples.x_p)
        elif log == "log q(z|x)":
            distribution, at = (samples.q_z_given_x if s == "q" else samples.q_z_given_x_p), z
        else:
            distribution, at = samples.p_z, z
        value: Tensor = distribution.log_prob(at).mean()
        return value

    def __call__(self, samples: JointSamples) -> Tensor:
        return torch.stack([float(c) * self.term(str(term), samples) for c, term in self.form.terms]).sum()

    def __repr__(self) -> str:
        return f"{self.symbol.replace('||', '‖')} as {self.form}"
