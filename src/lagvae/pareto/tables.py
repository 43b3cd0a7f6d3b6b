"""A comparison as text: rows for the terminal, a CSV of all values, and a report in Markdown."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lagvae.io import write_atomically, write_text
from lagvae.pareto.comparison import Analysis, SlackCurve
from lagvae.pareto.fronts import Estimate, Point
from lagvae.pareto.points import INFORMATION, SPLITS, RunPoint, method_title

GOALS = {-1: "maximise", 1: "minimise"}
"""Sign of α → what a run does to information."""

SUMMARY = ("I", "split", "method", "runs", "seeds", "−ELBO", "dominated", "with MMD")
"""−ELBO: its range in nats. dominated: how many of the runs with a rival some run of another method dominates in (I, −ELBO);
with MMD: in (I, −ELBO, MMD)."""

DOMINATIONS = ("I", "split", "seed", "dominated", "by", "−ELBO better by (nats)", "I better by (nats)", "MMD better")

MATCHED = (
    *("I", "InfoVAE", "seed", "−ELBO", "MMD", "I (nats)"),
    *("LagVAE: −ELBO", "MMD", "I (nats)", "verdict", "LagVAE better by (nats)", "in InfoVAE's objective"),
)

MATCHED_SUMMARY = ("I", "split", "pairs", "not worse", "better", "mean (nats)", "not worse in its objective", "bounds met")
"""not worse: LagVAE better by at least −z standard errors; better: by more than z; mean: of what LagVAE is better by."""

SLACK = ("method", "α", "split", "γ₁ (nats)", "I (nats)", "runs each", "monotone")

RUNS = ("run", "method", "α", "setting", "seed", "−ELBO", "MMD", "I (nats)", "verdict")

COLUMNS = (
    *("run", "family", "alpha", "gamma", "bound", "multipliers", "seed", "verdict", "split"),
    *("estimator", "lower", "lower_stderr", "upper", "upper_stderr", "neg_elbo", "neg_elbo_stderr", "mmd", "mmd_stderr"),
    *("on_front", "dominated_by", "dominated_with_mmd_by", "match"),
)


def short(folder: Path) -> Path:
    """A folder relative to the working directory if it lies below it, else as it is."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def summary_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `SUMMARY` for each sign of α, split and method."""
    return [
        (
            GOALS[group.sign],
            group.split,
            method_title(group.family),
            str(len(group.runs)),
            str(len(group.fronts)),
            "–".join(map(_nats, group.reach)),
            *(
                f"{len(runs)} of {len(group.compared)}" if group.compared else "no rival"
                for runs in (group.dominated, group.dominated_with_mmd)
            ),
        )
        for group in analysis.groups
    ]


def _nats(value: float) -> str:
    """A value with two decimals; a negative zero loses its sign."""
    return f"{round(value, 2) + 0.0:.2f}"


def domination_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `DOMINATIONS` for each pair of runs of which one dominates the other."""
    rows: list[tuple[str, ...]] = []
    for pair in analysis.dominations:
        sign, (better, worse) = pair.worse.sign, (run.points[pair.split] for run in (pair.better, pair.worse))
        information = sign * (worse.worse_end(-sign).value - better.worse_end(sign).value)
        gains = _nats(worse.neg_elbo.value - better.neg_elbo.value), _nats(information)
        names = str(pair.worse.seed), _name(pair.worse), _name(pair.better)
        rows.append((GOALS[sign], pair.split, *names, *gains, "yes" if pair.with_mmd else "no"))
    return rows


def matched_rows(analysis: Analysis, split: str) -> list[tuple[str, ...]]:
    """A row of `MATCHED` for each pair of matched runs, those in which LagVAE does worst first."""
    return [
        (
            GOALS[pair.lagvae.sign],
            pair.infovae.setting,
            str(pair.infovae.seed),
            *_values(pair.infovae.points[split]),
            *_values(pair.lagvae.points[split]),
            pair.lagvae.verdict,
            _with_error(pair.gain(split)),
            _with_error(pair.objective_gain(split)),
        )
        for pair in analysis.pairs
    ]


def run_row(run: RunPoint, split: str) -> tuple[str, ...]:
    """A row of `RUNS`: a run and its values on a split."""
    names = run.name, method_title(run.family), f"{run.alpha:+g}", run.setting, str(run.seed)
    return (*names, *_values(run.points[split]), run.verdict)


def matched_summary_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `MATCHED_SUMMARY` for each sign of α and split."""
    rows = []
    for sign, split in ((sign, split) for sign in GOALS for split in SPLITS):
        pairs = [pair for pair in analysis.pairs if pair.lagvae.sign == sign]
        if not pairs:
            continue
        gains, objectives = [pair.gain(split) for pair in pairs], [pair.objective_gain(split) for pair in pairs]
        not_worse, of_objective = (sum(g.value >= -analysis.z * g.stderr for g in each) for each in (gains, objectives))
        better = sum(gain.value > analysis.z * gain.stderr for gain in gains)
        met = sum(pair.lagvae.verdict.startswith("met") for pair in pairs)  # converged or not
        mean = f"{fmean(gain.value for gain in gains):+.2f}"
        rows.append((GOALS[sign], split, *map(str, (len(pairs), not_worse, better, mean, of_objective, met))))
    return rows


