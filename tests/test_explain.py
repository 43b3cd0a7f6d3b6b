"""Presets as objectives, `lagvae explain`, and the paper's Table 1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from helpers import program, settings
from hydra import compose
from omegaconf import OmegaConf
from small import ROOT

from lagvae.algebra import (
    Class,
    Opaque,
    classify,
    parse,
)
from lagvae.errors import SettingError
from lagvae.experiment.factory import build_constraints
from lagvae.explain import presets
from lagvae.explain.explain import explain as explain_config
from lagvae.explain.paper_table1 import table1_markdown
from lagvae.explain.presets import ObjectiveSpec, Penalty, objective_spec

LIKELIHOOD, UNARY, BINARY = Class
DISTORTION, RATE = "-E_q[log p(x|z)]", "E_q[log q(z|x) - log p(z)]"


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


def test_members_whose_learned_multiplier_decides_what_they_prefer_equal_no_other(explain) -> None:  # type: ignore[no-untyped-def]
    """At λ = 1, GECO and a target rate would be the VAE."""
    assert re.search(r"equals +avb, sigma_vae\n", explain("family=vae").out)


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
