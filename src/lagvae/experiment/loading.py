"""Load a trained model from a run folder, a checkpoint or an export, without its data and without its calibration."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from lagvae import __version__
from lagvae.data.tables import Table
from lagvae.errors import CheckpointError, LagvaeError, SettingError
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.export import DESCRIPTION, read_export
from lagvae.experiment.factory import assemble_joint, assemble_model, build_lagrangian, instantiate
from lagvae.experiment.fit import check_weights, read_content
from lagvae.experiment.own_code import check_targets
from lagvae.experiment.run import check_settings, read_config
from lagvae.experiment.schema import check_moved
from lagvae.experiment.settings import BUILT, changed_settings
from lagvae.front import Front
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder, clone_root
from lagvae.terminal import command


def load(
    run_or_checkpoint: str | os.PathLike[str], map_location: str | torch.device = "cpu", trust: Sequence[str] = ()
) -> LatentVariableModel:
    """Load a trained model, in eval mode, without its data and without its calibration.

    A checkpoint holds the settings that the model is built from. They run no code of others: `_target_` may name classes of
    lagvae, and networks, optimizers and schedules of torch, Lightning, torchmetrics and torchvision.

    Args:
        run_or_checkpoint: a run folder, whose last.ckpt is loaded; the name of one under runs/, or "latest"; a .ckpt file; or a
            folder that `lagvae.export` wrote.
        map_location: the device of the model.
        trust: prefixes of further names that `_target_` may have, such as ("mypackage.",) for a network of your own.

    Warns: UserWarning for a run that has not finished, or that ended with a bound that is not met.

    Raises: CheckpointError for a run without a checkpoint, and for one that is damaged, of another model, or without settings;
        SettingError for a `_target_` that is not trusted, and for a device that is not there.

    Examples:
        >>> import lagvae
        >>> model = lagvae.load("latest")
        >>> x = model.sample(5, seed=0)
        >>> model.encode(x).shape, model.log_prob(x).shape
        (torch.Size([5, 16]), torch.Size([5]))
    """
    model, caution = load_with_caution(run_or_checkpoint, map_location, trust)
    if caution is not None:
        warnings.warn(caution, stacklevel=2)
    return model


def load_with_caution(
    run_or_checkpoint: str | os.PathLike[str], map_location: str | torch.device = "cpu", trust: Sequence[str] = ()
) -> tuple[LatentVariableModel, str | None]:
    """`load`, with what it would warn of."""
    path = find_checkpoint(os.fspath(run_or_checkpoint))
    content = read_export(path.parent) if path.name == DESCRIPTION else read_content(path)
    origin = content["lagvae"] if "lagvae" in content else origin_of_run(path, content, trust)
    check_own_run(path, origin)
    model = rebuild(path, origin, trust)
    check_weights(path, content, model)
    model.load_state_dict(content["state_dict"])
    model.origin = origin | curve_of_run(path, model)
    try:
        return model.to(map_location).eval(), caution_about(path, content.get("global_step"), origin["config"])
    except (RuntimeError, AssertionError, TypeError) as error:  # torch without CUDA raises the second
        reason = (str(error).splitlines() or [repr(error)])[0].rstrip(".:")
        raise SettingError(
            f"map_location={map_location} cannot be used ({reason}). Name one device of this machine; leave it out for the CPU."
        ) from error


def curve_of_run(path: Path, model: LatentVariableModel) -> dict[str, Any]:
    """The curve that the run of a checkpoint has measured of its front, under "curve"; {} where there is none."""
    folder = RunFolder(path.absolute().parent.parent)
    if not isinstance(model, Front) or path.absolute() != folder.last or not folder.finished:
        return {}
    return {"curve": folder.read_summary().get("curve")}


def caution_about(path: Path, step: int | None, config: Mapping[str, Any]) -> str | None:
    """What a user of a checkpoint in the folder of a run should know: that the run has not finished, or a bound is not met."""
    folder = RunFolder(path.absolute().parent.parent)
    if path.absolute().parent != folder.checkpoints or not folder.config.is_file():
        return None
    if not folder.finished:
        of = "" if step is None else f", and this is its model after step {step} of {config['training']['steps']}"
        return (
            f"{folder.path} has not finished{of}: whether its bounds are met was not measured. If it no longer trains, go on "
            f"with {command('train')} resume={folder.path}"
        )
    summary = folder.read_summary()
    if summary["verdict"].startswith(("met", "unconstrained")):
        return None
    return " ".join([f'{folder.path} ended with the verdict "{summary["verdict"]}".', *summary["messages"]])


def check_own_run(path: Path, origin: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a checkpoint in the folder of a run with other settings, as another run of a sweep has."""
    folder = RunFolder(path.absolute().parent.parent)
    if path.absolute().parent != folder.checkpoints or not folder.config.is_file():
        return
    try:
        config: Any = OmegaConf.to_container(read_config(folder))
        differing = changed_settings(origin["config"], config, more=False)
    except (CheckpointError, KeyError, TypeError, AttributeError):  # a checkpoint says all that is needed, if it is whole
        return
    check_settings(path, differing)