def _values(point: Point) -> tuple[str, str, str]:
    """−ELBO, MMD and the interval for I."""
    lower, upper = _nats(point.lower.value), _nats(point.upper.value)
    mmd = "–" if point.mmd is None else f"{point.mmd.value:.1e}"
    return _nats(point.neg_elbo.value), mmd, lower if point.lower == point.upper else f"[{lower}, {upper}]"


def _with_error(estimate: Estimate) -> str:
    return f"{round(estimate.value, 2) + 0.0:+.2f} ± {_nats(estimate.stderr)}"


def training_line(analysis: Analysis) -> str:
    """The steps and the seconds of training of each method's runs, of matched runs apart."""
    groups: dict[str, list[RunPoint]] = {}
    families = analysis.collection.families
    for run in sorted(analysis.collection.runs, key=lambda run: (families.index(run.family), run.match is not None)):
        groups.setdefault(method_title(run.family) + (", matched" if run.match else ""), []).append(run)
    parts = []
    for name, runs in groups.items():
        steps = sorted({run.steps for run in runs if run.steps is not None})
        length = "–".join(map(str, dict.fromkeys((steps[0], steps[-1])))) if steps else "unknown"
        known = [run.seconds for run in runs if run.seconds is not None]
        seconds = f"{sum(known):.0f} s" if len(known) == len(runs) else "unknown time"
        parts.append(f"{name}: {len(runs)} × {length} steps, {seconds}")
    return f"Training: {'; '.join(parts)} (of the time of an ensemble each run has an equal share)."


def dominated_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `DOMINATIONS` for each dominated run, with the rival whose smaller lead of the two in nats is largest."""
    rows: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for row in domination_rows(analysis):
        rows.setdefault(row[:4], []).append(row)
    chosen: list[tuple[str, ...]] = []
    for rivals in rows.values():
        best = max(rivals, key=lambda row: min(float(row[5]), float(row[6])))
        more = f" and {len(rivals) - 1} more" if len(rivals) > 1 else ""
        chosen.append((*best[:4], best[4] + more, *best[5:]))
    return chosen


def _name(run: RunPoint) -> str:
    return (
        f"{run.name} ({method_title(run.family)}, {run.setting})" if run.setting else f"{run.name} ({method_title(run.family)})"
    )


def slack_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `SLACK` for each curve of information over γ₁."""
    rows: list[tuple[str, ...]] = []
    for curve in analysis.curves:
        ends = f"{curve.gammas[0]:g} to {curve.gammas[-1]:g}", f"{_nats(curve.means[0])} to {_nats(curve.means[-1])}"
        runs = "–".join(dict.fromkeys((str(min(curve.counts)), str(max(curve.counts)))))
        rows.append((method_title(curve.family), f"{curve.alpha:+g}", curve.split, *ends, runs, monotone(curve, analysis.z)))
    return rows


def monotone(curve: SlackCurve, z: float) -> str:
    """Whether information is monotone in the slack: "yes", "within error" or "NO", the latter two with the wrong steps.

    "within error": every step in the wrong direction is within z standard errors.
    """
    if len(curve.gammas) < 2:
        return "one γ₁"
    steps = [
        (abs(change) > z * error, f"{change:+.2f} from γ₁ = {a:g} to {b:g}")
        for a, b, change, error in curve.non_monotone_steps()
    ]
    if not steps:
        return "yes"
    any_significant = any(significant for significant, _ in steps)
    shown = "; ".join(text for significant, text in steps if significant or not any_significant)
    return ("NO" if any_significant else "within error") + f" ({shown})"


