"""Settings that cannot be: a clear error that names the setting, the value and what to do, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers import QUICK, program, refuses
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lagvae.errors import SettingError
from lagvae.experiment.factory import enough_memory
from lagvae.experiment.run import has_accelerator
from lagvae.experiment.settings import broken_reference
from lagvae.runs.layout import RunFolder

VAE = (*QUICK, "family=vae")


UNKNOWN = {
    "family=infogann": ["family=infogann is unknown; did you mean infogan?", "infogan, infovae, lagvae, sigma_vae"],
    "model=cnn": ["model=cnn is unknown", "conv, mlp, mlp_paper"],
    "data=imagenet": [
        "data=imagenet is unknown",
        "array, cifar10, digits, digits_pairs, dsprites, fashion_mnist, folder, linear_gaussian, mnist",
    ],
    "kernel=rbff": ["kernel=rbff is unknown", "imq, median, mixture, rbf, reference"],
    "divergence=[neg_elbo,kl]": ["divergence=kl is unknown", "mmd, neg_elbo, rate"],
    "logger=comet": ["logger=comet is unknown", "csv, mlflow, tensorboard, wandb"],
    "multiplier=adam": ["multiplier=adam is unknown", "fixed", "learned", "rmsprop"],
    "epsilon=guess": ["epsilon=guess is unknown", "calibrated, explicit, none"],
    "sweep=pareto2": ["sweep=pareto2 is unknown", "figure1"],
    "family=3": ["family=3: a group takes the name of an option"],
    "model.laten=3": ["model.laten is unknown; did you mean model.latent=3?"],
    "training.step=3": ["training.step is unknown; did you mean training.steps=3?"],
    "colour=red": ["colour is unknown; a config has family, name,"],
    "constraints.rate.epsilon=3": [
        "constraints.rate is unknown; constraints has neg_elbo, mmd. Add it with divergence=[neg_elbo,mmd,rate]"
    ],
    "+constraints.own.epsilon=3": ["+constraints.own.epsilon=3: there is no such constraint; add its name to divergence=[…]"],
    "+model.optimizer.speed=3": ["model.optimizer.speed is unknown; torch.optim.Adam takes params, lr, betas"],
    "model.optimizer._target_=torch.optim.Adamm": ["model.optimizer._target_=torch.optim.Adamm does not exist"],
    "model.encoder.activation=selu": ["activation='selu' is unknown", "gelu, leaky_relu, relu, silu, softplus, tanh"],
    "constraints.mmd.divergence.statistic=w": ["statistic='w' is unknown; choose one of u, v"],
    "training.start=warm": ["training.start='warm' is unknown; choose one of calibrated, scratch"],
    "calibration.split=dev": ["calibration.split='dev' is unknown; choose one of train, val, test"],
    "data.likelihood=poisson": ["data.likelihood='poisson' is unknown; choose one of bernoulli, normal"],
    "model.likelihood=poisson": ["model.likelihood='poisson' is unknown; choose one of bernoulli, normal"],
    "model.schedule=linear": ["model.schedule='linear' is unknown; use cosine, null"],
    "~constraints.rate": ["'constraints.rate' does not exist"],
    "+trainer.speed=3": ["trainer.speed is unknown; Lightning's Trainer takes accelerator, strategy"],
    "+trainer.max_stps=3": ["trainer.max_stps is unknown; did you mean trainer.max_steps?"],
    "logger=tensorboard +logger.tensorboard.speed=3": ["logger.tensorboard.speed=3 is unknown; it takes comment, "],
    "+logger.csv.speed=3": ["logger.csv={'speed': 3} is not a logger", "logger.csv._target_=CLASS"],
    "+logger.other=1": ["logger.other=1 is not a logger", "logger.other._target_=CLASS"],
    "logger=wandb logger.wandb=null": ["logger.wandb=None is not a logger", "Leave it out"],
    "logger=wandb +logger.wandb.tag=3": ["logger.wandb.tag=3 is unknown; did you mean tags?"],
    "logger=wandb logger.wandb.tags=5": ["logger.wandb.tags=5 is not a list of texts; write logger.wandb.tags=[mine,other]"],
    "logger.wandb.project=mine": ["logger.wandb.project=mine needs its logger: write logger=wandb."],
    "logger=tensorboard logger.wandb.name=a": ["logger.wandb.name=a needs its logger: write 'logger=[tensorboard,wandb]'."],
    "logger=wandb logger.wandb.mode=of": ["logger.wandb.mode=of is unknown; choose one of online, offline, disabled"],
    "foo bar": ["'foo bar' cannot be read as KEY=VALUE"],
    "sweep=figure1": ["sweep=figure1 is many runs: add -m"],
}

SLIPS = {
    "gamma=0.6": ["gamma is unknown; did you mean constraints.neg_elbo.gamma=0.6 or constraints.mmd.gamma=0.6?"],
    "beta=4": ["beta is unknown; did you mean family=beta_vae alpha.q=3? (β = 1 + alpha.q)"],
    "beta=0.1": ["did you mean family=beta_vae alpha.q=-0.9?"],
    "epsilon=24": ["write epsilon=explicit constraints.neg_elbo.epsilon=24 constraints.mmd.epsilon=NUMBER."],
    "alpha=-1": ["alpha=-1: a group takes the name of an option: maximize, minimize, none.", "write alpha.q=-1 or alpha.p=-1"],
    "multiplier=3": ["write constraints.neg_elbo.multiplier=3 or constraints.mmd.multiplier=3"],
    "kernel=true": ["kernel=true: a group takes the name of an option"],
    "familly=vae": ["familly is unknown; did you mean family=vae?"],
    "experimnt=paper_mnist": ["did you mean experiment=paper_mnist?"],
    "family=vea": ["family=vea is unknown; did you mean vae?"],
    "lr=1e-3": ["lr is unknown; did you mean model.optimizer.lr=1e-3 or critic.optimizer.lr=1e-3?"],
    "steps=100": ["did you mean training.steps=100, calibration.steps=100 or critic.steps=100?"],
    "stesp=100": ["did you mean training.steps=100, "],
    "latent=8": ["did you mean model.latent=8 or data.source.latent=8?"],
    "batch=64": ["did you mean data.batch=64?"],
    "modle.latent=3": ["modle is unknown; did you mean model.latent=3?"],
    "mmd.gamma=1": ["mmd is unknown; did you mean constraints.mmd.gamma=1?"],
    "training.lr=1": ["training.lr is unknown; did you mean model.optimizer.lr=1"],
    "samples=3": ["samples is unknown; 7 settings end so, such as callbacks.training.information.samples=3, "],
}
"""What users type who know the name of a setting but not its place, or the reverse."""

OLD = {
    "constraints.mmd.unit=1e-3": "constraints.mmd.unit is now constraints.mmd.scale; write constraints.mmd.scale=1e-3.",
    "+constraints.mmd.unit=1": "constraints.mmd.unit is now constraints.mmd.scale; write constraints.mmd.scale=1.",
    "constraints.mmd.largest=9": "write constraints.mmd.max_multiplier=9.",
    "constraints.mmd.relative=true": "write constraints.mmd.gamma_relative=true.",
    "constraints.mmd.calibration=1": "write constraints.mmd.calibration_weight=1.",
    "launcher=stacked": "launcher=stacked is now launcher=ensemble.",
    "posterior=normal": "posterior=normal is now posterior=translation_l2; N(μ(x), diag σ(x)²), the encoder of a VAE, is "
    "posterior=gaussian.",
    "launcher.engine.jobs=4": "write launcher.executor.jobs=4.",
    "launcher.cells_per_job=16": "write launcher.runs_per_job=16.",
    "divergence=[written]": "divergence=written is now divergence=symbolic.",
    "constraints.written.unit=2": "write constraints.symbolic.scale=2.",
    "cell=family=vae seed=1": "cell is now overrides; write 'overrides=family=vae seed=1'.",
}
"""Names that settings had before."""

WRONG = {
    "training.steps=abc": ["training.steps=abc: Value 'abc' of type 'str' could not be converted to Integer"],
    "constraints.mmd.epsilon=abc": ["constraints.mmd.epsilon=abc: Value 'abc'", "could not be converted to Float"],
    "constraints.mmd.epsilon=nan": ["constraints.mmd.epsilon=nan must be a finite number"],
    "constraints.mmd.epsilon=inf": ["constraints.mmd.epsilon=inf must be a finite number"],
    "constraints.mmd.gamma=abc": ["constraints.mmd.gamma=abc: Value 'abc'", "could not be converted to Float"],
    "constraints.mmd.epsilon=-0.1": [
        "constraints.mmd.epsilon=-0.1 cannot be met: this divergence is never below 0",
        "at least 0, or use epsilon=calibrated",
    ],
    "constraints.mmd.gamma=nan": ["constraints.mmd.gamma=nan must be a finite number ≥ 0"],
    "constraints.mmd.gamma=-1": ["constraints.mmd.gamma=-1.0 must be a finite number ≥ 0"],
    "constraints.mmd.gamma=null": ["constraints.mmd.gamma=null: null is not allowed here"],
    "constraints.mmd.divergence=null": [
        "constraints.mmd.divergence=null: null is not allowed here; drop it with ~constraints.mmd."
    ],
    "model.encoder=null": ["model.encoder=null: null is not allowed here; leave it out, or give model.encoder._target_=CLASS."],
    "model.optimizer=null": ["model.optimizer=null: null is not allowed here"],
    "critic.optimizer=null": ["critic.optimizer=null: null is not allowed here"],
    "data.source=null": ["data.source=null: null is not allowed here"],
    "callbacks.final=null": [
        "callbacks.final=null: null is not allowed here; drop its metrics one by one, with ~callbacks.final.NAME."
    ],
    "callbacks.training.terms=null": [
        "callbacks.training.terms=null: null is not allowed here; drop it with ~callbacks.training"
    ],
    "constraints.mmd.multiplier=-1": ["constraints.mmd.multiplier=-1.0 must be a number ≥ 0; a multiplier is never negative"],
    "constraints.mmd.scale=0": ["constraints.mmd.scale=0.0 must be a positive number"],
    "constraints.neg_elbo.warm_up=1": ["constraints.neg_elbo.warm_up=1.0 must be a share of the run, at least 0 and below 1"],
    "constraints.mmd.calibration_weight=-1": ["constraints.mmd.calibration_weight=-1.0 must be a number ≥ 0"],
    "alpha.q=nan": ["alpha.q=nan must be a finite number"],
    "training.steps=0": ["training.steps=0 must be a whole number of at least 1"],
    "training.interval=0": ["training.interval=0 must be a whole number of at least 1"],
    "training.log_every=0": ["training.log_every=0 must be a whole number of at least 1"],
    "training.threads=0": ["training.threads=0 must be at least 1 and at most 4096, or null"],
    "training.threads=9999999999999": ["training.threads=9999999999999 must be at least 1 and at most 4096"],
    "seed=18446744073709551616": ["seed=18446744073709551616 is too large: a whole number has at most 64 bits"],
    "calibration.seed=99999999999999999999": ["calibration.seed=99999999999999999999 is too large"],
    "model.latent=99999999999": ["There is not enough memory (", "Lower a size; the largest are model.latent=99999999999 and"],
    "model.encoder.hidden=[99999999999]": ["not enough memory (", "the largest are model.encoder.hidden=[99999999999]"],
    "data.source.n=99999999999999": ["not enough memory (", "the largest are data.source.n=99999999999999"],
    "model.encoder.hidden=[0]": ["hidden=[0] must be widths of layers, each at least 1."],
    "model.encoder.hidden=[8,-3]": ["hidden=[8, -3] must be widths of layers, each at least 1."],
    "model=null": ["model=null: a group takes the name of an option: conv, mlp, mlp_paper, square."],
    "data.source._target_=null": ["data.source._target_=null: null is not allowed here; name a class."],
    "data.likelihood=null": ["data.likelihood=null: null is not allowed here; use bernoulli or normal."],
    "model.optimizer.lr=inf": ["model.optimizer.lr=inf must be a finite number."],
    "data.source.noise=inf": ["data.source.noise=inf must be a finite number."],
    "training.gradient_clip=inf": ["training.gradient_clip=inf must be a finite number."],
    "multiplier.optimizer.reach=inf": ["multiplier.optimizer.reach=inf must be a finite number."],
    "kernel.lengthscales=[inf]": ["lengthscales=inf must be a finite number."],
    "~callbacks.training.terms": ["callbacks.training.terms cannot be removed, because best.ckpt is chosen by"],
    "+trainer.max_epochs=3": ["trainer.max_epochs=3 cannot be set, because the program gives it itself; use training.steps."],
    "+trainer.logger=false": ["trainer.logger=False cannot be set", "use logger=[NAME]"],
    "trainer.precision=64-true": ["trainer.precision=64-true does not work here", "use auto, 32-true, bf16-mixed or 16-mixed"],
    "name=.jobs/a": ["name='.jobs/a' cannot be a folder under runs/"],
    "name=a/latest": ["name='a/latest' cannot be a folder under runs/"],
    "name=pareto-analysis": ["name='pareto-analysis' cannot be a folder under runs/"],
    "training.gradient_clip=-1": ["training.gradient_clip=-1.0 must be positive, or null"],
    "model.latent=0": ["model.latent=0 must be a whole number of at least 1"],
    "model.latent=2.5": ["model.latent=2.5 must be a whole number of at least 1"],
    "model.latent=many": ["model.latent=many must be a whole number of at least 1"],
    "model.encoder.hidden=8": ["model.encoder.hidden=8 must be a list, each a whole number"],
    "model.encoder.hidden=[8,wide]": ["model.encoder.hidden=[8, 'wide'] must be a list, each a whole number"],
    "model.optimizer.lr=fast": ["model.optimizer.lr=fast must be a number"],
    "model.optimizer.lr=-1": ["model.optimizer does not work: Invalid learning rate: -1"],
    "model.optimizer.lr=nan": ["model.optimizer.lr=nan must be a finite number."],
    "multiplier.optimizer.reach=-1": ["LogAscent reach=-1", "must be positive"],
    "multiplier.rate=0.01": ["multiplier.rate=0.01: the default optimizer of λ has no rate", "multiplier=rmsprop"],
    "multiplier.optimizer.maximize=false": ["multiplier.optimizer must ascend: set multiplier.optimizer.maximize=true"],
    "kernel.lengthscales=[]": ["kernel.lengthscales is empty"],
    "kernel.lengthscales=[-1]": ["kernel.lengthscales=-1 must be a positive number"],
    "kernel.lengthscales=wide": ["kernel.lengthscales=wide must be a list, each a number"],
    "data.batch=0": ["data.batch=0 must be at least 1"],
    "data.batch=2.5": ["data.batch=2.5 must be a whole number"],
    "data.batch=321": ["data.batch=321 is larger than the 320 training samples of linear_gaussian; lower it"],
    "--latent": ["--latent is no option. Settings are words KEY=VALUE without dashes"],
    "--training.steps=3": ["--training.steps=3 is no option"],
    "data.val=0": ["data.val=0 must be a share between 0 and 1"],
    "data.val=some": ["data.val=some must be a number"],
    "data.val=0.95": ["data.val=0.95 and data.test=0.1 leave nothing to train on"],
    "data.draws=0": ["data.draws=0 must be at least 1"],
    "data.workers=-1": ["data.workers=-1 must be at least 0"],
    "data.source.noise=0": ["noise=0 > 0"],
    "callbacks.final.information.samples=2": ["at least 4 samples, not samples=2"],
    "callbacks.final.information.samples=321": ["callbacks.final.information.samples=321 is more than the 320 samples"],
    "callbacks.final.information.pairs=0": ["pairs=0 at least 1"],
    "callbacks.final.likelihood.draws=0": ["draws=1", "draws=0"],
    "callbacks.final.information_of_model.draws=-1": ["draws ≥ 0", "draws=-1"],
    "callbacks.final.information.samples=1e3": ["callbacks.final.information.samples=1000.0 must be a whole number"],
    "trainer.accelerator=abacus": ["trainer (accelerator=abacus", "invalid accelerator name"],
    "trainer.devices=99999": ["trainer.devices=99999 asks for 99999 processes on a machine with", "or less"],
    "trainer.precision=8": ["trainer.precision=8 does not work here"],
    "name=latest": ["name='latest' cannot be a folder under runs/"],
    "name=../a": ["name='../a' cannot be a folder under runs/"],
    "data.seed=${nowhere}": ["data.seed=${nowhere}: there is no setting nowhere."],
}

TOGETHER = {
    "family=vae multiplier=learned": ["a learned multiplier needs a bound. Use epsilon=calibrated"],
    "epsilon=explicit": ["epsilon=explicit needs a number for every constraint: add constraints.neg_elbo.epsilon=NUMBER"],
    "multiplier=fixed multiplier.learned=true": ["multiplier.learned=true needs multiplier.optimizer; use multiplier=learned"],
    "divergence=[rate]": ["nothing to calibrate", "constraints.NAME.calibration_weight", "divergence=[…]"],
    "divergence=[]": ["nothing to calibrate"],
    "family=vae epsilon.calibration=somewhere": ["epsilon.calibration=somewhere is not used here; add epsilon=calibrated"],
    "data.batch=1": ["needs at least two samples of each distribution, not 1 and 1"],
    "model=conv": ["data of shape (channels, height, width), not (8,); use model=mlp"],
    "model.likelihood=bernoulli": ["model.likelihood=bernoulli needs data.likelihood=bernoulli"],
    "data.likelihood=bernoulli": ["data=linear_gaussian has values from", "needs them in [0, 1]", "data.likelihood=normal"],
    "constraints.mmd.multiplier=1e9": ["multiplier=1e+09 starts above its limit constraints.mmd.max_multiplier"],
}


@pytest.mark.parametrize("words", [*UNKNOWN, *SLIPS, *WRONG])
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, words: str) -> None:
    base = [word for word in QUICK if word.partition("=")[0] != words.partition("=")[0]]
    split = words.split() if words.startswith("logger=") else [words]
    refuses(program(tmp_path, *base, *split), *(UNKNOWN | SLIPS | WRONG)[words])


@pytest.mark.parametrize("words", OLD)
def test_an_old_name_is_answered_with_the_new_one(tmp_path: Path, words: str) -> None:
    refuses(program(tmp_path, words), OLD[words])


def test_a_group_hint_knows_the_constraints_of_the_other_words(tmp_path: Path) -> None:
    said = program(tmp_path, "family=vae", "epsilon=24", "-m", "seed=0,1")
    refuses(said, "write epsilon=explicit constraints.neg_elbo.epsilon=24.")


@pytest.mark.parametrize(("script", "words"), [("train", "resume=a"), ("evaluate", "run=a")])
def test_a_run_with_old_names_is_told_the_new_ones(tmp_path: Path, script: str, words: str) -> None:
    run = RunFolder(tmp_path / "runs" / "a")
    run.checkpoints.mkdir(parents=True)
    run.last.touch()
    run.config.write_text("constraints: {mmd: {unit: 1, gamma: 2}}\nlauncher: {engine: {jobs: 1}}\n")
    renamed = "constraints.mmd.unit is now constraints.mmd.scale; launcher.engine is now launcher.executor."
    refuses(program(tmp_path, words, script=script), f"{run.config} was written by an earlier version", renamed)


@pytest.mark.parametrize("words", TOGETHER)
def test_settings_that_do_not_go_together_are_named(tmp_path: Path, words: str) -> None:
    # conv has other settings than QUICK gives; a batch of one is only known to be too small by the kernel, in its first step
    base = [word for word in QUICK if "hidden" not in word]
    said = program(tmp_path, *base, *words.split())
    begun = said.new if words == "data.batch=1" else set()
    assert {Path(name).name for name in begun} <= {"config.yaml", "metrics.csv"}
    refuses(said, *TOGETHER[words], leaves=begun)


@pytest.mark.parametrize("key", ["limit_val_batches", "limit_test_batches"])
def test_a_debug_run_measures_something(tmp_path: Path, key: str) -> None:
    said = program(tmp_path, "debug=fast", f"trainer.{key}=0")
    refuses(said, f"trainer.{key}=0 must be a positive number of batches")


@pytest.mark.parametrize("words", [["resume=a"], ["resume=a,b"], ["resume=a", "seed=0,1"]])
def test_a_sweep_does_not_resume_a_run(tmp_path: Path, words: list[str]) -> None:
    refuses(program(tmp_path, "-m", *words), "resume=a continues one run: leave out -m")


def test_sizes_without_memory_are_named_in_a_sweep_too(tmp_path: Path) -> None:
    said = program(tmp_path, *VAE, "-m", "data.source.n=99999999999999")
    refuses(said, "There is not enough memory (", "the largest are data.source.n=99999999999999")


def test_a_removed_metric_by_which_the_best_checkpoint_is_chosen_is_named(tmp_path: Path) -> None:
    words = ("model.likelihood=normal", "alpha.p=0.1", "~callbacks.training.information_of_model")
    refuses(program(tmp_path, *QUICK, *words), "callbacks.training.information_of_model cannot be removed")


def test_two_wrong_settings_are_no_traceback_either(tmp_path: Path) -> None:
    refuses(program(tmp_path, *QUICK, "model.latent=0", "data.batch=0"), "must be")


@pytest.mark.parametrize("script", ["calibrate", "evaluate"])
def test_the_other_programs_answer_alike(tmp_path: Path, script: str) -> None:
    words = {"calibrate": "model.laten=3", "evaluate": "data.batch=3"}[script]
    refuses(program(tmp_path, "data=digits", script="evaluate"), "data is not a group that this program takes")
    expected = {
        "calibrate": "did you mean model.latent=3?",
        "evaluate": "data is unknown; a config has run, checkpoint, trust, trainer, paths",
    }
    refuses(program(tmp_path, words, script=script), expected[script])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("can't allocate memory: you tried to allocate 4000 bytes. Error"), "4000 bytes were asked for"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), "2.00 GiB were asked for"),
        (RuntimeError("Storage size calculation overflowed."), "Storage size calculation overflowed"),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory"),
        (MemoryError("no room."), "no room"),
    ],
)
def test_where_there_is_not_enough_memory_the_largest_sizes_are_named(error: Exception, reason: str) -> None:
    sizes = {"data": {"batch": 70, "seed": 9999}, "model": {"hidden": [8, 900], "latent": 2}, "calibration": {"steps": 5000}}
    for cfg, cure in (
        (sizes, "Lower a size; the largest are model.hidden=[8, 900] and data.batch=70."),
        ({"training": {"steps": 9}}, "Free some, or lower a size."),
    ):
        with pytest.raises(SettingError) as told, enough_memory(OmegaConf.create(cfg)):
            raise error
        assert str(told.value).startswith("There is not enough memory (")
        assert reason in str(told.value)
        assert str(told.value).endswith(cure)


def test_another_error_is_none_of_memory() -> None:
    with pytest.raises(RuntimeError, match=r"^no such operation$"), enough_memory(OmegaConf.create({"data": {"batch": 70}})):
        raise RuntimeError("no such operation")
    with pytest.raises(ValueError, match=r"^out of memory$"), enough_memory(OmegaConf.create({})):
        raise ValueError("out of memory")


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "there"),
    [
        ("gpu", False, False, False),
        ("gpu", True, False, True),
        ("gpu", False, True, True),
        ("cuda", False, True, False),
        ("cpu", False, False, True),
        ("abacus", False, False, True),
    ],
)
def test_an_accelerator_is_looked_for_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, cuda: bool, mps: bool, there: bool
) -> None:
    """One that nobody knows is for Lightning to refuse."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert has_accelerator(name) == there


