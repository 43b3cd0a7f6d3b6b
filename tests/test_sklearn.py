"""The scikit-learn estimator: what scikit-learn asks of one, and that it is the run that the command would make."""

from __future__ import annotations

import pickle
import runpy
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import files
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import estimator_checks_generator
from small import ROOT, compose

import lagvae
from lagvae.cli.entry import compose_config
from lagvae.errors import DataError, SettingError, Stopped
from lagvae.sklearn import LagVAE, prepare_run

UNUSED = ("information_of_model", "likelihood", "two_sample_x", "two_sample_z", "reconstruction", "mmd")
TINY: dict[str, Any] = {
    "steps": 4,
    "hidden": (8,),
    "latent_dim": 2,
    "batch_size": 50,
    "random_state": 0,
    "overrides": ["trainer=cpu", "training.threads=1", "data.draws=1", *(f"~callbacks.final.{name}" for name in UNUSED)],
}
"""Parameters of a fit that takes a third of a second. It has no time to meet its bounds."""

pytestmark = pytest.mark.filterwarnings("ignore:Verdict:sklearn.exceptions.ConvergenceWarning")

TEN_ROWS = "it fits 10 rows, and LagVAE needs 12: 4 to train on, 4 to measure ε̂ on, 4 to test on"
EXPECTED_FAILED_CHECKS = {"check_fit2d_1feature": TEN_ROWS, "check_estimators_nan_inf": TEN_ROWS}

QUICK = {
    "check_complex_data",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_sparse_array",
    "check_estimator_tags_renamed",
    "check_estimators_pickle",
    "check_estimators_unfitted",
    "check_fit1d",
    "check_fit2d_1sample",
    "check_get_params_invariance",
    "check_methods_subset_invariance",
    "check_n_features_in_after_fitting",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
}
"""The checks with at most one fit that find most. All others, a minute in all, are marked as slow."""


def checks() -> Iterator[Any]:
    """All checks of scikit-learn, those that cannot hold with the reason."""
    for estimator, check in estimator_checks_generator(LagVAE(**TINY)):
        function = getattr(check, "func", check)
        name = function.__name__
        marks = [] if name in QUICK else [pytest.mark.slow]
        if name in EXPECTED_FAILED_CHECKS:
            marks.append(pytest.mark.xfail(reason=EXPECTED_FAILED_CHECKS[name], strict=True))
        options = "-".join(map(str, getattr(check, "keywords", {}).values()))
        yield pytest.param(estimator, check, marks=marks, id=f"{name}-{options}" if options else name)


@pytest.fixture(autouse=True)
def _quick_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same configs, each composed once."""
    monkeypatch.setattr("lagvae.sklearn.compose_config", compose)


def rows(n: int = 60, seed: int = 0) -> Any:
    """Rows of four columns that depend on two numbers; the last column is constant."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 2)) @ np.array([[1.0, 0.5, 0, 0], [0, 0.5, 1.0, 0]])
    return x + 0.1 * generator.normal(size=(n, 4)) * np.array([1, 1, 1, 0])


@pytest.fixture(scope="module")
def fitted() -> LagVAE:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LagVAE(**TINY).fit(rows())