def notes(analysis: Analysis) -> list[str]:
    """Remarks that a reader of the numbers has to know, and the verdicts of the runs."""
    runs, remarks = analysis.collection.runs, []
    if violating := [run.name for run in runs if run.breaks_bound]:
        remarks.append(f"In {len(violating)} of {len(runs)} runs this estimate of I violates bounds on I_q.")
    unmatched = sorted(
        {(group.family, run.seed) for group in analysis.groups for run in group.runs if run not in group.compared}
    )
    if unmatched and len(analysis.collection.families) > 1:
        names = ", ".join(f"{method_title(family)} seed {seed}" for family, seed in unmatched)
        remarks.append(f"Without a run of another method with the same seed and sign of α, and so not compared: {names}.")
    if analysis.unpaired:
        names = ", ".join(analysis.unpaired[:5]) + (" …" if len(analysis.unpaired) > 5 else "")
        remarks.append(f"Matched with a run that is not here, or was trained again since: {names}.")
    repeated = Counter((run.family, run.alpha, run.gamma, run.seed) for run in runs if run.gamma is not None)
    if analysis.curves and max(repeated.values()) > 1:
        remarks.append("The table of I over γ₁ averages over runs with the same α, γ₁ and seed that differ in other settings.")
    verdicts = {family: Counter(run.verdict for run in runs if run.family == family) for family in analysis.collection.families}
    counts = {family: ", ".join(f"{n} {verdict}" for verdict, n in sorted(count.items())) for family, count in verdicts.items()}
    return [*remarks, f"Verdicts of the runs: {'; '.join(f'{method_title(f)}: {text}' for f, text in counts.items())}."]


def write_csv(analysis: Analysis, path: Path) -> None:
    """Write a row of `COLUMNS` for each run and split, atomically.

    on_front: 1 if the run is on the front of its method, sign of α and seed. dominated_by: the runs of other methods that
    dominate it. match: the run that it is matched with.
    """
    front = {(g.split, run.name) for g in analysis.groups for runs in g.fronts.values() for run in runs}

    def row(run: RunPoint, split: str) -> list[object]:
        point = run.points[split]
        multipliers = " ".join(f"{name}={value:g}" for name, value in run.multipliers.items())
        dominators = analysis.dominators(run, split)
        estimates = (point.lower, point.upper, point.neg_elbo, point.mmd)
        return [
            *(run.name, run.family, run.alpha, run.gamma, run.bound, multipliers, run.seed, run.verdict, split),
            analysis.collection.information,
            *(value for e in estimates for value in ((None, None) if e is None else (e.value, e.stderr))),
            int((split, run.name) in front),
            " ".join(pair.better.name for pair in dominators),
            " ".join(pair.better.name for pair in dominators if pair.with_mmd),
            run.match,
        ]

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(row(run, split) for run in analysis.collection.runs for split in SPLITS)

    write_atomically(path, write)


@dataclass(frozen=True)
class Section:
    """A part of the report of a comparison.

    Attributes:
        points: sentences of a list; `words` between backquotes are names. text: a paragraph.
        tables: (caption, head, rows) of each table.
    """

    title: str
    points: Sequence[str] = ()
    text: str = ""
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()