def rebuild(path: Path, origin: Mapping[str, Any], trust: Sequence[str]) -> LatentVariableModel:
    """The model of a checkpoint with initial weights.

    Args:
        path: of the checkpoint, for messages. origin: its settings, and what it says of the data and of the bounds.
    """
    written = ""
    try:
        if origin["version"] != __version__:
            versions = f"lagvae {origin['version']}, and this is {__version__}"
            written = f" It was written by {versions}: install that version, or train the run again."
        check_moved(OmegaConf.create(origin["config"]), "it")
        settings = {key: origin["config"][key] for key in BUILT}
        check_targets(settings, trust)
        cfg = OmegaConf.create(settings)
        for name, bound in origin["bounds"].items():
            cfg.constraints[name].epsilon = bound
        shape = tuple(origin["shape"])
        # Building a model sets the seed of torch's generators, which the caller may be using.
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices):
            table = None if origin.get("table") is None else Table.from_dict(origin["table"])
            joint = assemble_joint(cfg, shape, origin["likelihood"], lambda: torch.empty(0, *origin["second"]), table)
            kept = origin.get("calibration")
            calibration = None if kept is None else Calibration(**kept, splits={}, settings={})
            return assemble_model(cfg, joint, build_lagrangian(cfg, calibration), shape, origin.get("attribute"))
    except LagvaeError as error:
        raise type(error)(f"{path}: {error}{written}") from error
    except Exception as error:  # a damaged record can raise almost any exception
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise CheckpointError(f"{path} has settings that no model can be built from ({reason}).{written}") from error


def find_checkpoint(which: str) -> Path:
    """The checkpoint that a user named: a file, or the last one of a run. Raises CheckpointError where there is none."""
    runs = Path(os.environ.get("LAGVAE_ROOT") or clone_root() or ".").absolute() / "runs"
    for place in (Path(which).expanduser(), runs / which):
        for file in (place, RunFolder(place).last, place / DESCRIPTION):
            if file.is_file():
                return file
    if which.endswith(".ckpt"):
        raise CheckpointError(f"There is no checkpoint {which}.")
    folder = RunFolder.find(runs, which)
    raise CheckpointError(f"There is no {folder.last}. {folder.checkpoint_cure}")


def origin_of_run(path: Path, content: Mapping[str, Any], trust: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint of an earlier version does not hold: the settings from the folder of its run, the shape from its data.

    Raises: CheckpointError where the folder or the data are missing.
    """
    folder = RunFolder(path.absolute().parent.parent)
    if "EnsembleCheckpoint" in content.get("callbacks", {}):
        raise CheckpointError(f"{path} holds a whole ensemble that is still training. Load the folder of one of its runs.")
    if not folder.config.is_file():
        raise CheckpointError(
            f"{path} does not hold the settings of its model. If an earlier version wrote it, load it in the folder of its "
            "run. If the model was built in Python, build its parts again and pass them, as in "
            "LatentVariableModel.load_from_checkpoint(file, joint=joint, lagrangian=lagrangian, primal=primal)."
        )
    config: Any = OmegaConf.to_container(read_config(folder), resolve=True)
    check_targets({"data": config.get("data")}, trust, whole=True)
    try:
        data = instantiate(OmegaConf.create(config["data"]))
        second = data.second("train")
        found = {
            "shape": list(data.shape),
            "likelihood": data.likelihood,
            "second": None if second is None else second.shape[1:],
        }
    except Exception as error:  # a damaged config can raise almost any exception
        raise CheckpointError(
            f"An earlier version wrote {path}, without the shape of the data, so that this once the data are needed: {error} "
            "Provide them, or train the run again."
        ) from error
    return {"version": "0.1.0 or earlier", "config": config, "bounds": {}} | found
