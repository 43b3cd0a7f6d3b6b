"""A saved view and a report of W&B for a project of runs, made of the keys that `lagvae.runs.loggers` logs.

What they show is described here without W&B's own objects, so that it can be compared with what runs log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lagvae.errors import SettingError
from lagvae.runs.loggers import STEP
from lagvae.runs.wandb_comparison import SWEEP

INSTALL = "pip install -e '.[dashboard]'"

MOST_ASKED = 50
"""The runs of a project of which the names of constraints are asked for."""

Kind = Literal["curves", "points", "bars", "pictures"]

TITLE = "Information and constraints"
"""The name of the view and of the report."""


@dataclass(frozen=True)
class Chart:
    """A panel.

    Attributes:
        kind: curves over training steps, points of runs, bars of runs, or pictures of runs.
        y: keys that are logged. x: that of points, which may be a setting, as config:constraints.neg_elbo.gamma.
    """

    title: str
    kind: Kind
    y: tuple[str, ...]
    x: str = STEP


def charts(constraints: Sequence[str]) -> dict[str, list[Chart]]:
    """Section → its panels, for runs with these constraints.

    Example:
        >>> [chart.title for chart in charts(["neg_elbo"])["Multipliers"]]
        ['λ of neg_elbo', 'Violation of neg_elbo']
    """
    ends = [(end, f"final/train/i_q_{end}") for end in ("lower", "upper")]
    against = [Chart(f"I, {end} end, against −ELBO", "points", (key,), "final/train/neg_elbo") for end, key in ends]
    slack = "config:constraints.neg_elbo.gamma"
    over = [Chart(f"I, {end} end, over the slack of −ELBO", "points", (key,), slack) for end, key in ends]
    return {
        "Information": against + (over if "neg_elbo" in constraints else []),
        "Verdicts": [
            Chart(f"How far {name} is above its bound", "bars", (f"constraint/{name}/violation",)) for name in constraints
        ],
        "Training": [
            Chart("−ELBO", "curves", ("train_probe/neg_elbo", "val/neg_elbo")),
            Chart("Rate and distortion", "curves", ("train_probe/rate", "train_probe/distortion")),
            Chart("Information", "curves", ("train_probe/i_q_lower", "train_probe/i_q_upper")),
        ],
        "Multipliers": [
            chart
            for name in constraints
            for chart in (
                Chart(f"λ of {name}", "curves", (f"train/multiplier/{name}",)),
                Chart(f"Violation of {name}", "curves", (f"train/violation/{name}",)),
            )
        ],
        "Pictures": [Chart("Samples and reconstructions", "pictures", ("figures/samples", "figures/reconstructions"))],
    }


def run_columns(constraints: Sequence[str]) -> list[str]:
    """The columns of the table of runs, as W&B names them: results with errors, bounds and verdicts."""
    results = [f"final/train/{name}{part}" for name in ("neg_elbo", "i_q_lower", "i_q_upper") for part in ("", "_stderr")]
    bounds = [f"constraint/{name}/{key}" for name in constraints for key in ("bound", "divergence", "multiplier", "verdict")]
    return ["run:displayName", "config:family.value", *(f"summary:{key}" for key in ("verdict", *results, *bounds))]


def constraints_of(api: Any, path: str) -> list[str]:
    """The names of the constraints of a project's runs. SettingError where there is no such project, or no run in it."""
    try:
        names = dict.fromkeys(
            str(name)
            for run, _ in zip(api.runs(path), range(MOST_ASKED), strict=False)
            if run.job_type != SWEEP
            for name in run.config["constraints"]
        )
    except Exception as error:  # as W&B's own when there is no project, or KeyError when its runs are of other programs
        raise SettingError(
            f"{path} has no runs of lagvae on W&B ({error}). Name a project that has, as ENTITY/PROJECT."
        ) from error
    if not names:
        raise SettingError(f"{path} has no runs with constraints on W&B. Train some with logger=wandb, or upload them.")
    return list(names)


def panels(sections: Sequence[Chart]) -> Iterator[Any]:
    """The panels of W&B for charts."""
    import wandb_workspaces.reports.v2 as wr

    for chart in sections:
        if chart.kind == "curves":
            yield wr.LinePlot(title=chart.title, x=chart.x, y=list(chart.y), max_runs_to_show=100)
        elif chart.kind == "points":
            name = chart.x.removeprefix("config:")
            x = wr.Config(name) if name != chart.x else wr.SummaryMetric(name)
            legend = "${run:displayName} ${config:family}"
            yield wr.ScatterPlot(
                title=chart.title, x=x, y=wr.SummaryMetric(chart.y[0]), running_ymax=True, legend_template=legend
            )
        elif chart.kind == "bars":
            yield wr.BarPlot(title=chart.title, metrics=list(chart.y), max_bars_to_show=100)
        else:
            yield wr.MediaBrowser(title=chart.title, media_keys=list(chart.y), num_columns=2)


def make_view(entity: str, project: str, constraints: Sequence[str]) -> Any:
    """The view, which is not saved yet. ImportError where its package is missing."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity,
        project,
        TITLE,
        sections=[
            ws.Section(name, panels=list(panels(shown)), is_open=True) for name, shown in charts(constraints).items() if shown
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(pinned_columns=run_columns(constraints)[:5]),
    )


def make_report(entity: str, project: str, constraints: Sequence[str]) -> Any:
    """The report, which is not saved yet: the same panels, with a table of runs. ImportError where its package is missing."""
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(entity, project, "Runs", visible_columns=run_columns(constraints))
    blocks: list[Any] = []
    for name, shown in charts(constraints).items():
        if shown:
            blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=list(panels(shown)))]
    return wr.Report(project, entity, TITLE, "Made by lagvae dashboard.", blocks=blocks, width="fluid")


def save_dashboard(path: str) -> tuple[str, str]:
    """Save a view and a report of a project, PROJECT or ENTITY/PROJECT, on W&B, and return their addresses.

    Raises: SettingError where there is no key, no such project, or the package is missing.
    """
    import wandb

    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        raise SettingError(f"The dashboard needs the package wandb-workspaces. Get it: {INSTALL}") from error
    owner, _, project = path.rpartition("/")
    try:
        api: Any = wandb.Api()
        entity = owner or str(api.default_entity)
    except Exception as error:  # what W&B answers becomes an error of many kinds
        raise SettingError(
            f"W&B does not let us in ({str(error).splitlines()[0]}). Check the network, or give it a key with wandb login."
        ) from error
    constraints = constraints_of(api, f"{entity}/{project}")
    view, report = make_view(entity, project, constraints), make_report(entity, project, constraints)
    try:
        view.save()
        report.save()
    except Exception as error:
        raise SettingError(f"W&B did not save the dashboard of {entity}/{project}: {error}") from error
    return str(view.url), str(report.url)
