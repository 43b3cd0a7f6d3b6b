"""A sweep is a union of grids: which runs a command line asks for, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from small import ROOT

from lagvae.cli.entry import expand_word
from lagvae.divergences import Kernel, MixtureRBF, ReferenceRBF
from lagvae.divergences.mmd import mmd as mmd_estimate
from lagvae.errors import SettingError
from lagvae.sweeps.grid import NAME, expand, run_label, same_value
from lagvae.sweeps.job import SweepJob, redirect_output, train_all
from lagvae.sweeps.progress import SweepProgress
from lagvae.sweeps.sweep_run import SweepRun
from lagvae.sweeps.wandb_sweeps import for_wandb

GRIDS = [
    {"family": "lagvae", "alpha.q": [-1, 1], "c.gamma": [0.1, 0.2, 0.4]},
    {"family": "infovae", "a.m": [1, 2], "b.m": [5, 6]},
]


def grids_of(name: str) -> list[dict[str, object]]:
    sweep = OmegaConf.to_container(OmegaConf.load(ROOT / "sweeps" / f"{name}.yaml"))
    found: list[dict[str, object]] = sweep["hydra"]["sweeper"]["grids"]  # type: ignore[index, call-overload]
    return found


def words(run: list[str]) -> set[str]:
    return {word for word in run if not word.startswith(("label=", "name="))}


def test_a_union_is_the_sum_of_products() -> None:
    found = expand(GRIDS, [])
    assert len(found) == 2 * 3 + 2 * 2
    assert words(found[0]) == {"family=lagvae", "alpha.q=-1", "c.gamma=0.1"}
    assert words(found[-1]) == {"family=infovae", "a.m=2", "b.m=6"}
    assert len({frozenset(run) for run in found}) == len(found)


@pytest.mark.parametrize(
    ("name", "lagvae", "infovae"),
    [("pareto", 28, 48), ("pareto_paper", 26, 32), ("paper", 26, 32), ("figure1", 48, 0), ("seeds", 3, 0)],
)
def test_the_sweeps_have_the_papers_runs(name: str, lagvae: int, infovae: int) -> None:
    found = expand(grids_of(name), [])
    count = sum("family=infovae" in run for run in found)
    assert (len(found) - count, count) == (lagvae, infovae)


def test_the_weights_of_mmd_fit_the_kernel_in_use() -> None:
    """λ₂ · MMD of N(0, 0.64 I) from N(0, I) is the same for the paper's weights, kernel and dimension and for those here.

    E exp(−‖a − b‖²/s) = (1 + 2v/s)^(−d/2) for a − b ∼ N(0, v I), and so MMD² in closed form.
    """

    def mmd(kernel: Kernel, d: int) -> float:
        def mean(v: float) -> float:
            # In d dimensions ‖a − b‖²/scale is v χ²_d / scale; its moment generating function for each exponential in k.
            lengths = getattr(kernel, "lengthscales", [1.0])
            return float(sum((1 + 2 * v / (kernel.scale(d) * length**2)) ** (-d / 2) for length in lengths) / len(lengths))

        return mean(2 * 0.64) + mean(2) - 2 * mean(1.64)

    ours, papers = (next(g for g in grids_of(name) if g["family"] == "infovae") for name in ("pareto", "pareto_paper"))
    key, d = "constraints.mmd.multiplier", 16
    assert papers[key] == [1000, 2000, 5000, 10000]
    for weight, paper in zip(ours[key], papers[key], strict=True):  # type: ignore[call-overload]
        harshness = weight * mmd(MixtureRBF(), d) / (paper * mmd(ReferenceRBF(), 64))
        assert 0.9 < harshness < 1.2, "rounded to whole numbers"
    generator = torch.Generator().manual_seed(0)
    z, w = (torch.randn(4000, d, generator=generator, dtype=torch.float64) * scale for scale in (0.8, 1.0))
    # The standard deviation of the estimate over such samples is 5e-4.
    assert abs(float(mmd_estimate(z, w, MixtureRBF())) - mmd(MixtureRBF(), d)) < 4 * 5e-4


LAGVAE = [{"family=lagvae", f"alpha.q={q}", f"c.gamma={gamma}"} for q in (-1, 1) for gamma in (0.1, 0.2, 0.4)]
INFOVAE = [{"family=infovae", f"a.m={a}", f"b.m={b}"} for a in (1, 2) for b in (5, 6)]


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        (["c.gamma=0.2"], [LAGVAE[1], LAGVAE[4], *INFOVAE]),  # of the grid that sweeps it, those that it names; the other stays
        (["c.gamma=0.20"], [LAGVAE[1], LAGVAE[4], *INFOVAE]),  # a number is a number however it is written
        (["c.gamma=0.1,0.4", "alpha.q=1"], [LAGVAE[3], LAGVAE[5], *INFOVAE]),
        (["family=infovae"], INFOVAE),
        (["family=infovae", "a.m=2"], INFOVAE[2:]),
        (["other=3"], [run | {"other=3"} for run in LAGVAE + INFOVAE]),  # a word for all
        (["other=3,4"], [run | {other} for run in LAGVAE + INFOVAE for other in ("other=3", "other=4")]),  # several multiply
        (["seed=0,1,2"], [run | {f"seed={seed}"} for run in LAGVAE + INFOVAE for seed in range(3)]),
    ],
)
def test_a_word_filters_or_multiplies(typed: list[str], left: list[set[str]]) -> None:
    assert [words(run) for run in expand(GRIDS, typed)] == left


@pytest.mark.parametrize("typed", ["c.learned=true", "c.learned=True"])
def test_a_word_filters_a_grid_by_true_or_false_in_any_spelling(typed: str) -> None:
    grids = [{"c.learned": learned, "k": k} for learned in (True, False) for k in (1, 2)]
    assert [words(run) for run in expand(grids, [typed])] == [{"c.learned=true", "k=1"}, {"c.learned=true", "k=2"}]


@pytest.mark.parametrize("typed", ["c.gamma=0.3", "alpha.q=-1,2", "family=vae"])
def test_a_word_that_picks_no_run_is_refused_with_the_values_there_are(typed: str) -> None:
    with pytest.raises(SettingError, match="selects no run: the sweep has"):
        expand(GRIDS, [typed])


@pytest.mark.parametrize(
    ("grid", "message"),
    [({"a": []}, "a has no values"), (["a"], "a grid is KEY: VALUE"), ({"a": [{"b": 1}]}, "use numbers and names")],
)
def test_a_grid_that_is_none_is_refused(grid: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        expand([grid], [])  # type: ignore[list-item]


def test_names_tell_runs_apart_and_do_not_depend_on_the_filter() -> None:
    labels = [next(w for w in run if w.startswith("label=")) for run in expand(GRIDS, [])]
    assert labels[0] == "label=-q-1-gamma0.1"
    assert labels[-1] == "label=-a2-b6", "keys that end alike are told apart by what comes before"
    filtered = [next(w for w in run if w.startswith("label=")) for run in expand(GRIDS, ["alpha.q=-1", "c.gamma=0.1"])]
    assert filtered[0] == labels[0]
    assert "label=-model_conv" in expand([], ["model=mlp,conv"])[1]


@pytest.mark.parametrize("word", ["model.latent=glob(*)", "family=glob(v*)", "seed=interval(1,3)"])
def test_what_is_no_list_of_values_is_refused(word: str) -> None:
    with pytest.raises(SettingError, match=re.escape(f"{word}: a sweep needs single values; list them")):
        expand([], [word])


def test_a_label_may_have_letters_of_any_language() -> None:
    """Hydra reads the word that the sweep makes of a path, and two paths have two names."""
    runs = expand([], ["data.source.path='/tmp/ä/x.npy','/tmp/ö/x.npy'"])
    words = [next(word for word in run if word.startswith("label=")) for run in runs]
    labels = [override.value() for override in OverridesParser.create().parse_overrides(words)]
    assert [str(label) for label in labels] == ["-path_tmp_ä_x.npy", "-path_tmp_ö_x.npy"]


@pytest.mark.parametrize(
    ("pairs", "label"),
    [
        ({"family": "vae", "seed": "1"}, ""),
        ({"alpha.q": "-1", "data.batch": "64"}, "-q-1-batch64"),
        ({"constraints.a.gamma": ".5", "constraints.b.gamma": "+2"}, "-a.5-b+2"),
        ({"steps": "5", "training.steps": "7"}, "-steps5-training7"),  # what has no part before it keeps its own
        ({"likelihood": "normal", "model.hidden": "[8, 4]", "x": "'a b'"}, "-likelihood_normal-hidden8_4-x_a_b"),
    ],
)
def test_a_label_has_the_shortest_keys_that_differ(pairs: dict[str, str], label: str) -> None:
    assert run_label(pairs) == label


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [("1", "1.0", True), ("1", "2", False), ("True", "true", True), ("'mlp'", "mlp", True), ("MLP", "mlp", False)],
)
def test_words_mean_the_same_in_any_spelling(a: str, b: str, same: bool) -> None:
    assert same_value(a, b) is same


def test_a_name_that_is_given_stays() -> None:
    assert not any(NAME in run for run in expand(GRIDS, ["name=mine"]))
    assert words(expand([{"name": "mine", "a": 1}], [])[0]) == {"a=1"}
    assert NAME not in expand([{"name": "mine", "a": 1}], [])[0]


def test_an_agent_of_wandb_starts_the_same_runs() -> None:
    values = for_wandb("x", GRIDS)["parameters"]["overrides"]["values"]
    assert [expand_word(f"overrides={value}") for value in values] == expand(GRIDS, [])
    assert expand_word("seed=1") == ["seed=1"]


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_files_for_wandb_are_up_to_date(file: Path) -> None:
    if "match" in OmegaConf.load(file):
        assert not (file.parent / "wandb" / file.name).exists(), "its runs are not known yet"
        return
    written = OmegaConf.to_container(OmegaConf.load(file.parent / "wandb" / file.name))
    assert written == for_wandb(file.stem, grids_of(file.stem)), "run python src/wandb_sweeps.py"


def test_progress_is_written_twice_a_second_and_when_it_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("lagvae.sweeps.job.time", SimpleNamespace(monotonic=lambda: clock.now))
    job, written = SweepJob(tmp_path), []
    assert job.read_progress() == {}
    for steps, seconds, now in (
        (1, 0.0, False),
        (2, 0.3, False),
        (3, 0.3, False),
        (4, 0.1, True),
        (5, 0.4, False),
        (6, 0.2, False),
    ):
        clock.now += seconds
        job.report_progress(steps, 7, "a note", **({"now": True} if now else {}))
        written.append(job.read_progress()["steps"])
    assert written == [1, 1, 3, 4, 4, 6]
    assert job.read_progress() == {"steps": 6, "evaluated": 7, "note": "a note"}
    (tmp_path / "progress.json").write_text('{"steps": ')
    assert job.read_progress() == {}, "another process writes it"


def test_a_job_counts_the_runs_that_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were finished before count from the start, those that failed in training at the end, dropped ones never."""
    plain = SimpleNamespace(training=SimpleNamespace(steps=10))
    runs: Any = [
        SimpleNamespace(name=name, finished=name in "ax", dropped=name == "x", trained=False, plain=plain) for name in "axbcd"
    ]
    monkeypatch.setattr("lagvae.sweeps.ensemble_training.train_in_chunks", lambda *given: {"b": "diverged"})
    monkeypatch.setattr(
        "lagvae.sweeps.job.evaluate_all",
        lambda waiting, processes: ((r.name, "no" if r.name == "d" else None) for r in waiting),
    )
    job, told = SweepJob(tmp_path), []
    monkeypatch.setattr(job, "report_progress", lambda steps, evaluated, note="", now=False: told.append((steps, evaluated)))
    assert train_all(job, runs, {}) == {"b": "diverged", "d": "no"}
    assert told == [(40, 1), (40, 2), (40, 3), (40, 4)]


