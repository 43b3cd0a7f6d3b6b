"""The algebra of objectives: identities and dimensions of Section 4 of the paper, and random objectives on tables."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from lagvae.algebra import (
    ATOMS,
    DIVERGENCES,
    INFORMATION,
    TERMS,
    Class,
    Objective,
    Symbol,
    classify,
    closest,
    closure,
    computable_form,
    kl_dimension,
    missing,
    parse,
    preference,
    rewrite,
    single,
    symbolic_lagrangian,
    symbolic_lagrangians,
    total,
)
from lagvae.algebra.closure import GENERATORS
from lagvae.algebra.computing import VECTORS, terms_of
from lagvae.algebra.linear import basic_solutions, rank, solve_linear
from lagvae.algebra.objective import joined, number
from lagvae.errors import SettingError
from lagvae.explain.explain import format_form

LIKELIHOOD, UNARY, BINARY = Class
DISTORTION, RATE = "-E_q[log p(x|z)]", "E_q[log q(z|x) - log p(z)]"


# ---- Section 4: identities that the paper derives


IDENTITIES = [
    # −ELBO is the KL divergence of the joints, by both chain rules
    (f"{DISTORTION} + {RATE}", "KL(q(x,z)||p(x,z))"),
    ("KL(q(x)||p(x)) + KL(q(z|x)||p(z|x))", "KL(q(x,z)‖p(x,z))"),
    ("KL(q(z)||p(z)) + E_q KL(q(x|z)||p(x|z))", "KL(q(x,z)||p(x,z)) + H_q(x)"),
    ("-E_q[log p(x)] + KL(q(z|x)||p(z|x))", f"{DISTORTION} + {RATE}"),
    # rate and distortion bound I_q, and KL(q(z|x)‖p(z)) is valid notation
    (RATE, "I_q + KL(q(z)||p(z))"),
    ("KL(q(z|x)||p(z))", RATE),
    (DISTORTION, "-I_q + KL(q(x|z)||p(x|z))"),
    # β-VAE, β = 4
    (f"{DISTORTION} + 4*({RATE})", "3 I_q + KL(q(x,z)||p(x,z)) + 3 KL(q(z)||p(z))"),
    # InfoVAE, α₁ = −3/4 and λ₂ = 1/2: reconstruction, rate and the marginal of z
    (
        "-0.75 I_q + KL(q(x,z)||p(x,z)) + 1/2 KL(q(z)||p(z))",
        f"{DISTORTION} + 1/4 ({RATE}) + 5/4 E_q[log q(z)/p(z)]",
    ),
    # VMI and InfoGAN
    ("-E_p[log q(z|x)]", "-I_p(x;z) + KL(p(z|x)||q(z|x))"),
    ("-I_p + KL(p(x,z)||q(x,z))", "-E_p log q(z|x) − E_p[log q(x)/p(x)]"),
    # AAE with KL, and ALICE, which adds a conditional entropy to ALI
    ("-I_q + KL(q(x,z)||p(x,z))", f"{DISTORTION} + KL(q(z)||p(z))"),
    ("JS(q(x,z)||p(x,z)) - I_q + KL(q(x|z)||p(x|z))", f"JS(q(z,x);p(x,z)) + {DISTORTION}"),
    # I_q as a KL divergence, entropies, and constants, which are ignored
    ("KL(q(x,z)||q(x)q(z))", "H_q(z) - H_q(z|x)"),
    ("I_p + 2*H_q(x) - 3 H_p(z)", "-1*H_p(x|z) + H_p(x)"),
]
"""Pairs of objectives that are equal up to constants."""


@pytest.mark.parametrize(("left", "right"), IDENTITIES)
def test_identities(left: str, right: str) -> None:
    assert parse(left) == parse(right)
    assert hash(parse(left)) == hash(parse(right))
    assert parse(left) != parse(f"{right} + 1/1000 I_q")


def test_constants_are_kept_but_do_not_count() -> None:
    bound = parse("KL(q(x,z)||p(x,z)) + H_q(x)")
    assert bound == parse("KL(q(x,z)||p(x,z))")
    # This is −ELBO itself, so no constant is left out.
    assert not computable_form(bound).constant.coefficients
    form = computable_form(parse("KL(q(x,z)||p(x,z))"))
    assert str(form.constant) == "E_q[log q(x)]"
    assert format_form(form) == f"{form}, leaving out the constant E_q[log q(x)]"
    assert format_form(computable_form(bound)) == str(computable_form(bound))


@pytest.mark.parametrize(("text", "plain"), [("- -I_q", "I_q"), ("I_p - -I_q", "I_p + I_q"), ("- - -2·I_q", "-2·I_q")])
def test_every_sign_counts(text: str, plain: str) -> None:
    assert parse(text) == parse(plain)


def test_printed_objectives_can_be_parsed() -> None:
    generator = random.Random(0)
    for _ in range(50):
        one = random_objective(generator) + generator.choice([0, 1, Fraction(-2, 7)]) * parse("MMD(q(z)||p(z))")
        parsed = parse(str(one))
        assert parsed.coefficients == one.coefficients
        assert parse(str(computable_form(one))) == one


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("3", "3"),
        ("-12", "−12"),
        ("999999", "999999"),
        ("1000000", "1000000"),  # six digits would be 1e+06, which cannot be parsed
        ("1234567/2", "1234567/2"),
        ("123456.5", "246913/2"),
        ("0.000125", "0.000125"),
        ("0.0001", "1/10000"),
        ("-0.00005", "−1/20000"),
        ("2/3", "2/3"),
    ],
)
def test_coefficients_are_written_so_that_they_can_be_read_again(value: str, text: str) -> None:
    assert number(Fraction(value)) == text
    assert parse(f"{text.lstrip('−')} I_q") == abs(Fraction(value)) * parse("I_q")


def test_a_sum_is_written_with_the_signs_between_its_parts() -> None:
    parts = [(Fraction(0), "a"), (Fraction(-2), "b"), (Fraction(1), "−c"), (Fraction(-1), "−d"), (Fraction(1, 3), "e")]
    assert joined(parts) == "−2·b − c + d + 1/3·e"
    assert joined([(Fraction(-1), "−a")]) == "a"
    assert joined([(Fraction(1, 3), "a")]) == "1/3·a"
    assert joined([]) == "0"


# ---- dimensions


def test_dimensions() -> None:
    assert len(ATOMS) == len(TERMS) == 12
    assert rank([single(atom).vector for atom in ATOMS]) == 10
    assert kl_dimension() == 8
    assert [kl_dimension(level) for level in Class] == [3, 7, 8]
    assert [rank([VECTORS[term] for term in terms_of(level)]) for level in Class] == [5, 9, 10]


def test_members_of_theorem_1_span_their_class() -> None:
    for level, texts in GENERATORS.items():
        assert rank([parse(text).vector for text in texts]) == kl_dimension(level)
        assert all(classify(parse(text)) <= level for text in texts)
    published = [text for text in GENERATORS[UNARY] if not text.startswith(("KL(p(z)", "KL(p(x)"))]
    assert rank([parse(text).vector for text in published]) == 5


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (DISTORTION, LIKELIHOOD),
        ("-I_p + KL(p(z|x)||q(z|x))", LIKELIHOOD),
        ("I_q", UNARY),
        ("-E_q[log p(x)]", UNARY),  # up to the entropy of the data
        (f"{DISTORTION} + MMD(q(z)||p(z))", UNARY),
        ("JS(q(x)||p(x))", UNARY),
        ("JS(q(x,z)||p(x,z))", BINARY),
        ("W1(q(x|z)||p(x|z))", BINARY),
        ("I_p", BINARY),
        ("KL(p(x,z)||q(x,z))", BINARY),
        ("E_p[log p(x)]", BINARY),
    ],
)
def test_classes(text: str, level: Class) -> None:
    one = parse(text)
    assert classify(one) is level
    assert computable_form(one).level is level
    assert computable_form(one).objective.coefficients == one.coefficients  # including constants
    for less in Class:
        assert bool(missing(one, less)) is (less < level)


# ---- preference and multipliers


def random_objective(generator: random.Random, lowest: int = -3) -> Objective:
    """α of either sign, λ from `lowest` to 3, in quarters."""
    kl = [(Fraction(generator.randint(4 * lowest, 12), 4), part) for part in DIVERGENCES.values()]
    return total([*((Fraction(generator.randint(-12, 12), 4), part) for part in INFORMATION.values()), *kl])


def test_alpha_is_unique_and_multipliers_are_found() -> None:
    generator = random.Random(1)
    names = list(DIVERGENCES)
    for _ in range(20):
        alpha = (Fraction(generator.randint(-8, 8), 3), Fraction(generator.randint(-8, 8), 3))
        lambdas = {name: Fraction(generator.randint(0, 9), 2) for name in generator.sample(names, 4)}
        parts = zip((*alpha, *lambdas.values()), ("I_q", "I_p", *lambdas), strict=True)
        one = parse(" + ".join(f"{value}*{name}" for value, name in parts).replace("+ -", "- "))
        ways = list(symbolic_lagrangians(one))
        assert ways, "the objective was constructed with multipliers ≥ 0"
        for way in ways:
            assert way.feasible
            assert way.alpha == alpha == preference(one)
            assert way.objective == one
        assert len(ways[0].multipliers) <= len([value for value in lambdas.values() if value])


def test_no_multipliers_where_there_are_none() -> None:
    assert not list(symbolic_lagrangians(parse("-KL(q(x)||p(x))")))
    found = symbolic_lagrangian(parse("-KL(q(x)||p(x))"))
    assert found is not None
    assert not found.feasible
    assert found.objective == parse("-KL(q(x)||p(x))")
    assert symbolic_lagrangian(parse("E_p[log p(x)]")) is None
    assert preference(parse("E_q[log q(z)]")) is None


def test_beta_below_one_maximises_with_multipliers_of_a_lagrangian() -> None:
    # (β − 1)(I_q + KL(q(z)‖p(z))) has λ < 0, but splitting half of the joint KL into conditional and marginal gives λ ≥ 0.
    found = symbolic_lagrangian(parse(f"{DISTORTION} + 1/2 ({RATE})"))
    assert str(found) == "−0.5·I_q + 0.5·KL(q(x,z)‖p(x,z)) + 0.5·KL(q(x|z)‖p(x|z))"


def test_feasibility_agrees_with_an_outside_solver() -> None:
    from scipy.optimize import linprog

    generator, seen = random.Random(2), set()
    columns = np.array([part.vector for part in DIVERGENCES.values()], float).T
    free = np.array([part.vector for part in INFORMATION.values()], float).T
    for _ in range(40):
        one = random_objective(generator, lowest=-1)
        found = linprog(
            np.zeros(12),
            A_eq=np.hstack([columns, free]),
            b_eq=np.array(one.vector, float),
            bounds=[(0, None)] * 10 + [(None, None)] * 2,
        )
        seen.add(found.success)
        assert bool(next(symbolic_lagrangians(one), None)) is found.success
    assert seen == {True, False}


def test_solve_and_basic_solutions() -> None:
    def v(*values: int) -> tuple[Fraction, ...]:
        return tuple(map(Fraction, values))

    assert solve_linear([v(1, 0), v(2, 0), v(1, 1)], v(3, 1)) == v(2, 0, 1)
    assert solve_linear([v(1, 0)], v(1, 1)) is None
    assert [c for c, _ in basic_solutions([v(1, 0), v(0, 1), v(1, 1)], v(1, 1))] == [v(0, 0, 1), v(1, 1, 0)]
    assert not list(basic_solutions([v(1, 0), v(0, 1)], v(1, -1)))
    assert list(basic_solutions([v(1, 0), v(0, 1)], v(1, -1), signed=True)) == [(v(1, -1), ())]


# ---- Theorem 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"2*({DISTORTION}) + 3*({RATE}) - 1/2 E_p[log q(z|x)]", "2·β-VAE(β = 1.5)  and  0.5·VMI"),
        ("-I_q + KL(q(x,z)||p(x,z))", "InfoVAE: −I_q + KL(q(x,z)‖p(x,z))"),
        ("KL(q(x)||p(x)) - I_p + KL(p(z|x)||q(z|x))", "InfoGAN: −E_p[log q(z|x)] + KL(q(x)‖p(x))"),
        (f"KL(p(x,z)||q(x,z)) + {DISTORTION}", "ALICE: KL(p(x,z)‖q(x,z)) − E_q[log p(x|z)]"),
    ],
)
def test_closure(text: str, expected: str) -> None:
    found = closure(parse(text))
    assert found is not None
    assert str(found) == expected
    assert not found.care


def test_closure_of_every_kl_objective_and_its_care() -> None:
    generator = random.Random(3)
    for _ in range(10):
        one = random_objective(generator)
        found = closure(one)
        assert found is not None
        assert found.objective == one
    rate = closure(parse(RATE))
    assert rate is not None
    assert "β → ∞" in rate.care[0]
    backwards = closure(parse("I_p"))
    assert backwards is not None
    assert len(backwards.care) == 2
    assert closure(parse("E_p[log p(x)]")) is None


# ---- objectives that are not computable


@pytest.mark.parametrize(
    ("text", "within", "near", "above"),
    [
        ("-E_q[log p(x)]", LIKELIHOOD, f"{DISTORTION} + {RATE}", "KL(q(z|x)‖p(z|x))"),
        ("I_q", LIKELIHOOD, RATE, "KL(q(z)‖p(z))"),
        ("-I_q", LIKELIHOOD, DISTORTION, "KL(q(x|z)‖p(x|z))"),
        ("KL(q(z)||p(z))", LIKELIHOOD, "KL(q(x,z)||p(x,z))", "KL(q(x|z)‖p(x|z))"),
        ("-I_p", UNARY, "-E_p[log q(z|x)]", "KL(p(z|x)‖q(z|x))"),
        ("E_p[log p(x)]", UNARY, "E_p[log p(x|z) - log q(z|x)]", "KL(p(z|x)‖q(z|x))"),
    ],
)
def test_closest_is_the_variational_bound(text: str, within: Class, near: str, above: str) -> None:
    found = closest(parse(text), within)
    assert found.form.objective == parse(near)
    assert found.form.level <= within
    assert [name for _, name in found.added] == [above]
    assert not found.dropped
    with pytest.raises(SettingError, match=f"is not {within}: it needs E_"):
        computable_form(parse(text), within)


def test_what_has_no_bound_is_left_out() -> None:
    found = closest(parse(f"I_p + {DISTORTION} + JS(q(z)||p(z))"), LIKELIHOOD)
    assert found.form.objective == parse(DISTORTION)
    assert [name for _, name in found.dropped] == ["I_p", "JS(q(z)‖p(z))"]
    assert "no upper bound" in str(found)
    assert "2·MMD" in refused("2 MMD(q(z)||p(z))", LIKELIHOOD)


def refused(text: str, within: Class) -> str:
    with pytest.raises(SettingError) as caught:
        computable_form(parse(text), within)
    return str(caught.value)


def test_closest_is_computable_whatever_is_asked() -> None:
    generator = random.Random(4)
    for within in (LIKELIHOOD, UNARY):
        for _ in range(10):
            one = random_objective(generator)
            found = closest(one, within)
            known = INFORMATION | DIVERGENCES
            added = total((value, known[name]) for value, name in found.added)
            dropped = total((value, known[name]) for value, name in found.dropped)
            assert found.form.level <= within
            assert found.form.objective == one + added - dropped
            assert all(value > 0 for value, _ in found.added)


def test_rewriting_for_training() -> None:
    # With fixed multipliers the sum may be computable although its parts are not.
    form, separate = rewrite(parse("-I_q + KL(q(x|z)||p(x|z))"), within=LIKELIHOOD)
    assert str(form) == "−E_q[log p(x|z)]"
    assert not separate
    # Divergences with learned multipliers must be computable separately.
    learned = {"joint": parse("KL(q(x,z)||p(x,z))"), "z": parse("KL(q(z)||p(z))")}
    _, separate = rewrite(parse("-I_q"), learned, UNARY)
    assert str(separate["z"]) == "E_q[log q(z)/p(z)]"
    assert separate["joint"].objective == learned["joint"]
    with pytest.raises(SettingError, match=r"constraints\.z=.*is not likelihood based.*learned multiplier"):
        rewrite(parse(DISTORTION), learned, LIKELIHOOD)


# ---- values on random 3 × 4 tables


def atoms(q: np.ndarray, p: np.ndarray) -> dict[Symbol, float]:
    """The values of all atoms for two joint tables, with x along axis 0 and z along axis 1."""
    tables = {"q": q, "p": p}

    def density(joint: str, over: str) -> np.ndarray:
        table = tables[joint]
        return {"x": table.sum(1, keepdims=True), "z": table.sum(0, keepdims=True), "x,z": table}[over]

    return {atom: float((tables[atom.side] * np.log(density(atom.joint, atom.over))).sum()) for atom in ATOMS}


def kl(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * np.log(a / b)).sum())


@pytest.fixture
def tables() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2018)
    return tuple(generator.dirichlet(np.ones(12)).reshape(3, 4) for _ in range(2))  # type: ignore[return-value]


def test_quantities_have_the_values_of_their_definitions(tables: tuple[np.ndarray, np.ndarray]) -> None:
    q, p = tables
    values = atoms(q, p)
    for side, a, b in (("q", q, p), ("p", p, q)):
        other = "p" if side == "q" else "q"
        x, z = a.sum(1), a.sum(0)
        of_x_given_z = sum(z[j] * kl(a[:, j] / z[j], b[:, j] / b[:, j].sum()) for j in range(4))
        of_z_given_x = sum(x[i] * kl(a[i] / x[i], b[i] / b[i].sum()) for i in range(3))
        known = {
            f"I_{side}": kl(a, np.outer(x, z)),
            f"H_{side}(x)": -float((x * np.log(x)).sum()),
            f"KL({side}(x,z)||{other}(x,z))": kl(a, b),
            f"KL({side}(x)||{other}(x))": kl(x, b.sum(1)),
            f"KL({side}(z)||{other}(z))": kl(z, b.sum(0)),
            f"KL({side}(x|z)||{other}(x|z))": of_x_given_z,
            f"KL({side}(z|x)||{other}(z|x))": of_z_given_x,
        }
        for text, value in known.items():
            assert parse(text).at(values) == pytest.approx(value, abs=1e-12)


def test_random_objectives_equal_their_forms_up_to_the_constants(tables: tuple[np.ndarray, np.ndarray]) -> None:
    values, generator = atoms(*tables), random.Random(5)
    for _ in range(30):
        one = random_objective(generator) + total((Fraction(generator.randint(-9, 9), 5), single(atom)) for atom in ATOMS)
        form = computable_form(one)
        computed = sum(float(value) * term.objective.at(values) for value, term in form.terms)
        # The rounding error of sums of a few dozen terms of size 10 is below 1e-12; the tolerance is 100 times that.
        assert one.at(values) - computed == pytest.approx(form.constant.at(values), abs=1e-10)
        assert set(form.constant.coefficients) <= {atom for atom in ATOMS if atom.constant}
        moved = one + single(ATOMS[0]) * Fraction(1, 100)
        assert abs(moved.at(values) - computed - form.constant.at(values)) > 1e-3, "the comparison can fail"


def test_lagrangians_have_the_value_of_the_objective_up_to_constants(tables: tuple[np.ndarray, np.ndarray]) -> None:
    values, generator = atoms(*tables), random.Random(6)
    for _ in range(10):
        one = random_objective(generator, lowest=0)
        for way in symbolic_lagrangians(one):
            left = one - way.objective
            assert one.at(values) - way.objective.at(values) == pytest.approx(left.constants.at(values), abs=1e-10)


def test_closest_lies_above(tables: tuple[np.ndarray, np.ndarray]) -> None:
    values = atoms(*tables)
    for text, within in product(("-E_q[log p(x)]", "I_q", "-I_q", "KL(q(z)||p(z))"), (LIKELIHOOD,)):
        found = closest(parse(text), within)
        above = sum(float(value) * DIVERGENCES[name].at(values) for value, name in found.added)
        assert above > 0
        assert found.form.objective.at(values) - parse(text).at(values) - above == pytest.approx(
            (found.form.objective - parse(text)).constants.at(values)
            - total((v, DIVERGENCES[n]) for v, n in found.added).constants.at(values),
            abs=1e-10,
        )


# ---- invalid notation


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it ends where a quantity"),
        ("I_q +", "it ends where a quantity"),
        ("I_r", "it ends where '\\('"),
        ("I_q @ I_p", "'@' is not expected"),
        ("I_q I_p", "'I_p' is not expected"),
        ("I_q * I_p", "only numbers can be factors"),
        ("I_q + 2", "not the factor of a quantity"),
        ("1/0 I_q", "other than 0"),
        (". I_q", "not a quantity"),
        ("² I_q", "not a quantity"),
        ("log q(x)", "outside of an expectation"),
        ("E_q", "followed by a bracket"),
        ("E_q[I_q]", "only logs"),
        ("E_q[log q(x)", "expected"),
        ("E_p KL(q(z)||p(z))", "an expectation under q"),
        ("KL(q(z)||p(x))", "different variables"),
        ("KL(q(x)||p(x|z))", "different variables"),
        ("KL(q(x|x)||p(x))", "both sides of"),
        ("KL(q(z))", "has two arguments"),
        ("KL(r(z)||p(z))", "'q' or 'p'"),
        ("KL(q(z)||p(z)", "it ends"),
        ("JS(q(y)||p(y))", "'x' or 'z'"),
    ],
)
def test_invalid_notation_is_rejected(text: str, why: str) -> None:
    with pytest.raises(SettingError, match=why) as caught:
        parse(text)
    assert str(caught.value).startswith(f"objective={text!r} cannot be read")