@pytest.mark.parametrize(("estimator", "check"), checks())
def test_what_scikit_learn_asks_of_an_estimator(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_the_config_is_that_of_the_command_line() -> None:
    words = ["data=array", "alpha=minimize", "model.encoder.hidden=[8, 8]"]
    assert compose_config(words).model.encoder.hidden == [8, 8]
    assert compose_config(words).alpha.q == compose(words).alpha.q == 1.0
    with pytest.raises(SettingError, match=r"model=convv is unknown; did you mean conv\?"):
        compose_config(["model=convv"])
    with pytest.raises(SettingError, match=r"did you mean model\.latent=3\?"):
        compose_config(["model.laten=3"])


SHAPES = ((12, 2), (6, 4))


def test_rows_of_another_shape_are_other_rows(tmp_path: Path) -> None:
    """Even where the bytes are the same."""
    estimator, x = LagVAE(steps=2), np.arange(24, dtype=np.float32)
    files = {
        prepare_run(estimator._compose(x.reshape(shape)), tmp_path, x.reshape(shape)).cfg.data.source.path for shape in SHAPES
    }
    assert sorted(np.load(file).shape for file in files) == sorted(SHAPES)


def test_parameters_reach_the_run() -> None:
    estimator = LagVAE(-2.5, 0.7, latent_dim=3, hidden=(8, 4), steps=7, random_state=5, overrides=["multiplier=rmsprop"])
    cfg = estimator._compose(rows(200))
    assert (cfg.alpha.q, cfg.constraints.neg_elbo.gamma, cfg.model.latent, cfg.seed) == (-2.5, 0.7, 3, 5)
    assert (cfg.training.steps, cfg.calibration.steps, cfg.calibration.seed, cfg.data.split_seed) == (7, 7, 5, 5)
    assert cfg.model.encoder.hidden == cfg.model.decoder.hidden == [8, 4]
    assert cfg.multiplier.optimizer["_target_"] == "torch.optim.RMSprop"
    assert (cfg.data.batch, cfg.data.val, cfg.data.draws) == (128, 0.1, 2000)
    assert LagVAE()._compose(rows(20)).data.batch == 12, "all rows that are left to train on"


@pytest.mark.parametrize(
    ("likelihood", "x", "expected"),
    [
        ("auto", np.eye(12), "bernoulli"),
        ("auto", np.eye(12) / 2, "normal"),
        ("bernoulli", np.eye(12) / 2, "bernoulli"),
        ("normal", np.eye(12), "normal"),
    ],
)
def test_the_likelihood_is_that_of_binary_data_only_where_all_are(likelihood: str, x: Any, expected: str) -> None:
    assert LagVAE(likelihood=likelihood)._compose(x).data.likelihood == expected


def test_attributes_are_those_of_the_run(fitted: LagVAE) -> None:
    found = fitted.summary_["constraints"]
    assert fitted.bound_ == {name: found[name]["bound"] for name in ("neg_elbo", "mmd")}
    assert fitted.bound_["neg_elbo"] == pytest.approx(found["neg_elbo"]["calibrated"] + 1.5)
    assert fitted.multiplier_ == {name: found[name]["multiplier"] for name in ("neg_elbo", "mmd")}
    assert fitted.verdict_ == fitted.summary_["verdict"]
    lower, upper = fitted.information_ or (0, 0)
    assert lower <= upper
    assert (fitted.n_features_in_, fitted.run_) == (4, None)
    assert list(fitted.get_feature_names_out()) == ["lagvae0", "lagvae1"]


def test_methods_are_those_of_the_model(fitted: LagVAE) -> None:
    x = rows().astype(np.float32)
    codes = fitted.transform(x)
    np.testing.assert_allclose(codes, fitted.model_.encode(x), rtol=1e-5)
    np.testing.assert_allclose(fitted.inverse_transform(codes), fitted.model_.reconstruct(x), rtol=1e-5)
    scores = fitted.score_samples(x)
    assert fitted.score(x) == pytest.approx(scores.mean())
    # Both average 64 weights; of their logarithms' mean over 60 rows, shared draws have the larger error, under 0.5 nats here.
    assert scores.mean() == pytest.approx(fitted.model_.log_prob(x, draws=4000).mean(), abs=0.5)
    assert fitted.sample(3).shape == (3, 4)
    np.testing.assert_array_equal(fitted.sample(3, random_state=1), fitted.sample(3, random_state=1))
    assert not np.array_equal(fitted.sample(3, random_state=1), fitted.sample(3, random_state=2))


def test_a_seed_decides_about_all_numbers_and_the_process_stays_as_it_was(fitted: LagVAE) -> None:
    torch.manual_seed(3)
    before, threads, filters = torch.get_rng_state(), torch.get_num_threads(), list(warnings.filters)
    again = clone(fitted).fit(rows())
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.get_num_threads(), warnings.filters) == (threads, filters)
    np.testing.assert_array_equal(again.transform(rows()), fitted.transform(rows()))
    other = clone(fitted).set_params(random_state=1).fit(rows())
    assert not np.allclose(other.transform(rows()), fitted.transform(rows()))


