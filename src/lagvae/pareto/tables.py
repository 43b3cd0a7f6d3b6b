"""The comparison in words and numbers: rows for a terminal, a CSV of all that was used, a report in Markdown."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lagvae.io import write_atomically
from lagvae.pareto.comparison import Analysis, Group, SlackCurve
from lagvae.pareto.points import INFORMATION, SPLITS, RunPoint, title

GOALS = {-1: "maximise", 1: "minimise"}
"""Sign of α → what becomes of information."""

SUMMARY = ("I", "split", "method", "runs", "seeds", "dominated", "z = 0", "hypervolume")
"""dominated: by a run of another method, of those that have a rival; z = 0: the same without regard to errors."""

DOMINATIONS = ("I", "split", "seed", "dominated", "by", "−ELBO better by (nats)", "I better by (nats)")

SLACK = ("method", "α", "split", "γ₁ (nats)", "I (nats)", "runs each", "monotone")

COLUMNS = (
    *("run", "family", "alpha", "gamma", "bound", "multipliers", "seed", "verdict", "split"),
    *("estimator", "information", "information_stderr", "neg_elbo", "neg_elbo_stderr", "on_front", "dominated_by"),
)


def short(folder: Path) -> Path:
    """A folder as seen from where the user stands, if it lies below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def summary_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `SUMMARY` per sign of α, split and method."""
    return [
        (
            GOALS[group.sign],
            group.split,
            title(group.family),
            str(len(group.runs)),
            str(len(group.fronts)),
            f"{len(group.dominated)} of {len(group.compared)}" if group.compared else "no rival",
            f"{len(group.beaten)} of {len(group.compared)}" if group.compared else "no rival",
            _hypervolume(group),
        )
        for group in analysis.groups
    ]


def _hypervolume(group: Group) -> str:
    mean, deviation = group.hypervolume
    return _nats(mean) + ("" if deviation is None else f" ± {_nats(deviation)}")


def _nats(value: float) -> str:
    """Two decimals, and no sign on a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def domination_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `DOMINATIONS` per pair of runs of which one dominates the other."""
    rows = []
    for pair in analysis.dominations:
        better, worse = (run.points[pair.split].costs(run.sign) for run in (pair.better, pair.worse))
        gains = (_nats(b - a) for a, b in zip(better, worse, strict=True))
        rows.append((GOALS[pair.worse.sign], pair.split, str(pair.worse.seed), _name(pair.worse), _name(pair.better), *gains))
    return rows


def loser_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `DOMINATIONS` per dominated run, with the rival that is ahead of it by most in the nearer objective."""
    rows: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for row in domination_rows(analysis):
        rows.setdefault(row[:4], []).append(row)
    chosen: list[tuple[str, ...]] = []
    for of_one in rows.values():
        best = max(of_one, key=lambda row: min(float(row[5]), float(row[6])))
        more = f" and {len(of_one) - 1} more" if len(of_one) > 1 else ""
        chosen.append((*best[:4], best[4] + more, *best[5:]))
    return chosen


def _name(run: RunPoint) -> str:
    return f"{run.name} ({title(run.family)}, {run.setting})" if run.setting else f"{run.name} ({title(run.family)})"


def slack_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """A row of `SLACK` per curve of information over γ₁."""
    rows: list[tuple[str, ...]] = []
    for curve in analysis.curves:
        ends = f"{curve.gammas[0]:g} to {curve.gammas[-1]:g}", f"{_nats(curve.means[0])} to {_nats(curve.means[-1])}"
        runs = "–".join(dict.fromkeys((str(min(curve.counts)), str(max(curve.counts)))))
        rows.append((title(curve.family), f"{curve.alpha:+g}", curve.split, *ends, runs, monotone(curve, analysis.z)))
    return rows


def _slack_table(analysis: Analysis) -> list[str]:
    """Markdown: I at every γ₁, a column per method and α."""
    lines = []
    for split in SPLITS:
        curves = [curve for curve in analysis.curves if curve.split == split]
        head = [f"γ₁ ({split})", *(f"{title(c.family)}, α = {c.alpha:+g}" for c in curves)]
        runs = [{g: f"{_nats(m)} ± {_nats(s)}" for g, m, s in zip(c.gammas, c.means, c.spreads, strict=True)} for c in curves]
        gammas = sorted({gamma for column in runs for gamma in column})
        lines += [*_table(head, [[f"{gamma:g}", *(column.get(gamma, "–") for column in runs)] for gamma in gammas]), ""]
    return lines


def monotone(curve: SlackCurve, z: float) -> str:
    """Whether information follows the slack: "yes", "within error" where steps the wrong way are noise, or "NO" and where."""
    if len(curve.gammas) < 2:
        return "one γ₁"
    told = [(abs(step) > z * error, f"{step:+.2f} from γ₁ = {a:g} to {b:g}") for a, b, step, error in curve.breaks()]
    if not told:
        return "yes"
    beyond = any(clear for clear, _ in told)
    return ("NO" if beyond else "within error") + f" ({'; '.join(text for clear, text in told if clear or not beyond)})"


