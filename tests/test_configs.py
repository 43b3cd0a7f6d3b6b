"""Configs: every option composes with every other one, and what a user may type on a command line."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import files, made_up, program, settings, write_cifar10, write_dsprites, write_mnist
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image
from small import ROOT
from yaml import YAMLError

from lagvae.cli import hydra_speed
from lagvae.cli.entry import expand_word, register
from lagvae.cli.hydra_speed import yaml_loader
from lagvae.data import DataModule
from lagvae.errors import SettingError
from lagvae.experiment import factory
from lagvae.experiment.calibration import uses_attribute
from lagvae.experiment.factory import WARM_UP, WARM_UP_START, build_data, build_lagrangian, build_model
from lagvae.experiment.validate import validate
from lagvae.sweeps.composer import Composer
from lagvae.sweeps.grid import expand as sweep_cells
from lagvae.sweeps.plan import check_runs, validate_runs
from lagvae.sweeps.sweep_run import SweepRun, compose_run, to_config

CONF = ROOT / "conf"


def options(group: str) -> list[str]:
    """The options of a group, but for the logger of a package that may not be installed."""
    left_out = {"mlflow"} if find_spec("mlflow") is None else set()
    return sorted({file.stem for file in (CONF / group).glob("*.yaml")} - left_out)


GROUPS = ("family", "data", "model", "multiplier", "kernel", "epsilon", "alpha", "trainer", "logger")
OPTIONS = {group: options(group) for group in GROUPS}
Row = dict[str, str]

PAIRED = ("cyclegan", "discogan")
FAMILIES: dict[str, tuple[set[str], float, str, bool, str]] = {
    "aae": ({"js_z"}, -1.0, "none", False, "scratch"),
    "wae_gan": ({"js_z"}, -1.0, "none", False, "scratch"),
    "wae_mmd": ({"mmd"}, -1.0, "none", False, "scratch"),
    "vae_gan": ({"neg_elbo", "js_x"}, 0.0, "none", False, "scratch"),
    "avb": ({"adversarial_neg_elbo"}, 0.0, "none", False, "scratch"),
    "vmi": (set(), 0.0, "none", False, "scratch"),
    "infogan": ({"js_x"}, 0.0, "none", False, "scratch"),
    "ali": ({"js_xz"}, 0.0, "none", False, "scratch"),
    "bigan": ({"js_xz"}, 0.0, "none", False, "scratch"),
    "alice": ({"js_xz"}, -1.0, "none", False, "scratch"),
    "cyclegan": ({"js_x", "js_z"}, -1.0, "none", False, "scratch"),
    "discogan": ({"js_x", "js_z"}, -1.0, "none", False, "scratch"),
    "asvae": ({"kl_xz"}, 0.0, "none", False, "scratch"),
    "vae": ({"neg_elbo"}, 0.0, "none", False, "scratch"),
    "beta_vae": ({"neg_elbo"}, 3.0, "none", False, "scratch"),
    "beta_tcvae": ({"neg_elbo", "total_correlation"}, 0.0, "none", False, "scratch"),
    "sigma_vae": ({"neg_elbo"}, 0.0, "none", False, "scratch"),
    "dip_vae": ({"neg_elbo", "covariance"}, 0.0, "none", False, "scratch"),
    "factor_vae": ({"neg_elbo", "adversarial_total_correlation"}, 0.0, "none", False, "scratch"),
    "infovae": ({"neg_elbo", "mmd"}, -1.0, "none", False, "scratch"),
    "lagvae": ({"neg_elbo", "mmd"}, -1.0, "calibrated", True, "calibrated"),
    "front": ({"neg_elbo", "mmd"}, -1.0, "calibrated", True, "calibrated"),
    "controllable_fair": ({"neg_elbo", "attribute_information"}, 0.0, "none", True, "scratch"),
    "geco": ({"distortion"}, 1.0, "explicit", True, "scratch"),
    "target_rate": ({"rate"}, -1.0, "explicit", True, "scratch"),
}


PLAIN = {"model": "mlp", "multiplier": "fixed", "kernel": "mixture", "epsilon": "explicit", "alpha": "none", "trainer": "cpu"}
BASES: list[Row] = [
    {**PLAIN, "logger": "csv", "family": family, "data": data}
    for family, data in (("vae", "digits"), ("cyclegan", "digits_pairs"), ("vmi", "digits"))
]
BASES += [BASES[0] | {"multiplier": "learned"}]
"""Rows that build: of one domain, of two, without a divergence, with a learned λ. A pair builds where it has a place in one."""


def all_pairs() -> list[Row]:
    """Rows of options so that any two options of different groups stand together in one that builds, where they can.

    Greedy: a row is a base with a pair that is still missing, and takes in each further group the option that adds most
    and leaves it what it is; one that cannot build takes any, so that it holds many pairs that cannot.
    """
    pairs = [(a, x, b, y) for a, b in itertools.combinations(GROUPS, 2) for x, y in itertools.product(OPTIONS[a], OPTIONS[b])]
    missing = dict.fromkeys(pairs)
    rows = []
    for builds in (True, False):
        for a, x, b, y in pairs:
            starts = [base | {a: x, b: y} for base in BASES]
            row = next((each for each in starts if (refused(each) is None) == builds), None)
            if (a, x, b, y) not in missing or row is None:
                continue
            for group in GROUPS:
                if group not in (a, b):
                    fitting = [o for o in OPTIONS[group] if (refused(row | {group: o}) is None) == builds]
                    row[group] = max(fitting, key=lambda o: sum(pair in missing for pair in with_option(row, group, o)))
            for pair in with_option({}, "", "", row):
                missing.pop(pair, None)
            rows.append(row)
    return rows


def with_option(row: Row, group: str, option: str, whole: Row | None = None) -> Iterator[tuple[str, str, str, str]]:
    """The pairs that an option adds to a row, or all pairs of a whole row; in the order of GROUPS."""
    if whole is not None:
        yield from ((a, whole[a], b, whole[b]) for a, b in itertools.combinations(GROUPS, 2))
        return
    for other in row.keys() - {group}:
        a, b = sorted((group, other), key=GROUPS.index)
        yield (a, option if a == group else row[a], b, option if b == group else row[b])


@pytest.fixture(scope="session")
def own_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of every kind in a folder: the files of MNIST and Fashion-MNIST, a user's array, table and images, all made up."""
    root = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(root / "data", name, train=400, test=40)
    np.save(root / "own.npy", generator.random((300, 1, 8, 8), dtype="f4"))
    np.savetxt(root / "own.csv", generator.random((300, 5)), delimiter=",", header="a,b,c,d,e", comments="")
    write_cifar10(root / "data", n=70)
    write_dsprites(root / "sprites.npz", n=300)
    (root / "images").mkdir()
    for i in range(200):
        pixels = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
    return root


