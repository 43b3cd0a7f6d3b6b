"""Every setting of every option: whether it decides a calibration, an ensemble or a comparison, each against its own list.

The lists here are written by hand and do not follow `lagvae.experiment.settings.RULES`: whoever changes the table has to
change a list here too, and to say why. A key stands for all settings below it; * is any one name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, settings
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from small import ROOT

from lagvae.data import Arrays, DataModule
from lagvae.data.sources import ImageFiles
from lagvae.experiment.calibration import calibration_folder, calibration_settings
from lagvae.experiment.own_code import check_targets
from lagvae.experiment.settings import (
    FOLLOWS,
    RULES,
    Attributes,
    ComparedSettings,
    deciding_settings,
    differences,
    find_rule,
    fingerprint,
    flatten,
    stored_config,
    stored_settings,
)
from lagvae.sweeps import plan
from lagvae.sweeps.plan import ensemble_key, group_runs
from lagvae.sweeps.sweep_run import SweepRun


@pytest.mark.parametrize("store", [stored_settings, lambda cfg: OmegaConf.to_container(stored_config(cfg))])
def test_paths_are_stored_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Callable[[Any], Any]) -> None:
    """So that a stored run works from any working directory; a name that one's own source calls path is no file."""
    monkeypatch.chdir(tmp_path)
    Path("mine.npy").touch()
    for given, stored in {"mine.npy": f"{tmp_path}/mine.npy", "some/name": "some/name", "": ""}.items():
        cfg = settings(Path("there"), "data=array", f"data.source.path={given}")
        assert store(cfg)["data"]["source"]["path"] == stored
        assert store(cfg)["paths"]["runs"] == f"{tmp_path}/there/runs"


NOWHERE = Path("/nowhere")

OF_CRITICS = {"critic.optimizer", "critic.steps"}

CALIBRATED = {
    "trainer.precision",
    "training.gradient_clip",
    "training.average",
    "calibration.steps",
    "calibration.seed",
    "calibration.split",
    "constraints.*.divergence",
    "constraints.*.calibration_weight",
    "model",
    "data.name",
    "data.likelihood",
    "data.batch",
    "data.split_seed",
    "data.val",
    "data.test",
    "data.draws",
    "data.standardize",
    "debug",
} | OF_CRITICS
"""What θ* and ε̂ follow from, beside the samples themselves."""

ELSEWHERE = {
    "name",
    "folder",
    "label",
    "match",
    "resume",
    "trust",
    "paths",
    "logger",
    "launcher",
    "callbacks.figures",
    "training.threads",
    "data.workers",
    "data.allow",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
}
"""What decides about no number."""

OWN_OF_A_MEMBER = {
    "family",
    "seed",
    "alpha",
    "epsilon",
    "multiplier.learned",
    "multiplier.rate",
    "constraints.*.epsilon",
    "constraints.*.gamma",
    "constraints.*.gamma_relative",
    "constraints.*.multiplier",
    "constraints.*.learned",
    "constraints.*.scale",
    "constraints.*.max_multiplier",
    "constraints.*.warm_up",
    "constraints.*.calibration_weight",
    "model.optimizer.lr",
    "data.seed",
    "training.start",
    "calibration",
} | ELSEWHERE
"""What members of one ensemble may have each for itself: batched tensors, other starts, other noise."""

SHARED = {
    "trainer.precision",
    "training.steps",
    "training.start",
    "training.gradient_clip",
    "training.average",
    "calibration",
    "constraints.*.divergence",
    "constraints.*.scale",
    "constraints.*.max_multiplier",
    "constraints.*.calibration_weight",
    "model",
    "data._target_",
    "data.name",
    "data.source._target_",
    "data.source._partial_",
    "data.source.path",
    "data.source.key",
    "data.source.labels",
    "data.source.factors",
    "data.likelihood",
    "data.batch",
    "data.split_seed",
    "data.layout",
    "data.val",
    "data.test",
    "data.draws",
    "data.standardize",
    "callbacks.final.terms",
    *(f"callbacks.final.information.{name}" for name in ("_target_", "_partial_", "samples", "most", "components")),
    *("callbacks.final.information.images", "callbacks.final.information.pairs"),
    "callbacks.lightning",
    "debug",
}
"""What all runs of a comparison must have alike."""

VARIED = {
    "alpha",
    "constraints.*.epsilon",
    "constraints.*.gamma",
    "constraints.*.gamma_relative",
    "constraints.*.multiplier",
    "constraints.*.learned",
}
"""What tells the runs of a method apart."""

