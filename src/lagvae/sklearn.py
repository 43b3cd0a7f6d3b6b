"""A scikit-learn estimator, for people with arrays."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions  # what scikit-learn checks its own estimators with
from sklearn.utils.validation import check_is_fitted, validate_data

from lagvae.cli.entry import compose_config
from lagvae.data.conversion import divisor
from lagvae.data.datamodule import MIN_SPLIT
from lagvae.errors import SettingError, Stopped
from lagvae.experiment.loading import load_with_caution
from lagvae.experiment.settings import fingerprint, leaves
from lagvae.io import write_atomically
from lagvae.sweeps.job import finish_run
from lagvae.sweeps.sweep_run import SweepRun, compose_run
from lagvae.terminal import silence

MIN_ROWS = 3 * MIN_SPLIT
"""The fewest rows that can be split in three."""

TEST_SHARE = 0.05
"""The share of the rows that the report of the run calls "test". It is small, as users of scikit-learn have their own."""

DRAWS_PER_ROW = 10
"""The final evaluation of few rows takes this many draws for each, where `data.draws` is more."""

TYPES = [np.float32, np.uint8, np.uint16, np.bool_]
"""The types that are passed on; all others become the first."""

FIXED = ("data=", "data.source", "family=", "match=", "name=", "paths.", "resume=")
"""The settings that the estimator makes itself, so that `overrides` cannot hold them."""


class LagVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A LagVAE of the rows of an array: α I_q(x;z) is minimised subject to −ELBO ≤ ε̂ + slack, MMD(q(z), p(z)) ≤ 1.5 ε̂.

    `fit` calibrates, which finds the ε̂ that the networks can attain in `steps` steps, and then trains for as many steps. It is
    the run that `lagvae train data=array` would make, with the defaults of conf/.

    The likelihood is a density for numbers, whose one learned scale is never below 0.01, so that columns should be
    standardised; and the probability of zeros and ones for binary data. `likelihood="bernoulli"` takes x in [0, 1], such as
    grey levels, as probabilities of ones, from which every batch is drawn anew.

    Args:
        alpha: "maximize" or "minimize" information, "none", or the number α.
        slack: of the bound on −ELBO above ε̂, in nats.
        latent_dim: d, the dimension of z.
        hidden: units of the hidden layers of both networks.
        steps: of calibration, and again of training.
        batch_size: rows in a batch; at most all that are trained on.
        likelihood: "auto" (bernoulli if all values of X are 0 or 1, otherwise normal), "bernoulli" or "normal".
        validation_fraction: the share of the rows that ε̂ is measured on; at least 4 rows.
        random_state: of initial weights, split, batches and noise.
        verbose: whether to show a progress bar and the report of the run.
        overrides: further settings, as words of the command line: ["multiplier=rmsprop", "trainer=cpu"].
        folder: where run, calibration and data are kept. A fit that was interrupted goes on there, and one with the same
            settings and data that has ended is not repeated. None: a temporary folder.

    Attributes:
        model_: the trained `LatentVariableModel`, on the CPU.
        bound_: constraint → its bound.
        multiplier_: constraint → λ, in nats per unit of the divergence.
        verdict_: whether the bounds were met.
        summary_: all that the run found; see docs/guide.md.
        information_: lower and upper bound on I_q(x;z) of the training data, in nats; None if it was not measured.
        n_features_in_, feature_names_in_: of X.
        run_: the folder of the run; None if it was temporary.

    Raises: SettingError and DataError, which are ValueErrors.

    Reference: Zhao, Song, Ermon, The Information Autoencoding Family, UAI 2018.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "alpha": [StrOptions({"maximize", "minimize", "none"}), Interval(Real, None, None, closed="neither")],
        "slack": [Interval(Real, 0, None, closed="left")],
        "latent_dim": [Interval(Integral, 1, None, closed="left")],
        "hidden": ["array-like"],
        "steps": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "likelihood": [StrOptions({"auto", "bernoulli", "normal"})],
        "validation_fraction": [Interval(Real, 0, 0.5, closed="neither")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "overrides": ["array-like"],
        "folder": [str, Path, None],
    }

    def __init__(
        self,
        alpha: str | float = "maximize",
        slack: float = 1.5,
        *,
        latent_dim: int = 16,
        hidden: Sequence[int] = (128, 128),
        steps: int = 5000,
        batch_size: int = 128,
        likelihood: str = "auto",
        validation_fraction: float = 0.1,
        random_state: Any = None,
        verbose: bool | int = False,
        overrides: Sequence[str] = (),
        folder: str | Path | None = None,
    ) -> None:
        self.alpha = alpha
        self.slack = slack
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.steps = steps
        self.batch_size = batch_size
        self.likelihood = likelihood
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose
        self.overrides = overrides
        self.folder = folder

    def fit(self, X: Any, y: Any = None) -> LagVAE:
        """Calibrate and train on the rows of X, (N, n_features), of at least 12 rows; y is ignored.

        Warns: ConvergenceWarning where a bound is not met; UserWarning for numbers that should be standardised.
        """
        self._validate_params()
        if np.ndim(X) > 2:
            raise ValueError(
                f"Found array with dim {np.ndim(X)}, while dim <= 2 is required by LagVAE: pass X.reshape(len(X), -1). "
                "Networks for images are those of data=array and model=conv."
            )
        stored = validate_data(self, X, dtype=TYPES, ensure_min_samples=MIN_ROWS)
        levels = divisor(torch.from_numpy(stored))
        x = stored.astype(np.float32) / levels
        if levels > 1:
            warnings.warn(f"X is {stored.dtype} and is divided by {levels}. Pass other numbers as floats.", stacklevel=2)
        cfg = self._compose(x)
        if cfg.data.likelihood == "normal" and not 0.1 <= (spread := float(x.std(axis=0).max())) <= 10:
            warnings.warn(
                f"The largest standard deviation of a column of X is {spread:.2g}. Standardise X, such as by "
                "make_pipeline(StandardScaler(), LagVAE()).",
                stacklevel=2,
            )
        temporary = TemporaryDirectory(prefix="lagvae-") if self.folder is None else nullcontext(self.folder)
        with temporary as root, unchanged_process(), nullcontext() if self.verbose else silence():
            run = prepare_run(cfg, Path(root).expanduser().absolute(), stored)
            try:
                self.summary_ = finish_run(run)
            except Stopped:
                hint = "" if self.folder is None else " Fit again with the same folder to continue."
                raise KeyboardInterrupt(f"The fit was stopped.{hint}") from None
            own = tuple(str(value) for key, value in leaves(run.settings) if key.endswith("_target_"))
            self.model_, _ = load_with_caution(run.folder.last, trust=own)  # the verdict is said below
        constraints, train = self.summary_["constraints"], self.summary_["splits"]["train"]
        self.run_ = None if self.folder is None else str(run.folder.path)
        self.bound_ = {name: c["bound"] for name, c in constraints.items()}
        self.multiplier_ = {name: c["multiplier"] for name, c in constraints.items()}
        self.verdict_ = self.summary_["verdict"]
        self.information_ = (train["i_q_lower"], train["i_q_upper"]) if "i_q_lower" in train else None
        if not self.verdict_.startswith("met"):
            why = " ".join(self.summary_["messages"][:1])
            warnings.warn(f"Verdict: {self.verdict_}. {why} See verdict_ and summary_.", ConvergenceWarning, stacklevel=2)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The codes of rows: the means of q(z|x), (N, d)."""
        rows = self._rows(X)  # which checks first that there is a model
        return self.model_.encode(rows)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The rows of codes (N, d): the means of p(x|z), (N, n_features)."""
        check_is_fitted(self)
        return self.model_.decode(check_array(X, dtype=np.float32, input_name="X"))

    def score_samples(self, X: Any) -> np.ndarray:
        """A lower bound on log p(x) in nats, (N,), by importance sampling with 64 draws of q(z|x) that all rows share."""
        rows = self._rows(X)
        return self.model_.log_prob(rows, common=True)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples` over the rows of X, in nats."""
        return float(self.score_samples(X).mean(dtype=float))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Rows x ∼ p(x), (n_samples, n_features)."""
        check_is_fitted(self)
        return self.model_.sample(n_samples, seed=seed_of(random_state)).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.model_.eval_model.latent

    def _rows(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, dtype=TYPES, reset=False)

    def _compose(self, x: np.ndarray) -> Any:
        """The config of the run, but for its name and folders."""
        overrides = [str(word) for word in self.overrides]
        if fixed := [word for word in overrides if word.lstrip("+~").startswith(FIXED)]:
            raise SettingError(f"overrides cannot have {fixed[0]}, which the estimator sets.")
        seed, n = seed_of(self.random_state), len(x)
        val, test = (max(share, MIN_SPLIT / n) for share in (self.validation_fraction, TEST_SHARE))
        likelihood = self.likelihood
        if likelihood == "auto":
            likelihood = "bernoulli" if ((x == 0) | (x == 1)).all() else "normal"
        cfg = compose_config(
            [
                "data=array",
                "data.source.labels=null",
                f"alpha.q={self.alpha}" if isinstance(self.alpha, Real) else f"alpha={self.alpha}",
                f"constraints.neg_elbo.gamma={self.slack}",
                f"model.latent={self.latent_dim}",
                *(f"model.{part}.hidden={[int(units) for units in self.hidden]}" for part in ("encoder", "decoder")),
                f"training.steps={self.steps}",
                f"calibration.steps={self.steps}",
                f"data.likelihood={likelihood}",
                f"data.batch={min(self.batch_size, n - round(n * val) - round(n * test))}",
                f"data.val={val}",
                f"data.test={test}",
                f"seed={seed}",
                f"calibration.seed={seed}",
                f"data.split_seed={seed}",
                *([] if self.folder is not None else ["callbacks.figures=false"]),
                *overrides,
            ]
        )
        cfg.data.draws = min(cfg.data.draws, DRAWS_PER_ROW * n)
        return cfg


def prepare_run(cfg: Any, root: Path, x: np.ndarray) -> SweepRun:
    """A run of the config under a folder, with the rows in a file there. Its name follows from its settings and the rows."""
    file = root / "data" / f"{hashlib.sha256(repr(x.shape).encode() + x.tobytes()).hexdigest()[:16]}.npy"
    if not file.is_file():
        write_atomically(file, lambda part: np.save(part, x))
    cfg.paths.root, cfg.data.source.path, cfg.name = str(root), str(file), "unnamed"
    run = compose_run(lambda: cfg)
    run.cfg.name = f"sklearn-{fingerprint(run.settings)}"
    return run


def seed_of(random_state: Any) -> int:
    """The seed for a whole number, a `RandomState` or None, as scikit-learn has it."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Give the process back its threads, torch's generators and its filters of warnings, which training changes."""
    threads = torch.get_num_threads()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            yield
    finally:
        torch.set_num_threads(threads)
