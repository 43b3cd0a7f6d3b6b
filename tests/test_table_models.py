"""Models of tables: the likelihood of numbers and categories with missing values, and a model from file to scores."""

from __future__ import annotations

import csv
import json
import re
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import QUICK, Outcome, program, settings
from scipy import stats
from scipy.special import log_softmax
from small import ROOT
from test_tables import MIXED, X, loaded, made, write_csv, x_of
from torch import Tensor

import lagvae
from lagvae.cli.use import use_model
from lagvae.data.tables import Column, Table
from lagvae.distributions import (
    GaussianEncoder,
    JointModel,
    JointSamples,
    NormalDecoder,
    RowDecoder,
    RowDistribution,
    StandardNormalPrior,
    with_gaps_of,
)
from lagvae.errors import DataError, SettingError
from lagvae.metrics import ReconstructionError, TwoSampleTest
from lagvae.model import LatentVariableModel
from lagvae.networks import MLP
from lagvae.runs.layout import RunFolder


def mixed_decoder(**options: Any) -> RowDecoder:
    torch.manual_seed(0)
    columns = {"numbers": MIXED.numbers, "missing": MIXED.missing, "categories": MIXED.sizes}
    return RowDecoder(partial(MLP, hidden=[8]), (MIXED.width,), 3, **columns, **options)


def mixed_model(decoder: RowDecoder) -> JointModel:
    return JointModel(StandardNormalPrior(3), GaussianEncoder(partial(MLP, hidden=[8]), (MIXED.width,), 3), decoder)


# ---- the likelihood


