"""The paper's Table 1, computed from the presets: the preference of each member, and the class of terms that computes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from lagvae.algebra import Class, classify, computable_form, joined, number, plainest, preference, symbolic_lagrangian
from lagvae.explain.presets import ObjectiveSpec

PAPER_CLASSES = {
    **dict.fromkeys(("vae", "beta_vae", "vmi"), Class.LIKELIHOOD),
    **dict.fromkeys(("vae_gan", "infovae", "infogan", "cyclegan"), Class.UNARY),
    **dict.fromkeys(("ali", "alice", "asvae"), Class.BINARY),
}
"""Member → its class in the paper's Table 1 (Zhao, Song, Ermon, UAI 2018)."""

PAPER_PREFERENCES = {
    **dict.fromkeys(("vae", "vae_gan", "ali"), ""),
    **dict.fromkeys(("beta_vae", "infovae", "alice"), "q"),
    **dict.fromkeys(("vmi", "infogan"), "p"),
    **dict.fromkeys(("cyclegan", "asvae"), "qp"),
}
"""Member → the information, I_q or I_p, that its row in the paper's Table 1 prefers more or less of."""

REASONS = {
    "asvae": "The marginal likelihoods that its authors maximise beside the symmetric KL change nothing: −E_q[log p(x)] − "
    "E_p[log q(z)] is KL(q(x)‖p(x)) + KL(p(z)‖q(z)) up to constants. Reconstruction errors of x and z would be a preference."
}
"""Member → why the algebra finds another preference than the paper."""

ESCAPED_PIPE = r"\|"

ROWS = ("f = 0", "min I_q", "max I_q", "min I_p", "max I_p")

HEAD = """# Table 1, from the presets

Made by `make table1` from `conf/family/`. A row is what a member *prefers by the algebra*: α₁ and α₂ of its whole
objective, which are unique, whatever its parts are called. A column is the least class whose terms give what is
*trained* (the preference by its bounds, learned multipliers as 1). A star marks a member whose preference comes from
a penalty and not from α.

A bound on information is the information and a KL divergence: −E_q[log p(x|z)] = −I_q + KL(q(x|z)‖p(x|z)), and the rate
is I_q + KL(q(z)‖p(z)), up to constants. The paper counts these divergences among the constraints, and so do the forms
below: β-VAE, for one, *is* likelihood based, although I_q alone is not.

"""

NOTES = """
## What "computable" means here

- **Up to constants.** E_q log q(x) belongs to the data and E_p log p(z) to the prior. So −E_q log p(x) *is* unary
  likelihood free computable: E_q log q(x)/p(x) has the same gradient, though its value differs by the entropy of the
  data, which nobody knows. A bound on a divergence is then a bound on the terms that are computed (−ELBO instead of
  KL(q(x,z)‖p(x,z))).
- **The binary class has everything.** Its twelve terms span all twelve atoms, constants too. A refusal is therefore
  always relative to a class: `within=likelihood` or `within=unary`.
- **One direction is all that unary lacks.** Of the ten atoms that vary, unary terms give nine; what is missing is E_p
  log p(x), the entropy of the model's own samples. It is why I_p alone, and KL(p(x,z)‖q(x,z)), need a critic of both
  variables.
- **A class takes the densities p(z), p(x|z), q(z|x) as known.** Where an encoder or decoder is implicit, terms with
  its density need a critic as well, whatever the column says.
- **MMD and the like** are symbols of their own. Over one variable they are filed as unary, as the paper files
  InfoVAE, although MMD needs samples alone and no likelihood ratio.

## Where Theorem 1 needs care

KL Lagrangians have dimension 8; 3 of these are likelihood based, 7 unary, 8 binary (`tests/test_algebra.py`). The
theorem holds as linear algebra, read like this:

- "Linear combination" has to allow several β and negative weights. Every likelihood based Lagrangian with λ ≥ 0 is a
  β-VAE plus a VMI with weights ≥ 0, but for the rate alone: that is the limit β → ∞, or a difference of two β-VAEs.
- With KL(q(z)‖p(z)) in InfoVAE and KL(q(x)‖p(x)) in InfoGAN alone, unary members span 5 dimensions. For all 7 both
  have to be allowed in the other direction too: KL(p(z)‖q(z)), KL(p(x)‖q(x)).
- Minimising I_p is InfoGAN's and ALICE's with negative weights. No sum of KL divergences on top makes it computable
  in a smaller class; the leave-one-out bound that is trained for alpha.p > 0 is not a sum of such terms.
- α is unique, λ is not: KL(q(x,z)‖p(x,z)) is a marginal plus a conditional divergence, either way round.
"""