@pytest.fixture(autouse=True, scope="module")
def _data_read_once() -> Iterator[None]:
    """Data with the same settings are read once for all rows."""
    load, read = factory.load_data, dict[str, DataModule]()

    def load_once(cfg: DictConfig) -> DataModule:
        key = OmegaConf.to_yaml(cfg.data, resolve=True) + str(uses_attribute(cfg))
        read[key] = read.get(key) or load(cfg)
        return read[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "load_data", load_once)
        yield


def spelled(row: Row, root: Path) -> list[str]:
    """A row as a user would type it, with what its options ask for; on the CPU, so that it builds on any machine."""
    words = [f"{group}={option}" for group, option in row.items() if (group, option) != ("trainer", "gpu")]
    words += ["trainer.accelerator=cpu"]
    words += {
        "array": [f"data.source.path={root}/own.npy"],
        "folder": [f"data.source.path={root}/images", "data.source.size=8"],
        "table": [f"data.source.path={root}/own.csv"],
        "dsprites": [f"data.source.path={root}/sprites.npz"],
    }.get(row["data"], [])
    if row["epsilon"] == "explicit":
        words += [f"constraints.{name}.epsilon=1.5" for name in FAMILIES[row["family"]][0]]
    return words


LABELLED = ("digits", "digits_pairs", "mnist", "fashion_mnist", "cifar10", "dsprites")
"""Data with labels, which are the attribute u of controllable_fair."""

RATE = r"the rate KL\(q\(z\|x\)‖p\(z\)\), which"


