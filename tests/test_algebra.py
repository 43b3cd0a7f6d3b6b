"""The algebra of objectives: identities and dimensions of Section 4 of the paper, and random objectives on tables."""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import program, settings
from hydra import compose
from omegaconf import OmegaConf
from small import ROOT

from lagvae.algebra import (
    ATOMS,
    DIVERGENCES,
    INFORMATION,
    TERMS,
    Class,
    Objective,
    Opaque,
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
from lagvae.experiment.factory import build_constraints
from lagvae.explain import presets
from lagvae.explain.explain import explain as explain_config
from lagvae.explain.explain import format_form
from lagvae.explain.paper_table1 import table1_markdown
from lagvae.explain.presets import ObjectiveSpec, Penalty, objective_spec

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


# ---- presets and the explain program


@pytest.fixture(scope="module", autouse=True)
def _compose_presets_once() -> Iterator[None]:
    """The members of conf/family, with all of which a program compares, are composed by the first one and then copied."""
    composed = dict[str, Any]()

    def compose_or_copy(name: str, overrides: list[str]) -> Any:
        key = " ".join([name, *overrides])
        if key not in composed:
            composed[key] = compose(name, overrides=overrides)
        return deepcopy(composed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "compose", compose_or_copy)
        yield


@pytest.fixture
def explain(tmp_path: Path):  # type: ignore[no-untyped-def]
    return lambda *words: program(tmp_path, *words, script="explain")


def test_every_divergence_has_a_valid_symbol(tmp_path: Path) -> None:
    names = sorted(file.stem for file in (ROOT / "conf/divergence").glob("*.yaml"))
    constraints = build_constraints(
        settings(tmp_path, f"divergence=[{','.join(names)}]", "epsilon=none", "multiplier=fixed"), None
    )
    assert {c.name for c in constraints} >= set(names)
    for c in constraints:
        assert parse(c.divergence.symbol), c.name


def test_families(explain) -> None:  # type: ignore[no-untyped-def]
    said = explain("family=infovae", "alpha.q=-2")
    assert said.status == 0
    assert not said.new, "no file is written"
    for words in ("α₁ = −2 (maximise I_q)", "2·KL(q(x|z)‖p(x|z))", "−3·E_q[log p(x|z)]", "near            front, lagvae − I_q"):
        assert words in said.out
    lines = said.out.splitlines()
    assert any(line.startswith("infovae (its preset: InfoVAE") for line in lines), said.out
    for line in (
        "  preference      −2·I_q",
        "  mmd             MMD(q(z)‖p(z)), λ = 1000",
        "                  the objective, as stated",
        "  KL objective    yes, apart from symbols of their own",
        "  critics         estimate log q(z)/p(z); a log ratio may be used with either sign",
    ):
        assert line in lines, line
    learned = explain("family=lagvae").out.splitlines()
    for line in (
        "  mmd             MMD(q(z)‖p(z)), λ learned, here 1",
        "                  the objective, as stated and with these λ",
        "  neg_elbo alone  −E_q[log p(x|z)] − E_q[log p(z)] + E_q[log q(z|x)]",
    ):
        assert line in learned, line
    of_vae = explain("family=vae").out
    assert "  KL objective    yes\n" in of_vae
    assert "critics" not in of_vae, "what is likelihood based needs none"
    assert "  preference      I_p" in explain("family=vae", "alpha.q=0", "alpha.p=1").out


def test_a_reconstruction_penalty_prefers_information(explain) -> None:  # type: ignore[no-untyped-def]
    said = explain("family=vae", "divergence=[distortion,mmd]")
    assert "none (f = 0)" in said.out
    assert "α₁ = −1 (maximise I_q)" in said.out
    assert "carry a preference of their own" in said.out


def test_of_a_total_correlation_it_says_what_the_algebra_does_not_know(explain) -> None:  # type: ignore[no-untyped-def]
    for words in (("family=beta_tcvae",), ("divergence=[neg_elbo,total_correlation]",)):
        said = explain(*words)
        assert said.status == 0, said.err
        assert "the algebra knows no coordinates of z" in " ".join(said.out.split()), said.out
    assert "total_correlation TC(q(z)), λ = 5" in " ".join(explain("family=beta_tcvae").out.split())


def test_a_written_objective(explain) -> None:  # type: ignore[no-untyped-def]
    said = explain(f"objective={DISTORTION} + 4 ({RATE})")
    assert (said.status, said.err) == (0, "")
    for words in ("β-VAE(β = 4)", "equals          beta_vae as trained", "α₁ = 3"):
        assert words in said.out
    said = explain("objective=-I_q + KL(q(x|z)||p(x|z)) + 2*JS(q(z)||p(z))", "within=likelihood")
    assert said.status == 1
    assert "needs 2·JS(q(z)‖p(z))" in said.err
    assert "Closest: −E_q[log p(x|z)]" in said.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("objective=I_q + it's",), "cannot be read"),
        (("objective=",), "cannot be read"),
        (("within=both",), "within='both' is unknown; choose one of likelihood, unary, binary"),
        (("family=nothing",), "family=nothing is unknown"),
        (("table=/nowhere/at/all.md",), "cannot be written"),
        (("alpha.q=inf",), "alpha.q=inf"),
    ],
)
def test_the_program_refuses_in_one_line(explain, words: tuple[str, ...], why: str) -> None:  # type: ignore[no-untyped-def]
    said = explain(*words)
    assert said.status == 1
    assert why in said.err
    assert "Traceback" not in said.err