def table1_markdown(members: Sequence[ObjectiveSpec]) -> str:
    """The whole document."""
    return HEAD + "\n".join([*_class_table(members), "", *_member_table(members), "", *_differences(members)]) + "\n" + NOTES


def overall_alpha(spec: ObjectiveSpec) -> tuple[Fraction, Fraction]:
    """(α₁, α₂) of the whole objective; as configured if it is not a KL objective."""
    return preference(spec.stated.plain) or spec.alpha


def signed_preference(value: tuple[Fraction, Fraction]) -> str:
    """The name of a preference, which is the name of a row of the table, e.g. "max I_q" or "f = 0"."""
    parts = [f"{'min' if a > 0 else 'max'} I_{side}" for a, side in zip(value, "qp", strict=True) if a]
    return ", ".join(parts) or "f = 0"


def _class_table(members: Sequence[ObjectiveSpec]) -> Iterator[str]:
    yield f"| | {' | '.join(map(str, Class))} |"
    yield f"|---|{'---|' * len(Class)}"
    preferences = [signed_preference(overall_alpha(spec)) for spec in members]
    for row in dict.fromkeys([*ROWS, *preferences]):
        cells = []
        for level in Class:
            in_cell = [
                spec
                for spec, preferred in zip(members, preferences, strict=True)
                if preferred == row and classify(spec.trained) is level
            ]
            cells.append(", ".join(spec.family + ("" if overall_alpha(spec) == spec.alpha else r"\*") for spec in in_cell))
        yield f"| {row} | {' | '.join(cells)} |"


def _member_table(members: Sequence[ObjectiveSpec]) -> Iterator[str]:
    yield "## The members"
    yield ""
    yield "| member | its Lagrangian | α₁, α₂ | constraints | class | computed as | source |"
    yield "|---|---|---|---|---|---|---|"
    for spec in members:
        constraints = "; ".join(
            f"{p.text.replace('||', '‖').replace('-', '−')} ({'λ learned' if p.learned else f'λ = {number(p.multiplier)}'})"
            for p in spec.penalties
        )
        cells = (
            spec.family,
            str(symbolic_lagrangian(spec.trained) or plainest(spec.trained)),
            ", ".join(map(number, overall_alpha(spec))),
            constraints,
            str(classify(spec.trained)),
            str(computable_form(spec.trained)),
            spec.source,
        )
        yield f"| {' | '.join(cell.replace('|', ESCAPED_PIPE) for cell in cells)} |"


def _differences(members: Sequence[ObjectiveSpec]) -> Iterator[str]:
    yield "## Where the paper's table and the algebra differ"
    yield ""
    differences = [*_preference_differences(members), *_class_differences(members)]
    yield from differences or ["Nowhere, for these presets."]


def _preference_differences(members: Sequence[ObjectiveSpec]) -> Iterator[str]:
    for spec in members:
        overall, paper = overall_alpha(spec), PAPER_PREFERENCES.get(spec.family)
        sides = "".join(side for side, a in zip("qp", overall, strict=True) if a)
        in_table = " and ".join(f"I_{side}" for side in paper or "")
        if overall != spec.alpha:
            stated = joined([(spec.alpha[0], "I_q"), (spec.alpha[1], "I_p")])
            alphas = f"α₁ = {number(overall[0])}, α₂ = {number(overall[1])}"
            at = (
                " at λ = 1; what it prefers depends on the λ that it learns. There its " if spec.learns_preference else ". Its "
            )
            yield (
                f"- **{spec.family}** states the preference {stated}, but its penalties carry information: {alphas}, "
                f"so it is *{signed_preference(overall)}*{', where Table 1 has it under f = 0' if paper == '' else ''}{at}"
                f"objective is {plainest(spec.stated)}; a reconstruction error of x is −I_q + KL(q(x|z)‖p(x|z)), one of z is "
                "−I_p + KL(p(z|x)‖q(z|x))."
            )
        elif paper is not None and sides != paper:
            reason = f" {REASONS[spec.family]}" if spec.family in REASONS else ""
            yield (
                f"- **{spec.family}** is *{signed_preference(overall)}*: {plainest(spec.trained)}. Table 1 has it under "
                f"{f'a preference for {in_table}' if paper else 'f = 0'}.{reason}"
            )


def _class_differences(members: Sequence[ObjectiveSpec]) -> Iterator[str]:
    for spec in members:
        trained, in_table = classify(spec.trained), PAPER_CLASSES.get(spec.family)
        if in_table not in (None, trained):
            yield f"- **{spec.family}** is {trained}; Table 1 has it under {in_table}."
