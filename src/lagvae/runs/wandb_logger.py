"""A logger of Weights & Biases for a run."""

from __future__ import annotations

import contextlib
import json
import netrc
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pytorch_lightning.loggers import WandbLogger

from lagvae.io import write_atomically
from lagvae.ranks import launched_rank
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import STEP, RunLogger, close, flat_results, folder_of_sweep, wandb_tags
from lagvae.terminal import print_note

WANDB_MODES = ("online", "offline", "disabled", "shared")
"""What WandbLogger takes as its mode."""

PATIENCE = 3.0
"""Seconds in which a W&B server must answer; W&B itself would wait for a minute and a half in every run."""

UPLOAD = 30.0
"""Seconds in which W&B must have uploaded what is left of a run at its end, ten minutes with artifacts. Where the server has
become out of reach W&B itself would wait for hours. WANDB_FINISH_TIMEOUT in the environment takes precedence."""

WANDB_ANSWER = "LAGVAE_WANDB"
"""The variable of the environment with what a program found out, host and mode, for the processes that it starts."""

MINIMISED = tuple(f"{split}/neg_elbo" for split in ("train", "train_probe", "val"))
"""Keys whose smallest value W&B keeps beside the last one."""


def has_key(host: str = "api.wandb.ai") -> bool:
    """Whether a W&B login is configured, where W&B looks for it; the key itself is not read."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return host in netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False


def answers(url: str, patience: float = PATIENCE) -> bool:
    """Whether a server answers, by way of a proxy where the environment names one. Any answer counts, also a refusal."""
    heard = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(url, timeout=patience).close()
            heard.set()

    asking = threading.Thread(target=ask, daemon=True)  # the look-up of a name takes as long as it likes
    asking.start()
    asking.join(patience)
    return heard.is_set()


def wandb_mode() -> str:
    """The mode of W&B: WANDB_MODE, else online where there is a login and the server answers, and else offline.

    The server is asked once for all runs of a command on a machine: the answer is handed on in the environment.
    """
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    host, _, mode = os.environ.get(WANDB_ANSWER, "").partition(" ")
    if host != socket.gethostname():
        import wandb

        given = os.environ.get("WANDB_BASE_URL")
        url = given or str(wandb.setup().settings.base_url)
        mode = "offline"
        if has_key(urlsplit(url).hostname or url) or (given is None and has_key()):
            if answers(url):
                mode = "online"
            else:
                print_note(f"{url} does not answer: W&B works offline. Upload later with wandb sync.")
        os.environ[WANDB_ANSWER] = f"{socket.gethostname()} {mode}"
    return mode


def disable_telemetry() -> None:
    """Turn off the telemetry of W&B's next process, which sends it even offline and waits for an answer before it ends.

    W&B reads its environment once, and warns of what changes later, so this must be called first. A value of
    WANDB_ERROR_REPORTING in the environment takes precedence.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def wandb_file(run: RunFolder) -> Path:
    """The file with the id of the W&B run of a run folder."""
    return run.path / "wandb" / "id"


def wandb_id(run: RunFolder) -> str:
    """The id of the W&B run of a run folder, made at the first call, so that a resumed run continues its W&B run.

    An agent of W&B has chosen the id of the run that it starts.
    """
    file = wandb_file(run)
    of_agent = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    if of_agent is not None or not file.is_file():

        def write(part: Path) -> None:
            part.write_text(of_agent or token_hex(6), encoding="utf-8")

        write_atomically(file, write)
    return file.read_text(encoding="utf-8").strip()


