"""Matched sweeps: LagVAE with the −ELBO and the MMD that each run of InfoVAE reached as its bounds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import QUICK, Outcome, program, settings
from omegaconf import OmegaConf
from pareto_runs import change, write_run

from lagvae.errors import SettingError
from lagvae.experiment.settings import ComparedSettings, flatten
from lagvae.pareto import analyse, collect
from lagvae.sweeps.matching import match_config, matched_overrides

OTHERS = ("training.steps=6", "training.interval=3", "data.batch=40", "model.latent=3")
"""Settings of the runs of InfoVAE that are not the defaults, nor those of the matched sweep's command."""


def sweep(root: Path, *words: str) -> Outcome:
    machine = ("trainer=cpu", "training.threads=1", "callbacks.figures=false", "launcher.compile=false")
    return program(root, "-m", *machine, *words)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of InfoVAE in runs/pareto, and the runs of LagVAE that are matched with them in runs/matched."""
    root = tmp_path_factory.mktemp("trained")
    infovae = ("family=infovae", "alpha.q=-1,1", "constraints.mmd.multiplier=3", "training.start=calibrated", "seed=4")
    for words in ((*QUICK, *OTHERS, *infovae, "folder=pareto"), ("sweep=matched",)):
        outcome = sweep(root, *words)
        assert outcome.status == 0, outcome.err
    return root


def config(run: Path) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    return dict(content)


def summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return content


def test_a_matched_run_differs_in_nothing_but_its_multipliers_and_bounds(trained: Path) -> None:
    names = sorted(run.name for run in (trained / "runs" / "matched").iterdir() if run.is_dir())
    assert names == ["lagvae-at-infovae-q-1-seed4", "lagvae-at-infovae-q1-seed4"]
    for name in names:
        run = trained / "runs" / "matched" / name
        partner = trained / "runs" / "pareto" / name.removeprefix("lagvae-at-")
        own, other = config(run), config(partner)
        assert own["match"] == other["name"] == f"pareto/{partner.name}"
        assert own["epsilon"] == {"source": "explicit", "calibration": None}
        assert (own["alpha"], own["seed"], own["family"]) == (other["alpha"], other["seed"], "lagvae")
        assert ComparedSettings.of(own, {}).shared == ComparedSettings.of(other, {}).shared
        ours, theirs = flatten(own), flatten(other)
        differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        allowed = ("family", "name", "folder", "label", "match", "epsilon", "multiplier", "constraints")
        assert {key for key in differing if not key.startswith(allowed)} == set()
        assert own["multiplier"]["optimizer"]["steps"] == 6, "an interpolation follows the settings that were taken"
        reached, bounded = summary(partner)["constraints"], summary(run)["constraints"]
        assert bounded["neg_elbo"]["bound"] == reached["neg_elbo"]["train"]
        assert bounded["mmd"]["bound"] == max(reached["mmd"]["train"], 2 * reached["mmd"]["train_stderr"])
        assert all(c["learned"] for c in bounded.values())
    pairs = analyse(collect([trained / "runs" / "pareto", trained / "runs" / "matched"])).pairs
    assert {(pair.lagvae.name, pair.infovae.name) for pair in pairs} == {
        (f"matched/{name}", f"pareto/{name.removeprefix('lagvae-at-')}") for name in names
    }


def test_a_matched_sweep_does_only_what_is_missing(trained: Path, tmp_path: Path) -> None:
    root = shutil.copytree(trained, tmp_path / "root")
    run = root / "runs" / "matched" / "lagvae-at-infovae-q1-seed4"
    before = (run.parent / "lagvae-at-infovae-q-1-seed4" / "summary.json").stat().st_mtime_ns
    shutil.rmtree(run)
    outcome = sweep(root, "sweep=matched")
    assert "2 of 2 runs finished (1 before)" in outcome.out, outcome.err
    assert (run / "summary.json").is_file()
    assert (run.parent / "lagvae-at-infovae-q-1-seed4" / "summary.json").stat().st_mtime_ns == before
    change(root / "runs" / "pareto" / "infovae-q1-seed4" / "summary.json", "constraints.neg_elbo.train", 1.5)
    outcome = sweep(root, "sweep=matched")
    assert outcome.status == 1
    assert "holds a run of another sweep (that run → this run: constraints.neg_elbo.epsilon" in outcome.err


def test_the_bound_on_mmd_is_above_its_noise(trained: Path, tmp_path: Path) -> None:
    root = shutil.copytree(trained, tmp_path / "root")
    run = root / "runs" / "pareto" / "infovae-q1-seed4"
    for value, bound in ((-1e-3, 4e-4), (3e-4, 4e-4), (5e-4, 5e-4)):
        change(run / "summary.json", "constraints.mmd.train", value)
        change(run / "summary.json", "constraints.mmd.train_stderr", 2e-4)
        cfg = match_config(settings(root, f"match={run}", "constraints.mmd.multiplier=7", "data.workers=5"))
        assert cfg.constraints.mmd.epsilon == bound
    assert (cfg.constraints.mmd.multiplier, cfg.data.workers, cfg.data.batch) == (7, 5, 40)
    assert (cfg.constraints.neg_elbo.multiplier, cfg.constraints.neg_elbo.warm_up) == (None, None), "the default of LagVAE"


# ---- which runs are matched, and what is refused


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, family, alpha, seed in (("a b", "infovae", -1.0, 0), ("c", "infovae", 1.0, 1), ("d", "lagvae", 1.0, 1)):
        write_run(tmp_path / "runs" / "pareto" / name, family, alpha, (5.0, 23.0), seed=seed)
    return tmp_path / "runs"


def test_there_is_a_run_for_each_run_of_infovae_and_each_value_of_the_command(runs: Path) -> None:
    grid = {"family": "lagvae"}
    first, second = matched_overrides("pareto", runs, [grid], ["sweep=matched"])
    assert first == [
        *("sweep=matched", "family=lagvae", "name='${folder}/${family}-at-a b${label}'"),
        *(f"match='{runs}/pareto/a b'", "alpha.q=-1.0", "seed=0", "label="),
    ]
    assert matched_overrides("pareto", runs, [grid], ["sweep=matched", "match=pareto", "alpha.q=1"]) == [second]
    assert matched_overrides(str(runs / "pareto" / "c"), runs, [grid], ["sweep=matched"]) == [second]
    several = matched_overrides("pareto", runs, [], ["seed=1", "multiplier=learned,rmsprop"])
    assert [run[-1] for run in several] == ["label=-multiplier_learned", "label=-multiplier_rmsprop"]


@pytest.mark.parametrize(
    "word", ["data=mnist", "training.steps=10", "alpha=maximize", "experiment=paper_mnist", "constraints.neg_elbo.epsilon=3"]
)
def test_a_word_that_the_matched_run_decides_is_refused(runs: Path, word: str) -> None:
    with pytest.raises(SettingError, match=f"{word}: a matched run takes this"):
        matched_overrides("pareto", runs, [], ["sweep=matched", word])


def test_a_matched_sweep_without_finished_runs_of_infovae_says_what_is_missing(runs: Path) -> None:
    with pytest.raises(SettingError, match="'nowhere' is not a folder of runs"):
        matched_overrides("nowhere", runs, [], [])
    with pytest.raises(SettingError, match="there is no run of family=infovae in"):
        matched_overrides("pareto/d", runs, [], [])
    (runs / "pareto" / "c" / "summary.json").unlink()
    with pytest.raises(SettingError, match=r"1 of the 2 runs of family=infovae are not finished: c\. Run the command"):
        matched_overrides("pareto", runs, [], [])


@pytest.mark.parametrize("script", ["train", "calibrate", "feasible", "data"])
def test_matching_is_for_sweeps(tmp_path: Path, script: str) -> None:
    outcome = program(tmp_path, "match=pareto", script=script)
    assert (outcome.status, outcome.new) == (1, set())
    assert "match=pareto is for sweeps: python src/train.py -m sweep=matched match=pareto" in outcome.err
