"""A comparison as text: rows for the terminal, a CSV of all values, and a report in Markdown."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lagvae.io import write_atomically
from lagvae.pareto.comparison import Analysis, Group, SlackCurve
from lagvae.pareto.points import INFORMATION, SPLITS, RunPoint, method_title

GOALS = {-1: "maximise", 1: "minimise"}
"""Sign of α → what a run does to information."""

SUMMARY = ("I", "split", "method", "runs", "seeds", "dominated", "z = 0", "hypervolume")
"""dominated: how many of the runs with a rival some run of another method dominates; z = 0: the same, ignoring errors."""

DOMINATIONS = ("I", "split", "seed", "dominated", "by", "−ELBO better by (nats)", "I better by (nats)")

SLACK = ("method", "α", "split", "γ₁ (nats)", "I (nats)", "runs each", "monotone")

COLUMNS = (
    *("run", "family", "alpha", "gamma", "bound", "multipliers", "seed", "verdict", "split"),
    *("estimator", "information", "information_stderr", "neg_elbo", "neg_elbo_stderr", "on_front", "dominated_by"),
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
            f"{len(group.dominated)} of {len(group.compared)}" if group.compared else "no rival",
            f"{len(group.dominated_ignoring_errors)} of {len(group.compared)}" if group.compared else "no rival",
            _hypervolume(group),
        )
        for group in analysis.groups
    ]


def _hypervolume(group: Group) -> str:
    mean, deviation = group.hypervolume
    return _nats(mean) + ("" if deviation is None else f" ± {_nats(deviation)}")


def _nats(value: float) -> str:
    """A value with two decimals; a negative zero loses its sign."""
    return f"{round(value, 2) + 0.0:.2f}"


def domination_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `DOMINATIONS` for each pair of runs of which one dominates the other."""
    rows = []
    for pair in analysis.dominations:
        better, worse = (run.points[pair.split].costs(run.sign) for run in (pair.better, pair.worse))
        gains = (_nats(b - a) for a, b in zip(better, worse, strict=True))
        rows.append((GOALS[pair.worse.sign], pair.split, str(pair.worse.seed), _name(pair.worse), _name(pair.better), *gains))
    return rows


