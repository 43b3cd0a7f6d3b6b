"""The reports of a run, a calibration and a feasibility analysis on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.markup import escape

from lagvae.experiment.calibration import Calibration
from lagvae.experiment.summary import RATES
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder
from lagvae.terminal import console, format_number, plain_table, print_line, short_path

AT_BOUND = "at its bound"

IN_BF16 = ("bf16-mixed", "bf16")
"""The values of trainer.precision with which products of matrices are in bf16."""

IN_BF16_WORDS = "products of matrices in bf16, weights, sums and λ in fp32 (trainer.precision=32-true: all in fp32)"

COLOURS = {
    "active": "green",
    AT_BOUND: "green",
    "inactive": "green",
    "met": "green",
    "met, not converged": "yellow",
    "met, calibration too short": "yellow",
    "infeasible": "red",
    "not converged": "yellow",
}


def print_calibration(calibration: Calibration, folder: Path, fresh: bool) -> None:
    """Print ε̂ and the folder of the calibration. `fresh` says whether it was made just now."""
    stderr = calibration.stderr
    values = ", ".join(f"{n} {format_number(v, abs(v) > 0.1, stderr[n])}" for n, v in calibration.calibrated.items())
    title = f"Calibrated in {calibration.seconds:.0f} s" if fresh else "Calibration found"
    print_line(f"{title}: ε̂ = {values} (on {calibration.split}), in {short_path(folder)}")
    if not calibration.settled:
        fall = calibration.convergence["gain"]
        print_line(
            f"ε̂ has not settled: the divergences were still falling by about {fall:.2g} nats per doubling of "
            f"calibration.steps={calibration.settings['calibration.steps']}. A longer calibration, or calibration.steps=auto, "
            "gives tighter bounds."
        )


def preference_in_words(alpha: float) -> str:
    """The verb for a preference α: maximise or minimise."""
    return "maximise" if alpha < 0 else "minimise" if alpha > 0 else "no preference on"


def goals_in_words(alpha: Mapping[str, float]) -> str:
    """What a run prefers, from α of the sides q and p: maximise I_q (α = -1)."""
    goals = [f"{preference_in_words(a)} I_{side} (α = {a:+g})" for side, a in alpha.items() if a != 0]
    return " and ".join(goals) or "no preference on information"


def print_plan(cfg: DictConfig, model: LatentVariableModel, calibration: Calibration | None, run: RunFolder) -> None:
    """Print what a run is about to do: the constrained problem, the number of steps and the folder."""
    bounds = []
    for c in model.lagrangian.constraints:
        if c.bound is None:
            bounds.append(f"{c.multiplier:g} · {c.name}")
            continue
        if (setting := cfg.constraints.get(c.name)) is None:
            continue  # another slack of a front
        origin = "given"
        if setting.epsilon is None and calibration is not None:
            calibrated, nats = max(calibration.calibrated[c.name], c.divergence.smallest), c.divergence.nats
            origin = f"{format_number(calibrated, nats)} + {format_number(c.bound - calibrated, nats)}"
        bounds.append(f"{c.name} ≤ {format_number(c.bound, c.divergence.nats)} ({origin})")
    sense = "subject to" if any(c.bound is not None for c in model.lagrangian.constraints) else "with penalties"
    print_line(
        f"{cfg.family}: {goals_in_words({'q': cfg.alpha.q, 'p': cfg.alpha.p})}, {sense} {', '.join(bounds) or 'nothing'}"
    )
    if model.joint.has_rate and not model.joint.rate_is_exact:
        print_line(f"rate: {RATES[False]}")
    if str(cfg.trainer.get("precision")) in IN_BF16:
        print_line(IN_BF16_WORDS)
    count = torch.get_num_threads()
    threads = f"{count} thread{'s' if count > 1 else ''}"
    print_line(f"{cfg.training.steps} steps on {threads}, start: {cfg.training.start}, folder: {short_path(run.path)}")


ROWS = (  # label, key in the summary, whether to format it as nats
    ("−ELBO (nats)", "neg_elbo", True),
    ("−ELBO (nats / dim)", "neg_elbo_per_dim", True),
    ("rate (nats)", "rate", True),
    ("distortion (nats)", "distortion", True),
    ("−log p(x) ≤ (nats)", "nll", True),
    ("MMD", "mmd", False),
    ("I_q lower (nats)", "i_q_lower", True),
    ("I_q upper (nats)", "i_q_upper", True),
    ("I_q by KDE (nats)", "i_q_kde", True),
    ("I_p lower (nats)", "i_p_lower", True),
    ("I_p upper (nats)", "i_p_upper", True),
    ("squared error", "reconstruction", False),
    ("squared error, z", "reconstruction_z", False),
    ("p-value, x", "two_sample_x_p", True),
    ("p-value, z", "two_sample_z_p", True),
    ("code ~ label", "code_accuracy", True),
    ("partner x → z", "pairing_z", True),
    ("partner z → x", "pairing_x", True),
    ("confidence", "class_confidence", True),
    ("class coverage", "class_coverage", True),
    ("I(z;u) lower (nats)", "i_zu_lower", True),
    ("I(z;u) upper (nats)", "i_zu_upper", True),
    ("u predicted from z", "attribute_accuracy", True),
    ("most frequent u", "attribute_chance", True),
    ("MIG", "mig", True),
    ("disentanglement", "dci_disentanglement", True),
    ("completeness", "dci_completeness", True),
    ("informativeness", "dci_informativeness", True),
)


def bound_names(splits: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """The names of the bounds on I_q (see `lagvae.metrics.Information`), a single one if it is the same on all splits."""
    names = [values[f"{key}_by"].replace("_", " ") for values in splits.values() if f"{key}_by" in values]
    return ", ".join(names if len(set(names)) > 1 else names[:1])


def is_at_bound(constraint: Mapping[str, Any]) -> bool:
    """Whether the summary of a constraint says that it is met with a D above its bound, by less than what counts as zero."""
    return constraint["verdict"] == "active" and constraint.get("violation", 0) > 0


def verdict_in_words(constraint: Mapping[str, Any]) -> str:
    """The verdict on a constraint as people read it: an active one whose D is above its bound is "at its bound"."""
    return AT_BOUND if is_at_bound(constraint) else str(constraint["verdict"])


def constraint_columns(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of `constraint_rows` after the name: what the verdict is on comes before the other splits."""
    judged, *others = summary["splits"]
    return ("bound", judged, "λ", "verdict", *others)