class RunWandbLogger(RunLogger, WandbLogger):
    """Lightning's logger of W&B for a run: the results go to the summary of its W&B run, which ends with them.

    Args:
        run: the folder of the run. config: its settings. artifacts: whether to store its checkpoints and calibration as well.
        settings: what WandbLogger and wandb.init take. With reinit="create_new" several may be open in a process, as those of
            an ensemble are; all of them use one process of W&B.

    A W&B run without a server cannot be gone on with: when its run is resumed, a second one gets all rows from before, and the
    former is put into wandb/former, where `wandb sync` does not look, so that it uploads one that is whole.

    The run does not depend on W&B: where its process ends, killed for memory perhaps, or where its server gets out of reach,
    a note says so and training goes on.

    Attributes:
        open: the logger of a run that trains alone whose W&B run has not ended, in this process. lost: whether W&B's process
            has ended before this run. noted: whether a note has said so since the last W&B run began. together: whether several
            may be open. unreachable: whether an upload has not ended in time: the others of an ensemble then leave theirs to
            the end of the process, which waits once for all.
    """

    open: ClassVar[RunWandbLogger | None] = None
    noted: ClassVar[bool] = False
    unreachable: ClassVar[bool] = False
    lost = False

    def __init__(self, run: RunFolder, config: Mapping[str, Any], artifacts: bool = False, **settings: Any) -> None:
        super().__init__(config=config, **settings)
        self._wandb_init.pop("anonymous", None)  # Lightning gives it to W&B, which warns of it whatever its value
        self.run, self.settings, self.artifacts = run, config, artifacts
        self.together = settings.get("reinit") == "create_new"
        if launched_rank() > 0:
            return
        if RunWandbLogger.open is not None:  # an error that nobody foresaw has ended its run
            close(RunWandbLogger.open, failed=True)
        wandb_run: Any = self.experiment  # connects now rather than during training
        RunWandbLogger.noted = False
        if not self.together:
            RunWandbLogger.open = self
        for key in MINIMISED:
            wandb_run.define_metric(key, step_metric=STEP, summary="min,last")
        if wandb_run.resumed:
            self.known_to = int(wandb_run.summary.get(STEP, self.known_to))
        if wandb_run.offline:
            put_aside(run.path / "wandb", str(wandb_run.id), Path(wandb_run.settings.sync_dir))
        run.follow(self.finish)

    def write(self, row: dict[str, Any], step: int | None) -> None:
        """Log a row to W&B."""
        self._try(WandbLogger.log_metrics, row, step)

    def log_hyperparams(self, params: Any) -> None:  # type: ignore[override]
        self._try(WandbLogger.log_hyperparams, params)

    def log_image(self, key: str, images: list[Any], **options: Any) -> None:  # type: ignore[override]
        self._catch_up()
        self.save()  # an image belongs to the last row
        self._try(WandbLogger.log_image, key, images, **options)

    def _try(self, method: Callable[..., None], *given: Any, **options: Any) -> None:
        """Call a method of WandbLogger, as long as W&B's process is there."""
        if self.lost:
            return
        try:
            method(self, *given, **options)
        except wandb_process_errors() as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Go on without W&B, whose process has ended. The next run begins with a new one."""
        self.lost = True
        if not RunWandbLogger.noted:
            RunWandbLogger.noted = True
            print_note(
                f"W&B has ended ({str(error) or type(error).__name__}). The run goes on without it; metrics.csv has all values."
            )
            forget_wandb_process()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Put the results into the summary of the W&B run, and end it. The run itself does not fail where W&B does."""
        import wandb

        RunWandbLogger.open = None
        if self.lost:
            return
        wandb_run: Any = self.experiment
        try:
            try:
                self._catch_up()
                self.save()
                wandb_run.summary.update(flat_results(summary))
                if self.artifacts:
                    self._store_files(wandb_run, summary)
            finally:
                self._end_upload()
        except wandb_process_errors() as error:
            self._lose(error)
        except (wandb.errors.Error, OSError, ValueError) as error:
            print_note(f"W&B did not take all results of {self.run.path}: {error}")

    def end(self, failed: bool) -> None:
        """End the W&B run. It must have ended before another process goes on with it."""
        if RunWandbLogger.open is self:
            RunWandbLogger.open = None
        self.finalize("failed" if failed else "success")
        self._try(lambda logger: logger._end_upload(int(failed)))

    def _end_upload(self, exit_code: int = 0) -> None:
        """End the W&B run. What is not uploaded in time is left to `wandb sync`, and later runs of the command work offline."""
        wandb_run: Any = self.experiment
        if RunWandbLogger.unreachable and self.together and not wandb_run.offline:
            return
        try:
            wandb_run.finish(exit_code=exit_code)
            return
        except TimeoutError:
            RunWandbLogger.unreachable = True
        os.environ[WANDB_ANSWER] = f"{socket.gethostname()} offline"
        print_note(
            "W&B does not answer any more: what is left of the run is not uploaded, and later runs are logged offline. "
            f"Upload it with wandb sync {wandb_run.settings.sync_dir}."
        )

    def _store_files(self, wandb_run: Any, summary: Mapping[str, Any]) -> None:
        """Store the checkpoints, with the config.yaml that makes a run of them, and the calibration."""
        files = [self.run.config, *sorted(self.run.checkpoints.glob("*.ckpt"))]
        store(wandb_run, f"model-{wandb_run.id}", "model", self.run.path, files)
        if (folder := calibration_of(summary, Path(self.settings["paths"]["calibrations"]))) is not None:
            store(wandb_run, folder.name, "calibration", folder, [folder / "calibration.json", folder / "theta.pt"])


