"""What codes tell about an attribute u of x, such as a group or a class, by a classifier r(u|z) that is trained as a critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lagvae.distributions import JointModel, JointSamples
from lagvae.divergences.base import Divergence
from lagvae.errors import SettingError
from lagvae.networks import Network, build_network


def entropy_of(shares: Sequence[float] | Tensor) -> Tensor:
    """−Σ p log p in nats, ().

    Examples:
        >>> entropy_of([0.5, 0.5])
        tensor(0.6931, dtype=torch.float64)
    """
    p = torch.as_tensor(shares, dtype=torch.float64)
    return -torch.xlogy(p, p).sum()


class AttributeEntropy(Divergence):
    """−E_q log r(u|z) in nats: an upper bound on H(u|z), what is not known of the attribute u once the code is known.

    The classifier r, and the encoder with it, minimise the same cross-entropy. H(u|z) ≤ ε means I(z;u) ≥ H(u) − ε, so as a
    constraint it demands a code from which u can be told, and as a penalty it is supervision. u is the column
    data.source.attribute of a table, or the labels of other data.

    Args:
        network: builds r from (shape of z, number of values of u); r is softmax of what it returns.

    Raises: SettingError from `prepare` where a run has given no `attribute_shares`.

    Reference: Barber & Agakov, The IM Algorithm, NeurIPS 2003.

    Examples:
        >>> from types import SimpleNamespace
        >>> from lagvae.networks import MLP
        >>> divergence = AttributeEntropy(MLP)
        >>> divergence.attribute_shares = [0.5, 0.5]
        >>> divergence.prepare("attribute_entropy", SimpleNamespace(latent=2), (3,))
        >>> samples = SimpleNamespace(z_q=torch.randn(5, 2), u=torch.tensor([0, 1, 1, 0, 1]))
        >>> bool(divergence(samples) > 0)
        True
    """

    uses_critic = True
    uses_attribute = True
    smallest = 0.0
    symbol = "H(u|z)"
    critic: Any = None

    def __init__(self, network: Network) -> None:
        self.network = network

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        if self.attribute_shares is None:
            raise SettingError(
                f"constraints.{name} needs an attribute u of x, which these data do not have; name a column of a table with "
                "data.source.attribute=COLUMN, or use data with labels."
            )
        self.critic = build_network(self.network, (joint.latent,), (len(self.attribute_shares),), "critic.network")

    def critic_inputs(self, samples: JointSamples) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The codes that the classifier is trained on."""
        return (samples.z_q,), ()

    def critic_loss(self, samples: JointSamples) -> Tensor:
        """The cross-entropy of the classifier on detached codes, ()."""
        return self.cross_entropy(samples.z_q.detach(), samples.u)

    def cross_entropy(self, z: Tensor, u: Tensor | None) -> Tensor:
        """−mean log r(u|z) in nats, ()."""
        if u is None:
            raise SettingError(
                f"{type(self).__name__} needs the attribute u of x, and the batch has none. That of your own DataLoader has "
                'it as the second part of a tuple, or under "u" of a dict.'
            )
        return cross_entropy(self.critic(z).float(), u)

    def __call__(self, samples: JointSamples) -> Tensor:
        return self.cross_entropy(samples.z_q, samples.u)

    def __repr__(self) -> str:
        return "−E log r(u|z)"


class AttributeInformation(AttributeEntropy):
    """H(u) + E_q log r(u|z) in nats: I(z;u), what the codes tell about the attribute u, by an adversarial classifier r.

    The classifier maximises it in steps of its own, and the encoder keeps it at most ε: representations whose unfairness, or
    dependence on a nuisance, is limited by a number. On training data the value is a lower bound on I(z;u) for every r, with
    equality for r = q(u|z); on other data H(u) is still that of the training split. So it is too small where the classifier is
    weak or lags behind, and an attacker who trains a stronger one may find more. More steps of the critics (critic.steps) and a
    larger network make the value more reliable; after training, `lagvae.metrics.AttributeScores` measures both bounds anew.

    Args:
        network: see `AttributeEntropy`.

    Reference: Song, Kalluri, Grover, Zhao, Ermon, Learning Controllable Fair Representations, AISTATS 2019.

    Examples:
        >>> from types import SimpleNamespace
        >>> from torch import nn
        >>> class Knows(nn.Module):  # r(u|z) for z that is u itself
        ...     def __init__(self, shape_in, shape_out):
        ...         super().__init__()
        ...     def forward(self, z):
        ...         return 50 * torch.cat([0.5 - z, z - 0.5], 1)
        >>> divergence = AttributeInformation(Knows)
        >>> divergence.attribute_shares = [0.5, 0.5]
        >>> divergence.prepare("attribute_information", SimpleNamespace(latent=1), (3,))
        >>> u = torch.tensor([0, 1, 1, 0])
        >>> divergence(SimpleNamespace(z_q=u.unsqueeze(1).float(), u=u))  # log 2
        tensor(0.6931)
    """

    symbol = "I(z;u)"

    def __call__(self, samples: JointSamples) -> Tensor:
        assert self.attribute_shares is not None
        return entropy_of(self.attribute_shares).item() - self.cross_entropy(samples.z_q, samples.u)

    def __repr__(self) -> str:
        return "H(u) + E log r(u|z)"