def refused(row: Row) -> str | None:
    """What makes a row impossible, or None; where several things do, any of them may be told."""
    family, divergences = row["family"], FAMILIES[row["family"]][0]
    told = {
        "a learned multiplier needs a bound": row["epsilon"] == "none" and row["multiplier"] != "fixed" and divergences,
        "use model=mlp": (row["model"] == "conv" and row["data"] in ("linear_gaussian", "table")) or row["model"] == "square",
        "one device": row["trainer"] == "ddp" and any(d.startswith(("js", "kl", "adv", "attribute")) for d in divergences),
        "prior=data takes z from a second domain": family in PAIRED and row["data"] != "digits_pairs",
        "which Generator does not have": row["alpha"] == "maximize" and family in ("ali", "bigan", "infogan"),
        RATE: row["alpha"] == "minimize" and family in ("aae", "wae_gan", "avb", "vmi", "infogan", "bigan"),
    }
    told["has no attribute u"] = family == "controllable_fair" and row["data"] not in LABELLED
    told["training.slacks needs"] = family == "front" and (row["multiplier"] == "fixed" or row["epsilon"] == "none")
    if row["alpha"] == "minimize" and family in PAIRED:
        told[RATE] = True
    told["too small to estimate a covariance in 64 dimensions"] = family == "avb" and row["model"] == "mlp_paper"
    if family in PAIRED and row["data"] == "digits_pairs" and row["model"] == "square":
        told["use model=mlp"] = False
    return "|".join(reason for reason, holds in told.items() if holds) or None


ROWS = all_pairs()


def test_the_rows_hold_all_pairs() -> None:
    """Those of a row that builds, wherever there is one: a pair that no base takes is refused in every row."""
    pairs = {pair for row in ROWS for pair in with_option({}, "", "", row)}
    assert len(pairs) == sum(len(OPTIONS[a]) * len(OPTIONS[b]) for a, b in itertools.combinations(GROUPS, 2))
    assert all(len(options) > 1 for options in OPTIONS.values())
    assert all(refused(base) is None for base in BASES)
    building = [row for row in ROWS if refused(row) is None]
    built = {pair for row in building for pair in with_option({}, "", "", row)}
    # One domain with model=square: 23 families and 9 data sets; model=conv without images: 2. A critic on several devices: 13.
    # Two domains with other data: 2 × 9. A preference that the model has not: 8 families to minimise, 3 to maximise.
    # model=square, which only two domains take, with several devices, or with a preference to minimise: 2. And AVB, whose 64
    # draws are too few for 64 latent dimensions: 1. A front without a bound, or with a multiplier that is given: 2. An
    # attribute of data without labels: 4.
    assert len(pairs - built) == 2 + 23 + 9 + 2 + 13 + 2 * 9 + 8 + 3 + 2 + 1 + 4
    assert len(building) > 0.8 * len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row.values()))
def test_every_pair_of_options_builds_its_model(own_files: Path, row: Row) -> None:
    cfg = settings(own_files, *spelled(row, own_files))
    if (reason := refused(row)) is not None:
        with pytest.raises(SettingError, match=reason):
            build(cfg)
        return
    model = build(cfg)
    assert cfg.family == row["family"]
    assert cfg.data.name == row["data"]
    assert [c.name for c in model.lagrangian.configured] == list(cfg.constraints)
    for c in model.lagrangian.configured:
        weighted = row["family"] == "controllable_fair" and c.name == "neg_elbo"  # by the preset
        assert c.learned == (row["multiplier"] != "fixed" and not weighted)
        stated = cfg.constraints[c.name].epsilon is not None  # by the preset
        assert (c.bound is None) == (row["epsilon"] == "none" and not stated)
    optimizers = model.configure_optimizers() if cfg.model.schedule is None else model.configure_optimizers()[0]
    constraints = model.lagrangian.constraints
    assert len(optimizers) == 1 + any(c.learned for c in constraints) + any(
        c.divergence.critic is not None for c in constraints
    )


def build(cfg: DictConfig):  # type: ignore[no-untyped-def]
    validate(cfg)
    data = build_data(cfg)
    return build_model(cfg, data, made_up(cfg) if cfg.epsilon.source == "calibrated" else None)


def test_every_experiment_builds_its_model(own_files: Path) -> None:
    assert options("experiment")
    for name in options("experiment"):
        build(settings(own_files, f"experiment={name}"))


# ---- families


