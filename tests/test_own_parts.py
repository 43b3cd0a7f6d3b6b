"""Parts of one's own that settings name: a run of them, what cannot be stacked, and what is said of those that do not fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, SHORT, Outcome, program, settings

import lagvae
from lagvae.errors import DataError, SettingError
from lagvae.experiment.calibration import calibration_settings
from lagvae.experiment.factory import build_data
from lagvae.model import LatentVariableModel

OWN = """
from functools import partial
from math import prod

import torch
from torch import nn
from torch.distributions import Gamma, Independent, MixtureSameFamily, Categorical, Normal
from torchmetrics import Metric

from lagvae.data import Arrays
from lagvae.distributions import GaussianEncoder
from lagvae.divergences import Divergence
from lagvae.metrics import LatentMetric


class Net(nn.Module):
    def __init__(self, shape_in, shape_out, width: int = 8):
        super().__init__()
        self.shape_out = tuple(shape_out)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(prod(shape_in), width), nn.ReLU(), nn.Linear(width, prod(shape_out))
        )

    def forward(self, x):
        return self.layers(x).unflatten(1, self.shape_out)


Narrow = partial(Net, width=4)


class Dropped(Net):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.3, self.training))


class Branching(Net):
    def forward(self, x):
        out = super().forward(x)
        return out if out.mean() > 0 else out + 1


class Flat(Net):
    def forward(self, x):
        return self.layers(x)


class NoNet(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()


class Same(nn.Module):
    def __init__(self, network, shape, latent):
        super().__init__()
        self.inner = GaussianEncoder(network, shape, latent)

    def forward(self, x):
        return self.inner(x).base_dist


class Positive(Same):
    def forward(self, x):
        q = super().forward(x)
        return Gamma(1 + q.scale, 1 + q.loc.exp())


class Nothing(Same):
    def forward(self, x):
        return super().forward(x).loc


class Mixture(nn.Module):
    def __init__(self, latent, components: int = 3):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(components, latent))

    def forward(self):
        return MixtureSameFamily(
            Categorical(logits=torch.zeros_like(self.loc[:, 0])), Independent(Normal(self.loc, torch.ones_like(self.loc)), 1)
        )


class Wide(nn.Module):
    def __init__(self, latent, scale: float = 2.0):
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent))
        self.scale = scale

    def forward(self):
        return Normal(self.loc, self.scale * torch.ones_like(self.loc))


class Seen(nn.Module):
    def __init__(self, network, shape, latent):
        super().__init__()
        self.network = network((latent,), shape)

    def forward(self, z):
        return Normal(self.network(z), 0.5)


class Longer(Seen):
    def forward(self, z):
        return Normal(nn.functional.pad(self.network(z), (0, 1)), 0.5)


class Norm(Divergence):
    nats = False

    def __call__(self, samples):
        return samples.z_q.square().mean()


class Rows(Norm):
    def __call__(self, samples):
        return samples.z_q.square().sum(-1)


class Needs(Norm):
    def __init__(self, a):
        super().__init__()


class Undrawn(Norm):
    def __call__(self, samples):
        return samples.z_p.square().mean()


class Spread(Metric):
    label = "spread of z [m]"
    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), "sum")
        self.add_state("n", torch.zeros(()), "sum")

    def update(self, samples):
        self.total += samples.z_q.std(0).mean()
        self.n += 1

    def compute(self):
        return self.total / self.n


class Failing(Spread):
    def update(self, samples):
        self.total += samples.z_q @ samples.z_q


class Unbuilt(Spread):
    def __init__(self):
        raise OSError("no such file")


class Vector(Spread):
    def compute(self):
        return torch.zeros(3)


def load(n: int = 100):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(0))


class Ascent(torch.optim.SGD):
    def __init__(self, params, pace=0.01, maximize=False):
        super().__init__(params, lr=pace, maximize=maximize)


def nothing():
    return [1, 2]


def absent():
    raise OSError("no such file")