PLAIN = ("divergence=[neg_elbo,mmd,rate,distortion,sliced_z]", "alpha.p=0.5")
CRITICS = (
    "divergence=[mmd,kl_x,js_xz,wasserstein_z,symbolic]",
    "data=array",
    "data.source.path=own.npy",
    "model=conv",
    "prior=codes",
    "posterior=codes",
    "likelihood=normal",
    "critic=conv",
    "kernel=imq",
    "multiplier=pi",
    "epsilon=explicit",
    "logger=wandb",
    "launcher=slurm",
    "+callbacks.lightning.stop._target_=pytorch_lightning.callbacks.Timer",
)


@cache
def made_by_hydra(*words: str) -> DictConfig:
    return settings(NOWHERE, *words)


def composed(*words: str) -> Attributes:
    """A config as a user composes it, resolved."""
    found: Attributes = Attributes.of(OmegaConf.to_container(made_by_hydra(*words), resolve=True))
    return found


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, 9]
    return 1 if value is None else f"{value}x"


@contextmanager
def changing(config: Attributes, key: str) -> Iterator[None]:
    """A config in which one setting has another value."""
    *path, last = key.split(".")
    node = config
    for name in path:
        node = node[name]
    before = node[last]
    node[last] = changed(before)
    yield
    node[last] = before


def covers(listed: str, key: str) -> bool:
    """Whether an entry of a list, or a row of the table, stands for a setting."""
    parts, names = listed.split("."), key.split(".")
    return len(parts) <= len(names) and all(p in ("*", name) for p, name in zip(parts, names, strict=False))


def stands_in(key: str, listed: Collection[str]) -> bool:
    return any(covers(each, key) for each in listed)


def wrong(config: Attributes, of: Callable[[Any], Any], listed: Callable[[str], bool]) -> list[str]:
    """The settings whose change does, or does not, change what is made of a config, against what a list says of them."""
    before, found = of(config), []
    for key in flatten(config):
        with changing(config, key):
            found += [key] if (of(config) != before) != listed(key) else []
    assert of(config) == before
    return found


def data_of(x: torch.Tensor, **others: Any) -> DataModule:
    return DataModule(lambda: Arrays(x, **others), name="own", likelihood="normal", batch=4)


DATA = data_of(torch.arange(80.0).reshape(40, 2))


def run_of(config: Mapping[str, Any], **others: Any) -> SweepRun:
    return SweepRun(Attributes.of({**config, **others}))


# ---- calibrations


def calibration_key(config: Any) -> str:
    return fingerprint(calibration_settings(config, DATA))


def test_settings_are_read_of_a_config_of_hydra_as_of_plain_ones() -> None:
    for words in (PLAIN, CRITICS):
        assert calibration_key(made_by_hydra(*words)) == calibration_key(composed(*words))
        assert SweepRun(made_by_hydra(*words)).settings == run_of(composed(*words)).settings


@pytest.mark.parametrize("words", [PLAIN, CRITICS], ids=["plain", "critics"])
def test_a_setting_changes_the_key_of_a_calibration_exactly_if_it_decides_it(words: tuple[str, ...]) -> None:
    listed = CALIBRATED if words == CRITICS else CALIBRATED - OF_CRITICS  # where no critic trains, its optimizer is idle
    assert wrong(composed(*words), calibration_key, lambda key: stands_in(key, listed)) == []


def test_runs_of_a_sweep_that_choose_the_length_of_their_calibration_differ_by_that_of_training() -> None:
    """An automatic length starts from that of training, so that runs of different lengths have different calibrations."""
    runs = [run_of(composed(*PLAIN, "calibration.steps=auto", f"training.steps={n}")) for n in (100, 200)]
    assert plan.calibration_key(runs[0], "data") != plan.calibration_key(runs[1], "data")
    assert calibration_key(runs[0].plain) != calibration_key(runs[1].plain)


@pytest.mark.parametrize("words", [PLAIN, CRITICS], ids=["plain", "critics"])
def test_the_table_says_the_same_of_calibrations(words: tuple[str, ...]) -> None:
    keys = flatten(composed(*words))
    assert [k for k in keys if (rule := find_rule(k)) is None or rule.calibration != stands_in(k, CALIBRATED)] == []


def test_a_calibration_is_of_the_samples_and_not_of_their_source() -> None:
    cfg: Any = composed(*PLAIN)
    x = torch.arange(80.0).reshape(40, 2)
    nudged = x.clone()
    nudged[7, 1] += 1
    key = calibration_folder(cfg, calibration_settings(cfg, DATA))
    assert calibration_folder(cfg, calibration_settings(cfg, data_of(x.clone()))) == key
    second = data_of(x, second=torch.ones(5, 2))
    for other in (
        data_of(nudged),
        data_of(x.flip(0)),
        data_of(x[:-1]),
        data_of(x.reshape(40, 1, 2)),
        data_of(x.byte()),
        second,
    ):
        assert calibration_folder(cfg, calibration_settings(cfg, other)) != key
    tested, retested = data_of(x, test=x[:9]), data_of(x, test=1 + x[:9])
    assert calibration_folder(cfg, calibration_settings(cfg, tested)) == key
    cfg.calibration.split = "test"  # on which ε̂ is then measured
    assert calibration_settings(cfg, tested) != calibration_settings(cfg, retested)