def test_a_fitted_estimator_is_pickled_with_its_model(fitted: LagVAE) -> None:
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.transform(rows()), fitted.transform(rows()))
    np.testing.assert_array_equal(loaded.sample(2, random_state=0), fitted.sample(2, random_state=0))


def test_a_fit_is_silent_unless_it_is_verbose(capfd: pytest.CaptureFixture[str]) -> None:
    LagVAE(**TINY).fit(rows())
    assert tuple(capfd.readouterr()) == ("", "")
    LagVAE(**TINY, verbose=True).fit(rows())
    out, err = capfd.readouterr()
    assert "Calibrated in" in out
    assert "Verdict:" in out
    assert "Training lagvae on array: 4/4" in err


def test_a_folder_keeps_the_run_which_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = LagVAE(**TINY | {"overrides": [*TINY["overrides"], "callbacks.figures=false"]}, folder=tmp_path).fit(rows())
    run = Path(str(first.run_))
    assert run.parent == tmp_path / "runs"
    assert (run / "summary.json").is_file()
    there = files(tmp_path)
    monkeypatch.setattr("lagvae.experiment.fit.Fit.train", lambda *_: pytest.fail("it trains again"))
    again = clone(first).fit(rows())
    assert (again.run_, files(tmp_path)) == (first.run_, there)
    np.testing.assert_array_equal(again.transform(rows()), first.transform(rows()))
    with pytest.raises(pytest.fail.Exception, match="it trains again"):
        clone(first).fit(rows(seed=1))


def test_an_interrupted_fit_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise Stopped("Stopped at step 2 of 4.")

    monkeypatch.setattr("lagvae.sklearn.finish_run", stop)
    with pytest.raises(KeyboardInterrupt, match="Fit again with the same folder to continue"):
        LagVAE(**TINY, folder=tmp_path).fit(rows())
    with pytest.raises(KeyboardInterrupt, match=r"stopped\.$"):
        LagVAE(**TINY).fit(rows())


def test_bounds_that_are_not_met_and_columns_of_another_scale_are_warned_of() -> None:
    out_of_reach = [*TINY["overrides"], "constraints.neg_elbo.epsilon=-20"]
    with pytest.warns(ConvergenceWarning, match=r"Verdict: infeasible\. neg_elbo ≤ -20 nats is out of reach"):
        LagVAE(**TINY | {"overrides": out_of_reach}).fit(rows())
    with pytest.warns(UserWarning, match=r"deviation of a column of X is 0\. Standardise X"):
        constant = LagVAE(**TINY).fit(np.full((20, 2), 3.0))
    assert np.isfinite(constant.transform(np.full((1, 2), 3.0))).all()


def test_a_network_of_the_user_is_trained_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linear_net.py").write_text(
        "from math import prod\n"
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, shape_in, shape_out):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(prod(shape_in), prod(shape_out)), nn.Unflatten(1, shape_out))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ["model.encoder._target_=linear_net.Net", "~model.encoder.hidden", "~model.encoder.activation"]
    estimator = LagVAE(**TINY | {"overrides": [*TINY["overrides"], *own]}).fit(rows())
    assert type(estimator.model_.joint.encoder.network).__module__ == "linear_net"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alpha": "most"}, "'alpha' parameter of LagVAE"),
        ({"slack": -1}, "'slack' parameter of LagVAE"),
        ({"steps": 0}, "'steps' parameter of LagVAE"),
        ({"likelihood": "poisson"}, "'likelihood' parameter of LagVAE"),
        ({"overrides": "seed=1"}, "'overrides' parameter of LagVAE"),
        ({"overrides": ["data=digits"]}, "overrides cannot have data=digits, which the estimator sets"),
        ({"overrides": ["family=vae"]}, "overrides cannot have family=vae"),
        ({"likelihood": "bernoulli"}, "needs them in .0, 1."),
    ],
)
def test_parameters_that_cannot_be_used_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LagVAE(**TINY | given).fit(rows())