REFERENCES = {
    "constraints.neg_elbo.epsilon=${nowhere}": "there is no setting nowhere. Name one that there is, or give ",
    "seed=${oc.env:NOWHERE}": "the environment has no variable NOWHERE. Set that, or give seed a value.",
    "seed=${seed}": "it leads back to itself. Name another setting, or give seed a value.",
    "paths.root=${nowhere}": "there is no setting nowhere",
}


@pytest.mark.parametrize("sweep", [(), ("-m",)])
@pytest.mark.parametrize("word", REFERENCES)
def test_a_reference_that_leads_nowhere_is_named(tmp_path: Path, word: str, sweep: Sequence[str]) -> None:
    refuses(program(tmp_path, *QUICK, word, *sweep), f"{word}: ", REFERENCES[word])


def test_the_setting_that_is_broken_is_named_and_not_one_that_refers_to_it() -> None:
    cfg = OmegaConf.create({"name": "${folder}-${seed}", "folder": "a", "seed": "${other}", "other": "${nowhere}"})
    with pytest.raises(OmegaConfBaseException) as told:
        OmegaConf.to_container(cfg, resolve=True)
    assert str(broken_reference(told.value)).startswith("other=${nowhere}: there is no setting nowhere.")


def test_a_class_is_told_with_the_option_that_has_it(tmp_path: Path) -> None:
    pieces = ("which ImplicitEncoder (posterior=point) does not have", "divergence=[adversarial_neg_elbo]")
    refuses(program(tmp_path, *QUICK, "epsilon=none", "multiplier=fixed", "posterior=point"), *pieces)


def test_a_group_of_one_option_takes_no_two(tmp_path: Path) -> None:
    cure = "family takes one option; choose one of vae, aae, or train a run with each: -m family=vae,aae."
    refuses(program(tmp_path, "family=[vae,aae]"), f"family=[vae,aae]: {cure}")