def notes(analysis: Analysis) -> list[str]:
    """What a reader must know to trust the numbers, where there is such a thing."""
    runs, found = analysis.collection.runs, []
    if broken := [run.name for run in runs if run.breaks_bound]:
        found.append(f"In {len(broken)} of {len(runs)} runs this estimate of I lies outside of bounds that I_q must obey.")
    lonely = sorted({(g.family, c.seed) for g in analysis.groups for c in g.runs if c not in g.compared})
    if lonely and len(analysis.collection.families) > 1:
        told = ", ".join(f"{title(family)} seed {seed}" for family, seed in lonely)
        found.append(f"Without a run of another method with the same seed and sign of α, and so not compared: {told}.")
    for group in (group for group in analysis.groups if group.split == SPLITS[0]):
        sizes = Counter(run.seed for run in group.runs)
        if len(set(sizes.values())) > 1:
            each = ", ".join(f"{n} of seed {seed}" for seed, n in sorted(sizes.items()))
            found.append(f"{title(group.family)}, {GOALS[group.sign]}, has {each}: its hypervolumes are of unequal sets.")
    several = Counter((c.family, c.alpha, c.gamma, c.seed) for c in runs if c.gamma is not None)
    if analysis.curves and max(several.values()) > 1:
        found.append(
            "Runs with the same α, γ₁ and seed that differ in other settings are averaged over in the table of I over γ₁."
        )
    verdicts = {family: Counter(c.verdict for c in runs if c.family == family) for family in analysis.collection.families}
    told = "; ".join(f"{title(f)}: " + ", ".join(f"{n} {v}" for v, n in sorted(count.items())) for f, count in verdicts.items())
    return [*found, f"Verdicts of the runs: {told}."]


def write_csv(analysis: Analysis, path: Path) -> None:
    """A row of `COLUMNS` per run and split, atomically.

    on_front: 1 where no run of its method, sign of α and seed beats it. dominated_by: the runs of other methods that
    dominate it.
    """
    front = {(g.split, run.name) for g in analysis.groups for runs in g.fronts.values() for run in runs}

    def row(run: RunPoint, split: str) -> list[object]:
        at = run.points[split]
        multipliers = " ".join(f"{name}={value:g}" for name, value in run.multipliers.items())
        dominators = " ".join(other.name for other in analysis.dominators(run, split))
        return [
            *(run.name, run.family, run.alpha, run.gamma, run.bound, multipliers, run.seed, run.verdict, split),
            *(analysis.collection.information, at.information, at.information_stderr, at.neg_elbo, at.neg_elbo_stderr),
            *(int((split, run.name) in front), dominators),
        ]

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(row(run, split) for run in analysis.collection.runs for split in SPLITS)

    write_atomically(path, write)


def comparison_markdown(analysis: Analysis, figures: Sequence[str] = ()) -> str:
    """The report; `figures` are names of pictures beside it."""
    collection, shared = analysis.collection, analysis.collection.runs[0].settings.shared
    counts = Counter(run.family for run in collection.runs)
    seeds = sorted({run.seed for run in collection.runs})
    lines = [
        "# Information against −ELBO",
        "",
        f"- Runs: {', '.join(f'{counts[f]} of {title(f)}' for f in collection.families)}; "
        f"seeds {', '.join(map(str, seeds))}; below {', '.join(f'`{short(folder)}`' for folder in collection.folders)}.",
        f"- All with data {shared.get('data.name')}, batches of {shared.get('data.batch')}, model {shared.get('model.name')}, "
        f"{shared.get('training.steps')} steps, start {shared.get('training.start')}.",
        f"- Information (`{collection.information}`): {INFORMATION[collection.information]}; in nats, as is −ELBO.",
        "- α < 0 maximises, α > 0 minimises information.",
        "- Run a dominates run b, of another method with the same sign of α and the same seed, where a is better in both by "
        f"more than {analysis.z:g} standard errors: (−ELBO)_b − (−ELBO)_a > {analysis.z:g} √(se_a² + se_b²), and the same for "
        "I_a − I_b when maximising, for I_b − I_a when minimising. Both are measured on the same data, so that their errors "
        "go together, and the rule asks for more than a test of the difference would.",
        "- Hypervolume (nats²): the area between a method's front and the reference, without regard to errors; mean ± standard "
        "deviation over seeds. A method with more runs has more chances. Reference: "
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
        "## Who dominates whom",
        "",
        *(_table(DOMINATIONS, domination_rows(analysis)) or ["No run dominates a run of another method."]),
        "",
    ]
    if analysis.curves:
        lines += ["## Information over the slack γ₁", ""]
        lines += ["Mean ± standard deviation over seeds; of a single run, ± the standard error of its measurement.", ""]
        lines += [*_slack_table(analysis), *_table(SLACK, slack_rows(analysis)), ""]
    named = {"Unfinished": dict.fromkeys(collection.unfinished, ""), "Skipped": collection.skipped}
    for heading, runs in (named | {"Left out": collection.left_out}).items():
        if runs:
            lines += [f"## {heading}: {len(runs)}", ""]
            lines += [f"- `{name}`" + (f": {reason}" if reason else "") for name, reason in runs.items()] + [""]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; nothing where there are no rows."""
    if not rows:
        return []
    return [f"| {' | '.join(runs)} |" for runs in (head, ["---"] * len(head), *rows)]


def write_markdown(analysis: Analysis, path: Path, figures: Sequence[str] = ()) -> None:
    """Write the report atomically."""
    text = comparison_markdown(analysis, figures)

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(path, write)