def dominated_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `DOMINATIONS` for each dominated run, with the rival whose smaller lead of the two objectives is largest."""
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


def _slack_table(analysis: Analysis) -> list[str]:
    """Markdown: I at every γ₁, with a column for each method and α."""
    lines = []
    for split in SPLITS:
        curves = [curve for curve in analysis.curves if curve.split == split]
        head = [f"γ₁ ({split})", *(f"{method_title(c.family)}, α = {c.alpha:+g}" for c in curves)]
        columns = [
            {g: f"{_nats(m)} ± {_nats(s)}" for g, m, s in zip(c.gammas, c.means, c.spreads, strict=True)} for c in curves
        ]
        gammas = sorted({gamma for column in columns for gamma in column})
        lines += [*_table(head, [[f"{gamma:g}", *(column.get(gamma, "–") for column in columns)] for gamma in gammas]), ""]
    return lines


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
    for group in (group for group in analysis.groups if group.split == SPLITS[0]):
        sizes = Counter(run.seed for run in group.runs)
        if len(set(sizes.values())) > 1:
            each = ", ".join(f"{n} of seed {seed}" for seed, n in sorted(sizes.items()))
            name = f"{method_title(group.family)}, {GOALS[group.sign]}"
            remarks.append(f"{name}, has {each}: its hypervolumes are of unequal sets.")
    repeated = Counter((run.family, run.alpha, run.gamma, run.seed) for run in runs if run.gamma is not None)
    if analysis.curves and max(repeated.values()) > 1:
        remarks.append("The table of I over γ₁ averages over runs with the same α, γ₁ and seed that differ in other settings.")
    verdicts = {family: Counter(run.verdict for run in runs if run.family == family) for family in analysis.collection.families}
    counts = {family: ", ".join(f"{n} {verdict}" for verdict, n in sorted(count.items())) for family, count in verdicts.items()}
    return [*remarks, f"Verdicts of the runs: {'; '.join(f'{method_title(f)}: {text}' for f, text in counts.items())}."]


def write_csv(analysis: Analysis, path: Path) -> None:
    """Write a row of `COLUMNS` for each run and split, atomically.

    on_front: 1 if the run is on the front of its method, sign of α and seed. dominated_by: the runs of other methods that
    dominate it.
    """
    front = {(g.split, run.name) for g in analysis.groups for runs in g.fronts.values() for run in runs}

    def row(run: RunPoint, split: str) -> list[object]:
        point = run.points[split]
        multipliers = " ".join(f"{name}={value:g}" for name, value in run.multipliers.items())
        dominators = " ".join(other.name for other in analysis.dominators(run, split))
        return [
            *(run.name, run.family, run.alpha, run.gamma, run.bound, multipliers, run.seed, run.verdict, split),
            *(analysis.collection.information, point.information, point.information_stderr),
            *(point.neg_elbo, point.neg_elbo_stderr),
            *(int((split, run.name) in front), dominators),
        ]

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(row(run, split) for run in analysis.collection.runs for split in SPLITS)

    write_atomically(path, write)


def comparison_markdown(analysis: Analysis, figures: Sequence[str] = ()) -> str:
    """The report; `figures` are the names of image files beside it."""
    collection, shared = analysis.collection, analysis.collection.runs[0].settings.shared
    counts = Counter(run.family for run in collection.runs)
    seeds = sorted({run.seed for run in collection.runs})
    lines = [
        "# Information against −ELBO",
        "",
        f"- Runs: {', '.join(f'{counts[f]} of {method_title(f)}' for f in collection.families)}; "
        f"seeds {', '.join(map(str, seeds))}; below {', '.join(f'`{short(folder)}`' for folder in collection.folders)}.",
        f"- All with data {shared.get('data.name')}, batches of {shared.get('data.batch')}, model {shared.get('model.name')}, "
        f"{shared.get('training.steps')} steps, start {shared.get('training.start')}.",
        f"- Information (`{collection.information}`): {INFORMATION[collection.information]}; in nats, as is −ELBO.",
        "- α < 0 maximises, α > 0 minimises information.",
        "- Run a dominates run b, of another method with the same sign of α and the same seed, where a is better in both by "
        f"more than {analysis.z:g} standard errors: (−ELBO)_b − (−ELBO)_a > {analysis.z:g} √(se_a² + se_b²), and the same for "
        "I_a − I_b when maximising, for I_b − I_a when minimising. Both are evaluated on the same data, so that their errors "
        "are positively correlated and the rule is stricter than a test of the paired difference.",
        "- Hypervolume (nats²): the area between a method's front and the reference, ignoring errors; mean ± standard "
        "deviation over seeds. A method with more runs is at an advantage. Reference: "
        + "; ".join(
            f"{GOALS[sign]}, {split}: −ELBO = {neg_elbo:.2f}, I = {information:.2f}"
            for (sign, split), (neg_elbo, information) in analysis.references.items()
        )
        + ".",
        *(f"- {note}" for note in notes(analysis)),
        "",
        *_table(SUMMARY, summary_rows(analysis)),
        "",
        *(line for name in figures for line in (f"![{Path(name).stem}]({name})", "")),
        "## Dominated runs",
        "",
        *(_table(DOMINATIONS, domination_rows(analysis)) or ["No run dominates a run of another method."]),
        "",
    ]
    if analysis.curves:
        lines += ["## Information over the slack γ₁", ""]
        lines += ["Mean ± standard deviation over seeds; for a single run, ± the standard error of its estimate.", ""]
        lines += [*_slack_table(analysis), *_table(SLACK, slack_rows(analysis)), ""]
    not_compared = {"Unfinished": dict.fromkeys(collection.unfinished, ""), "Skipped": collection.skipped}
    for heading, runs in (not_compared | {"Left out": collection.left_out}).items():
        if runs:
            lines += [f"## {heading}: {len(runs)}", ""]
            lines += [f"- `{name}`" + (f": {reason}" if reason else "") for name, reason in runs.items()] + [""]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; nothing if there are no rows."""
    if not rows:
        return []
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def write_markdown(analysis: Analysis, path: Path, figures: Sequence[str] = ()) -> None:
    """Write the report atomically."""
    text = comparison_markdown(analysis, figures)

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(path, write)