def constraint_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each constraint: its name, and its value in each of `constraint_columns`."""
    judged, *others = summary["splits"]
    return [
        (
            name,
            *(format_number(c[key], c["nats"]) for key in ("bound", judged)),
            f"{c['multiplier']:.3g}",
            verdict_in_words(c),
            *(format_number(c[key], c["nats"]) for key in others),
        )
        for name, c in summary["constraints"].items()
    ]


FRONT_COLUMNS = ("bound", "−ELBO", "I_q", "λ")
"""The columns of `front_table_rows` between γ and the verdict."""


def front_table_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each slack of a front: γ, the bound, −ELBO, the interval of I_q, λ and the verdict."""
    return [
        (
            f"{p['gamma']:.3g}",
            format_number(p["bound"], True),
            format_number(p["neg_elbo"], True, p["neg_elbo_stderr"]),
            f"{p['i_q_lower']:.2f} to {p['i_q_upper']:.2f} ± {p['i_q_stderr']:.2f}" if "i_q_lower" in p else "",
            f"{p['multiplier']:.3g}",
            verdict_in_words(p),
        )
        for p in summary["curve"]
    ]


def measured_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each metric: its label and its values with standard errors on the splits."""
    splits, rows = summary["splits"].values(), []
    for label, key, nats in ROWS:
        if not any(key in values for values in splits):
            continue  # the model or the data do not define this metric
        outside = [key == "i_q_kde" and bool(values.get("i_q_kde_breaks_bound")) for values in splits]
        cells = [format_number(values.get(key), nats, values.get(f"{key}_stderr")) for values in splits]
        rows.append((label, *(cell + (" (!)" if out else "") for cell, out in zip(cells, outside, strict=True))))
    for key, label in summary.get("labels", {}).items():
        found = [values.get(key) for values in splits]
        errors = [values.get(f"{key}_stderr") for values in splits]
        large = all(value is None or abs(value) >= 0.1 for value in found)
        rows.append((label, *(format_number(value, large, error) for value, error in zip(found, errors, strict=True))))
    if all("active_units" in values for values in splits):
        rows.append(("active units", *(f"{values['active_units']:.0f}" for values in splits)))
    return rows


def measured_title(summary: Mapping[str, Any]) -> str:
    """The title of the table of `measured_rows`."""
    return f"Measured (± standard error){' (*)' if summary.get('cut') else ''}"


ADVERSARY = "H(u) + E log r(u|z)"
"""The estimator of I(z;u), `lagvae.divergences.AttributeInformation`, as a summary names it."""


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers of a run has to know, and what follows from them."""
    splits, lines = summary["splits"], []
    for name, c in summary["constraints"].items():
        if is_at_bound(c):
            above, unit = format_number(c["violation"], c["nats"]), " nats" if c["nats"] else ""
            limit = f"{c['tolerance']:.2g}{unit}"
            lines.append(f"{name} ended {above}{unit} above its bound, which is within noise: up to {limit} it counts as met.")
    if summary.get("cut"):
        cut = "; ".join(f"{key} {asked:,} → {used:,}" for key, (asked, used) in summary["cut"].items())
        lines.append(
            f"(*) measured with fewer draws, because training was short (callbacks.final.budget; null for all of them): {cut}."
        )
    if lower := bound_names(splits, "i_q_lower"):
        lines.append(f"I_q lies between two bounds: lower {lower}; upper {bound_names(splits, 'i_q_upper')}.")
    if any(values.get("i_q_kde_breaks_bound") for values in splits.values()):
        lines.append("(!) the kernel density estimate lies outside the bounds that I_q must obey; trust the interval.")
    if any("i_zu_lower" in values for values in splits.values()):
        lines.append(
            "I(z;u) is of codes z ∼ q(z|x), one drawn for each x: model.posterior(x).sample(). Their means, or several draws, "
            "may tell much more about u."
        )
    upper = splits["train"].get("i_zu_upper", -inf)
    for c in summary["constraints"].values():
        if c.get("estimator") == ADVERSARY and c["bound"] is not None and upper > c["bound"] + c["tolerance"]:
            lines.append(
                f"That I(z;u) is at most {c['bound']:g} nats is an estimate, by the adversary. The upper bound on it is "
                f"{upper:.2g}."
            )
    if summary.get("rate_estimator") == RATES[False]:
        lines.append(f"Rate: {RATES[False]}.")
    if summary.get("mmd_estimator"):
        lines.append(f"{summary['mmd_estimator']}.")
    lines += describe_sensitivity(summary)
    if summary["stationarity"] is not None:
        residual = f"{summary['stationarity']:.2f}"
        lines.append(f"KKT stationarity residual {residual} (0 at a solution; noise of the batches adds to it).")
    if summary.get("regime"):
        lines.append(summary["regime"])
    if summary.get("stopped_by"):
        lines.append(
            f"Stopped early, after {summary['steps']} steps: λ of {summary['stopped_by']} is at its largest value, and the "
            "divergence no longer decreases."
        )
    return lines