def test_families_are_their_settings(tmp_path: Path) -> None:
    assert FAMILIES.keys() == set(OPTIONS["family"])
    for family, expected in FAMILIES.items():
        cfg = settings(tmp_path, f"family={family}")
        found = (set(cfg.constraints), cfg.alpha.q, cfg.epsilon.source, cfg.multiplier.learned, cfg.training.start)
        assert found == expected, family


def test_a_command_line_outdoes_the_family(tmp_path: Path) -> None:
    words = ["family=vae", "divergence=[mmd,neg_elbo]", "alpha=minimize", "multiplier=rmsprop", "epsilon=calibrated"]
    cfg = settings(tmp_path, *words, "kernel=imq", "alpha.p=0.5", "training.start=calibrated")
    assert list(cfg.constraints) == ["mmd", "neg_elbo"]
    assert (cfg.alpha.q, cfg.alpha.p) == (1.0, 0.5)
    assert cfg.multiplier.optimizer._target_ == "torch.optim.RMSprop"
    assert cfg.constraints.mmd.divergence.kernel._target_ == "lagvae.divergences.IMQ"
    assert all(c.learned for c in cfg.constraints.values())
    assert (cfg.epsilon.source, cfg.training.start) == ("calibrated", "calibrated")


# ---- constraints on a command line


def test_a_number_for_one_bound_leaves_the_others_calibrated(tmp_path: Path) -> None:
    cfg = settings(tmp_path, "constraints.mmd.epsilon=1e-3", "constraints.neg_elbo.gamma=0.25")
    validate(cfg)
    lagrangian = build_lagrangian(cfg, made_up(cfg, 20.0))
    assert {c.name: c.bound for c in lagrangian.constraints} == {"neg_elbo": 20.25, "mmd": 1e-3}


def test_a_slack_may_be_a_share(tmp_path: Path) -> None:
    cfg = settings(tmp_path, "constraints.mmd.gamma=0.5")
    assert [c.bound for c in build_lagrangian(cfg, made_up(cfg, 20.0)).constraints] == [20 + 1.5, 20 + 0.5 * 20]


@pytest.mark.parametrize("words", [["~constraints.mmd"], ["divergence=[neg_elbo]"], ["divergence=[mmd]", "~constraints.mmd"]])
def test_a_constraint_may_be_dropped(tmp_path: Path, words: list[str]) -> None:
    cfg = settings(tmp_path, *words)
    assert list(cfg.constraints) == ([] if len(words) == 2 else ["neg_elbo"])
    if cfg.constraints:
        validate(cfg)
        assert build_lagrangian(cfg, made_up(cfg)).names == ["neg_elbo"]


def test_a_constraint_may_be_added(tmp_path: Path) -> None:
    cfg = settings(tmp_path, "divergence=[neg_elbo,mmd,rate]", "constraints.rate.epsilon=3")
    validate(cfg)
    lagrangian = build_lagrangian(cfg, made_up(cfg))
    assert lagrangian.names == ["neg_elbo", "mmd", "rate"]
    assert lagrangian.constraints[2].bound == 3.0


@pytest.mark.parametrize("name", options("divergence"))
def test_every_divergence_is_a_constraint(tmp_path: Path, name: str) -> None:
    cfg = settings(tmp_path, f"divergence=[{name}]", f"constraints.{name}.epsilon=1", "training.start=scratch")
    validate(cfg)
    assert build_lagrangian(cfg, None).names == [name]


def test_a_critic_compares_the_variables_that_its_name_says(tmp_path: Path) -> None:
    expected = {f"{kind}_{over}": over for kind in ("js", "kl", "wasserstein") for over in ("x", "z", "xz")}
    cfg = settings(
        tmp_path, f"divergence=[{','.join(expected)}]", "constraints.js_x.divergence.f=hellinger", "constraints.kl_z.scale=2"
    )
    assert {name: c.divergence.over for name, c in cfg.constraints.items()} == expected
    assert [name for name, c in cfg.constraints.items() if c.divergence.get("f") == "hellinger"] == ["js_x"]
    assert [name for name, c in cfg.constraints.items() if c.scale == 2] == ["kl_z"], "constraints do not share settings"


def test_one_multiplier_may_be_fixed_among_learned_ones(tmp_path: Path) -> None:
    cfg = settings(tmp_path, "constraints.mmd.learned=false", "constraints.mmd.multiplier=500")
    validate(cfg)
    found = build_lagrangian(cfg, made_up(cfg)).constraints
    assert [(c.learned, c.multiplier) for c in found] == [(True, WARM_UP_START), (False, 500.0)]


