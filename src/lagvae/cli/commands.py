"""What each program does with its config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lagvae.errors import SettingError
from lagvae.experiment.data_profile import describe_likelihood, print_profile, profile_data
from lagvae.experiment.factory import build_data, likelihood_name, load_data
from lagvae.experiment.own_code import trusted_names
from lagvae.experiment.processes import adopt_launcher, validated_processes
from lagvae.experiment.report import print_calibration, print_feasibility
from lagvae.experiment.run import evaluate, found_by_first, make_calibration, resume, train
from lagvae.experiment.validate import validate
from lagvae.io import check_writable
from lagvae.runs.layout import RunFolder
from lagvae.terminal import command


def train_command(cfg: DictConfig) -> None:
    """train: start a new run, resume one, or finish one of a sweep, as a W&B agent or a launcher of Hydra starts it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN or hydra.runtime.choices.get("sweep"):
        from lagvae.sweeps.job import finish_run
        from lagvae.sweeps.sweep_run import compose_run

        finish_run(compose_run(lambda: cfg.copy()))
        return
    refuse_match(cfg)
    if cfg.launcher.dry_run:
        raise SettingError("launcher.dry_run=true prints the plan of a sweep; add -m, or leave it out.")
    if cfg.resume is None:
        train(cfg)
        return
    own = ("resume=", "trust=", "paths.", "trainer", "+trainer")
    others = [o for o in hydra.overrides.task if not o.startswith(own)]
    if others:
        raise SettingError(
            f"resume={cfg.resume} continues with the run's own settings; leave out {', '.join(others)}, or start a new run."
        )
    resume(RunFolder.find(Path(cfg.paths.runs), cfg.resume), trusted_names(cfg.trust), given_trainer(cfg))


def given_trainer(cfg: DictConfig) -> dict[str, Any]:
    """The settings of the trainer that the command line gives: those of an option trainer=NAME, and single ones."""
    from hydra.core.hydra_config import HydraConfig

    words = [str(word).lstrip("+").partition("=")[0] for word in HydraConfig.get().overrides.task]
    settings: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    if "trainer" in words:
        return {key: value for key, value in settings.items() if key != "precision" or "trainer.precision" in words}
    return {key: value for key, value in settings.items() if f"trainer.{key}" in words}


def refuse_match(cfg: DictConfig) -> None:
    """Raise SettingError for `match` outside a sweep."""
    if cfg.match is not None:
        raise SettingError(f"match={cfg.match} is for sweeps: {command('train')} -m sweep=matched match={cfg.match}.")


def calibrate_command(cfg: DictConfig) -> None:
    """calibrate: make the calibration that fits, or find it, and print it."""
    refuse_match(cfg)
    adopt_launcher(cfg)
    with validated_processes(cfg):
        data = build_data(cfg)
        existing = found_by_first(cfg, data)
        print_calibration(*(existing or make_calibration(cfg, data)), fresh=existing is None)


def evaluate_command(cfg: DictConfig) -> None:
    """evaluate: measure and draw a run again."""
    folder = RunFolder.find(Path(cfg.paths.runs), cfg.run)
    evaluate(folder, cfg.checkpoint, trusted_names(cfg.trust), given_trainer(cfg))


def feasible_command(cfg: DictConfig) -> None:
    """feasible: find what bounds the model can meet, and print it."""
    from lagvae.experiment.feasibility import find_feasible

    refuse_match(cfg)
    print_feasibility(*find_feasible(cfg))


def data_command(cfg: DictConfig) -> None:
    """data: say what the data are and what in them is unusual, and draw eight samples."""
    from lagvae.experiment.data_picture import draw_data

    refuse_match(cfg)
    validate(cfg)
    path = Path(cfg.picture).expanduser()
    if path.suffix.lower() != ".png":
        raise SettingError(f"picture={cfg.picture} has the unknown ending {path.suffix!r}; use .png.")
    check_writable(path.parent, "Name another file with picture=FILE.")
    data = load_data(cfg, look=True)
    profile = profile_data(data)
    draw_data(path, data, profile)
    print_profile(profile, data, describe_likelihood(likelihood_name(cfg), data), path)
