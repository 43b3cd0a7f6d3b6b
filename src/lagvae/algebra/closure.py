"""The closure theorem: every computable KL Lagrangian is a linear combination of a few known objectives.

    likelihood based        β-VAE and VMI
    unary likelihood free   InfoVAE and InfoGAN, with KL divergences
    binary likelihood free  these and ALICE, with KL divergences

Reference: Theorem 1 of Zhao, Song, Ermon, UAI 2018. As a statement of linear algebra it holds if a linear combination may have
negative weights and use one member with several parameters, and if marginal divergences may have either direction: with
KL(q(z)‖p(z)) and KL(q(x)‖p(x)) alone, the unary members span 5 of 7 dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lagvae.algebra.computing import classify
from lagvae.algebra.linear import basic_solutions
from lagvae.algebra.notation import parse
from lagvae.algebra.objective import Class, Objective, joined, number, total

DISTORTION, RATE, VMI = "−E_q[log p(x|z)]", "E_q[log q(z|x) − log p(z)]", "−E_p[log q(z|x)]"

REVERSED = ("KL(p(z)‖q(z))", "KL(p(x)‖q(x))")
"""Marginal divergences in the direction opposite to that of InfoVAE and InfoGAN."""

LIKELIHOOD = {DISTORTION: "β-VAE", RATE: "β-VAE", VMI: "VMI"}

UNARY = {
    "I_q": "InfoVAE",
    "KL(q(x,z)‖p(x,z))": "InfoVAE",
    "KL(q(z)‖p(z))": "InfoVAE",
    "KL(p(z)‖q(z))": "InfoVAE",
    VMI: "InfoGAN",
    "KL(q(x)‖p(x))": "InfoGAN",
    "KL(p(x)‖q(x))": "InfoGAN",
}

GENERATORS: dict[Class, dict[str, str]] = {
    Class.LIKELIHOOD: LIKELIHOOD,
    Class.UNARY: UNARY,
    Class.BINARY: UNARY | {"KL(p(x,z)‖q(x,z))": "ALICE", DISTORTION: "ALICE"},
}
"""Generators of the KL Lagrangians of a class → the member that has them. I_q may have either sign, the others λ ≥ 0."""


@dataclass(frozen=True)
class Combination:
    """An objective as a linear combination of members.

    Args:
        parts: the coefficient, the text and the member of each generator with a nonzero coefficient.
        level: the computability class of the objective.
    """

    parts: tuple[tuple[Fraction, str, str], ...]
    level: Class

    @property
    def objective(self) -> Objective:
        """The linear combination as an objective."""
        return total((value, parse(text)) for value, text, _ in self.parts)

    @property
    def care(self) -> tuple[str, ...]:
        """Remarks on the sense in which the theorem holds for this objective."""
        notes, weights = [], {text: value for value, text, _ in self.parts}
        if self.level is Class.LIKELIHOOD and RATE in weights and DISTORTION not in weights:
            notes.append("the rate alone is not a multiple of a β-VAE, but its limit for β → ∞ or the difference of two β-VAEs")
        if any(value < 0 for text, value in weights.items() if text != "I_q"):
            notes.append("a weight is negative, so this is a linear combination but not a sum of Lagrangians with λ ≥ 0")
        if reversed_terms := [text for text in REVERSED if text in weights]:
            notes.append(f"{' and '.join(reversed_terms)}: opposite to the direction of the published members")
        return tuple(notes)

    def __str__(self) -> str:
        texts = []
        for member in dict.fromkeys(member for _, _, member in self.parts):
            weights = {text: value for value, text, owner in self.parts if owner == member}
            if member == "β-VAE" and weights.get(DISTORTION):
                scale = weights[DISTORTION]
                texts.append(f"{number(scale)}·β-VAE(β = {number(weights.get(RATE, Fraction(0)) / scale)})".removeprefix("1·"))
            elif member == "VMI":
                texts.append(f"{number(weights[VMI])}·VMI".removeprefix("1·"))
            else:
                texts.append(f"{member}: {joined((value, text) for text, value in weights.items())}")
        return "  and  ".join(texts) or "0"


def closure(objective: Objective) -> Combination | None:
    """The linear combination of Theorem 1 in the smallest class, with λ ≥ 0 if possible.

    Opaque divergences are left out. None if the rest is not a KL Lagrangian.

    Examples:
        >>> str(closure(parse("3*E_q[log q(z|x) - log p(z)] - E_q[log p(x|z)]")))
        'β-VAE(β = 3)'
    """
    level = classify(objective.plain)
    owners = GENERATORS[level]
    free = [text for text in owners if text == "I_q"]
    texts = [text for text in owners if text != "I_q"]
    columns, signless = [parse(text).vector for text in texts], [parse(text).vector for text in free]
    for signed in (False, True):
        for weights, preferred in basic_solutions(columns, objective.vector, signless, signed):
            found = zip((*preferred, *weights), (*free, *texts), strict=True)
            return Combination(tuple((value, text, owners[text]) for value, text in found if value), level)
    return None