"""

NAME = "own_parts_of_a_user"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of the user's own, which Python finds in no other way."""
    (tmp_path / f"{NAME}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    return tmp_path


def own(*words: str) -> list[str]:
    """Settings of a quick run, with those of the words in place of them; OWN stands for the module."""
    words = tuple(word.replace("OWN", NAME) for word in words)
    keys = {word.partition("=")[0].partition("._target_")[0] for word in words}
    kept = [word for word in QUICK if not any(word.startswith(f"{key}.") for key in keys)]
    return [*kept, *words]


def run(folder: Path, *words: str) -> Outcome:
    return program(folder, *own(*words), "name=a")


def summary(folder: Path, name: str = "a") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "runs" / name / "summary.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.filterwarnings("ignore:.* ended with the verdict:UserWarning")  # which such a short run may have
def test_every_part_of_a_run_may_be_of_ones_own(folder: Path) -> None:
    done = run(
        folder,
        "model.encoder._target_=OWN.Net",
        "+model.encoder.width=6",
        "model.posterior._target_=OWN.Same",
        "model.prior._target_=OWN.Mixture",
        "model.likelihood._target_=OWN.Seen",
        "constraints.mmd.divergence._target_=OWN.Norm",
        "+callbacks.final.spread._target_=OWN.Spread",
        "+callbacks.final.error._target_=torchmetrics.MeanSquaredError",
    )
    assert done.status == 0, done.err
    assert "rate: log q(z|x) − log p(z) at one z ∼ q(z|x), as no closed form is known" in done.out
    assert "spread of z [m]" in done.out
    found = summary(folder)
    assert found["labels"] == {"spread": "spread of z [m]", "error": "error"}
    for split in ("train", "val", "test"):
        values = found["splits"][split]
        assert values["spread"] > 0
        # A plain metric of torchmetrics sees the reconstructions and x, as our own does: the same mean of the same numbers,
        # up to the weights of batches that are not full.
        assert values["error"] == pytest.approx(values["reconstruction"], rel=0.2)
        assert values["i_q_lower"] <= values["i_q_upper"] + 6 * values["i_q_upper_stderr"]
    refused = program(folder, "run=a", script="evaluate")
    assert refused.status == 1
    assert f"If you trust it, add trust=[{NAME}.]." in refused.err
    assert program(folder, "run=a", f"trust=[{NAME}.]", script="evaluate").status == 0

    model = lagvae.load(folder / "runs" / "a", trust=(f"{NAME}.",))
    x = torch.randn(4, 8)
    assert model.encode(x).shape == (4, model.joint.latent)
    assert model.log_prob(x).shape == (4,)
    assert model.sample(3).shape == (3, 8)
    with pytest.raises(SettingError, match=rf"trust=\('{NAME}\.',\)"):
        lagvae.load(folder / "runs" / "a")


def test_an_optimizer_of_multipliers_of_ones_own_takes_the_place_of_the_default(folder: Path) -> None:
    words = ("multiplier.optimizer._target_=OWN.Ascent",)
    done = run(folder, *words, "+multiplier.optimizer.pace=0.5")
    assert done.status == 0, done.err
    typo = run(folder, *words, "+multiplier.optimizer.pase=0.5")
    assert "multiplier.optimizer.pase is unknown" in typo.err
    assert "pace" in typo.err


def test_a_class_that_is_not_found_on_load_is_named_with_the_cure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(folder, *SHORT, "family=vae", "model.encoder._target_=OWN.Net").status == 0
    monkeypatch.delitem(sys.modules, NAME)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])
    with pytest.raises(SettingError, match=rf"{NAME}\.Net cannot be found. Load the model where Python finds {NAME}"):
        lagvae.load(folder / "runs" / "a", trust=(f"{NAME}.",))


def test_a_gaussian_of_ones_own_trains_to_the_numbers_of_ours(folder: Path) -> None:
    """The same operations in the same order; the tolerance is for the order of sums alone."""
    words = ("family=vae", "training.start=scratch")
    assert program(folder, *QUICK, *words, "name=ours").status == 0
    assert program(folder, *QUICK, *words, "name=own", f"model.posterior._target_={NAME}.Same").status == 0
    ours, theirs = (summary(folder, name)["splits"]["test"] for name in ("ours", "own"))
    assert ours.keys() == theirs.keys()
    numbers = {key for key, value in ours.items() if isinstance(value, float)}
    assert {key: theirs[key] for key in numbers} == pytest.approx({key: ours[key] for key in numbers}, rel=1e-4, abs=1e-6)


LEFT = {
    "model.encoder._target_=OWN.Net": ("model.encoder", {"_target_", "_partial_"}),
    "model.encoder._target_=OWN.Narrow": ("model.encoder", {"_target_", "_partial_"}),
    "model.posterior._target_=OWN.Same": ("model.posterior", {"_target_", "_partial_"}),
    "constraints.mmd.divergence._target_=OWN.Norm": ("constraints.mmd.divergence", {"_target_"}),
    "model.likelihood._target_=OWN.Seen": ("model.likelihood", {"_target_", "_partial_"}),
    "data.source._target_=OWN.load": ("data.source", {"_target_", "_partial_", "n"}),
    "+callbacks.final.spread._target_=OWN.Spread": ("callbacks.final.spread", {"_target_", "_partial_"}),
}