def test_table_1_is_up_to_date(explain, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert explain(f"table={tmp_path / 'table1.md'}").status == 0
    made = (tmp_path / "table1.md").read_text("utf-8")
    assert made == (ROOT / "docs/table1.md").read_text("utf-8"), "run make table1"


def made_up(family: str, alpha_q: int, alpha_p: int, *texts: str) -> ObjectiveSpec:
    penalties = [Penalty(f"d{i}", parse(text), text, Fraction(1), learned=False) for i, text in enumerate(texts)]
    return ObjectiveSpec(family, (Fraction(alpha_q), Fraction(alpha_p)), tuple(penalties), f"{family} (Someone, 2018)")


def test_table_1_says_where_it_differs() -> None:
    text = table1_markdown(
        [
            made_up("vae_gan", 0, 0, DISTORTION, "JS(q(z)||p(z))"),
            made_up("infogan", 0, -1, "JS(q(x)||p(x))"),
            made_up("ali", 0, 0, "JS(q(x,z)||p(x,z))"),
            made_up("asvae", 0, 0, "KL(q(x,z)||p(x,z))"),
        ]
    )
    for line in (
        "| f = 0 | asvae |  | ali |",
        r"| max I_q |  | vae_gan\* |  |",
        "| max I_p |  | infogan |  |",
        "- **asvae** is likelihood based; Table 1 has it under binary likelihood free.",
        "- **asvae** is *f = 0*: KL(q(x,z)‖p(x,z)). Table 1 has it under a preference for I_q and I_p. The marginal",
        r"| infogan | −I_p + KL(p(z\|x)‖q(z\|x)) + JS(q(x)‖p(x)) |",
    ):
        assert line in text
    assert "**vae_gan** states the preference 0" in text
    differences = text[text.index("## Where the paper's table") : text.index("## What")]
    assert "infogan" not in differences, "the KL of its bound belongs to the constraints, as in the paper"
    assert "**ali**" not in differences
    assert "*max I_q*, where Table 1 has it under f = 0" in text
    assert "Someone, 2018" in text


def test_preference_and_its_bounds() -> None:
    one = made_up("both", 1, -2, "KL(q(z)||p(z))")
    assert one.stated == parse("I_q - 2 I_p + KL(q(z)||p(z))")
    assert one.trained == parse(f"{RATE} - 2 E_p[log q(z|x)] + KL(q(z)||p(z))")
    upper = made_up("upper", 0, 1).trained
    assert [str(symbol) for symbol in upper.opaque] == ["Ī_p"]
    assert classify(upper) is LIKELIHOOD


@pytest.mark.parametrize(
    ("alpha", "elbo", "mmd", "alpha_z", "rest"),
    [  # α_Z and α_Z + λ_Z − 1 of docs/guide.md, by hand
        (-1, 1, 1000, Fraction(1, 2), Fraction(500)),
        (-1, 0, 1000, Fraction(1), Fraction(1000)),
        (-3, 2, 5, Fraction(3, 5), Fraction(1)),
        (2, 4, 8, Fraction(-1, 2), Fraction(2)),
    ],
)
def test_infovae_is_the_objective_of_its_authors(
    alpha: int, elbo: int, mmd: int, alpha_z: Fraction, rest: Fraction, tmp_path: Path
) -> None:
    """Zhao, Song and Ermon (AAAI 2019) maximise E log p(x|z) − (1 − α_Z) · rate − (α_Z + λ_Z − 1) D(q(z)‖p(z))."""
    from hydra import initialize_config_dir

    weights = (f"constraints.neg_elbo.multiplier={elbo}", f"constraints.mmd.multiplier={mmd}")
    cfg = settings(tmp_path, "family=infovae", f"alpha.q={alpha}", *weights)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        trained = objective_spec(cfg).trained
    theirs = parse(f"{DISTORTION} + {1 - alpha_z} E_q[log q(z|x) - log p(z)] + {rest} MMD(q(z)||p(z))")
    difference = trained - (elbo + max(-alpha, 0)) * theirs
    assert not difference, difference


def test_a_member_that_cannot_be_built_is_compared_with_none_but_missing_in_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra import initialize_config_dir

    from lagvae.cli.entry import register

    def without_vae(cfg: Any) -> ObjectiveSpec:
        if cfg.family == "vae":
            raise SettingError("vae cannot be built")
        return objective_spec(cfg)

    monkeypatch.setattr(presets, "objective_spec", without_vae)
    register(ROOT)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        found = {one.family for one in presets.presets()}
        assert "vae" not in found
        assert "beta_vae" in found
        with pytest.raises(SettingError, match="vae cannot be built"):
            list(presets.presets(strict=True))
        with pytest.raises(SettingError, match="vae cannot be built"):
            explain_config(OmegaConf.create({"within": None, "table": str(tmp_path / "table.md"), "objective": None}))
    assert not (tmp_path / "table.md").exists()


def test_the_marginal_likelihoods_of_asvae_are_no_preference() -> None:
    assert not parse("-E_q[log p(x)] - E_p[log q(z)]") - parse("KL(q(x)||p(x)) + KL(p(z)||q(z))")


def test_a_divergence_without_a_symbol_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra import initialize_config_dir

    from lagvae.divergences import MMD

    cfg = settings(tmp_path, "family=infovae")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for symbol in ("", "something odd"):
            monkeypatch.setattr(MMD, "symbol", symbol)
            found = objective_spec(cfg)
            assert found.source == "Zhao, Song, Ermon, AAAI 2019"
            assert found.stated.opaque == {Opaque(symbol or "mmd"): Fraction(1000)}
            assert classify(found.stated) is BINARY