def forget_wandb_process() -> None:
    """Let go of W&B's process, which has ended: the next W&B run begins with a new one, and none is missed at exit."""
    import wandb

    with contextlib.suppress(*wandb_process_errors()):
        wandb.teardown()
    wandb.run = None  # else Lightning takes it for the W&B run of the next run


def wandb_process_errors() -> tuple[type[Exception], ...]:
    """What W&B raises where its process has ended."""
    from wandb.sdk.mailbox import MailboxClosedError

    return ConnectionError, MailboxClosedError


def put_aside(folder: Path, wandb_id: str, present: Path) -> None:
    """Move the W&B runs of an id that have no server, except the present one, to where `wandb sync` does not look."""
    for former in sorted(folder.glob(f"offline-run-*-{wandb_id}")):
        if former.name != present.name:
            (folder / "former").mkdir(exist_ok=True)
            former.rename(folder / "former" / former.name)


def store(wandb_run: Any, name: str, kind: str, folder: Path, files: Iterable[Path]) -> None:
    """Log files, under their names in a folder, as one artifact."""
    import wandb

    artifact = wandb.Artifact(name, kind)
    for file in files:
        artifact.add_file(str(file), str(file.relative_to(folder)))
    wandb_run.log_artifact(artifact)


def calibration_of(summary: Mapping[str, Any], calibrations: Path) -> Path | None:
    """The folder of the calibration that the bounds of a run come from, known by its values; None where there is none."""
    values = {name: c["calibrated"] for name, c in summary["constraints"].items() if c["calibrated"] is not None}
    for file in sorted(calibrations.glob("*/calibration.json")) if values else ():
        with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError):  # damage is another run's trouble
            if values.items() <= json.loads(file.read_text(encoding="utf-8"))["calibrated"].items():
                return file.parent
    return None


def build_wandb_logger(run: RunFolder, config: Any, mode: str | None = None, **settings: Any) -> RunWandbLogger:
    """A logger of W&B that writes to the run's folder; it works offline if there is no login or the server does not answer.

    Runs of a sweep are a group, families are job types, and `wandb_tags` are added to tags of the user's.

    Args:
        settings: those of the logger; what is None is as if it were not given.
    """
    import wandb

    disable_telemetry()
    mode = mode or wandb_mode()
    given = {key: value for key, value in settings.items() if value is not None}
    settings = {
        "save_dir": str(run.path),
        "settings": patient_settings(bool(given.get("artifacts"))),
        "id": wandb_id(run),
        "resume": "allow",
        "group": folder_of_sweep(config),
        "job_type": config.get("family"),
    } | given
    tags = given.get("tags", ())
    mine = [str(tag) for tag in ([tags] if isinstance(tags, str) else tags) if tag is not None]
    settings["tags"] = list(dict.fromkeys([*wandb_tags(config), *mine]))
    try:
        return RunWandbLogger(run, config, mode=mode, **settings)
    except (wandb.errors.CommError, wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
        if mode == "offline":
            raise
        print_note(f"W&B works offline: {str(error).splitlines()[0]}. Upload later with wandb sync.")
        os.environ[WANDB_ANSWER] = f"{socket.gethostname()} offline"  # for the other runs of this command
        if wandb.setup().most_recent_active_run is None:
            wandb.teardown()  # else W&B holds on to the id of the run that did not start
        return RunWandbLogger(run, config, mode="offline", **settings)


def patient_settings(artifacts: bool = False) -> Any:
    """Settings of W&B with which the end of a W&B run raises TimeoutError where its upload takes longer than `UPLOAD`."""
    import wandb

    patience = wandb.setup().settings.finish_timeout or UPLOAD * (20 if artifacts else 1)
    return wandb.Settings(quiet=True, finish_timeout=patience, finish_timeout_raises=True)