@pytest.mark.parametrize("word", LEFT)
def test_settings_of_the_class_that_is_replaced_are_dropped(folder: Path, word: str) -> None:
    from omegaconf import OmegaConf

    from lagvae.cli.entry import expand_word, find_own_code

    find_own_code([])
    key, left = LEFT[word]
    likelihood = ["likelihood=normal"] if "likelihood" in word else []
    data = ["data=array"] if "source" in word else []
    given = [*data, *likelihood, *(["+data.source.n=50"] if data else []), *expand_word(word.replace("OWN", NAME))]
    assert set(OmegaConf.select(settings(folder, *given), key)) == left


REFUSED = {
    "+model.encoder.widht=4": "model.encoder.widht is unknown; own_parts_of_a_user.Net takes shape_in, shape_out, width.",
    "model.encoder.hidden=[4]": "model.encoder.hidden is unknown",
    "model.encoder._target_=OWN.Flat": "model.encoder: own_parts_of_a_user.Flat gives (2, 32) for a batch of shape (2, 8); "
    "it must give (2, 2, 16)",
    "model.encoder._target_=OWN.NoNet": "NoNet cannot be built from (shape_in, shape_out) = ((8,), (2, 16))",
    "model.encoder._target_=nowhere.Net": "model.encoder._target_=nowhere.Net does not exist",
    "model.posterior._target_=torch.zeros": "torch.zeros does not say what it takes; name a class, or a function",
    "model.posterior._target_=OWN.Nothing": "own_parts_of_a_user.Nothing.forward returns a tensor of shape (2, 16)",
    "model.prior._target_=OWN.Net": "model.prior: own_parts_of_a_user.Net cannot be built",
    "constraints.mmd.divergence._target_=OWN.Rows": "returns a tensor of shape (8,) on a batch with x of shape (8, 8)",
    "constraints.mmd.divergence._target_=OWN.Undrawn": "needs the noise 'z_p'; add it to its required_noise.",
    "constraints.mmd.divergence._target_=OWN.load": "OWN.load is not a lagvae.divergences.Divergence, but a Tensor",
    "model.encoder=OWN.Net": "model.encoder=own_parts_of_a_user.Net: to name a class or function, write model.encoder._target_",
    "model.prior._target_=OWN.Mixture +model.prior.components=-1": "model.prior: own_parts_of_a_user.Mixture cannot be built",
    "model.likelihood._target_=OWN.Longer": "model.likelihood: own_parts_of_a_user.Longer.forward returns a distribution of "
    "shape (2, 9) for a batch of shape (2, 16); it must return a distribution of shape (2, 8), one x for each z.",
    "constraints.mmd.divergence._target_=OWN.Needs": "constraints.mmd.divergence: own_parts_of_a_user.Needs cannot be built",
    "constraints.mine.divergence._target_=OWN.Norm": "constraints.mine is unknown; to add a constraint of your own, write +con",
    "model.encoder._target_=OWN.Net model.encoder.width=3": "if own_parts_of_a_user.Net takes it, write +model.encoder.width=3",
    "model.prior._target_=OWN.Mixture model.prior.scale=3": "own_parts_of_a_user.Mixture takes it, write +model.prior.scale=3",
    "callbacks.final.spread._target_=OWN.Spread": "To add one, write +callbacks.final.spread._target_=own_parts_of_a_user.",
    "callbacks.final.spread=OWN.Spread": "To add one, write +callbacks.final.spread._target_=own_parts_of_a_user.Spread.",
    "+callbacks.final.spread=OWN.Spread": "write +callbacks.final.spread._target_=own_parts_of_a_user.Spread.",
    "+callbacks.final.spread._target_=OWN.Unbuilt": "callbacks.final.spread: own_parts_of_a_user.Unbuilt cannot be built (",
    "+callbacks.final.spread._target_=OWN.Failing": "callbacks.final.spread: own_parts_of_a_user.Failing fails on a batch "
    "with x of shape (8, 8)",
    "+callbacks.final.spread._target_=OWN.Vector": "callbacks.final.spread: own_parts_of_a_user.Vector.compute returns a "
    "tensor of shape (3,) for spread",
    "+callbacks.final.spread._target_=OWN.load": "callbacks.final.spread: torch.Tensor is no torchmetrics.Metric; derive",
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_does_not_fit_is_refused_before_training(folder: Path, word: str) -> None:
    net = [] if "encoder._target_" in word else ["model.encoder._target_=OWN.Net"]
    done = run(folder, *net, *word.split())
    assert done.status == 1
    assert "Traceback" not in done.err
    assert REFUSED[word].replace("OWN", NAME) in done.err.replace("\n", " ")
    assert not any("runs/" in file or "calibrations/" in file for file in done.new)


def test_a_data_set_may_be_a_function_that_returns_a_tensor(folder: Path) -> None:
    from lagvae.cli.entry import find_own_code

    find_own_code([])
    words = ["data=array", "data.source._target_=OWN.load", "+data.source.n=60", "data.name=mine", "data.batch=16"]
    data = build_data(settings(folder, *(word.replace("OWN", NAME) for word in words)))
    assert data.shape == (5,)
    assert sum(len(part) for part in data.split.values()) == 60
    with pytest.raises(DataError, match=r"data=mine: its source returns a list; it must return a lagvae\.data\.Arrays, or a"):
        build_data(settings(folder, "data=array", f"data.source._target_={NAME}.nothing", "data.name=mine"))
    with pytest.raises(DataError, match=rf"data=mine: {NAME}\.absent fails: OSError: no such file \({NAME}\.py, line \d+\)"):
        build_data(settings(folder, "data=array", f"data.source._target_={NAME}.absent", "data.name=mine"))


def test_a_calibration_fits_the_code_that_it_was_made_with(folder: Path) -> None:
    from lagvae.cli.entry import find_own_code

    find_own_code([])
    cfg = settings(folder, "data=linear_gaussian", f"model.encoder._target_={NAME}.Net")
    data = build_data(cfg)
    before = calibration_settings(cfg, data)
    assert f"code of {NAME}" in before
    (folder / f"{NAME}.py").write_text(OWN + "# changed", encoding="utf-8")
    after = calibration_settings(cfg, data)
    assert {key for key in before if before[key] != after[key]} == {f"code of {NAME}"}
    assert not any(key.startswith("code of") for key in calibration_settings(settings(folder, "data=linear_gaussian"), data))


# ---- what cannot be stacked


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("model.encoder._target_=OWN.Dropped", "their code draws random numbers itself, as dropout does"),
        ("model.encoder._target_=OWN.Branching", "their code has an if on a value"),
        ("model.posterior._target_=OWN.Positive", "torch has no other way than rsample to draw from their distribution"),
    ],
)
def test_what_cannot_be_stacked_trains_one_by_one_and_is_said(folder: Path, word: str, reason: str) -> None:
    done = program(folder, "-m", *own(word), *SHORT, "family=vae", "seed=0,1", "launcher.compile=false")
    assert done.status == 0, done.err
    assert f"2 of them train one at a time, because {reason}" in done.out
    assert "2 of 2 runs finished" in done.out


