"""A saved view and a report of W&B for a project of runs, made of the keys that `lagvae.runs.loggers` names.

What they show is described here without W&B's own objects, so that it can be compared with what runs log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from lagvae.errors import SettingError
from lagvae.runs.loggers import STEP
from lagvae.runs.wandb_comparison import FIGURES, SWEEP
from lagvae.runs.wandb_logger import answers

INSTALL = "pip install -e '.[dashboard]'"

MOST_ASKED = 1000
"""The runs of a project that are asked for their constraints and families, the newest first; others keep W&B's colours."""

Kind = Literal["curves", "points", "bars", "pictures", "table"]

Front = Literal["most", "least"]

TITLE = "Information and constraints"
"""The name of the view and of the report."""


@dataclass(frozen=True)
class Chart:
    """A panel.

    Attributes:
        kind: curves over training steps, points of runs, bars of runs, pictures of runs, or a table that a comparison has.
        x, y: keys that are logged.
        front: of points, the most or the least of y up to an x: "most" for the lower end of I, which maximising runs push up,
            "least" for the upper end, which minimising runs push down.
    """

    title: str
    kind: Kind
    y: tuple[str, ...]
    x: str = STEP
    front: Front | None = None


@dataclass(frozen=True)
class ProjectRuns:
    """What the runs of a project say: the names of their constraints, and the family of each W&B run by its id."""

    constraints: list[str]
    families: dict[str, str]


def charts(constraints: Sequence[str]) -> dict[str, list[Chart]]:
    """Section → its panels, for runs with these constraints.

    Example:
        >>> [chart.title for chart in charts(["neg_elbo"])["Multipliers"]]
        ['λ of neg_elbo', 'Violation of neg_elbo']
    """
    fronts: tuple[tuple[str, Front], ...] = (("lower", "most"), ("upper", "least"))
    ends = [(end, f"final/train/i_q_{end}", front) for end, front in fronts]
    against = [
        Chart(f"I, {end} end, against −ELBO", "points", (key,), "final/train/neg_elbo", front) for end, key, front in ends
    ]
    slack = "constraint/neg_elbo/slack"  # which runs with fixed λ have not
    over = [Chart(f"I, {end} end, over the slack of −ELBO", "points", (key,), slack, front) for end, key, front in ends]
    return {
        "Information": against + (over if "neg_elbo" in constraints else []),
        "Comparisons": [
            Chart("Figures of comparisons", "pictures", tuple(f"figures/{name}" for name in FIGURES)),
            Chart("Runs that are compared", "table", ("pareto",)),
        ],
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


def ask_runs(api: Any, path: str) -> ProjectRuns:
    """What the runs of a project say. SettingError where there is no such project, or no run in it."""
    try:
        newest = api.runs(path, order="-created_at", lazy=False)  # with their settings, in pages instead of one by one
        runs = [run for run in islice(newest, MOST_ASKED) if run.job_type != SWEEP and "constraints" in run.config]
        names = dict.fromkeys(str(name) for run in runs for name in run.config["constraints"])
    except Exception as error:  # W&B's own, of many kinds, where there is no such project
        raise SettingError(
            f"{path} has no runs of lagvae on W&B ({error}). Name a project that has, as ENTITY/PROJECT."
        ) from error
    if not names:
        raise SettingError(f"{path} has no runs with constraints on W&B. Train some with logger=wandb, or upload them.")
    return ProjectRuns(list(names), {str(run.id): str(run.config.get("family")) for run in runs})


def panels(sections: Sequence[Chart]) -> Iterator[Any]:
    """The panels of W&B for charts."""
    import wandb_workspaces.reports.v2 as wr

    for chart in sections:
        if chart.kind == "curves":
            yield wr.LinePlot(title=chart.title, x=chart.x, y=list(chart.y), max_runs_to_show=100)
        elif chart.kind == "points":
            legend = "${run:displayName} ${config:family}"
            yield wr.ScatterPlot(
                title=chart.title,
                x=wr.SummaryMetric(chart.x),
                y=wr.SummaryMetric(chart.y[0]),
                running_ymax=chart.front == "most",
                running_ymin=chart.front == "least",
                legend_template=legend,
            )
        elif chart.kind == "bars":
            yield wr.BarPlot(title=chart.title, metrics=list(chart.y), max_bars_to_show=100)
        elif chart.kind == "table":
            yield wr.WeavePanelSummaryTable(table_name=chart.y[0])
        else:
            yield wr.MediaBrowser(title=chart.title, media_keys=list(chart.y), num_columns=2)


def make_view(entity: str, project: str, constraints: Sequence[str], colours: Mapping[str, str]) -> Any:
    """The view, which is not saved yet; `colours` are those of W&B runs, by id. ImportError where its package is missing."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity,
        project,
        TITLE,
        sections=[
            ws.Section(name, panels=list(panels(shown)), is_open=True) for name, shown in charts(constraints).items() if shown
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(
            pinned_columns=run_columns(constraints)[:5],
            run_settings={run: ws.RunSettings(colour) for run, colour in colours.items()},
        ),
    )


def make_report(entity: str, project: str, constraints: Sequence[str], colours: Mapping[str, str]) -> Any:
    """The report, which is not saved yet: the same panels, with a table of runs. ImportError where its package is missing."""
    import wandb_workspaces.reports.v2 as wr

    shown_as = {run: wr.RunSettings(colour) for run, colour in colours.items()}
    runs = wr.Runset(entity, project, "Runs", visible_columns=run_columns(constraints), run_settings=shown_as)
    blocks: list[Any] = []
    for name, shown in charts(constraints).items():
        if shown:
            blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=list(panels(shown)))]
    return wr.Report(project, entity, TITLE, "Made by lagvae dashboard.", blocks=blocks, width="fluid")


def save_dashboard(path: str, colour: Callable[[Sequence[str]], Mapping[str, str]]) -> tuple[str, str]:
    """Save a view and a report of a project on W&B, and return their addresses.

    Args:
        path: PROJECT, or ENTITY/PROJECT. colour: gives families their colours, in which their runs are drawn.

    Raises: SettingError where there is no key, no such project, or the package is missing.
    """
    import wandb

    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        raise SettingError(f"The dashboard needs the package wandb-workspaces. Get it: {INSTALL}") from error
    if not answers(url := str(wandb.setup().settings.base_url)):
        raise SettingError(f"{url} does not answer. Check the network, or name your own server in WANDB_BASE_URL.")
    owner, _, project = path.rpartition("/")
    try:
        api: Any = wandb.Api()
        entity = owner or str(api.default_entity)
    except Exception as error:  # what W&B answers becomes an error of many kinds
        raise SettingError(
            f"W&B does not let us in ({str(error).splitlines()[0]}). Check the network, or give it a key with wandb login."
        ) from error
    runs = ask_runs(api, f"{entity}/{project}")
    of_family = colour(sorted(set(runs.families.values())))
    colours = {run: of_family[family] for run, family in runs.families.items()}
    view, report = (make(entity, project, runs.constraints, colours) for make in (make_view, make_report))
    try:
        view.save()
        report.save()
    except Exception as error:
        raise SettingError(f"W&B did not save the dashboard of {entity}/{project}: {error}") from error
    return str(view.url), str(report.url)