def test_data_that_cannot_be_used_are_refused(fitted: LagVAE) -> None:
    with pytest.raises(ValueError, match=r"11 sample.*minimum of 12 is required by LagVAE"):
        LagVAE(**TINY).fit(rows(11))
    LagVAE(**TINY).fit(rows(12))
    with pytest.raises(ValueError, match=r"array with dim 3.*pass X.reshape"):
        LagVAE(**TINY).fit(np.zeros((20, 8, 8)))
    holes = rows()
    holes[3, 1] = np.nan
    for method in (LagVAE(**TINY).fit, fitted.transform, fitted.score_samples):
        with pytest.raises(ValueError, match="X contains NaN"):
            method(holes)
        with pytest.raises(ValueError, match="X contains infinity"):
            method(np.where(np.isnan(holes), np.inf, holes))
    with pytest.raises(ValueError, match="X has 3 features, but LagVAE is expecting 4"):
        fitted.transform(rows()[:, :3])
    with pytest.raises(DataError, match=r"z has shape \(60, 4\); this model takes \(N, 2\)"):
        fitted.inverse_transform(rows())


@pytest.mark.parametrize("method", ["transform", "inverse_transform", "score_samples", "score"])
def test_a_model_that_is_not_fitted_is_said(method: str) -> None:
    with pytest.raises(NotFittedError, match="This LagVAE instance is not fitted yet"):
        getattr(LagVAE(), method)(rows())
    with pytest.raises(NotFittedError):
        LagVAE().sample()


def test_the_module_is_imported_when_it_is_first_used() -> None:
    assert lagvae.__getattr__("sklearn").LagVAE is LagVAE
    assert "sklearn" in dir(lagvae)


def test_the_example_with_arrays_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lagvae.sklearn.DRAWS_PER_ROW", 1)
    runpy.run_path(str(ROOT / "examples" / "arrays.py"))["main"](steps=20)
    out = capsys.readouterr().out
    assert "codes: (45, 4), reconstructions: (45, 13), samples: (5, 13)" in out
    assert "log p(x) of held-out rows: " in out


@pytest.mark.parametrize(
    ("given", "valid"),
    [
        ({"slack": 0}, True),
        ({"latent_dim": 1, "steps": 1, "batch_size": 2}, True),
        ({"latent_dim": 0}, False),
        ({"batch_size": 1}, False),
        ({"validation_fraction": 0.0}, False),
        ({"validation_fraction": 0.49}, True),
        ({"validation_fraction": 0.5}, False),
        ({"alpha": float("inf")}, False),
        ({"folder": None, "alpha": -0.5}, True),
    ],
)
def test_parameters_are_valid_up_to_their_limits(given: dict[str, Any], valid: bool) -> None:
    with nullcontext() if valid else pytest.raises(ValueError, match=f"'{next(iter(given))}' parameter of LagVAE"):
        LagVAE(**given)._validate_params()


@pytest.mark.parametrize("verdict", ["violated", "met", "met on training data"])
def test_a_warning_has_the_first_message_and_the_line_that_called(monkeypatch: pytest.MonkeyPatch, verdict: str) -> None:
    summary = {"constraints": {}, "splits": {"train": {}}, "verdict": verdict, "messages": ["First.", "Second."]}
    monkeypatch.setattr("lagvae.sklearn.finish_run", lambda run: summary)
    monkeypatch.setattr("lagvae.sklearn.load_with_caution", lambda path, trust: (None, None))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        levels = LagVAE(**TINY | {"likelihood": "normal"}).fit(np.full((20, 2), 255, np.uint8))
    said = {w.category: str(w.message) for w in caught if w.filename == __file__}
    texts = [str(w.message) for w in caught if w.filename == __file__]
    assert any(text.startswith("X is uint8 and is divided by 255.") for text in texts)
    assert any(text.startswith("The largest standard deviation of a column of X is 0. ") for text in texts)
    expected = None if verdict.startswith("met") else f"Verdict: {verdict}. First. See verdict_ and summary_."
    assert said.get(ConvergenceWarning) == expected
    assert levels.information_ is None
