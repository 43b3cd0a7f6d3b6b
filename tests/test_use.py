"""A trained model used from the command line, and exported: results are those of `lagvae.load`, and bad input is refused."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from helpers import files, made_up, settings
from PIL import Image
from sklearn.datasets import load_digits
from small import ROOT, TINY
from test_docs import commands, read
from test_load import of_joint, tampered

import lagvae
from lagvae.cli.arrays import write_array
from lagvae.cli.use import USES, use_model
from lagvae.distributions import GaussianEncoder, JointModel, NormalDecoder, StandardNormalPrior
from lagvae.errors import CheckpointError, SettingError
from lagvae.experiment.factory import build_data, build_model
from lagvae.experiment.fit import Fit
from lagvae.experiment.run import create_folder, setup
from lagvae.experiment.style import tile
from lagvae.experiment.validate import needs_calibration
from lagvae.model import LatentVariableModel
from lagvae.networks import MLP
from lagvae.runs.layout import RunFolder

GREY = (load_digits().images[:5] / 16 * 255).astype(np.uint8)[:, None]
"""Five digits as grey levels, (5, 1, 8, 8)."""

X = GREY.astype(np.float32) / 255
ROWS = X.reshape(5, 64)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose runs/one is a short run on digits."""
    root = tmp_path_factory.mktemp("root")
    cfg = settings(root, *TINY, "family=vae", "training.steps=4", "training.interval=2", "name=one")
    data, model, _ = setup(cfg)
    folder = create_folder(cfg)
    Fit(cfg, data, model, folder, "Training").train()
    folder.write_summary({"verdict": "unconstrained"})
    return root


@pytest.fixture(scope="module")
def model(root: Path) -> LatentVariableModel:
    return lagvae.load(root / "runs" / "one")