@pytest.mark.parametrize(
    ("words", "start", "warm_up"),
    [
        (("alpha=maximize",), WARM_UP_START, round(WARM_UP * 3000)),
        (("alpha=minimize",), 1.0, 0),
        (("alpha=maximize", "multiplier=fixed", "epsilon=none"), 1.0, 0),
        (("alpha=maximize", "constraints.neg_elbo.multiplier=3", "constraints.neg_elbo.warm_up=0.1"), 3.0, 300),
        (("alpha=minimize", "constraints.neg_elbo.warm_up=0.1"), 1.0, 300),
        (("alpha=maximize", "constraints.neg_elbo.epsilon=-1e3"), WARM_UP_START, 0),  # below ε̂: there is no time to lose
    ],
)
def test_a_learned_multiplier_starts_low_and_stays_low_for_a_while_where_information_is_maximised(
    tmp_path: Path, words: tuple[str, ...], start: float, warm_up: int
) -> None:
    cfg = settings(tmp_path, "training.steps=3000", *words)
    calibration = None if "epsilon=none" in words else made_up(cfg)
    (c, *_) = (c for c in build_lagrangian(cfg, calibration).constraints if c.name == "neg_elbo")
    assert (c.multiplier, c.warm_up_steps) == (start, warm_up)


# ---- sweeps


SWEEPS = sorted(file.stem for file in (ROOT / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("name", SWEEPS)
def test_every_run_of_a_sweep_composes_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    sweep: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "sweeps" / f"{name}.yaml"))
    words = sweep_cells(sweep["hydra"]["sweeper"]["grids"], [f"sweep={name}"])
    named = [tuple(word for word in each if word.startswith(("family=", "label=", "seed="))) for each in words]
    assert len(set(named)) == len(named), "two runs would share a folder"
    some = [*words[:-1:8], words[-1]]
    found = [SweepRun(to_config(OmegaConf.to_container(settings(tmp_path, *each), resolve=True))) for each in some]  # type: ignore[arg-type]
    check_runs(found)
    for each in (found[0], found[-1]):
        validate(each.cfg)
        assert each.name.startswith(f"{name}/")


def test_a_sweep_is_known_to_the_program_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (SWEEPS[0], SWEEPS[-1]):
        said = program(tmp_path, f"sweep={name}")
        assert (said.status, said.err) == (1, f"Error: sweep={name} is many runs: add -m.\n")
    assert files(tmp_path) == set()


@pytest.fixture
def own_sweeps(tmp_path: Path) -> Iterator[Path]:
    """A folder whose sweeps Hydra knows, instead of the project's."""

    def known(name: str, text: str) -> None:
        (tmp_path / "sweeps" / f"{name}.yaml").write_text(text)

    (tmp_path / "sweeps").mkdir()
    known("odd", "a: [1")
    known("bare", "[1, 2]")
    known("short", "training: {steps: 7}")
    register(tmp_path)
    yield tmp_path / "sweeps"
    register(ROOT)


def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(words))


def test_a_damaged_sweep_is_named_and_disturbs_no_other_run(own_sweeps: Path) -> None:
    for name, reason in (("odd", "cannot be read"), ("bare", "holds no settings")):
        with pytest.raises(SettingError, match=rf"sweeps/{name}\.yaml {reason}"):
            composed(f"sweep={name}")
    assert composed().folder == "sweep"
    assert composed("sweep=short").folder == "short"


def test_a_sweep_is_read_again_when_its_file_has_changed(own_sweeps: Path) -> None:
    cfg = composed("sweep=short")
    assert cfg.training.steps == 7
    cfg.training.steps = 9
    assert composed("sweep=short").training.steps == 7
    (own_sweeps / "short.yaml").write_text("training: {steps: 8}")
    os.utime(own_sweeps / "short.yaml", ns=(0, 0))
    assert composed("sweep=short").training.steps == 8


# ---- what is composed once