def test_a_calibration_on_images_is_of_their_files_and_their_size(tmp_path: Path) -> None:
    """Images that are read from files are known by what is in the files, and by the shape that the model is given."""
    cfg: Any = composed(*PLAIN)
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file in files:
        Image.new("L", (8, 8), 100).save(file)

    def key(files: list[Path], size: int) -> Path:
        data = DataModule(lambda: Arrays(ImageFiles(files, size, channels=1)), name="own", likelihood="normal", batch=1)
        return calibration_folder(cfg, calibration_settings(cfg, data))

    first = key(files, 8)
    assert key(files, 8) == first
    assert key(files, 4) != first
    assert key(files[:1], 8) != first
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-20] + b"x" + content[-19:])  # the same length under the same name
    assert key(files, 8) != first


def test_a_precision_is_one_however_it_is_written() -> None:
    number, text = (calibration_key(Attributes.of({**composed(*PLAIN), "trainer": {"precision": p}})) for p in (32, "32"))
    assert number == text


# ---- all that has a meaning for a run


def test_what_decides_about_no_number_is_no_part_of_a_run() -> None:
    for words in (PLAIN, CRITICS):
        assert wrong(composed(*words), deciding_settings, lambda key: not stands_in(key, ELSEWHERE)) == []


# ---- ensembles


def test_runs_train_in_one_ensemble_exactly_if_they_may_differ_in_a_setting() -> None:
    """Every setting of a run that can be a member; the optimizer of λ is one for all, too."""
    config = composed(*PLAIN)
    first = run_of(composed(*PLAIN))

    def apart(other: Attributes) -> bool:
        return len(group_runs([first, run_of(other)])) == 2

    assert wrong(config, apart, lambda key: not stands_in(key, OWN_OF_A_MEMBER)) == []


def test_the_table_says_the_same_of_ensembles() -> None:
    keys = {key for words in (PLAIN, CRITICS) for key in flatten(composed(*words))}
    own = OWN_OF_A_MEMBER | {"multiplier.optimizer"}  # told apart by itself: it is idle where nothing is learned
    said = {key: rule.ensemble for key in keys if (rule := find_rule(key)) is not None}
    assert {k: v for k, v in said.items() if v != ("differs" if stands_in(k, own) else "same")} == {}


@pytest.mark.parametrize("p", [-1.0, 0.0, 1.0])
def test_members_have_one_sign_of_the_preference_on_the_model(p: float) -> None:
    """By the sign of α_p another term is computed, so that a graph has one sign."""
    config = composed(*PLAIN)
    runs = [run_of(config, alpha={"q": 1.0, "p": other}, name=str(other)) for other in (p, -2.0, 0.0, 2.0)]
    (together,) = [group for group in group_runs(runs) if runs[0] in group]
    assert [run.plain.alpha.p for run in together] == [p, 2 * p]


def test_members_have_their_constraints_in_one_order() -> None:
    """Bounds, scales and multipliers are vectors over the constraints, which are stacked as they are."""
    config = composed(*PLAIN, "divergence=[neg_elbo,mmd]")
    other = composed(*PLAIN, "divergence=[mmd,neg_elbo]")
    assert len(group_runs([run_of(config, name="one"), run_of(config, name="two", seed=1)])) == 1
    assert len(group_runs([run_of(config, name="one"), run_of(other, name="two", seed=1)])) == 2


@pytest.mark.parametrize("words", [CRITICS, (*PLAIN, "training.average=0.9")], ids=["critics", "average"])
def test_runs_with_a_critic_or_an_average_train_alone(words: tuple[str, ...]) -> None:
    one, two = (run_of(composed(*words), name=name, seed=seed) for seed, name in enumerate(("one", "two")))
    assert ensemble_key(one) != ensemble_key(two)
    assert len(group_runs([one, two])) == 2


# ---- comparisons


def test_who_must_share_a_setting_in_a_comparison() -> None:
    lists = {"shared": SHARED, "own": {"multiplier.optimizer", "constraints.*.warm_up", "training.slacks"}, "varied": VARIED}
    for config in (composed(*PLAIN), composed(*CRITICS)):
        before, found = ComparedSettings.of(config, {}), {}
        for key in flatten(config):
            with changing(config, key):
                after = ComparedSettings.of(config, {})
            decides = [part for part in lists if getattr(after, part) != getattr(before, part)]
            if decides != [part for part, listed in lists.items() if stands_in(key, listed)]:
                found[key] = decides
        assert found == {}


