"""Arrays and images of every type and layout become the same x: in training, for scikit-learn and for a trained model."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import QUICK, program, settings, write_mnist
from PIL import Image
from torch import Tensor

from lagvae.cli.arrays import read_array
from lagvae.data import Arrays, DataModule, sources
from lagvae.data.conversion import as_float
from lagvae.distributions import GaussianEncoder, JointModel, NormalDecoder, StandardNormalPrior
from lagvae.errors import DataError, SettingError
from lagvae.experiment.factory import build_data, build_model
from lagvae.experiment.settings import deciding_settings
from lagvae.lagrangian import Lagrangian, Preference
from lagvae.model import LatentVariableModel
from lagvae.networks import MLP

N = 60

BITS = np.random.default_rng(0).integers(0, 2, (N, 6, 5))
BYTES = np.random.default_rng(1).integers(0, 256, (N, 6, 5))
WORDS = np.random.default_rng(2).integers(0, 65536, (N, 6, 5))
UNIT = (BYTES / 255).astype("f4")


def data_of(
    source: Callable[[], Any], likelihood: str = "normal", layout: str = "auto", allow: Sequence[str] = ()
) -> DataModule:
    data = DataModule(source, "own", likelihood, batch=8, layout=layout, allow=allow)
    data.check()
    return data


def from_file(
    tmp_path: Path, x: np.ndarray, layout: str = "auto", allow: Sequence[str] = (), **others: np.ndarray
) -> DataModule:
    """An array as `data=array` reads it."""
    np.savez(tmp_path / "own.npz", x=x, **others)
    return data_of(partial(sources.array, str(tmp_path / "own.npz")), layout=layout, allow=allow)


def x_of(data: DataModule) -> Tensor:
    assert isinstance(data.arrays.x, Tensor)
    return as_float(data.arrays.x)


# ---- every type × every layout


TYPES: dict[str, tuple[np.ndarray, np.ndarray, str | None]] = {
    "bool": (BITS.astype(bool), BITS, "bool of zeros and ones is taken as 0 and 1"),
    "uint8 0/1": (BITS.astype("u1"), BITS, "uint8 of zeros and ones is taken as 0 and 1"),
    "uint8": (BYTES.astype("u1"), BYTES.astype("f4") / 255, "uint8 levels 0 … 255 are divided by 255"),
    "uint16 0/1": (BITS.astype("u2"), BITS, "uint16 of zeros and ones is taken as 0 and 1"),
    "uint16": (WORDS.astype("u2"), WORDS.astype("f4") / 65535, "uint16 levels 0 … 65535 are divided by 65535"),
    "big-endian uint16": (WORDS.astype(">u2"), WORDS.astype("f4") / 65535, "uint16 levels 0 … 65535 are divided by 65535"),
    "int8": (BITS.astype("i1") - 1, BITS - 1, "int8 numbers are used as they are"),
    **{
        name: (BYTES.astype(name) % 7, BYTES % 7, f"{name} numbers are used as they are")
        for name in ("int16", "int32", "int64", "uint32", "uint64")
    },
    "float16": (UNIT.astype("f2"), UNIT.astype("f2"), None),
    "float32": (UNIT, UNIT, None),
    "float64": (UNIT.astype("f8"), UNIT, None),
    "longdouble": (UNIT.astype(np.longdouble), UNIT, None),
    "big-endian float": (UNIT.astype(">f4"), UNIT, None),
    "negative float": (UNIT - 0.5, UNIT - np.float32(0.5), None),
}
"""Type → (stored (N, 6, 5), x, what is said)."""

FIRST = "(N, 6, 5, {c}) are images with channels last, so x is ({c}, 6, 5) (data.layout=as_is: as it is)"

Shape = Callable[[np.ndarray], np.ndarray]


def channels(k: int, axis: int) -> Shape:
    """k channels on an axis, the later ones rolled so that they differ."""
    return lambda x: np.stack([np.roll(x, c, 0) for c in range(k)], axis)


SHAPES: dict[str, tuple[str, Shape, Shape, str | None]] = {
    "table": ("auto", lambda x: x.reshape(N, 30), lambda x: x.reshape(N, 30), None),
    "column": ("auto", lambda x: x[:, :1, 0], lambda x: x[:, :1, 0], None),
    "series": ("auto", lambda x: x[:, :, :2], lambda x: x[:, :, :2], None),
    "square": (
        "auto",
        lambda x: x[:, :5],
        lambda x: x[:, None, :5],
        "(N, 5, 5) are images without channels, so x is (1, 5, 5) (data.layout=as_is: as it is)",
    ),
    "grey": (
        "grey",
        lambda x: x,
        lambda x: x[:, None],
        "(N, 6, 5) are images without channels, so x is (1, 6, 5) (data.layout=as_is: as it is)",
    ),
    "as it is": ("as_is", lambda x: x[:, :5], lambda x: x[:, :5], None),
    **{f"first {k}": ("auto", channels(k, 1), channels(k, 1), None) for k in (1, 3, 4)},
    **{f"last {k}": ("auto", channels(k, -1), channels(k, 1), FIRST.format(c=k)) for k in (1, 3, 4)},
    "last 2, asked for": ("channels_last", channels(2, -1), channels(2, 1), FIRST.format(c=2)),
    "first 3, asked for": ("channels_first", channels(3, 1), channels(3, 1), None),
    "small square, first": ("auto", lambda x: x[:, None, :4, :4], lambda x: x[:, None, :4, :4], None),
    "volume": ("auto", channels(9, 1), channels(9, 1), None),
    "video": ("auto", lambda x: channels(3, 1)(channels(2, 1)(x)), lambda x: channels(3, 1)(channels(2, 1)(x)), None),
}
"""Layout → (data.layout, how (N, 6, 5) is stored, how x is arranged, what is said)."""


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_and_layout_becomes_the_same_x(tmp_path: Path, kind: str) -> None:
    stored, x, said_of_type = TYPES[kind]
    for name, (layout, write, expect, said_of_layout) in SHAPES.items():
        data = from_file(tmp_path, write(stored), layout)
        found, expected = x_of(data), expect(x).astype("f4")
        assert found.dtype == torch.float32
        assert found.shape == expected.shape, name
        np.testing.assert_array_equal(found.numpy(), expected, err_msg=name)
        assert data.conversions == [said for said in (said_of_type, said_of_layout) if said], name
        if stored.dtype != np.longdouble:  # which torch does not have
            own = write(stored).astype(stored.dtype.newbyteorder("="))
            assert x_of(data_of(partial(torch.from_numpy, own), layout=layout)).equal(found), name


def test_rectangular_levels_are_images_and_rectangular_numbers_are_not(tmp_path: Path) -> None:
    assert from_file(tmp_path, BYTES.astype("u1")).shape == (1, 6, 5)
    assert from_file(tmp_path, UNIT).shape == (6, 5)
    assert from_file(tmp_path, BYTES.astype("u1")[:, :, :4]).shape == (6, 4)  # may be four columns of a series


@pytest.mark.parametrize("shape", [(3, 32, 3), (3, 3, 3), (4, 4, 4), (1, 9, 4), (3, 7, 1)])
def test_an_ambiguous_layout_is_asked_for(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.zeros((N, *shape), "f4")
    with pytest.raises(DataError, match=r"own: x has the shape .* data\.layout=channels_first or data\.layout=channels_last"):
        from_file(tmp_path, x)
    a, b, c = shape
    assert from_file(tmp_path, x, "channels_first").shape == shape
    assert from_file(tmp_path, x, "channels_last").shape == (c, a, b)
    with pytest.raises(DataError, match=r"data\.layout=grey is for arrays with 3 axes"):
        from_file(tmp_path, x, "grey")
    with pytest.raises(SettingError, match=r"data\.layout='last' is unknown; choose one of auto, channels_first"):
        from_file(tmp_path, x, "last")


def test_what_may_be_channels_last_is_a_hint(tmp_path: Path) -> None:
    data = from_file(tmp_path, np.zeros((N, 6, 6, 13), "f4"))
    assert data.shape == (6, 6, 13)
    assert any("means 6 channels" in hint and "data.layout=channels_last" in hint for hint in data.hints)


def test_the_test_set_decides_together_with_x(tmp_path: Path) -> None:
    dark = np.zeros((N, 30), "u1")
    dark[0, 0] = 1
    for x, test in ((dark, BYTES.astype("u1").reshape(N, 30)), (BYTES.astype("u1").reshape(N, 30), dark)):
        arrays = from_file(tmp_path, x, test=test).arrays
        assert isinstance(arrays.x, Tensor)
        assert arrays.test is not None
        np.testing.assert_array_equal(as_float(arrays.x), x.astype("f4") / 255)
        np.testing.assert_array_equal(as_float(arrays.test), test.astype("f4") / 255)


def test_the_data_of_the_package_are_what_they_were(tmp_path: Path) -> None:
    source = sources.digits()
    x = data_of(lambda: source, "bernoulli").arrays.x
    assert isinstance(x, Tensor)
    assert x is source.x
    images, _ = write_mnist(tmp_path)
    x = data_of(partial(sources.mnist, str(tmp_path)), "bernoulli").arrays.x
    assert isinstance(x, Tensor)
    assert (x.dtype, x.equal(images.unsqueeze(1))) == (torch.uint8, True)


def test_a_default_layout_leaves_the_settings_of_a_run_as_they_were(tmp_path: Path) -> None:
    keys = [set(deciding_settings(settings(tmp_path, f"data.layout={layout}"))) for layout in ("auto", "as_is")]
    assert keys[1] - keys[0] == {"data.layout"}


# ---- what is unusual is said, and what cannot be is refused


HINTS: dict[str, tuple[np.ndarray, str]] = {
    "int64 grey levels": (BYTES, "values from 0 to 255, with a standard deviation of up to 8"),
    "float grey levels": (BYTES.astype("f4"), "save grey levels 0 … 255 as uint8"),
    "twelve bits": ((WORDS // 16).astype("u2"), "the largest value is 4095, and uint16 is divided by 65535"),
    "counts": ((BYTES % 7).astype("u1"), "the largest value is 6, and uint8 is divided by 255, so that x is at most 0.024"),
    "a table": (UNIT.reshape(N, 30) * np.r_[np.ones(29), 1e4], "Standardise the columns of a table"),
}


@pytest.mark.parametrize("kind", HINTS)
def test_what_is_unusual_is_a_hint(tmp_path: Path, kind: str) -> None:
    x, said = HINTS[kind]
    (hint,) = from_file(tmp_path, x).hints
    assert said in hint
    assert from_file(tmp_path, UNIT).hints == []


def test_the_lines_are_printed_when_training_starts(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BYTES[:, :5])
    words = ["data=array", f"data.source.path={tmp_path}/a.npy", "data.batch=16"]
    quick = [word for word in QUICK if not word.startswith(("data=", "data.source", "data.batch"))]
    said = program(tmp_path, *quick, "family=vae", *words)
    assert said.status == 0, said.err
    line = "data=array: int64 numbers are used as they are; (N, 5, 5) are images without channels, so x is (1, 5, 5)"
    assert said.out.count(line) == 1
    assert said.err.count("Note: data=array has values from 0 to 255") == 1


@pytest.mark.parametrize(
    ("shape", "index", "said"),
    [
        ((N, 6), (7, 2), "row 7, column 2, counted from 0, is 1e+30"),
        ((N, 1, 4, 4), (7, 0, 1, 3), r"row 7, position \(0, 1, 3\), counted from 0, is 1e+30"),
    ],
)
@pytest.mark.parametrize(("part", "sign"), [("x", 1), ("x", -1), ("test", 1)])
def test_an_extreme_value_is_named(
    tmp_path: Path, shape: tuple[int, ...], index: tuple[int, ...], said: str, part: str, sign: int
) -> None:
    clean = np.random.default_rng(0).standard_normal(shape).astype("f4")
    x = clean.copy()
    x[index] = sign * 1e30
    said = said.replace("1e+30", f"{x[index]:g}")
    words = (
        rf"data=own: {part} in {tmp_path}/own.npz has an extreme value: {said.replace('+', '[+]')}.* data\.allow=\[extreme\] "
    )
    with pytest.raises(DataError, match=words):
        from_file(tmp_path, **({"x": clean, "test": clean} | {part: x}))
    kept = from_file(tmp_path, **({"x": clean, "test": clean} | {part: x}), allow=["extreme"]).arrays
    assert isinstance(kept.x, Tensor)
    assert kept.test is not None
    assert float((kept.x if part == "x" else kept.test)[index]) == np.float32(sign * 1e30)


def test_a_value_that_32_bits_cannot_hold_is_named(tmp_path: Path) -> None:
    """Whatever is allowed: it would be infinite."""
    x = np.random.default_rng(0).standard_normal((N, 3))
    x[4, 1] = 1e39
    with pytest.raises(
        DataError, match=r"has values that are too large for floats of 32 bits, 1 of 180, the first in row 4, col"
    ):
        from_file(tmp_path, x, allow=["extreme"])


@pytest.mark.parametrize("kind", ["f8", "i8", "u4"])
def test_a_column_that_32_bits_would_round_is_named(tmp_path: Path, kind: str) -> None:
    """Floats of 32 bits around 2^30 are 2^7 = 128 apart, and so 0.012 standard deviations of 10,400, or 0.0096 of 13,300."""
    x = np.random.default_rng(0).standard_normal((N, 3)) * 10
    spread = (np.arange(N) - N / 2) / np.arange(N).std(ddof=1)
    x[:, 2] = 2**30 + 2**20 + 10_400 * spread
    x = np.abs(x).round().astype(kind)
    with pytest.raises(
        DataError, match=r"own.npz would be rounded: column 2, counted from 0, has values up to 1.07.*128 apart"
    ):
        from_file(tmp_path, x)
    assert from_file(tmp_path, x, allow=["rounding"]).shape == (3,)
    x[:, 2] = (2**30 + 2**20 + 13_300 * spread).astype(kind)
    assert from_file(tmp_path, x).shape == (3,)
    with pytest.raises(SettingError, match=r"data\.allow='extremes' is unknown; it is a list of extreme, rounding"):
        from_file(tmp_path, x, allow=["extremes"])


def test_values_of_any_size_are_not_extreme(tmp_path: Path) -> None:
    """A rare one, columns of very different units, tiny probabilities, an outlier of a thousand standard deviations."""
    x = np.random.default_rng(0).standard_normal((N, 4)) * [1, 1e9, 1e-9, 1]
    x[:, 3] = 0
    x[5, 3] = 1000
    assert from_file(tmp_path, x).shape == (4,)
    assert from_file(tmp_path, np.exp(-30 * UNIT.reshape(N, 30))).shape == (30,)


def test_a_value_that_is_none_is_named(tmp_path: Path) -> None:
    x = UNIT.reshape(N, 30).copy()
    x[4, 5] = np.nan
    with pytest.raises(DataError, match=r"NaN or infinite values, 1 of 1800, the first in row 4, column 5"):
        from_file(tmp_path, x)


def test_too_few_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data=own has 59 labels for 60 samples"):
        data_of(lambda: Arrays(torch.rand(60, 3), labels=torch.arange(59)))
    with pytest.raises(DataError, match="data=own has 9 test labels for 10 test samples"):
        data_of(lambda: Arrays(torch.rand(60, 3), torch.rand(10, 3), test_labels=torch.arange(9)))
    write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    file.write_bytes(struct.pack(">2i", 0x801, 15) + file.read_bytes()[8:23])
    with pytest.raises(DataError, match=r"t10k-\* in .*MNIST/raw do not belong together: 20 images and 15 labels\. Remove"):
        sources.mnist(str(tmp_path))


# ---- images


def ramp(dtype: str, high: float) -> np.ndarray:
    """16 levels from left to right."""
    return np.tile(np.linspace(0, high, 16), (16, 1)).astype(dtype)


GREY = ramp("u1", 255)
CLEAR = np.stack([ramp("u1", 255)] * 3 + [np.full((16, 16), 255, "u1")], -1)
CLEAR[:4, :, 3] = 0


def palette() -> Image.Image:
    image = Image.fromarray((GREY // 17).astype("u1"), "P")
    image.putpalette([level * 17 for level in range(16) for _ in range(3)])
    return image


LAID = GREY.copy()
LAID[:4] = 255

IMAGES: dict[str, tuple[str, Callable[[], Image.Image], np.ndarray, str | None]] = {
    "grey": ("png", lambda: Image.fromarray(GREY), GREY, None),
    "colour": ("png", lambda: Image.fromarray(np.stack([GREY] * 3, -1)), GREY, None),
    "palette": ("png", palette, GREY, None),
    "one bit": ("png", lambda: Image.fromarray(GREY > 127), (GREY > 127) * 255, None),
    "alpha": ("png", lambda: Image.fromarray(CLEAR), LAID, "partly transparent, and laid on white"),
    "grey with alpha": ("png", lambda: Image.fromarray(CLEAR[..., 2:]), LAID, "partly transparent, and laid on white"),
    "opaque": ("png", lambda: Image.fromarray(np.stack([*[GREY] * 3, 0 * GREY + 255], -1)), GREY, None),
    "16 bits": ("png", lambda: Image.fromarray(ramp("u2", 65535)), ramp("u2", 65535), "of 16 bits or floats"),
    "16 bits in tiff": ("tif", lambda: Image.fromarray(ramp("u2", 65535)), ramp("u2", 65535), "of 16 bits or floats"),
    "16 bits in pgm": ("pgm", lambda: Image.fromarray(ramp("i4", 65535)), ramp("u2", 65535), "of 16 bits or floats"),
    "floats": ("tiff", lambda: Image.fromarray(ramp("f4", 1)), ramp("f4", 1), "of 16 bits or floats"),
}
"""Kind → (ending, image, levels as integers or floats, what is said)."""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_every_kind_keep_their_levels(tmp_path: Path, kind: str, channels: int) -> None:
    """In memory, streamed, and as the programs encode and score read them."""
    ending, make, levels, said = IMAGES[kind]
    for i in range(N if said is None else 2):
        make().save(tmp_path / f"{i:02d}.{ending}")
    expected = levels.astype("f4") / {"f": 1, "u": 65535 if levels.dtype == np.uint16 else 255}.get(levels.dtype.kind, 255)
    expected = np.broadcast_to(expected, (channels, 16, 16))
    arrays, stream = (sources.folder(str(tmp_path), 16, channels, in_memory_mib=mib) for mib in (1024, 0))
    read, told = read_array(tmp_path, None, (channels, 16, 16))
    assert tuple(told) == arrays.conversions
    for x in (arrays.x[torch.tensor([0, 1])], stream.x[torch.tensor([0, 1])], torch.from_numpy(read[:2])):
        np.testing.assert_array_equal(as_float(x)[1].numpy(), expected)
    n = len(read)
    assert arrays.conversions == stream.conversions
    expected_words = [f"{n} of {n} images are {said}"] * (said is not None)
    if channels == 3 and make().mode in ("1", "L", "LA", "I", "I;16", "F"):
        expected_words.append(f"{n} of {n} images are grey, and read as three equal channels (data.source.channels=1")
    assert [text[: len(words)] for text, words in zip(arrays.conversions, expected_words, strict=True)] == expected_words


def write_png(file: Path, side: int, bits: int, colour: int, rows: bytes) -> None:
    """A PNG of side × side pixels, whose rows each begin with the byte of their filter; colour 0: grey, 2: RGB."""
    head = struct.pack(">2I5B", side, side, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_what_is_lost_of_images_is_said(tmp_path: Path) -> None:
    """Colour that is read as grey, what a crop leaves out, and the finer half of colours of 16 bits."""
    red = np.zeros((16, 20, 3), "u1")
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "a.png")
    Image.fromarray(np.stack([GREY] * 3, -1)).save(tmp_path / "b.png")
    rows = b"".join(b"\0" + bytes([k, 7] * 48) for k in range(16))
    write_png(tmp_path / "c.png", 16, 16, 2, rows)
    said = ["1 of 3 images are colour of 16 bits, and read with 8", "1 of 3 images are cropped to squares"]
    assert list(sources.folder(str(tmp_path), 16, 3).conversions) == said
    grey = "1 of 3 images are colour, and read as grey (data.source.channels=3 keeps colour)"
    assert list(sources.folder(str(tmp_path), 16, 1).conversions) == [said[0], grey, said[1]]


def test_images_of_several_kinds_go_together(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    Image.fromarray(ramp("u2", 65535)).save(tmp_path / "b.png")
    for mib in (1024, 0):
        arrays = sources.folder(str(tmp_path), 16, 1, mib)
        assert arrays.conversions == ("1 of 2 images are of 16 bits or floats, kept as such",)
        x = arrays.x[torch.tensor([0, 1])]
        np.testing.assert_array_equal(x[:, 0].numpy(), [GREY.astype("f4") / 255, ramp("u2", 65535).astype("f4") / 65535])


@pytest.mark.parametrize("mib", [1024, 0])
def test_masks_of_zeros_and_ones_are_zeros_and_ones(tmp_path: Path, mib: float) -> None:
    for i in range(N):
        Image.fromarray((GREY > 127).astype("u1")).save(tmp_path / f"{i}.png")
    data = data_of(partial(sources.folder, str(tmp_path), 16, 1, mib), "bernoulli")
    np.testing.assert_array_equal(data.first_samples("train", 5)[:, 0].numpy(), np.broadcast_to(GREY > 127, (5, 16, 16)))
    assert data.conversions == ["uint8 of zeros and ones is taken as 0 and 1"]
    assert data.levels == 1


@pytest.mark.parametrize("mib", [1024, 0])
@pytest.mark.parametrize(
    ("second", "said"),
    [
        (GREY, "uint8 levels 0 … 255 are divided by 255"),
        (ramp("u2", 65535), f"{N} of {2 * N} images are of 16 bits or floats, kept as such"),
    ],
    ids=["levels", "levels and 16 bits"],
)
def test_what_becomes_of_levels_is_said_of_streamed_images_too(tmp_path: Path, second: Any, said: str, mib: float) -> None:
    for i in range(N):
        Image.fromarray(GREY).save(tmp_path / f"{i}.png")
        Image.fromarray(second).save(tmp_path / f"second-{i}.png")
    assert data_of(partial(sources.folder, str(tmp_path), 16, 1, mib), "normal").conversions == [said]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_they_say(tmp_path: Path, orientation: int) -> None:
    """EXIF: where the first row and the first column of the stored image belong. Each quarter is of one grey level."""
    seen = np.array([[0, 80], [160, 240]], "u1")
    left, right = np.rot90(seen), np.rot90(seen, -1)
    stored = [seen, seen[:, ::-1], seen[::-1, ::-1], seen[::-1], seen.T, left, seen[::-1, ::-1].T, right][orientation - 1]
    image = Image.fromarray(np.kron(stored, np.ones((8, 8), "u1")))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    arrays = sources.folder(str(tmp_path), 16, 1)
    np.testing.assert_array_equal(arrays.x[torch.tensor([0])][0, 0].numpy(), np.kron(seen, np.ones((8, 8), "u1")))
    assert arrays.conversions == (() if orientation == 1 else ("1 of 1 images are turned as their EXIF says",))


DAMAGED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "huge": (
        "x.png",
        lambda f: write_png(f, 20_000, 8, 0, b""),
        r"x\.png is too large to be read \(Image size \(400000000 pixels\).*Shrink or remove it",
    ),
    "floats": ("x.tif", lambda f: Image.fromarray(ramp("f4", 9)).save(f), r"x\.tif .*its floats are from 0 to 9.*divide them"),
    "nan": ("x.tif", lambda f: Image.fromarray(ramp("f4", np.nan)).save(f), r"x\.tif .*floats are from nan to nan"),
    "32 bits": ("x.tif", lambda f: Image.fromarray(ramp("i4", 9)).save(f), r"x\.tif .*whole numbers of 32 bits; save 16 bits"),
    "dangling link": ("x.png", lambda f: f.symlink_to("nowhere.png"), r"x\.png is not an image that can be read"),
    "half": ("x.png", lambda f: f.write_bytes((f.parent / "a.png").read_bytes()[:45]), r"x\.png is not an image that can be"),
}


@pytest.mark.parametrize("mib", [1024, 0])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_image_is_named_before_training(tmp_path: Path, kind: str, mib: float) -> None:
    name, write, said = DAMAGED[kind]
    Image.fromarray(GREY).save(tmp_path / "a.png")
    write(tmp_path / name)
    with pytest.raises(DataError, match=said):
        sources.folder(str(tmp_path), 16, 1, mib)


def test_links_are_followed_and_hidden_folders_are_not(tmp_path: Path) -> None:
    for name in ("real/1.png", "ds/one.png", "ds/dogs/2.png", "ds/.ipynb_checkpoints/one-checkpoint.png", "ds/._one.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(GREY).save(tmp_path / name)
    for link, target in {"cats": "../real", "again": "../real", "an": "dogs", "dogs/up": "..", "self": "."}.items():
        (tmp_path / "ds" / link).symlink_to(tmp_path / "ds" / link / ".." / target if link == "self" else target)
    found = [str(file.relative_to(tmp_path / "ds")) for file in sources.image_files(str(tmp_path / "ds"))]
    assert found == ["again/1.png", "dogs/2.png", "one.png"]


# ---- scikit-learn and a trained model


def trained_on(tmp_path: Path, x: np.ndarray, *words: str) -> LatentVariableModel:
    """A model as it is built for training on an array."""
    np.save(tmp_path / "x.npy", x)
    quick = [word for word in QUICK if not word.startswith(("data=", "data.source", "data.batch"))]
    own = ["data=array", f"data.source.path={tmp_path}/x.npy", "data.batch=16", "family=vae", *words]
    cfg = settings(tmp_path, *quick, *own)
    return build_model(cfg, build_data(cfg)).eval()


FLAT = BYTES.reshape(N, 30)
DARK = (FLAT > 250).astype("u1")

GIVEN: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | str]] = {
    "levels": (FLAT.astype("u1"), FLAT.astype("u1"), FLAT.astype("f4") / 255),
    "levels that are dark": (FLAT.astype("u1"), DARK, DARK.astype("f4") / 255),
    "levels as their x": (FLAT.astype("u1"), UNIT.reshape(N, 30), UNIT.reshape(N, 30)),
    "levels as numbers": (FLAT.astype("u1"), FLAT, "x is int64 with values up to 255, and .* divided by 255"),
    "bits": (DARK, DARK, DARK),
    "bits as bool": (DARK, DARK.astype(bool), DARK),
    "bits as 0 and 255": (DARK, DARK * 255, DARK),
    "bits as int64": (DARK, DARK.astype(int), DARK),
    "words": (WORDS.astype("u2").reshape(N, 30), WORDS.astype("u2").reshape(N, 30), WORDS.reshape(N, 30).astype("f4") / 65535),
    "words as bytes": (WORDS.astype("u2").reshape(N, 30), FLAT.astype("u1"), FLAT.astype("f4") / 255),
    "numbers": (FLAT, FLAT, FLAT),
    "numbers as bytes": (FLAT, FLAT.astype("u1"), "would be divided by 255, and .* trained on numbers up to 255"),
    "floats as bytes": (UNIT.reshape(N, 30), FLAT.astype("u1"), FLAT.astype("f4") / 255),
    "big-endian": (UNIT.reshape(N, 30), UNIT.reshape(N, 30).astype(">f4"), UNIT.reshape(N, 30)),
}
"""Kind → (the training data, what is given to the model, the x that it takes or what is said)."""


@pytest.mark.parametrize("kind", GIVEN)
def test_a_trained_model_takes_x_as_its_data_were_taken(tmp_path: Path, kind: str) -> None:
    data, given, expected = GIVEN[kind]
    model = trained_on(tmp_path, data)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            model.encode(given)
        return
    np.testing.assert_array_equal(model.observations(given).numpy(), expected.astype("f4"))


def test_a_model_that_knows_no_data_refuses_what_has_two_readings(tmp_path: Path) -> None:
    model = trained_on(tmp_path, UNIT.reshape(N, 30))
    model.origin = None
    with pytest.raises(DataError, match=r"uint8 and holds only 0 and 1\. Pass zeros and ones as bool or as floats, and levels"):
        model.encode(DARK)
    np.testing.assert_array_equal(model.observations(DARK.astype(bool)).numpy(), DARK)
    np.testing.assert_array_equal(model.observations(0 * DARK).numpy(), 0 * DARK)
    np.testing.assert_array_equal(model.observations(255 * DARK).numpy(), DARK)


def test_a_trained_model_takes_images_of_any_layout(tmp_path: Path) -> None:
    colour = channels(3, -1)(BYTES[:, :5]).astype("u1")
    model = trained_on(tmp_path, colour)
    x = np.moveaxis(colour, -1, 1).astype("f4") / 255
    for given in (x, colour, np.moveaxis(x, 1, -1)):
        np.testing.assert_array_equal(model.observations(given).numpy(), x)
    grey = trained_on(tmp_path, BYTES[:, :5].astype("u1"))
    for given in (UNIT[:, :5], UNIT[:, None, :5], UNIT[:, :5, :, None]):
        np.testing.assert_array_equal(grey.observations(given).numpy(), UNIT[:, None, :5])
    with pytest.raises(DataError, match=r"x has shape \(60, 6, 5\); this model takes \(N, 1, 5, 5\)"):
        grey.encode(UNIT)


@pytest.mark.filterwarnings("ignore:Verdict:sklearn.exceptions.ConvergenceWarning")
def test_the_estimator_takes_levels_as_the_programs_do() -> None:
    from lagvae.sklearn import LagVAE

    unused = ("information_of_model", "likelihood", "two_sample_x", "two_sample_z", "reconstruction", "mmd")
    overrides = ["data.draws=1", "trainer=cpu", *(f"~callbacks.final.{name}" for name in unused)]
    estimator = LagVAE(steps=4, latent_dim=2, hidden=(4,), random_state=0, overrides=overrides)
    with pytest.warns(UserWarning, match="X is uint8 and is divided by 255"):
        estimator.fit(FLAT.astype("u1"))
    np.testing.assert_array_equal(estimator.transform(FLAT.astype("u1")), estimator.transform(FLAT.astype("f4") / 255))
    assert (estimator.model_.origin or {})["levels"] == 255


def plain_model(levels: int | None, high: float = 1.0) -> LatentVariableModel:
    """A model of four pixels, trained on numbers up to `high` that come from levels up to `levels`, 1 for zeros and ones."""
    network, shape = partial(MLP, hidden=[4]), (4,)
    joint = JointModel(StandardNormalPrior(2), GaussianEncoder(network, shape, 2), NormalDecoder(network, shape, 2))
    model = LatentVariableModel(joint, Lagrangian(Preference(-1.0), []), primal=torch.optim.Adam)
    model.origin = {"levels": levels, "range": (0.0, high)}
    return model


@pytest.mark.parametrize(
    ("levels", "high", "dtype", "given", "taken"),
    [
        pytest.param(255, 1.0, np.uint8, [0, 51, 102, 255], [0, 0.2, 0.4, 1], id="levels"),
        pytest.param(255, 1.0, np.uint16, [0, 13107, 0, 65535], [0, 0.2, 0, 1], id="16 bits"),
        pytest.param(1, 1.0, np.uint8, [0, 1, 1, 0], [0, 1, 1, 0], id="zeros and ones"),
        pytest.param(None, 1.0, np.uint8, [0, 0, 0, 0], [0, 0, 0, 0], id="black"),
        pytest.param(None, 1.0, np.int64, [0, 1, 1, 0], [0, 1, 1, 0], id="integers without a full range"),
        pytest.param(255, 1.0, np.float64, [0, 0.5, 2, -1], [0, 0.5, 2, -1], id="floats"),
        pytest.param(None, 1.0, np.uint8, [0, 1, 1, 0], "holds only 0 and 1", id="levels or ones"),
        pytest.param(
            None, 9.0, np.uint8, [0, 7, 9, 0], "would be divided by 255, and this model was trained on numbers up to 9"
        ),
        pytest.param(255, 1.0, np.int64, [0, 7, 9, 0], "trained on levels that were divided by 255"),
    ],
)
def test_integers_are_taken_as_those_of_training(
    levels: int | None, high: float, dtype: Any, given: list[float], taken: list[float] | str
) -> None:
    model, x = plain_model(levels, high), np.array([given], dtype=dtype)
    if isinstance(taken, str):
        with pytest.raises(DataError, match=taken):
            model.observations(x)
        return
    torch.testing.assert_close(model.observations(x), torch.tensor([taken], dtype=torch.float32))