@pytest.mark.parametrize(
    "words",
    [
        ["seed=1", "family=infovae", "constraints.mmd.multiplier=7", "alpha=minimize"],
        ["alpha={q: -2, p: 1}", "constraints.mmd={scale: 3}"],  # a dict sets values, even of a key that names a group
        ["divergence=[neg_elbo,mmd,rate]", "constraints.rate.epsilon=3", "~constraints.mmd"],
        ["~callbacks", "+model.optimizer.eps=1e-6", "hydra.job.name=other"],
        ["logger=tensorboard", "name='${folder}/${family}-${seed}'"],
    ],
)
def test_runs_of_the_same_options_share_what_hydra_composes(words: list[str]) -> None:
    """A run is composed from the options of one before it, and is what Hydra composes of all its words."""
    loaded = list[list[str]]()

    def load(overrides: list[str]) -> DictConfig:
        loaded.append(overrides)
        return composed(*overrides)

    composer = Composer(load, lambda key: (CONF / key).is_dir())
    composer.compose([*words, "training.steps=9", "calibration.steps=8"])
    found = composer.compose([*words, "training.steps=7"])
    assert len(loaded) == 1
    assert OmegaConf.to_container(found) == OmegaConf.to_container(composed(*words, "training.steps=7"))


@pytest.mark.parametrize(
    "words",
    [
        ["alpha.q=-1", "seed=3", "label=-q-1", "name='${folder}/${family}${label}-seed${seed}'"],  # data.seed follows seed
        ["name=one", "training.steps=7", "constraints.neg_elbo.gamma=0.5", "model.latent=3", "data.likelihood=normal"],
        ["name=one", "multiplier=rmsprop", "multiplier.rate=1", "model.schedule=null", "data.batch=32"],
        ["name=one", "paths.root=there", "data.name=mine", "alpha={q: 2}", "alpha.p=1"],
    ],
)
def test_a_run_of_a_template_is_the_run_that_hydra_composes(words: list[str]) -> None:
    """Whatever another run with the same keys was set to before it."""
    register(ROOT)
    composer = Composer(lambda overrides: composed(*overrides), lambda key: (CONF / key).is_dir())
    other = [f"{key}=8" if re.fullmatch(r"-?\d+", value) else f"{key}={value}" for key, _, value in map(parts, words)]
    first, run = composer.run(other), composer.run(words)
    assert run.stored == compose_run(lambda: composed(*words)).stored
    assert first.stored == compose_run(lambda: composed(*other)).stored != run.stored


def parts(word: str) -> tuple[str, str, str]:
    return word.partition("=")


def test_a_template_keeps_references_to_the_environment_and_reads_through_them(monkeypatch: pytest.MonkeyPatch) -> None:
    register(ROOT)
    monkeypatch.setenv("RUNS", "/elsewhere")
    composer = Composer(lambda overrides: composed(*overrides), lambda key: (CONF / key).is_dir())
    for seed in (1, 2):
        run = composer.run(["paths.runs='${oc.env:RUNS}/mine'", f"seed={seed}", f"name=run{seed}"])
        assert run.stored["paths"]["runs"] == "${oc.env:RUNS}/mine"
        assert str(run.folder.path) == f"/elsewhere/mine/run{seed}"
        assert run.cfg.data.seed == seed
        assert run.cfg.paths.runs == "/elsewhere/mine"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("constraints.mmd.gamma=-1", "constraints.mmd.gamma=-1"),
        ("model.optimizer.lr=-1", "model.optimizer does not work"),
        ("constraints.neg_elbo.max_multiplier=-1", "neg_elbo"),
        ("data.batch=none", "data.batch"),
        ("training.start=here", "training.start"),
    ],
)
def test_what_is_wrong_in_the_last_of_many_runs_is_found(wrong: str, message: str) -> None:
    """Although nearly all that it shares with the valid runs before it is not built again."""
    register(ROOT)
    composer = Composer(lambda overrides: composed(*overrides), lambda key: (CONF / key).is_dir())
    key = wrong.partition("=")[0]
    right = OmegaConf.select(composed(), key)
    runs = [composer.run([f"{key}={right}", f"seed={seed}", f"name=run{seed}"]) for seed in (0, 1)]
    with pytest.raises(SettingError, match=f"run2: .*{re.escape(message)}"):
        validate_runs([*runs, composer.run([wrong, "seed=2", "name=run2"])])
    validate_runs(runs)