def comparison_sections(analysis: Analysis) -> list[Section]:
    """The report of a comparison; the first section is about all runs."""
    collection, shared = analysis.collection, analysis.collection.runs[0].settings.shared
    counts = Counter(run.family for run in collection.runs)
    matched = Counter(run.family for run in collection.runs if run.match)
    names = [
        f"{counts[f]} of {method_title(f)}" + (f" ({matched[f]} of them matched)" if matched[f] else "")
        for f in collection.families
    ]
    seeds = sorted({run.seed for run in collection.runs})
    points = [
        f"Runs: {', '.join(names)}; "
        f"seeds {', '.join(map(str, seeds))}; below {', '.join(f'`{short(folder)}`' for folder in collection.folders)}.",
        f"All with data {shared.get('data.name')}, batches of {shared.get('data.batch')}, model {shared.get('model.name')}, "
        f"{shared.get('training.steps')} steps, start {shared.get('training.start')}.",
        f"Information (`{collection.information}`): {INFORMATION[collection.information]}; in nats, as is −ELBO.",
        "α < 0 maximises, α > 0 minimises information.",
        "Run a dominates run b, of another method with the same sign of α and the same seed, where a is better in both by "
        f"more than {analysis.z:g} standard errors: (−ELBO)_b − (−ELBO)_a > {analysis.z:g} √(se_a² + se_b²), and the same for "
        "the distance between the intervals for I: a's lower end above b's upper end when maximising, a's upper end below b's "
        "lower end when minimising. Column “with MMD” asks the same of MMD, too. Both runs are evaluated on the same data, so "
        "that their errors are positively correlated and the rule is stricter than a test of the paired difference.",
        training_line(analysis),
        *notes(analysis),
    ]
    sections = [Section("Information against −ELBO", points, tables=[("", SUMMARY, summary_rows(analysis))])]
    if analysis.pairs:
        sections.append(_matched_section(analysis))
    dominations = domination_rows(analysis)
    none = "" if dominations else "No run dominates a run of another method."
    sections.append(Section("Dominated runs", text=none, tables=[("", DOMINATIONS, dominations)]))
    if analysis.curves:
        sections.append(_slack_section(analysis))
    not_compared = {"Unfinished": dict.fromkeys(collection.unfinished, ""), "Skipped": collection.skipped}
    for heading, runs in (not_compared | {"Left out": collection.left_out}).items():
        if runs:
            listed = [f"`{name}`" + (f": {reason}" if reason else "") for name, reason in runs.items()]
            sections.append(Section(f"{heading}: {len(runs)}", listed))
    return sections


def _slack_section(analysis: Analysis) -> Section:
    """I at every γ₁, with a column for each method and α, and whether it is monotone."""
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
    for split in SPLITS:
        curves = [curve for curve in analysis.curves if curve.split == split]
        head = [f"γ₁ ({split})", *(f"{method_title(c.family)}, α = {c.alpha:+g}" for c in curves)]
        columns = [
            {g: f"{_nats(m)} ± {_nats(s)}" for g, m, s in zip(c.gammas, c.means, c.spreads, strict=True)} for c in curves
        ]
        gammas = sorted({gamma for column in columns for gamma in column})
        tables.append(("", head, [[f"{gamma:g}", *(column.get(gamma, "–") for column in columns)] for gamma in gammas]))
    text = (
        "Mean ± standard deviation over seeds; for a single run, ± the standard error of its estimate. Of an interval, the "
        "lower end for α < 0 and the upper end for α > 0."
    )
    return Section("Information over the slack γ₁", text=text, tables=[*tables, ("", SLACK, slack_rows(analysis))])


def _matched_section(analysis: Analysis) -> Section:
    """The matched pairs on each split, and how many there are in which LagVAE is not worse."""
    text = (
        "Each run of LagVAE has the −ELBO and the MMD of a run of InfoVAE on training data as its bounds, and its seed, α, "
        "start and length. “Better by”: of the end of the interval for I that both optimise, LagVAE's minus InfoVAE's lower "
        "end when maximising, InfoVAE's minus LagVAE's upper end when minimising, ± its standard error. “Not worse”: at least "
        f"−{analysis.z:g} standard errors; “better”: more than {analysis.z:g}. “In InfoVAE's objective”: the same, with "
        "what the −ELBO and the MMD of LagVAE are lower by, times the λ of InfoVAE."
    )
    pairs = [(f"On {'training' if s == 'train' else 'test'} data:", MATCHED, matched_rows(analysis, s)) for s in SPLITS]
    return Section("Matched runs", text=text, tables=[("", MATCHED_SUMMARY, matched_summary_rows(analysis)), *pairs])


def comparison_markdown(analysis: Analysis, figures: Sequence[str] = ()) -> str:
    """The report; `figures` are the names of image files beside it, which follow the first section."""
    lines: list[str] = []
    for number, section in enumerate(comparison_sections(analysis)):
        lines += [f"#{'#' * bool(number)} {section.title}", ""]
        lines += [*(f"- {point}" for point in section.points), *([""] if section.points else [])]
        lines += [section.text, ""] if section.text else []
        for caption, head, rows in section.tables:
            lines += [caption, ""] if caption else []
            lines += [*_table(head, rows), ""] if rows else []
        if not number:
            lines += [line for name in figures for line in (f"![{Path(name).stem}]({name})", "")]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; nothing if there are no rows."""
    if not rows:
        return []
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def write_markdown(analysis: Analysis, path: Path, figures: Sequence[str] = ()) -> None:
    """Write the report atomically."""
    write_text(path, comparison_markdown(analysis, figures))
