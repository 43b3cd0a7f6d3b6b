"""Describes an objective: its preference, how it is computed, equivalent forms, and the nearest members of the family."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

from omegaconf import DictConfig
from rich.markup import escape

from lagvae.algebra import (
    Class,
    Form,
    Objective,
    Term,
    classify,
    closure,
    computable_form,
    joined,
    number,
    parse,
    plainest,
    preference,
    rewrite,
    symbolic_lagrangian,
    symbolic_lagrangians,
)
from lagvae.errors import SettingError
from lagvae.experiment.report import preference_in_words
from lagvae.experiment.validate import validate
from lagvae.explain.paper_table1 import table1_markdown
from lagvae.explain.presets import ObjectiveSpec, objective_spec, presets
from lagvae.terminal import console, print_line, short_path

Line = tuple[str, str]
"""The label and the text of a line."""

WITHIN = {"likelihood": Class.LIKELIHOOD, "unary": Class.UNARY, "binary": Class.BINARY}

MAX_FORMS, MAX_NEIGHBOURS = 3, 3
"""Largest numbers of equivalent forms and of neighbours that are printed."""

NOT_KNOWN = {
    "TC(q(z))": "is KL(q(z)‖Π q(z_k)), a part of the KL(q(z)‖p(z)) in the rate, but the algebra knows no coordinates of z",
    "I(z;u)": "is about an attribute u, which the algebra does not know",
    "H(u|z)": "is about an attribute u, which the algebra does not know",
}
"""Symbol → why it is none that the algebra knows, where that is not plain."""


def explain(cfg: DictConfig) -> None:
    """Describe the objective of a config or a written objective, or write the paper's Table 1 to a file.

    Raises: SettingError where the objective cannot be parsed, or cannot be computed within the class that `within` names.
    """
    if cfg.within is not None and cfg.within not in WITHIN:
        raise SettingError(f"within={cfg.within!r} is unknown; choose one of {', '.join(WITHIN)}.")
    within = WITHIN[cfg.within or "binary"]
    if cfg.table is not None:
        file = Path(cfg.table)
        try:
            file.write_text(table1_markdown(list(presets(strict=True))), encoding="utf-8")
        except OSError as error:
            raise SettingError(f"table={file} cannot be written: {error.strerror}.") from error
        print_line(f"Written to {short_path(file)}")
    elif cfg.objective is not None:
        written = parse(cfg.objective)
        print_lines(cfg.objective, [*objective_lines(written), *neighbours(written)])
        computable_form(written, within)
    else:
        validate(cfg)
        spec = objective_spec(cfg)
        print_lines(spec.family + (f" (its preset: {spec.about})" if spec.about else ""), spec_lines(spec))
        rewrite(spec.bounds + spec.penalty(learned=False), learned_divergences(spec), within)


def print_lines(title: str, lines: list[Line]) -> None:
    """Print a title and the lines below it."""
    out = console()
    out.print(f"[bold]{escape(title)}[/]")
    for label, text in lines:
        out.print(f"  [cyan]{label:<15}[/] {escape(text)}")


def objective_lines(objective: Objective) -> Iterator[Line]:
    """The class of an objective, its preference, equivalent forms, and how it is computed."""
    yield "class", f"{classify(objective)}"
    lagrangian = symbolic_lagrangian(objective)
    if lagrangian is None:
        yield "KL objective", "no: it is not a sum of I_q, I_p and KL divergences"
    else:
        yield "KL objective", "yes" if not objective.opaque else "yes, apart from symbols of their own"
        alpha = (
            f"{name} = {number(a)} ({preference_word(a)} I_{s})"
            for name, a, s in zip(("α₁", "α₂"), lagrangian.alpha, "qp", strict=True)
        )
        yield "α", f"{', '.join(alpha)}; no other α gives this objective"
        yield "Lagrangian", f"{lagrangian}" + ("" if lagrangian.feasible else "  (a negative multiplier: none with all λ ≥ 0)")
        for equivalent in islice(symbolic_lagrangians(objective), 1, MAX_FORMS):
            yield "or", f"{equivalent}"
    form = computable_form(objective)
    yield "computed as", format_form(form)
    yield from critics(form)
    combination = closure(objective.plain)
    if combination is not None and combination.parts:
        yield "by Theorem 1", f"{combination}"
        for care in combination.care:
            yield "", f"with care: {care}"
    for symbol in objective.opaque:
        why = NOT_KNOWN.get(symbol.name, "is not a KL")
        yield "note", f"{symbol} {why}: a symbol of its own, left out of α and of Theorem 1; {symbol.level}"


def preference_word(alpha: Fraction) -> str:
    """A preference as a word."""
    return preference_in_words(float(alpha))


def format_form(form: Form) -> str:
    """A form, with the constant that it leaves out."""
    return f"{form}" + (f", leaving out the constant {form.constant}" if form.constant.coefficients else "")


def critics(form: Form) -> Iterator[Line]:
    """The density ratios of a form that critics have to estimate."""
    ratios = dict.fromkeys(term.symbol[4:-1] for _, term in form.terms if _is_ratio(term))
    if ratios:
        yield "critics", f"estimate {', '.join(ratios)}; a log ratio may be used with either sign"


def _is_ratio(term: Term) -> bool:
    return term.symbol.startswith("E_") and term.level > Class.LIKELIHOOD


def spec_lines(spec: ObjectiveSpec) -> list[Line]:
    """The stated objective of a member, the objective that is trained, and what these imply."""
    stated = joined([(spec.alpha[0], "I_q"), (spec.alpha[1], "I_p")])
    lines = [("preference", stated if stated != "0" else "none (f = 0)")]
    for p in spec.penalties:
        how = f"λ learned, here {number(p.multiplier)}" if p.learned else f"λ = {number(p.multiplier)}"
        lines.append((p.name, f"{p.text.replace('||', '‖')}, {how}"))
    lines.append(("", "the objective, as stated" + (" and with these λ" if learned_divergences(spec) else "")))
    lines += objective_lines(spec.stated)
    overall = preference(spec.stated.plain)
    if overall not in (None, spec.alpha):
        why = "−E_q[log p(x|z)] = −I_q + KL(q(x|z)‖p(x|z)) and −E_p[log q(z|x)] = −I_p + KL(p(z|x)‖q(z|x))"
        lines.append(
            ("note", f"its penalties carry a preference of their own, beyond alpha.q and alpha.p: {why}, up to constants")
        )
    if any(spec.alpha):
        lines.append(("", "what is trained: a bound in place of the preference"))
        lines.append(("bound", f"{stated} ≤ {plainest(spec.bounds)}, up to constants"))
        gap = spec.trained - spec.stated
        if not gap.opaque:
            lines.append(("which adds", f"{plainest(gap)}"))
        lines += [("class", f"{classify(spec.trained)}"), ("computed as", format_form(computable_form(spec.trained)))]
    lines += constraints_alone(spec)
    return [*lines, *neighbours(spec.stated, spec.family)]


def learned_divergences(spec: ObjectiveSpec) -> dict[str, Objective]:
    """The divergences with learned multipliers."""
    return {p.name: p.divergence for p in spec.penalties if p.learned}


def constraints_alone(spec: ObjectiveSpec) -> Iterator[Line]:
    """How the divergence of each constraint with a learned multiplier is computed."""
    for name, form in rewrite(spec.bounds, learned_divergences(spec))[1].items():
        note = f"; a bound is on the terms alone, without {form.constant}" if form.constant.coefficients else ""
        yield f"{name} alone", f"{form}{note}"


def neighbours(objective: Objective, family: str = "") -> Iterator[Line]:
    """The members that an objective equals up to constants, and those that differ from it in the fewest terms.

    A member whose learned λ decides about its preference is none of them.
    """
    others = [other for other in presets() if other.family != family and not other.learns_preference]
    found: dict[str, list[str]] = {}
    for other in others:
        differences = {"": objective - other.stated, " as trained": objective - other.trained}
        texts = {suffix: plainest(difference) if difference else "" for suffix, difference in differences.items()}
        suffix, rest = min(texts.items(), key=lambda item: count_terms(item[1]))
        found.setdefault(rest, []).append(f"{other.family}{suffix}")
    if "" in found:
        yield "equals", ", ".join(found.pop(""))
    nearest = sorted((count_terms(rest), ", ".join(names), rest) for rest, names in found.items())
    for _, names, rest in nearest[:MAX_NEIGHBOURS]:
        yield "near", f"{names} {'−' if rest.startswith('−') else '+'} {rest.removeprefix('−')}"


def count_terms(text: str) -> int:
    """The number of terms of an objective that is written in its simplest notation."""
    return text.count("(") + text.count("I_")
