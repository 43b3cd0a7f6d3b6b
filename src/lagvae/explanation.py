"""What an objective is, in words: what it prefers, what it needs, what it equals, and who is near."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

from omegaconf import DictConfig
from rich.markup import escape

from lagvae import report
from lagvae.algebra import (
    Class,
    Form,
    Objective,
    Term,
    classify,
    closure,
    computable_form,
    joined,
    lagrangian,
    lagrangians,
    number,
    parse,
    plainest,
    preference,
    rewrite,
)
from lagvae.build import check
from lagvae.errors import SettingError
from lagvae.members import Member, member, presets
from lagvae.table1 import markdown

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
            file.write_text(markdown(list(presets(all_of_them=True))), encoding="utf-8")
        except OSError as error:
            raise SettingError(f"table={file} cannot be written: {error.strerror}.") from error
        report.say(f"Written to {report.here(file)}")
    elif cfg.objective is not None:
        written = parse(cfg.objective)
        tell(cfg.objective, [*of_objective(written), *neighbours(written)])
        computable_form(written, within)
    else:
        check(cfg)
        one = member(cfg)
        tell(one.family + (f" (its preset: {one.about})" if one.about else ""), of_member(one))
        rewrite(one.bounds + one.penalty(learned=False), learned(one), within)


def tell(title: str, lines: list[Line]) -> None:
    """Print it."""
    out = report.console()
    out.print(f"[bold]{escape(title)}[/]")
    for label, text in lines:
        out.print(f"  [cyan]{label:<15}[/] {escape(text)}")


# ---- an objective


def of_objective(objective: Objective) -> Iterator[Line]:
    """Class, preference, equivalent forms, and how it is computed."""
    yield "class", f"{classify(objective)}"
    found = lagrangian(objective)
    if found is None:
        yield "KL objective", "no: it is no sum of I_q, I_p and KL divergences"
    else:
        yield "KL objective", "yes" if not objective.opaque else "yes, apart from symbols of their own"
        alpha = (f"{name} = {number(a)} ({wish(a)} I_{s})" for name, a, s in zip(("α₁", "α₂"), found.alpha, "qp", strict=True))
        yield "α", f"{', '.join(alpha)}; no other α gives this objective"
        yield "Lagrangian", f"{found}" + ("" if found.feasible else "  (a negative multiplier: none with all λ ≥ 0)")
        for way in islice(lagrangians(objective), 1, FORMS):
            yield "or", f"{way}"
    form = computable_form(objective)
    yield "computed as", told(form)
    yield from critics(form)
    combination = closure(objective.plain)
    if combination is not None and combination.parts:
        yield "by Theorem 1", f"{combination}"
        for care in combination.care:
            yield "", f"with care: {care}"
    for symbol in objective.opaque:
        yield "note", f"{symbol} is no KL: a symbol of its own, left out of α and of Theorem 1; {symbol.level}"


def wish(alpha: Fraction) -> str:
    """A preference in a word."""
    return report.preference(float(alpha))


def told(form: Form) -> str:
    """A form, and the constant that it leaves out."""
    return f"{form}" + (f", leaving out the constant {form.constant}" if form.constant.coefficients else "")


def critics(form: Form) -> Iterator[Line]:
    """Which critics a form takes."""
    ratios = dict.fromkeys(term.symbol[4:-1] for _, term in form.terms if _is_ratio(term))
    if ratios:
        yield "critics", f"estimate {', '.join(ratios)}; a log ratio may be used with either sign"


def _is_ratio(term: Term) -> bool:
    return term.symbol.startswith("E_") and term.level > Class.LIKELIHOOD


# ---- a member


def of_member(one: Member) -> list[Line]:
    """What it states, what is trained, and what follows."""
    stated = joined([(one.alpha[0], "I_q"), (one.alpha[1], "I_p")])
    lines = [("preference", stated if stated != "0" else "none (f = 0)")]
    for p in one.penalties:
        how = f"λ learned, from {number(p.multiplier)}" if p.learned else f"λ = {number(p.multiplier)}"
        lines.append((p.name, f"{p.text.replace('||', '‖')}, {how}"))
    lines.append(("", "the objective, as stated" + (" and with λ where it starts" if learned(one) else "")))
    lines += of_objective(one.stated)
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
        lines += [("class", f"{classify(one.trained)}"), ("computed as", told(computable_form(one.trained)))]
    lines += alone(one)
    return [*lines, *neighbours(one.stated, one.family)]


def learned(one: Member) -> dict[str, Objective]:
    """The divergences with learned multipliers."""
    return {p.name: p.divergence for p in one.penalties if p.learned}


def alone(one: Member) -> Iterator[Line]:
    """How each constraint with a learned multiplier is computed."""
    for name, form in rewrite(one.bounds, learned(one))[1].items():
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