@pytest.fixture(autouse=True)
def _at_home(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of a user who has x.npy and the run."""
    monkeypatch.setenv("LAGVAE_ROOT", str(root))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)


def start(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    """Status, output and errors of a program in this process."""
    name, *words = line.split()
    status = 0
    try:
        use_model(name, ROOT, words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def write_table(rows: Any, header: str = "", start: str = "") -> None:
    lines = [header] if header else []
    lines += [",".join(f"{value:.9g}" for value in row) for row in rows]
    Path("data.csv").write_text(start + "\n".join(lines) + "\n", encoding="utf-8")


def write_pictures(folder: Path) -> None:
    (folder / "deep").mkdir(parents=True)
    for k, image in enumerate(GREY[:, 0]):
        Image.fromarray(image).save(folder / "deep" / f"{k}.png")


# ---- what is read and written

INPUTS = {
    "x.npy": lambda: None,
    "grey.npy": lambda: np.save("grey.npy", GREY),
    "double.npy": lambda: np.save("double.npy", X.astype(">f8")),
    "one.npz": lambda: np.savez("one.npz", anything=X),
    "data.npz": lambda: np.savez("data.npz", y=np.arange(5), x=X),
    "data.npz --key b": lambda: np.savez("data.npz", x=X[:2], b=X),
    "data.csv": lambda: write_table(ROWS),
    "./data.csv": lambda: write_table(ROWS, ",".join(f"pixel {k}" for k in range(64))),
    "././data.csv": lambda: write_table(ROWS, ",".join(map(str, range(64))), "\ufeff"),
    "pictures": lambda: write_pictures(Path("pictures")),
    "flat.npy": lambda: np.save("flat.npy", X[:, 0]),
    "last.npy": lambda: np.save("last.npy", GREY.transpose(0, 2, 3, 1)),
}
"""Words of --input → what writes the five digits there."""

LEVELS = "uint8 levels 0 … 255 are divided by 255"

SAID = {
    "grey.npy": f"grey.npy: {LEVELS}.\n",
    "pictures": f"pictures: {LEVELS}.\n",
    "flat.npy": "flat.npy: (N, 8, 8) are images without channels, so x is (1, 8, 8).\n",
    "last.npy": f"last.npy: {LEVELS}; (N, 8, 8, 1) are images with channels last, so x is (1, 8, 8).\n",
}
"""Words of --input → what is said of a change, as training says it."""


@pytest.mark.parametrize("given", INPUTS)
def test_codes_are_those_of_the_loaded_model(
    model: LatentVariableModel, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    INPUTS[given]()
    status, out, err = start(capsys, f"encode one --input {given} --output z.npy")
    assert (status, out, err) == (0, f"{SAID.get(given, '')}Written to z.npy: z of shape (5, 4).\n", "")
    np.testing.assert_allclose(np.load("z.npy"), model.encode(X), rtol=1e-4, atol=1e-6)


def array_of(file: Path, name: str) -> np.ndarray:
    """An array in an .npz file."""
    with np.load(file) as archive:
        return np.asarray(archive[name])


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".NPZ"])
def test_codes_are_written_by_the_suffix(model: LatentVariableModel, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    file = Path("new", "folder", f"z{suffix}")
    assert start(capsys, f"encode latest --input x.npy --output {file}")[0] == 0
    assert files(Path("new")) == {f"folder/z{suffix}"}
    if suffix == ".csv":
        assert file.read_text().splitlines()[0] == "z0,z1,z2,z3"
        codes = np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.float32)
    elif suffix == ".npy":
        codes = np.load(file)
    else:
        codes = array_of(file, "z")
    np.testing.assert_allclose(codes, model.encode(X), rtol=1e-6)


def test_an_output_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("z.csv").write_text("before")
    assert start(capsys, "encode one --input x.npy --output z.csv")[0] == 0
    assert Path("z.csv").read_text().startswith("z0,")


def test_scores_are_those_of_the_loaded_model(model: LatentVariableModel, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = start(capsys, "score one --input x.npy --output s.csv --draws 8 --seed 3")
    assert (status, err) == (0, "")
    head, *values = Path("s.csv").read_text().split()
    assert head == "log_prob"
    np.testing.assert_allclose([float(v) for v in values], model.log_prob(X, draws=8, seed=3), rtol=1e-6)
    start(capsys, "score one --input x.npy --output s.npy")
    np.testing.assert_allclose(np.load("s.npy"), model.log_prob(X), rtol=1e-6)


def test_samples_are_those_of_the_loaded_model(model: LatentVariableModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(capsys, "sample one -n 6 --seed 2 --output s.npz")[0] == 0
    samples = model.sample(6, seed=2)
    np.testing.assert_array_equal(array_of(Path("s.npz"), "x"), samples)
    assert start(capsys, "sample one --means --output s.npy")[0] == 0
    np.testing.assert_allclose(np.load("s.npy"), model.sample(16, means=True), rtol=1e-6)
    # A table of samples is read back as what it was.
    assert start(capsys, "sample one -n 6 --seed 2 --output s.csv")[0] == 0
    assert start(capsys, "encode one --input s.csv --output z.npy")[0] == 0
    np.testing.assert_allclose(np.load("z.npy"), model.encode(samples), rtol=1e-4, atol=1e-6)


def test_a_picture_of_samples_is_a_grid(model: LatentVariableModel, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = start(capsys, "sample one -n 5 --output s.png")
    assert (status, err) == (0, "")
    with Image.open("s.png") as picture:
        pixels = np.asarray(picture)
    # Each pixel is a square of 8 × 8, so that an image of 8 × 8 has 64.
    assert pixels.shape == (8 * (2 * 9 - 1), 8 * (3 * 9 - 1))
    expected = np.asarray((255 * tile(model.sample(5), 3)[0]).round().to(torch.uint8))
    np.testing.assert_array_equal(pixels, expected.repeat(8, axis=0).repeat(8, axis=1))


@pytest.mark.parametrize(
    ("n", "size", "times"),
    [(4, 28, 3), (4, 64, 1), (900, 8, 8), (1600, 8, 6), (10**4, 28, 1)],
    ids=["84 ≥ 64", "as it is", "30 columns of 64 ≤ 2048", "40 columns of 48 ≤ 2048", "too large by itself"],
)
def test_small_images_are_enlarged_as_far_as_the_grid_stays_small(tmp_path: Path, n: int, size: int, times: int) -> None:
    write_array(tmp_path / "a.png", "x", np.zeros((n, 1, size, size), dtype=np.float32))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == times * (n**0.5 * (size + 1) - 1)


def test_values_that_a_picture_cannot_show_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = save(tmp_path / "own.ckpt", "family=vae", "likelihood=normal")
    status, _, err = start(capsys, f"sample {own} --output s.png")
    assert status == 0
    assert re.search(r"Note: \d+\.\d% of the values lie outside of \[0, 1\]", err)


@pytest.mark.parametrize("terminal", [False, True])
def test_long_work_has_a_bar_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    np.save("x.npy", np.repeat(X, 250, axis=0))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr("rich.console.Console.is_terminal", terminal)
    status, _, err = start(capsys, "encode one --input x.npy --output z.npy")
    assert status == 0
    assert ("1250/1250" in err) is terminal
    assert terminal or not err


@pytest.mark.parametrize(("x", "most"), [(X / 255, "0.00392157"), ((16 * X).astype("u1"), "0.0627451")])
def test_data_of_another_scale_are_noted(capsys: pytest.CaptureFixture[str], x: np.ndarray, most: str) -> None:
    np.save("dark.npy", x)
    status, _, err = start(capsys, "encode one --input dark.npy --output z.npy")
    assert status == 0
    assert f"Note: dark.npy has values from 0 to {most}, samples of this model from 0 to 1. If the training" in err


@pytest.mark.parametrize("factor", [50, -50])
def test_data_far_beyond_the_samples_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float) -> None:
    """Samples of an untrained Normal decoder lie within a few standard deviations of 1 from 0."""
    own = save(tmp_path / "own.ckpt", "family=vae", "likelihood=normal")
    for scale, noted in ((factor, True), (factor / 50, False)):
        np.save("far.npy", scale * X)
        status, _, err = start(capsys, f"encode {own} --input far.npy --output z.npy")
        assert status == 0
        assert ("Note: far.npy has values from" in err) is noted


@pytest.mark.parametrize("line", ["encode run --input x.npy", "sample run -n 2", "score run --input x.npy --draws 1"])
def test_a_run_that_has_not_finished_is_noted(root: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    shutil.copytree(root / "runs" / "one", "run")
    Path("run", "summary.json").unlink()
    status, _, err = start(capsys, f"{line} --output out.npy")
    assert status == 0
    assert re.search(r"^Note: .*/run has not finished, .*after step 4 of 4.* resume=.*/run$", err.strip()), err


def test_the_command_starts_and_its_help_imports_no_torch(model: LatentVariableModel) -> None:
    command = [sys.executable, "-m", "lagvae", "encode", "latest", "--input", "x.npy", "--output", "z.npy"]
    with open("out", "w+") as out, open("err", "w+") as err:
        done = forked.run(command, stdout=out, stderr=err)
    assert (done.returncode, Path("out").read_text()) == (0, "Written to z.npy: z of shape (5, 4).\n"), Path("err").read_text()
    np.testing.assert_allclose(np.load("z.npy"), model.encode(X), rtol=1e-4, atol=1e-6)
    command = [sys.executable, "-X", "importtime", "-m", "lagvae", "score", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert said.stdout.startswith("usage: python -m lagvae score [-h] --input FILE")
    assert not {"torch", "hydra", "numpy"} & {line.rpartition("|")[2].strip() for line in said.stderr.splitlines()}


def test_the_commands_of_the_documentation_run(model: LatentVariableModel, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("mine.npy", X)
    np.savez("mine.npz", x=X)
    write_pictures(Path("photos"))
    lines = [words[1:] for words in commands(read("docs/cli.md")) if words[0] == "lagvae" and words[1:] and words[1] in USES]
    assert {line[0] for line in lines} == {*USES}
    for line in lines:
        status, _, err = start(capsys, " ".join(line))
        assert (status, err) == (0, "")
    assert files(Path()) > {"codes.csv", "samples.png", "scores.csv", "exported/model.json", "codes.npz"}
    np.testing.assert_allclose(array_of(Path("codes.npz"), "z"), model.encode(X), rtol=1e-4, atol=1e-6)


# ---- what is refused


class Touch:
    """An object whose unpickling makes a file."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("touched"),)


BAD: dict[str, tuple[Any, str]] = {
    "nothing.npy": (lambda: None, "--input=nothing.npy: there is no such file"),
    "data.txt": (lambda: Path("data.txt").touch(), "unknown ending '.txt'; use .npy, .npz, .csv, or images"),
    "data.npy": (lambda: np.save("data.npy", np.array([Touch()])), "holds Python objects, which are never loaded"),
    "data.npz": (lambda: Path("data.npz").write_text("junk"), "data.npz is no such file, or holds Python objects"),
    "cut.npy": (
        lambda: Path("cut.npy").write_bytes(Path("x.npy").read_bytes()[:300]),
        "cut.npy cannot be read .*write it",
    ),
    "empty.npy": (lambda: Path("empty.npy").touch(), "empty.npy cannot be read"),
    "none.npy": (lambda: np.save("none.npy", X[:0]), r"none.npy holds no rows: its array has the shape \(0, 1, 8, 8\)"),
    "text.npy": (
        lambda: np.save("text.npy", np.array(["a"])),
        "holds an array of <U1; it must be one of real numbers",
    ),
    "flat.npy": (lambda: np.save("flat.npy", ROWS), r"x has shape \(5, 64\); this model takes \(N, 1, 8, 8\)"),
    "wide.npy": (
        lambda: np.save("wide.npy", 16 * X),
        r"values from 0 to .*needs them in \[0, 1\]; rescale them \(divide by the largest level\), or pass",
    ),
    "nan.npy": (lambda: np.save("nan.npy", np.where(X > 0, np.nan, X)), r"x has NaN or infinite values, \d+ of 320"),
    "two.npz": (lambda: np.savez("two.npz", a=X, b=X), "has no array 'x', only a, b; name one with --key"),
    "two.npz --key c": (lambda: np.savez("two.npz", a=X), "has no array 'c', only a; name"),
    "x.npy --key c": (lambda: None, "--key=c is for an .npz file, which x.npy is not"),
    "data.csv": (lambda: write_table(ROWS[:, :63]), r"63 numbers in a row; this model takes 64, an x of shape \(1, 8, 8\)"),
    "a.csv": (lambda: Path("a.csv").write_text("a,b\n1,2\n1,x\n"), "numbers with commas .*: line 3, column 2 holds 'x'"),
    "b.csv": (lambda: Path("b.csv").write_text("1,x\n"), "line 1, column 2 holds 'x'"),
    "c.csv": (lambda: Path("c.csv").write_text("1,2\n\n1,2,3\n"), "line 3 has 3 columns, the first 2"),
    "d.csv": (lambda: Path("d.csv").write_text("a,b\n"), "d.csv holds no rows"),
    "e.csv": (lambda: Path("e.csv").write_bytes(b"1,2\n3,\xff\n"), "line 2, column 2"),
    "pictures": (lambda: Path("pictures").mkdir(), "pictures holds no images"),
    "a.png": (lambda: Path("a.png").touch(), "a.png is not an image"),
}
"""Words of --input → what writes the file, and what is said."""


@pytest.mark.parametrize("given", BAD)
def test_a_bad_input_is_refused(capsys: pytest.CaptureFixture[str], given: str) -> None:
    write, message = BAD[given]
    write()
    before = files(Path())
    status, out, err = start(capsys, f"encode one --input {given} --output z.npy")
    assert (status, out) == (1, "")
    assert re.search(message, " ".join(err.split())), err
    assert files(Path()) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("encode two --input x.npy --output z.npy", "'two' is not a run: .*The newest there: one"),
        ("encode two.ckpt --input x.npy --output z.npy", "There is no checkpoint two.ckpt"),
        ("encode untrained --input x.npy --output z.npy", "has no checkpoint yet"),
        ("encode x.npy --input x.npy --output z.npy", "x.npy is missing, damaged or not a checkpoint"),
        ("encode one --input x.npy --output z.png", "unknown ending '.png'; use .npy, .npz, .csv"),
        ("encode one --input x.npy --output z", "unknown ending ''"),
        ("encode one --input x.npy --output x.npy", "is the input, which would be lost"),
        ("encode one --input x.npy --output untrained.npy", "untrained.npy is a folder; name a file"),
        (
            "encode one --input x.npy --output x.npy/z.npy",
            r"\(x.npy is a file, .*\). Name another file with --output",
        ),
        ("encode one --input x.npy --output z.npy --device frog", "--device=frog cannot be used"),
        ("score one --input x.npy --output s.npy --draws 0", "draws=0 must be a whole number of at least 1"),
        ("sample one -n 0 --output s.npy", "-n 0 must be at least 1"),
        ("export one --output x.npy", r"\(x.npy is a file, not a folder\). Name another folder"),
    ],
)
def test_other_words_are_refused(capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    for folder in ("untrained", "untrained.npy"):
        Path(folder).mkdir()
    Path("untrained", "config.yaml").touch()
    before = files(Path())
    status, out, err = start(capsys, line)
    assert (status, out) == (1, "")
    assert re.search(message, " ".join(err.split())), err
    assert files(Path()) == before


def save(file: Path, *words: str) -> Path:
    """A checkpoint of an untrained model."""
    content: dict[str, Any] = {"state_dict": (model := untrained(*words)).state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, file)
    return file


def untrained(*words: str) -> LatentVariableModel:
    """A model with initial weights and, where it has bounds, ε̂ = 1."""
    cfg = settings(Path(), "trainer=cpu", *words)
    return build_model(cfg, build_data(cfg), made_up(cfg) if needs_calibration(cfg) else None).eval()


def test_what_a_member_does_not_define_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = save(tmp_path / "a.ckpt", "family=bigan")
    status, _, err = start(capsys, f"score {file} --input x.npy --output s.npy")
    assert status == 1
    assert "log_prob is not defined for this model: p(x|z) has no density" in " ".join(err.split())
    file = save(tmp_path / "b.ckpt", "family=cyclegan")
    status, _, err = start(capsys, f"sample {file} --output s.npy")
    assert (status, "sample is not possible" in err) == (1, True)
    assert start(capsys, f"encode {file} --input x.npy --output z.npy")[0] == 0
    save(tmp_path / "c.ckpt", "family=vae", "data=linear_gaussian", "data.source.n=100", "data.batch=20")
    for line in ("sample c.ckpt --output s.png", "encode c.ckpt --input x.png --output z.npy"):
        Path("x.png").touch()
        status, _, err = start(capsys, line)
        assert status == 1
        assert re.search(r"x of shape \(\d+,\)", err)


def test_a_class_of_ones_own_is_loaded_where_it_is_trusted(
    capsys: pytest.CaptureFixture[str], root: Path, model: LatentVariableModel
) -> None:
    Path("used_network.py").write_text("from lagvae.networks import MLP\n\n\nclass Net(MLP):\n    pass\n")

    def own(content: dict[str, Any]) -> None:
        content["lagvae"]["config"]["model"]["encoder"]["_target_"] = "used_network.Net"

    tampered(RunFolder(root / "runs" / "one"), Path("own.ckpt"), own)
    status, _, err = start(capsys, "encode own.ckpt --input x.npy --output z.npy")
    assert (status, "used_network" in sys.modules) == (1, False)
    assert "used_network.Net is not loaded" in " ".join(err.split())
    assert start(capsys, "encode own.ckpt --input x.npy --output z.npy --trust used_network.")[0] == 0
    np.testing.assert_allclose(np.load("z.npy"), model.encode(X), rtol=1e-4, atol=1e-6)
    del sys.modules["used_network"]


# ---- export


@pytest.mark.parametrize(
    "words",
    [("family=lagvae",), ("family=vae", "training.average=0.9", "model=conv"), ("family=avb",), ("family=cyclegan",)],
    ids=lambda words: words[0],
)
def test_an_exported_model_is_the_same_one(words: tuple[str, ...]) -> None:
    model = untrained(*words)
    lagvae.export(model, "out")
    assert files(Path("out")) == {"model.json", "model.safetensors"}
    loaded = lagvae.load("out")
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], t) for name, t in model.state_dict().items())
    assert str(loaded.lagrangian.constraints) == str(model.lagrangian.constraints)
    assert [c.bound for c in loaded.lagrangian.constraints] == [c.bound for c in model.lagrangian.constraints]
    np.testing.assert_allclose(loaded.reconstruct(X), model.reconstruct(X), rtol=1e-5)
    # An export is given to others: it does not say where the data and the runs are.
    description = json.loads(Path("out", "model.json").read_text(encoding="utf-8"))
    assert not {"data", "paths"} & description["config"].keys()
    assert (description["shape"], description["version"]) == ([1, 8, 8], lagvae.__version__)
    # A loaded model can be exported again.
    lagvae.export(loaded, "again")
    assert Path("again", "model.json").read_bytes() == Path("out", "model.json").read_bytes()