def test_a_file_of_a_config_is_parsed_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And options may still refer to those of other groups."""
    write = {
        "config": "defaults: [network: wide, optimizer: '${network}']",
        "network/wide": "width: 9",
        "optimizer/wide": "rate: 1",
    }
    for name, text in write.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    parse, parsed = OmegaConf.load, list[str]()
    monkeypatch.setattr(OmegaConf, "load", lambda file: (parsed.append(Path(file.name).stem), parse(file))[1])

    def own() -> Any:
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            return compose("config")

    assert own() == {"network": {"width": 9}, "optimizer": {"rate": 1}}
    cfg = own()
    cfg.network.width = 1
    assert own() == {"network": {"width": 9}, "optimizer": {"rate": 1}}
    assert sorted(each for each in parsed if each in ("config", "wide")) == ["config", "wide", "wide"]
    (tmp_path / "network" / "wide.yaml").write_text("width: 8")
    os.utime(tmp_path / "network" / "wide.yaml", ns=(0, 0))
    assert own().network.width == 8


def test_a_part_of_a_config_is_as_it_was_read_however_often_it_was_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    register(ROOT)
    monkeypatch.setattr("lagvae.cli.hydra_speed._merged", {})
    first = OmegaConf.to_container(composed("family=vae"))
    composed("family=cyclegan", "data=digits_pairs", "model=conv", "alpha=minimize", "trainer=ddp")
    monkeypatch.setattr("lagvae.cli.hydra_speed._merged", {})
    assert OmegaConf.to_container(composed("family=vae")) == first


@pytest.mark.parametrize("words", [(), ("family=infogan", "data=mnist", "debug=fast", "logger=[wandb,csv]"), ("sweep=pareto",)])
def test_a_config_is_the_one_that_hydra_makes(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With all flags, and the same twice: what is kept of the first time is used the second time."""
    made = []
    for _ in range(2):
        register(ROOT)
        monkeypatch.setattr("lagvae.cli.hydra_speed._merged", {})
        made.append(composed(*words))
    for ours, hydras in (("load_config", "_load_config"), ("load_part", "_load_part"), ("merge", "_merge")):
        monkeypatch.setattr(hydra_speed, ours, getattr(hydra_speed, hydras))
    register(ROOT)
    theirs = composed(*words)
    monkeypatch.undo()
    register(ROOT)
    for cfg in made:
        assert parts_of(cfg) == parts_of(theirs)


def parts_of(node: Any) -> Any:
    """A config with the types and flags of its nodes."""
    kept = (type(node), node._metadata.flags, node._metadata.ref_type, node._metadata.object_type, node._metadata.optional)
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
        return *kept, node._value()
    return *kept, {key: parts_of(node._get_node(key)) for key in (node if isinstance(node, DictConfig) else range(len(node)))}


def test_what_a_word_has_stored_is_merged_anew() -> None:
    """A class for a new constraint is stored as an option of a group of its own, whose name may return with another class."""
    for target in ("lagvae.divergences.Rate", "lagvae.divergences.MMD"):
        words = expand_word(f"+constraints.mine.divergence._target_={target}")
        assert composed(*words).constraints.mine.divergence._target_ == target
    del ConfigStore.instance().repo["own_mine"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3\nb: .5\nc: 1_000\nd: 1:30", {"a": 1e-3, "b": 0.5, "c": 1000, "d": 90}),
        ("a: 2018-01-01\nb: yes\nc: null\nd: 'ε ≤ 3'", {"a": "2018-01-01", "b": True, "c": None, "d": "ε ≤ 3"}),
        ("- 1\n- a: ${b}", [1, {"a": "${b}"}]),
    ],
)
def test_files_are_read_by_the_rules_of_omegaconf(text: str, value: object, tmp_path: Path) -> None:
    """Numbers such as 1e-3 and dates are not what YAML says, and a key that is there twice is an error."""
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    assert "CParser" in {kind.__name__ for kind in yaml_loader().__mro__}
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "a.yaml")) == value
    (tmp_path / "a.yaml").write_text("a: 1\nb: 2\na: 3", encoding="utf-8")
    with pytest.raises(YAMLError, match="found duplicate key a"):
        OmegaConf.load(tmp_path / "a.yaml")


# ---- paths


def test_everything_is_kept_under_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path))
    GlobalHydra.instance().clear()
    paths = settings(tmp_path).paths
    assert {key: str(Path(value).relative_to(tmp_path)) for key, value in paths.items()} == {
        "root": ".",
        "data": "data",
        "runs": "runs",
        "calibrations": "calibrations",
    }
