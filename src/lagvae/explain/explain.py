"""What an objective is, in words: what it prefers, what it needs, what it equals, and who is near."""

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
"""What a line is about, and what it says."""

WITHIN = {"likelihood": Class.LIKELIHOOD, "unary": Class.UNARY, "binary": Class.BINARY}

FORMS, NEAR = 3, 3
"""How many equivalent forms and neighbours are told."""


def explain(cfg: DictConfig) -> None:
    """Tell what a config or a written objective is; refuse it where `within` cannot compute it.

    Raises:
        SettingError: where the objective cannot be read or computed within the class.
    """
    if cfg.within is not None and cfg.within not in WITHIN:
        raise SettingError(f"within={cfg.within!r} is unknown; choose one of {', '.join(WITHIN)}.")
    within = WITHIN[cfg.within or "binary"]
    if cfg.table is not None:
        file = Path(cfg.table)
        try:
            file.write_text(table1_markdown(list(presets(all_of_them=True))), encoding="utf-8")
        except OSError as error:
            raise SettingError(f"table={file} cannot be written: {error.strerror}.") from error
        print_line(f"Written to {short_path(file)}")
    elif cfg.objective is not None:
        written = parse(cfg.objective)
        print_lines(cfg.objective, [*objective_lines(written), *neighbours(written)])
        computable_form(written, within)
    else:
        validate(cfg)
        one = objective_spec(cfg)
        print_lines(one.family + (f" (its preset: {one.about})" if one.about else ""), spec_lines(one))
        rewrite(one.bounds + one.penalty(learned=False), learned_divergences(one), within)


def print_lines(title: str, lines: list[Line]) -> None:
    """Print it."""
    out = console()
    out.print(f"[bold]{escape(title)}[/]")
    for label, text in lines:
        out.print(f"  [cyan]{label:<15}[/] {escape(text)}")


def objective_lines(objective: Objective) -> Iterator[Line]:
    """Class, preference, equivalent forms, and how it is computed."""
    yield "class", f"{classify(objective)}"
    found = symbolic_lagrangian(objective)
    if found is None:
        yield "KL objective", "no: it is no sum of I_q, I_p and KL divergences"
    else:
        yield "KL objective", "yes" if not objective.opaque else "yes, apart from symbols of their own"
        alpha = (
            f"{name} = {number(a)} ({preference_word(a)} I_{s})"
            for name, a, s in zip(("α₁", "α₂"), found.alpha, "qp", strict=True)
        )
        yield "α", f"{', '.join(alpha)}; no other α gives this objective"
        yield "Lagrangian", f"{found}" + ("" if found.feasible else "  (a negative multiplier: none with all λ ≥ 0)")
        for way in islice(symbolic_lagrangians(objective), 1, FORMS):
            yield "or", f"{way}"
    form = computable_form(objective)
    yield "computed as", format_form(form)
    yield from critics(form)
    combination = closure(objective.plain)
    if combination is not None and combination.parts:
        yield "by Theorem 1", f"{combination}"
        for care in combination.care:
            yield "", f"with care: {care}"
    for symbol in objective.opaque:
        yield "note", f"{symbol} is no KL: a symbol of its own, left out of α and of Theorem 1; {symbol.level}"


def preference_word(alpha: Fraction) -> str:
    """A preference in a word."""
    return preference_in_words(float(alpha))


def format_form(form: Form) -> str:
    """A form, and the constant that it leaves out."""
    return f"{form}" + (f", leaving out the constant {form.constant}" if form.constant.coefficients else "")


def critics(form: Form) -> Iterator[Line]:
    """Which critics a form takes."""
    ratios = dict.fromkeys(term.symbol[4:-1] for _, term in form.terms if _is_ratio(term))
    if ratios:
        yield "critics", f"estimate {', '.join(ratios)}; a log ratio may be used with either sign"


def _is_ratio(term: Term) -> bool:
    return term.symbol.startswith("E_") and term.level > Class.LIKELIHOOD


def spec_lines(one: ObjectiveSpec) -> list[Line]:
    """What it states, what is trained, and what follows."""
    stated = joined([(one.alpha[0], "I_q"), (one.alpha[1], "I_p")])
    lines = [("preference", stated if stated != "0" else "none (f = 0)")]
    for p in one.penalties:
        how = f"λ learned, from {number(p.multiplier)}" if p.learned else f"λ = {number(p.multiplier)}"
        lines.append((p.name, f"{p.text.replace('||', '‖')}, {how}"))
    lines.append(("", "the objective, as stated" + (" and with λ where it starts" if learned_divergences(one) else "")))
    lines += objective_lines(one.stated)
    found = preference(one.stated.plain)
    if found not in (None, one.alpha):
        why = "−E_q[log p(x|z)] = −I_q + KL(q(x|z)‖p(x|z)) and −E_p[log q(z|x)] = −I_p + KL(p(z|x)‖q(z|x))"
        lines.append(
            ("note", f"its penalties carry a preference of their own, beyond alpha.q and alpha.p: {why}, up to constants")
        )
    if any(one.alpha):
        lines.append(("", "what is trained: a bound in place of the preference"))
        lines.append(("bound", f"{stated} ≤ {plainest(one.bounds)}, up to constants"))
        gap = one.trained - one.stated
        if not gap.opaque:
            lines.append(("which adds", f"{plainest(gap)}"))
        lines += [("class", f"{classify(one.trained)}"), ("computed as", format_form(computable_form(one.trained)))]
    lines += constraints_alone(one)
    return [*lines, *neighbours(one.stated, one.family)]


def learned_divergences(one: ObjectiveSpec) -> dict[str, Objective]:
    """The divergences with learned multipliers."""
    return {p.name: p.divergence for p in one.penalties if p.learned}


def constraints_alone(one: ObjectiveSpec) -> Iterator[Line]:
    """How each constraint with a learned multiplier is computed."""
    for name, form in rewrite(one.bounds, learned_divergences(one))[1].items():
        kept = f"; a bound is on the terms alone, without {form.constant}" if form.constant.coefficients else ""
        yield f"{name} alone", f"{form}{kept}"


def neighbours(objective: Objective, family: str = "") -> Iterator[Line]:
    """Members that it equals up to constants, or else those that differ in the fewest terms."""
    others = [other for other in presets() if other.family != family]
    apart = []
    for other in others:
        ways = {"": objective - other.stated, " as trained": objective - other.trained}
        how, difference = min(ways.items(), key=lambda way: length(way[1]))
        apart.append((length(difference), f"{other.family}{how}", plainest(difference)))
    same = [name for size, name, _ in apart if not size]
    if same:
        yield "equals", ", ".join(same)
    for size, name, rest in sorted(apart)[: NEAR + len(same)]:
        if size:
            yield "near", f"{name} {'−' if rest.startswith('−') else '+'} {rest.removeprefix('−')}"


def length(objective: Objective) -> int:
    """How many terms an objective has where it is told most plainly."""
    return plainest(objective).count("(") + plainest(objective).count("I_") if objective else 0