def test_own_parts_that_can_be_stacked_train_together(folder: Path) -> None:
    words = own("model.encoder._target_=OWN.Net", "model.posterior._target_=OWN.Same", "model.prior._target_=OWN.Mixture")
    done = program(folder, "-m", *words, *SHORT, "family=vae", "seed=0,1", "launcher.compile=false")
    assert done.status == 0, done.err
    assert "1 job of 2 runs" in done.out
    assert "one at a time" not in done.out


@pytest.mark.parametrize("word", ["model.encoder._target_=OWN.Dropped", "model.posterior._target_=OWN.Positive"])
def test_a_resumed_run_draws_what_an_uninterrupted_one_does(folder: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    step = LatentVariableModel.training_step

    def interrupted(self: LatentVariableModel, batch: Any, batch_idx: int) -> None:
        if batch.step == 27:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    words = own(word, "family=vae")
    assert program(folder, *words, "name=whole").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(LatentVariableModel, "training_step", interrupted)
        assert program(folder, *words, "name=stopped").status == 130
    torch.rand(7)  # a process that resumes has its generator in another state
    assert program(folder, "resume=stopped", f"trust=[{NAME}.]").status == 0
    whole, stopped = (
        torch.load(folder / "runs" / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "stopped")
    )
    assert whole.keys() == stopped.keys()
    assert [key for key in whole if not torch.equal(whole[key], stopped[key])] == []
    assert summary(folder, "whole")["splits"] == summary(folder, "stopped")["splits"]