# ---- the table and the options


def own_keys(file: Path) -> list[str]:
    """Where the settings stand in a composed config that an option's file sets, by itself or by a base that it takes."""
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    package = first.removeprefix("# @package ").strip() if first.startswith("# @package ") else file.parent.name
    below = "" if package == "_global_" or file.parent in (ROOT / "conf", ROOT / "sweeps") else package
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    found = list(flatten({key: value for key, value in content.items() if key not in ("defaults", "hydra")}, below))
    for name, _, at in (each.partition("@") for each in content.get("defaults", []) if "@" in str(each)):
        base: Any = OmegaConf.to_container(OmegaConf.load(file.parent / f"{name}.yaml"))
        found += flatten(base, ".".join(filter(None, (below, at))))
    return found


FILES = [*sorted((ROOT / "conf").glob("*/*.yaml")), ROOT / "conf" / "config.yaml", *sorted((ROOT / "sweeps").glob("*.yaml"))]


@pytest.fixture(scope="module")
def keys_of_options() -> set[str]:
    """Every setting that a file of conf/ or sweeps/ sets."""
    return {key for file in FILES for key in own_keys(file) if key}


def test_every_setting_of_every_option_has_a_row(keys_of_options: set[str]) -> None:
    groups = {file.parent.name for file in FILES}
    assert {"family", "data", "model", "divergence", "critic", "kernel", "trainer", "callbacks", "logger", "launcher"} <= groups
    of_options = ("data.", "critic.", "model.", "trainer.")
    placed = {key for key in flatten(composed(*CRITICS)) if key.startswith(of_options)}
    assert placed <= keys_of_options, "a file is read as Hydra reads it"
    keys = keys_of_options | {key for words in (PLAIN, CRITICS) for key in flatten(composed(*words))}
    assert [key for key in sorted(keys) if find_rule(key) is None] == []


def test_every_row_is_of_a_setting_that_there_is(keys_of_options: set[str]) -> None:
    keys = keys_of_options | {key for words in (PLAIN, CRITICS) for key in flatten(composed(*words))}
    assert [row for row in RULES if not any(covers(row, key) for key in keys)] == []


def test_what_the_environment_holds_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that decide about numbers are stored as they were, so that the run can be repeated."""
    monkeypatch.setenv("SECRET", "swordfish")
    monkeypatch.setenv("STEPS", "20")
    cfg = settings(tmp_path, *QUICK, "training.steps=${oc.env:STEPS}", "paths.data=${paths.root}/data")
    cfg.logger = {"wandb": {"token": "${oc.env:SECRET}", "tags": ["a", "x-${logger.wandb.token}"]}}
    cfg.data.source.n = "${oc.decode:${oc.env:STEPS}}"
    stored = stored_config(cfg)
    text = OmegaConf.to_yaml(stored)
    assert "swordfish" not in text
    assert stored.logger.wandb.tags == ["a", "x-swordfish"], "they mean the same"
    plain = OmegaConf.to_container(stored)
    assert plain["training"]["steps"] == plain["data"]["source"]["n"] == 20
    assert plain["paths"]["data"] == f"{tmp_path}/data"
    assert plain["multiplier"]["optimizer"]["steps"] == 20
    check_targets(plain, whole=True)


def test_a_setting_that_nobody_knows_decides_everything() -> None:
    config = composed(*PLAIN)
    more = Attributes.of({**config, "unknown": {"setting": 1}})
    assert calibration_key(more) != calibration_key(config)
    assert len(group_runs([run_of(config), run_of(more)])) == 2
    assert "unknown.setting" in ComparedSettings.of(more, {}).shared


def test_a_setting_that_follows_another_is_left_out_of_what_differs() -> None:
    conf: dict[str, Any] = {}
    for multiplier in ("learned", "rmsprop"):
        conf |= flatten(OmegaConf.to_container(settings(NOWHERE, f"multiplier={multiplier}")))
    assert {key: conf[key] for key in FOLLOWS} == {key: f"${{{source}}}" for key, source in FOLLOWS.items()}
    first, longer, own = (
        deciding_settings(settings(NOWHERE, "seed=1", *words))
        for words in ([], ["training.steps=70", "seed=2"], ["training.steps=70", "multiplier.optimizer.steps=80"])
    )
    steps = first["training.steps"]
    assert differences(first, longer) == ["seed: 1 → 2", f"training.steps: {steps} → 70"]
    assert sorted(differences(first, own)) == [f"multiplier.optimizer.steps: {steps} → 80", f"training.steps: {steps} → 70"]