def test_the_command_exports(capsys: pytest.CaptureFixture[str], model: LatentVariableModel) -> None:
    status, out, err = start(capsys, "export latest --output out")
    assert (status, out, err) == (0, "Written to out: model.safetensors and model.json.\n", "")
    assert start(capsys, "encode out --input x.npy --output z.npy")[0] == 0
    np.testing.assert_allclose(np.load("z.npy"), model.encode(X), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(lagvae.load("out/model.json").encode(X), model.encode(X), rtol=1e-4, atol=1e-6)


def test_a_model_that_no_settings_describe_is_not_exported() -> None:
    def net(shape_in: Any, shape_out: Any) -> MLP:
        return MLP(shape_in, shape_out, hidden=[4])

    joint = JointModel(StandardNormalPrior(3), GaussianEncoder(net, (2,), 3), NormalDecoder(net, (2,), 3))
    with pytest.raises(SettingError, match=r"built in Python.*state_dict\(\)"):
        lagvae.export(of_joint(joint), "out")
    assert not Path("out").exists()


def test_a_damaged_export_is_refused(model: LatentVariableModel) -> None:
    lagvae.export(model, "out")
    description, weights = Path("out", "model.json"), Path("out", "model.safetensors")
    whole, text = weights.read_bytes(), description.read_text(encoding="utf-8")
    weights.write_bytes(whole[:200])
    with pytest.raises(CheckpointError, match=r"out needs model\.json and model\.safetensors.*Export it again"):
        lagvae.load("out")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"missing or damaged"):
        lagvae.load("out")
    weights.write_bytes(whole)
    description.write_text(text.replace('"latent": 4', '"latent": 5'))
    with pytest.raises(CheckpointError, match="is of another model"):
        lagvae.load("out")
    description.write_text("[]")
    with pytest.raises(CheckpointError, match="settings that no model can be built from"):
        lagvae.load("out")
    description.write_text(text[:-10])
    with pytest.raises(CheckpointError, match="missing or damaged"):
        lagvae.load("out")


def test_an_export_runs_no_code_of_others(model: LatentVariableModel) -> None:
    lagvae.export(model, "out")
    file = Path("out", "model.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    content["config"]["model"]["encoder"] = {"_target_": "os.system", "command": "touch touched"}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SettingError, match=r"model\.encoder\._target_=os\.system is not loaded"):
        lagvae.load("out")
    assert not Path("touched").exists()


def test_the_example_exports_programs_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "export.py"))["main"]("one", "out")
    assert files(Path("out")) == {"model.json", "model.safetensors", "encoder.pt2", "decoder.pt2"}
    errors = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert len(errors) == 2
    assert max(errors) < 1e-5  # of numbers of size 1 in fp32