def print_summary(summary: Mapping[str, Any], run: RunFolder) -> None:
    """Print the summary of a run: the constraints with their verdicts, the metrics, and what follows from them."""
    out = console()
    table = plain_table(f"{summary['family']} on {summary['data']}: constraints", "")
    for name in constraint_columns(summary):
        table.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=True)
    for row in constraint_rows(summary):
        table.add_row(*(f"[{COLOURS[cell]}]{cell}[/]" if cell in COLOURS else cell for cell in row))
    if summary["constraints"]:
        out.print(table)
    table = plain_table(measured_title(summary), "")
    for split in summary["splits"]:
        table.add_column(split, justify="right", no_wrap=True)
    for label, *cells in measured_rows(summary):
        table.add_row(escape(label), *cells)
    out.print(table)
    if "curve" in summary:
        table = plain_table("The front, on training data", "γ")
        for name in FRONT_COLUMNS:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for *cells, verdict in front_table_rows(summary):
            table.add_row(*cells, f"[{COLOURS.get(verdict, 'default')}]{verdict}[/]")
        out.print(table)
    for line in remarks(summary):
        out.print(escape(line))
    for message in summary["messages"]:
        out.print(f"[bold yellow]{escape(message)}[/]")
    colour = COLOURS.get(summary["verdict"], "default")
    seconds = f" in {summary['seconds']['all']:.0f} s" if "seconds" in summary else ""
    out.print(f"Verdict: [bold {colour}]{summary['verdict']}[/]. Written{seconds} to {short_path(run.path)}")