def test_a_category_is_drawn_as_often_as_it_is_probable() -> None:
    """Of three categories, so that each has neighbours; 40,000 draws know a share to 4 · √(p (1 − p) / n)."""
    decoder, n = RowDecoder(partial(MLP, hidden=[8]), (4,), 1, 1, 0, [3]), 40_000
    p = torch.tensor([0.2, 0.5, 0.3])
    distribution = RowDistribution(torch.zeros(n, 1), torch.ones(1), p.log().expand(n, 3), [3], 0)
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    drawn = decoder.sample(distribution, noise)[:, 1:]
    assert drawn.sum(1).equal(torch.ones(n))
    assert bool(((drawn.mean(0) - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()), drawn.mean(0)


def test_log_prob_is_the_sum_over_what_is_there() -> None:
    decoder = mixed_decoder()
    decoder.set_scale(torch.tensor([0.5, 2.0]))
    z = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        raw, found = decoder.network(z).double().numpy(), decoder(z).log_prob(X).tolist()
    for (b, a, *rest), x, log_p in zip(raw, X.double().numpy(), found, strict=True):
        expected = stats.norm.logpdf(x[0], b, 0.5) + (stats.norm.logpdf(x[1], a, 2.0) if x[7] else 0.0)
        expected += x[2:5] @ log_softmax(rest[:3]) + x[5:7] @ log_softmax(rest[3:])
        # A sum of six float32 of size below 10, each of which is rounded by less than 1e-6.
        assert log_p == pytest.approx(expected, abs=1e-5)


def test_rows_may_have_any_leading_axes() -> None:
    """As several draws of z for each row have; a column of three categories sums to one whatever stands in front of it."""
    decoder, z = mixed_decoder(), torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        p = decoder(z.reshape(12, 3))
        several = RowDistribution(*(t.reshape(4, 3, -1) for t in (p.loc, p.scale.expand_as(p.loc), p.log_probs)), [3, 2], 1)
        torch.testing.assert_close(several.log_prob(X), p.log_prob(X.repeat(4, 1)).reshape(4, 3))


def test_what_is_missing_has_no_part_in_the_likelihood_and_its_gradient() -> None:
    decoder, z = mixed_decoder(), torch.zeros(1, 3)
    other = X[1:2].clone()
    for value in (float("nan"), -7.0):
        other[0, 1] = value  # where one is missing
        assert torch.equal(decoder(z).log_prob(X[1:2]), decoder(z).log_prob(other))
    decoder(z).log_prob(other).sum().backward()
    assert decoder.log_scale.grad is not None
    assert decoder.log_scale.grad[1] == 0
    assert decoder.log_scale.grad[0] != 0


def test_samples_follow_the_distribution_and_are_complete() -> None:
    n, decoder = 20_000, mixed_decoder()
    decoder.set_scale(torch.tensor([0.5, 2.0]))
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    p = decoder(torch.full((1, 3), 0.7).expand(n, 3))
    x = decoder.sample(p, noise)
    torch.testing.assert_close(x[:, :2], p.loc + p.scale * noise[:, :2])
    assert (x[:, 2:5].sum(1) == 1).all()
    assert (x[:, 5:7].sum(1) == 1).all()
    assert (x[:, 7] == 1).all()
    # The frequency of a category among n draws deviates by less than 5 · ½ / √n, but for a chance below 1e-5.
    assert (x[:, 2:7].mean(0) - p.mean[0, 2:7]).abs().max() < 2.5 / n**0.5


def test_the_scale_starts_at_the_spread_of_what_is_there() -> None:
    decoder = mixed_decoder()
    x = torch.tensor([[1.0, 5.0, 0, 0, 0, 0, 0, 1], [3.0, 9.0, 0, 0, 0, 0, 0, 1], [5.0, 77.0, 0, 0, 0, 0, 0, 0]])
    decoder.start_scale(x)
    scale = decoder(torch.zeros(1, 3)).scale[0]
    torch.testing.assert_close(scale, torch.tensor([(8 / 3) ** 0.5, 2.0]))  # of (1, 3, 5) and of (5, 9)
    fixed = mixed_decoder(scale=0.3)
    fixed.start_scale(x)
    assert fixed(torch.zeros(1, 3)).scale.flatten().tolist() == pytest.approx([0.3, 0.3])
    with pytest.raises(SettingError, match=r"model\.likelihood\.scale=0 must be positive"):
        mixed_decoder(scale=0)


def test_metrics_leave_out_what_is_missing() -> None:
    joint = mixed_model(mixed_decoder())
    samples = JointSamples(joint, X, {"z_q": torch.zeros(3, 3), "z_p": torch.zeros(3, 3), "x_p": torch.zeros(3, 4)})
    mean = samples.p_x_given_z_q.mean
    same = with_gaps_of(X, mean, joint)
    assert torch.equal(same[0, :7], mean[0, :7])
    assert (same[1, 1], same[1, 7]) == (99.0, 0.0)
    assert same[2, 5:7].tolist() == [0.0, 0.0]
    error = ReconstructionError()
    error.update(samples, torch.arange(3))
    squared = (X - mean).square()
    squared[:, 7] = squared[1, 1] = squared[2, 5:7] = 0
    torch.testing.assert_close(error.compute()["reconstruction"], squared.mean().double())
    test = TwoSampleTest("x")
    test.update(samples, torch.arange(3))
    assert [rows[:, 7].tolist() for rows in (test.a[0], test.b[0])] == [[1, 0, 1], [1, 0, 1]]


def test_a_row_has_numbers_alone_or_categories_alone() -> None:
    for numbers, sizes in ((2, []), (0, [2, 3])):
        decoder = RowDecoder(MLP, (numbers + sum(sizes),), 2, numbers, 0, sizes)
        assert decoder.differentiable_samples == (not sizes)
        p = decoder(torch.zeros(4, 2))
        x = decoder.sample(p, torch.zeros(4, numbers + len(sizes)))
        assert x.shape == p.mean.shape == (4, numbers + sum(sizes))
        assert p.log_prob(x).shape == (4,)
    with pytest.raises(SettingError, match="has not the shape"):
        RowDecoder(MLP, (5,), 2, 2, 0, [])


# ---- from a file to scores


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people.csv and runs/one, a short run on it."""
    root = tmp_path_factory.mktemp("table")
    write_csv(root / "people.csv", made())
    said = train(root, "name=one")
    assert said.status == 0, said.err
    return root


def train(root: Path, *words: str) -> Outcome:
    quick = [word for word in QUICK if not word.startswith(("data=", "data.source", "data.batch"))]
    own = ["data=table", f"data.source.path={root}/people.csv", "data.source.label=y", "data.batch=16", "model.latent=2"]
    return program(root, *quick, *own, *words)


def test_a_run_says_what_columns_it_found(trained: Path) -> None:
    said = train(trained, "name=two", "family=vae")
    (line,) = [line for line in said.out.splitlines() if line.startswith("data=")]
    assert line.startswith(
        "data=table: rows of 5 columns (3 of numbers; 2 of categories: sex (2), kind (3); values missing in income, kind), x "
        "of shape (9,), 96 for training, 12 for validation, 12 for test; x from "
    )
    assert "Normal for numbers, standardised by the training rows, and categorical for the others" in line
    assert said.err.count("Note:") == 0
    terms = RunFolder(trained / "runs" / "two").read_summary()["splits"]["test"]
    assert np.isfinite([terms["neg_elbo"], terms["reconstruction"], terms["two_sample_x_p"]]).all()
    assert "class_confidence" in terms, "labels are known to the evaluation"


def test_a_model_takes_the_rows_of_a_file_in_their_own_units(trained: Path) -> None:
    model = lagvae.load(trained / "runs" / "one")
    assert model.table is not None
    x = model.table.read(trained / "people.csv")
    data = loaded(str(trained / "people.csv"), label="y")
    torch.testing.assert_close(model.observations(x), x_of(data))
    columns: dict[str, Any] = {name: [v or None for v in values] for name, values in made().items()}
    np.testing.assert_allclose(model.log_prob(columns), model.log_prob(x), rtol=1e-4, atol=1e-4)
    assert isinstance(model.encode(columns), np.ndarray)
    # The same model on standardised rows: reconstructions are these in standard deviations, times them, plus the mean.
    joint, units = model.eval_model, data.standardization
    assert units is not None
    with torch.no_grad():
        inside = joint.decoder(joint.encoder(x_of(data)).mean).mean
    torch.testing.assert_close(model.reconstruct(x), units.undo(inside))
    assert model.reconstruct(x)[:, :3].mean(0).tolist() == pytest.approx(x[:, :3].nanmean(0).tolist(), rel=0.3)
    sampled = model.sample(200, seed=1)
    assert sampled.dtype == torch.float64
    assert 20 < sampled[:, 0].mean() < 60, "years, not standard deviations"
    assert torch.equal(model.observations(sampled)[:, 3:], sampled[:, 3:].float())
    path = model.interpolate(x[:2], x[2:4], 3)
    torch.testing.assert_close(path[:, 0], model.reconstruct(x[:2]))


def test_scores_are_those_of_the_model(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGVAE_ROOT", str(trained))
    odd = made(3, seed=1) | {"age": ["41", "400", "40"], "income": ["", "60000", "50000"], "kind": ["north", "south", "?"]}
    del odd["y"]
    file = write_csv(tmp_path / "new.csv", odd)
    use_model("score", ROOT, ["one", "--input", file, "--output", str(tmp_path / "scores.csv")])
    header, *scores = (tmp_path / "scores.csv").read_text().split()
    model = lagvae.load("one")
    assert model.table is not None
    assert header == "log_prob"
    np.testing.assert_allclose(np.array(scores, float), model.log_prob(model.table.read(file)), rtol=1e-5)
    assert float(scores[1]) < min(float(scores[0]), float(scores[2])) - 10, "a person of 400 years"


def test_samples_are_written_as_rows_of_the_table(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAGVAE_ROOT", str(trained))
    use_model("sample", ROOT, ["one", "-n", "20", "--output", str(tmp_path / "new.csv")])
    with (tmp_path / "new.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["age", "sex", "income", "kind", "height"]
    assert {row["sex"] for row in rows} <= {"f", "m"}
    assert 20 < np.mean([float(row["age"]) for row in rows]) < 60
    model = lagvae.load("one")
    assert model.table is not None
    x = model.table.read(tmp_path / "new.csv")
    torch.testing.assert_close(x, model.sample(20), rtol=1e-6, atol=1e-6)  # nine digits
    with pytest.raises(SystemExit):
        use_model("score", ROOT, ["one", "--input", write_csv(tmp_path / "a.csv", {"age": [1]}), "--output", "s.csv"])
    assert "--input=" in (said := capsys.readouterr().err)
    assert "has no column 'height', only age" in said


def test_an_export_keeps_the_columns(trained: Path, tmp_path: Path) -> None:
    model = lagvae.load(trained / "runs" / "one")
    lagvae.export(model, tmp_path / "exported")
    other = lagvae.load(tmp_path / "exported")
    assert model.table is not None
    x = model.table.read(trained / "people.csv")
    assert other.table == model.table
    assert torch.equal(other.encode(x), model.encode(x))


def test_a_run_goes_on_and_is_evaluated_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = LatentVariableModel.training_step

    def interrupted(self: LatentVariableModel, batch: Any, batch_idx: int) -> None:
        if batch.step == 25 and self.trainer.max_steps == 40:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LatentVariableModel, "training_step", interrupted)
        assert train(trained, "name=stopped").status != 0
    said = program(trained, "resume=stopped")
    assert said.status == 0, said.err
    one, two = (RunFolder(trained / "runs" / name) for name in ("one", "stopped"))
    a, b = (torch.load(run.last, weights_only=True) for run in (one, two))
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    assert a["lagvae"]["table"] == b["lagvae"]["table"]
    said = program(trained, "run=stopped", "trainer=cpu", script="evaluate")
    assert said.status == 0, said.err
    changed = made()
    changed["age"][0] = "77"
    write_csv(trained / "people.csv", changed)
    said = program(trained, "run=stopped", "trainer=cpu", script="evaluate")
    write_csv(trained / "people.csv", made())
    assert said.status == 1
    assert "was trained on other data than there are now" in said.err


def test_an_ensemble_trains_as_its_members_would_alone(trained: Path) -> None:
    said = train(trained, "-m", "alpha.q=-1,-2", "launcher.compile=false", "folder=pair")
    assert said.status == 0, said.err
    assert "1 job of 2 runs" in said.out
    x = lagvae.load(trained / "runs" / "one").sample(20)
    folders = sorted((trained / "runs" / "pair").glob("*/summary.json"))
    (one,) = [f.parent for f in folders if json.loads(f.read_text())["alpha"]["q"] == -1]
    # Sums over a batch are rounded in another order.
    torch.testing.assert_close(
        lagvae.load(one).encode(x), lagvae.load(trained / "runs" / "one").encode(x), rtol=1e-3, atol=1e-3
    )


def test_every_column_has_a_panel(trained: Path) -> None:
    said = program(trained, "data=table", f"data.source.path={trained}/people.csv", "data.batch=16", script="data")
    assert said.status == 0, said.err
    assert (trained / "runs" / "data-table.png").read_bytes()[:4] == b"\x89PNG"
    assert "column income" in said.out
    assert "f 5" in said.out or "f 4" in said.out, "the share of a category"


def test_a_test_file_has_the_same_columns(tmp_path: Path) -> None:
    people, other = write_csv(tmp_path / "people.csv", made()), write_csv(tmp_path / "test.csv", made(40, seed=2))
    data = loaded(people, test=other, label="y")
    assert data.size("test") == 40
    assert data.arrays.test_labels is not None
    assert data.arrays.test is not None
    assert data.arrays.test[:, 0].mean().abs() < 1
    wrong = made(40, seed=2)
    wrong["sex"][3] = "x"
    with pytest.raises(DataError, match=r"data\.source\.test=.*wrong\.csv: line 5, column 'sex' has the unknown category 'x'"):
        loaded(people, test=write_csv(tmp_path / "wrong.csv", wrong))


def test_a_decoder_of_ones_own_is_told_of_the_columns(trained: Path) -> None:
    from lagvae.experiment.factory import table_columns

    assert table_columns(NormalDecoder, "Normal", None) == {}
    assert table_columns(NormalDecoder, "Normal", Table((Column("a"),))) == {}
    columns = {"numbers": 2, "missing": 1, "categories": [3, 2]}
    assert table_columns(RowDecoder, "Table", MIXED) == columns
    assert table_columns(OwnDecoder, "Row", MIXED) == columns
    with pytest.raises(SettingError, match="likelihood=table is for data=table"):
        table_columns(RowDecoder, "Table", None)


class OwnDecoder(torch.nn.Module):
    """A decoder of a user."""

    def forward(self, z: Tensor) -> RowDistribution:
        raise NotImplementedError


def test_the_example_trains_scores_and_draws_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its command runs in this process, with few steps, since a later word of a command line wins."""
    reports: list[Outcome] = []

    def run(command: list[str], check: bool) -> None:
        small = [word for word in QUICK if not word.startswith(("data", "model", "training.steps"))]
        reports.append(program(tmp_path, *command[4:], *small, "data.draws=40", "training.steps=300", "training.interval=300"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path))
    monkeypatch.setattr("subprocess.run", run)
    runpy.run_path(str(ROOT / "examples" / "table.py"))["main"]()
    assert reports[0].status == 0, reports[0].err
    out = capsys.readouterr().out
    found = re.search(r"a median patient: (.*) nats; with a body mass index of 60: (.*) nats", out)
    assert found is not None
    assert float(found[2]) < float(found[1]) - 5
    assert "where it is not known: " in out
    assert out.count("a new patient: ") == 3


def test_batches_of_the_data_are_predicted_as_their_rows(trained: Path) -> None:
    model, data = lagvae.load(trained / "runs" / "one"), loaded(str(trained / "people.csv"), label="y")
    assert model.table is not None
    batch = next(iter(data.eval_loader("test", torch.device("cpu"))))
    x = model.table.read(trained / "people.csv")[data.split["test"][: len(batch.x)]]
    # Means and deviations in float64 come back, but for the rounding of standardised float32.
    torch.testing.assert_close(model.predict_step(batch, 0), model.encode(x), rtol=1e-4, atol=1e-4)


def test_settings_of_former_runs_have_no_standardize(tmp_path: Path) -> None:
    from lagvae.experiment.settings import deciding_settings

    assert "data.standardize" not in deciding_settings(settings(tmp_path, "data=array"))
    assert deciding_settings(settings(tmp_path, "data=table"))["data.standardize"] is True