def test_a_run_that_is_a_job_by_itself_has_all_threads_and_says_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several are evaluated at once, each on one thread and in silence."""
    plain = SimpleNamespace(training=SimpleNamespace(steps=10))
    run: Any = SimpleNamespace(name="a", finished=False, dropped=False, trained=False, plain=plain, cfg=None)
    monkeypatch.setattr("lagvae.sweeps.job.finish_run", lambda run: print(f"{run.name} has {torch.get_num_threads()} threads"))
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert train_all(SweepJob(tmp_path), [run], {}) == {}
    finally:
        torch.set_num_threads(before)
    assert capsys.readouterr().out == f"a has {before + 1} threads\n"


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        ([{"steps": 12, "evaluated": 0, "note": "2 at once"}], (12, "0/2 runs  step 6/10  2 at once")),
        ([{"steps": 20, "evaluated": 1, "note": ""}], (25, "1/2 runs  step 10/10")),
        ([{}], (0, "0/2 runs  0 training steps in all")),
        (
            [{"steps": 20, "evaluated": 2, "note": "b"}, {"steps": 1200, "evaluated": 0, "note": "a"}],
            (1230, "2/4 runs  1,220 training steps in all  a  b"),
        ),
    ],
)
def test_progress_of_a_sweep_is_that_of_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: list[dict[str, Any]], shown: tuple[float, str]
) -> None:
    """An evaluation counts as half of a training."""
    jobs = []
    for k, written in enumerate(progress):
        job = SweepJob(tmp_path / str(k))
        job.folder.mkdir()
        if written:
            job.report_progress(**written, now=True)
        jobs.append((job, [SweepRun({"training": {"steps": 10}})] * 2))
    whole, said = SweepProgress(jobs, calibrating=True), []
    assert whole.total == 30 * len(jobs)
    monkeypatch.setattr(whole.bar, "update", lambda done, note: said.append((done, note)))
    whole.refresh()
    assert said == [], "while it calibrates there is nothing to count"
    whole.start_training()
    assert (whole.bar.title, whole.bar.total) == ("Training", whole.total)
    whole.refresh()
    assert said == [shown]


def test_progress_is_shown_while_a_job_writes_to_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = SweepJob(tmp_path)
    runs = [SweepRun({"training": {"steps": 10}})] * 2
    progress = SweepProgress([(job, runs)], calibrating=False)
    with redirect_output(tmp_path / "log.txt"):
        job.report_progress(steps=10, evaluated=0, now=True)
        progress.refresh()
    assert "step 5/10" in capsys.readouterr().err
    assert "step" not in (tmp_path / "log.txt").read_text(encoding="utf-8")