def print_feasibility(result: Mapping[str, Any], folder: Path) -> None:
    """Print the minimum of each divergence alone, and the values of all of them together."""
    rows, largest = result["constraints"], result["largest"]
    table = plain_table(f"{result['family']} on {result['data']}: what is attainable ({result['split']}, ± standard error)", "")
    for name in ("scale", "alone", "asked", "together", "above"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, c in rows.items():
        nats = c["nats"]
        cells = [format_number(c["alone"], nats, c["alone_stderr"]), format_number(c["asked"], nats)]
        cells += [
            format_number(c["together"], nats, c["together_stderr"]),
            format_number(c["excess"], True, c["excess_stderr"]),
        ]
        table.add_row(name, f"{c['scale']:g}", *cells)
    out = console()
    out.print(table)
    if len(rows) > 1:
        out.print(
            "Column together: the values where the largest excess (D − reference) / scale is smallest. The reference is the "
            "bound that was asked for, or else the minimum alone. Column above: the excess of each, negative if it is below."
        )
    out.print(describe_attainable(rows, largest))
    if critics := [name for name, c in rows.items() if c["critic"]]:
        out.print(
            f"{', '.join(critics)}: estimated with a critic, so this is a lower bound on the divergence; a stronger critic may "
            "give a larger value."
        )
    out.print(
        f"Each was found in {result['steps']} training steps (calibration.steps) with one seed; longer training may find a "
        f"smaller value. Stored in {short_path(folder)}"
    )


def describe_attainable(rows: Mapping[str, Any], largest: Mapping[str, Any]) -> str:
    """A sentence on whether the bounds can be met."""
    name, met, single = largest["name"], largest["excess"] <= 0, len(rows) == 1
    excess = format_number(abs(largest["excess"]), True, largest["excess_stderr"])
    distance = f"{excess} times its scale {'below' if met else 'above'}"
    asked = [c["asked"] is not None for c in rows.values()]
    if single and not any(asked):
        return "Any bound above this value can be met."
    if not all(asked):
        return f"All together, the largest excess is that of {name}: {distance} its reference."
    if not met:
        which = "This bound was" if single else "These bounds were"
        return f"[bold yellow]{which} not met: {name} stays {distance} its bound.[/]"
    if single:
        return f"This bound can be met: {name} ends {distance} its bound."
    return f"These bounds can be met: {name}, the closest to its bound, ends {distance} it."


def describe_sensitivity(summary: Mapping[str, Any]) -> list[str]:
    """How a little more slack on each active constraint would change the bound on information, from λ."""
    lines = []
    for name, c in summary["constraints"].items():
        if (change := c.get("sensitivity")) is None:
            continue
        side = "q" if summary["alpha"]["q"] else "p"
        slack = "1 nat" if c["nats"] and c["scale"] == 1 else f"{c['scale']:g}"
        bound, verb = ("lower", "rises") if summary["alpha"][side] < 0 else ("upper", "falls")
        std, weight = c.get("multiplier_std"), abs(summary["alpha"][side])
        text = f"{abs(change):.2g}" + (f" ± {std * c['scale'] / weight:.1g}" if std is not None else "")
        lines.append(f"{slack} more of slack on {name}: the {bound} bound on I_{side} {verb} by about {text} nats.")
    return lines
