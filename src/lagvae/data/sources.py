"""Sources of data: functions that return `Arrays`, or raise a DataError that says what to do."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from gzip import BadGzipFile
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from lagvae.data.cells import ENDINGS
from lagvae.data.conversion import as_float, as_tensor, stored
from lagvae.errors import DataError, LagvaeError, SettingError
from lagvae.io import file_digest, storage_error, write_json
from lagvae.terminal import console

if TYPE_CHECKING:
    from lagvae.data.tables import Table

OFFLINE = "data=digits and data=linear_gaussian work without a network; data=array and data=folder read your own files."

DOWNLOAD_PATIENCE = 10.0
"""Seconds without a response after which a download fails."""


@dataclass
class Arrays:
    """Data before they are split.

    Attributes:
        x: (N, *shape) of any type and layout, which `lagvae.data.conversion` turns into x; or image files that are streamed.
        test: a separate test set; None if a part of x serves as one.
        digest: a hash of the content, once it has been computed.
        labels, test_labels: (N,), integers that only evaluation uses, and `attribute` where it is missing.
        factors, test_factors: (N, F), integers that the samples were made from, which only evaluation uses.
        attribute, test_attribute: (N,), integers, u of an objective with I(z;u). Without it the labels are, but not of a
            table.
        second: samples of a second domain, (M, …), whose order is unrelated to that of x.
        conversions: what was done to the files that were read, in words.
        file: what x was read from, for messages.
        table: what the columns of x are, where x is a table.
        partner: the true map to the second domain, (B, *shape) → (B, …), by which held-out samples become pairs. If `second` is
            not given, one half of the training samples is used for the first domain and the other half for the second, so that
            training never sees a pair.

    Examples:
        >>> Arrays(torch.rand(500, 8), labels=torch.arange(500) % 10).x.shape  # what a data source of one's own returns
        torch.Size([500, 8])
    """

    x: Tensor | ImageFiles
    test: Tensor | None = None
    digest: str | None = None
    labels: Tensor | None = None
    test_labels: Tensor | None = None
    factors: Tensor | None = None
    test_factors: Tensor | None = None
    attribute: Tensor | None = None
    test_attribute: Tensor | None = None
    second: Tensor | None = None
    partner: Callable[[Tensor], Tensor] | None = None
    conversions: tuple[str, ...] = ()
    file: str | None = None
    table: Table | None = None

    def name_of(self, part: str) -> str:
        """How messages name x, "test" or "second"."""
        return part if self.file is None else f"{part} in {self.file}"


def digits() -> Arrays:
    """1,797 handwritten digits of 8×8 pixels with 17 grey levels, from scikit-learn (UCI, Alpaydin & Kaynak 1998).

    Examples:
        >>> digits().x.shape
        torch.Size([1797, 1, 8, 8])
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float() / 16
    return Arrays(images.unsqueeze(1), labels=torch.from_numpy(bunch.target).long())


def digits_pairs() -> Arrays:
    """The digits, with the digits inverted and rotated by 90° as a second domain."""
    arrays = digits()
    arrays.partner = inverted_and_turned
    return arrays


def inverted_and_turned(x: Tensor) -> Tensor:
    """1 − x, rotated by 90° to the left; x (…, H, W) in [0, 1].

    Examples:
        >>> inverted_and_turned(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor([[0., 1.],
                [1., 1.]])
    """
    return 1 - torch.rot90(x, 1, (-2, -1))


def _torchvision(name: str, root: str) -> Arrays:
    """The torchvision data set of that name; DataError where it can be neither read nor downloaded."""
    from torchvision import datasets

    cls = getattr(datasets, name)
    with downloading(name, root, f"{root}/{name}/raw"):
        parts = [cls(root, train=train, download=True) for train in (True, False)]
    for part, kind in zip(parts, ("train", "t10k"), strict=True):
        if len(part.data) != len(part.targets):
            raise DataError(
                f"The files {kind}-* in {root}/{name}/raw do not belong together: {len(part.data)} images and "
                f"{len(part.targets)} labels. Remove that folder and run again."
            )
    (x, labels), (test, test_labels) = ((part.data.unsqueeze(1), part.targets.long()) for part in parts)
    return Arrays(x, test, labels=labels, test_labels=test_labels)


@contextmanager
def downloading(name: str, root: str, raw: str) -> Iterator[None]:
    """Within it, torchvision waits for a server for a limited time, and errors say what to do about the files in `raw`."""
    default_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_PATIENCE)  # torchvision would wait for an unresponsive server without limit
    try:
        yield
    except Exception as error:  # servers, archives and files raise many kinds of errors
        raise _torchvision_error(error, name, root, raw) from error
    finally:
        socket.setdefaulttimeout(default_timeout)


def _torchvision_error(error: Exception, name: str, root: str, raw: str) -> LagvaeError:
    reason = (str(error).splitlines() or [repr(error)])[-1].strip("<>")
    network_error = isinstance(error, URLError | TimeoutError | ConnectionError | HTTPException)
    if network_error or str(error).startswith(("Error downloading", "File not found")):  # messages of torchvision
        return DataError(
            f"{name} is not under {root} and could not be downloaded ({reason}). Put its files in {raw}. {OFFLINE}"
        )
    if isinstance(error, OSError) and not isinstance(error, BadGzipFile):
        return storage_error(Path(raw), error)
    return DataError(f"The files in {raw} are damaged ({reason}). Remove that folder and run again.")


def mnist(root: str) -> Arrays:
    """MNIST, 60,000 + 10,000 images of 28×28 (LeCun et al., 1998), downloaded by torchvision if it is missing."""
    return _torchvision("MNIST", root)


def fashion_mnist(root: str) -> Arrays:
    """Fashion-MNIST, 60,000 + 10,000 images of 28×28 (Xiao et al., 2017), downloaded if it is missing."""
    return _torchvision("FashionMNIST", root)


def array(path: str, key: str = "x", labels: str | None = "y", factors: str | None = "factors") -> Arrays:
    """A user's own array, (N, …), from an .npz or .npy file of numpy, or a .pt file with a tensor or a dict of tensors.

    Args:
        path: the file.
        key: the array of an .npz or of a dict. An array "test" in the same file is used as the test set, and "second" as
            samples of a second domain.
        labels: the name of the array with the labels of the samples, (N,), if there is one; "test_" is prepended for those of
            the test set. None for no labels.
        factors: the name of the array with the factors that the samples were made from, whole numbers, (N, F), as for labels.

    Files are read without executing any code in them (no pickle).

    Raises: DataError for a file that cannot be read or an array that cannot be used.
    """
    if not path:
        raise DataError("data=array needs data.source.path=FILE (.npz, .npy or .pt).")
    file, named = Path(path).expanduser(), f"data.source.path={path}"
    if file.is_dir():
        raise DataError(f"{named} is a folder; name a .npz, .npy or .pt file, or read images with data=folder.")
    if not file.is_file():
        raise DataError(f"{named}: there is no such file.")
    if file.suffix.lower() in ENDINGS:
        raise DataError(f"{named} is a table; read it with data=table.")
    if file.suffix not in READERS:
        raise DataError(f"{named} has the unknown ending {file.suffix!r}; use .npz, .npy or .pt.")
    if file.stat().st_size == 0:
        raise DataError(f"{named} is an empty file; write it again.")
    extra = [f"{part}{name}" for name in (labels, factors) if name is not None for part in ("", "test_")]
    try:
        arrays_of_file = READERS[file.suffix](file, (key, "test", "second", *extra))
    except Exception as error:  # unzipping and unpickling raise many kinds of errors
        if isinstance(error, UnpicklingError) or "pickle" in str(error):
            reason = f"is no {file.suffix} file, or holds Python objects, which are never loaded; save plain arrays"
        else:
            reason = f"cannot be read ({(str(error).splitlines() or [repr(error)])[0].rstrip('.')}); write it again"
        raise DataError(f"{named} {reason}.") from error
    if key not in arrays_of_file:
        names = ", ".join(map(str, arrays_of_file)) or "none"
        raise DataError(f"{named} has no array {key!r}, only {names}; set data.source.key.")

    def optional(name: str, read: Callable[..., Tensor], *args: Any) -> Tensor | None:
        if name == key or arrays_of_file.get(name) is None:
            return None
        return read(arrays_of_file[name], f"{named}: {name}", *args)

    x, test = _plain(arrays_of_file[key], f"{named}: {key}"), optional("test", _plain)
    arrays = Arrays(x, test, second=optional("second", _plain), file=path)
    if labels is not None:
        arrays.labels = optional(labels, _labels, len(x))
        arrays.test_labels = None if test is None else optional(f"test_{labels}", _labels, len(test))
    if factors is not None:
        arrays.factors = optional(factors, _factors, len(x))
        arrays.test_factors = None if test is None else optional(f"test_{factors}", _factors, len(test))
    return arrays


Wanted = tuple[str | None, ...]
"""Names of arrays: that of the samples, then those of optional ones."""


def _read_npz(file: Path, wanted: Wanted) -> dict[str, Any]:
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        return {name: archive[name] if name in wanted else None for name in archive.files}


def _read_npy(file: Path, wanted: Wanted) -> dict[str, Any]:
    return {str(wanted[0]): np.load(file, allow_pickle=False)}


def _read_pt(file: Path, wanted: Wanted) -> dict[str, Any]:
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    return loaded if isinstance(loaded, dict) else {str(wanted[0]): loaded}


READERS: dict[str, Callable[[Path, Wanted], dict[str, Any]]] = {".npz": _read_npz, ".npy": _read_npy, ".pt": _read_pt}


def _plain(x: Any, named: str) -> Tensor:
    """A dense tensor (N, …); DataError for anything else."""
    x = as_tensor(x, named)
    if x.ndim < 2:
        raise DataError(
            f"{named} has the shape {tuple(x.shape)}; it must be (N, …), N samples of at least one axis: numbers are (N, 1)."
        )
    return x


def _whole_numbers(y: Any, n: int, axes: int) -> Tensor | None:
    """Whole numbers for n samples, of so many axes, as integers; None for anything else."""
    y = torch.from_numpy(y) if isinstance(y, np.ndarray) and y.dtype.kind in "iufb" else y
    valid = isinstance(y, Tensor) and not y.is_complex() and y.ndim == axes and len(y) == n
    return y.long() if valid and bool((y == y.double().round()).all()) else None


def _factors(v: Any, named: str, n: int) -> Tensor:
    """Factors as integers, (N, F); DataError for anything else."""
    if (factors := _whole_numbers(v, n, axes=2)) is None:
        raise DataError(
            f"{named} must be whole numbers of shape ({n}, F), F factors of each of the {n} samples. Name another array with "
            "data.source.factors, or set data.source.factors=null to use none."
        )
    return factors


def _labels(y: Any, named: str, n: int) -> Tensor:
    """Labels as integers, (N,); DataError for anything else."""
    labels = _whole_numbers(y, n, axes=1)
    if labels is None:
        kind = f"{y.dtype} of shape {tuple(y.shape)}" if hasattr(y, "shape") else type(y).__name__
        raise DataError(
            f"{named} is {kind}; labels are whole numbers, one for each of the {n} samples. Name another array with "
            "data.source.labels, or set data.source.labels=null to use no labels."
        )
    return labels


IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}


def image_files(path: str | Path, named: str = "data.source.path") -> list[Path]:
    """All image files below a folder, sorted by path.

    Links are followed, but no folder is read twice. Hidden files and folders are skipped, such as .ipynb_checkpoints.
    """
    if not str(path):
        raise DataError("data=folder needs data.source.path=FOLDER with images.")
    folder = Path(path).expanduser()
    if folder.is_file():
        raise DataError(f"{named}={path} is a file; name a folder of images, or read an array with data=array.")
    if not folder.is_dir():
        raise DataError(f"{named}={path}: there is no such folder.")
    files, visited = [], {os.path.realpath(folder)}
    for at, below, names in os.walk(folder, followlinks=True):
        places = {name: os.path.realpath(Path(at) / name) for name in sorted(below) if not name.startswith(".")}
        # Folders before links, so that what is there itself keeps its own name.
        ordered = sorted(places, key=lambda name: ((Path(at) / name).is_symlink(), name))
        below.clear()
        for name in ordered:
            if places[name] not in visited:
                visited.add(places[name])
                below.append(name)
        files += [Path(at) / f for f in names if not f.startswith(".") and Path(f).suffix.lower() in IMAGE_ENDINGS]
    if not files:
        hint = ""
        if any(folder.rglob("data_batch_1*")):
            hint = " For CIFAR-10 use data=cifar10, which reads the binary version; files of the Python version may run code."
        raise DataError(f"{named}={path} holds no images ({', '.join(sorted(IMAGE_ENDINGS))}).{hint}")
    return sorted(files)


TURNED, TRANSPARENT, FINE, COARSE, GREYED, TRIPLED, CROPPED = (
    "turned as their EXIF says",
    "partly transparent, and laid on white",
    "of 16 bits or floats, kept as such",
    "colour of 16 bits, and read with 8",
    "colour, and read as grey (data.source.channels=3 keeps colour)",
    "grey, and read as three equal channels (data.source.channels=1 reads one)",
    "cropped to squares",
)
"""What is done to some images, in words."""

DONE = (TURNED, TRANSPARENT, FINE, COARSE, GREYED, TRIPLED, CROPPED)
"""All that is done to images, in the order in which it is said."""


GREY = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "F")
"""Kinds of images, as Pillow calls them, that have one channel beside alpha."""


def read_image(file: Path, size: int, channels: int) -> Tensor:
    """One image, (channels, size, size): the shorter side is resized to `size`, the longer one cropped centrally.

    It is uint8; float32 in [0, 1] where the file has grey levels of 16 bits or floats. It is turned as its EXIF data say, and
    laid on white where it is transparent.

    Raises: DataError for a file that cannot be read, or whose values are outside of their range.
    """
    return _read_image(file, size, channels)[0]


def _read_image(file: Path, size: int, channels: int) -> tuple[Tensor, set[str]]:
    """An image, and what of `DONE` was done to it."""
    from PIL import Image, ImageOps

    done, mode = set(), "L" if channels == 1 else "RGB"
    try:
        with Image.open(file) as opened:
            kind = opened.format
            if any("16" in str(tile[-1]) for tile in opened.tile) and opened.mode[0] not in "IF":
                done.add(COARSE)
            image = ImageOps.exif_transpose(opened)
            if opened.getexif().get(ORIENTATION, 1) != 1:
                done.add(TURNED)
        if image.width != image.height:
            done.add(CROPPED)
        if channels == 3 and image.mode in GREY:
            done.add(TRIPLED)
        if image.mode[0] in "IF":
            done.add(FINE)
            levels = Image.fromarray(_fine_levels(image, str(kind)))
            pixels = torch.from_numpy(np.array(ImageOps.fit(levels, (size, size)))).clamp(0, 1)
            return pixels.expand(channels, size, size).contiguous(), done
        if image.has_transparency_data and np.array(own := image.convert("RGBA"))[..., 3].min() < 255:
            done.add(TRANSPARENT)
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), own)
        fitted = ImageOps.fit(image.convert(mode), (size, size))
        if channels == 1 and np.array(ImageOps.fit(image.convert("RGB"), (size, size)).convert("HSV"))[..., 1].any():
            done.add(GREYED)
        pixels = torch.from_numpy(np.array(fitted))
    except Image.DecompressionBombError as error:
        raise DataError(f"{file} is too large to be read ({str(error).rstrip('.')}). Shrink or remove it.") from error
    except Exception as error:  # decoders raise many kinds of errors
        raise DataError(f"{file} is not an image that can be read ({error}). Remove or mend it.") from error
    return (pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()), done


ORIENTATION = 0x0112
"""The number of the EXIF tag that says how an image is to be turned."""


def _fine_levels(image: Any, kind: str) -> np.ndarray:
    """The grey levels of an image of more than 8 bits, float32 in [0, 1]. ValueError for values outside of their range."""
    values = np.array(image)
    if values.dtype.kind == "f":
        if not (values >= 0).all() or not (values <= 1).all():
            raise ValueError(
                f"its floats are from {values.min():g} to {values.max():g}, and need to be in [0, 1]: divide them by their "
                "largest value, or read an array with data=array"
            )
        return values.astype(np.float32)
    if values.dtype.itemsize > 2 and kind == "TIFF":  # the other formats give 16 bits in this type
        raise ValueError("it has whole numbers of 32 bits; save 16 bits, or floats in [0, 1]")
    return values.astype(np.float32) / 65535


class Seen(NamedTuple):
    """What is remembered of an image that was read: when its file was changed, and what was found in it."""

    stamp: tuple[int, ...]
    digest: str
    high: float
    done: tuple[str, ...]


def _stamp(file: Path) -> tuple[int, ...]:
    """Size of a file and when it and its entry were last changed; nothing where there is no such file."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class ImageFiles:
    """Images that are read on access: index (B,) → (B, channels, size, size), uint8, or floats where some are.

    Args:
        index: a file in which it is remembered which images were read, so that the next start reads those that have changed.

    Attributes:
        binary: whether all pixels of all images are the levels 0 and 1, which are then taken as 0 and 1.
        fine: whether some images are of 16 bits or floats.
        digests: of the content of each file, where all were read and none was kept.

    Raises: DataError where one of these files is no longer what it was then.
    """

    def __init__(self, files: list[Path], size: int, channels: int, index: Path | None = None) -> None:
        self.files, self.size, self.channels, self.index = files, size, channels, index
        self.binary = self.fine = False
        self.digests: list[str] = []
        self._stamps: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Tensor) -> Tensor:
        images = [read_image(self.files[i], self.size, self.channels) for i in index.tolist()]
        for i in index.tolist() if self._stamps else ():
            if _stamp(self.files[i]) != self._stamps[i] and file_digest(self.files[i]) != self.digests[i]:
                raise DataError(
                    f"{self.files[i]} was changed while it was in use. Put it back and resume the run, or start a new one."
                )
        return self._stacked(images)

    def _stacked(self, images: list[Tensor]) -> Tensor:
        fine = any(x.is_floating_point() for x in images)
        x = torch.stack([as_float(x) for x in images] if fine else images)
        return stored(x, 1) if self.binary else x

    def read_all(self, keep: bool) -> tuple[Tensor | None, list[str]]:
        """All images where they are to be kept, and what was done to some of them.

        Every file is read, to find damage now; of files that are not kept, those that have changed since they were read.

        Raises: DataError with the files that cannot be read.
        """
        from rich.progress import track

        n, bar, self.binary = len(self), console(), False
        known = {} if keep else self._recall()
        kept: list[Tensor] = []
        seen: dict[str, Seen] = {}
        damaged: list[tuple[Path, DataError]] = []

        def look(file: Path) -> tuple[Tensor | None, Seen] | DataError:
            stamp, before = _stamp(file), known.get(os.path.abspath(file))
            if before is not None and before.stamp == stamp:
                return None, before
            try:
                x, done = _read_image(file, self.size, self.channels)
            except DataError as error:
                return error
            high = 255.0 if x.is_floating_point() else float(x.max())
            digest = "" if keep else file_digest(file)
            return (x if keep else None), Seen(stamp, digest, high, tuple(sorted(done)))

        with warnings.catch_warnings(), ThreadPoolExecutor(READERS_OF_IMAGES) as pool:
            warnings.simplefilter("ignore")  # Pillow's, of images that are large; what is too large is an error
            results = zip(self.files, pool.map(look, self.files), strict=True)
            try:
                for file, found in track(
                    results, "Reading images", n, console=bar, transient=True, disable=not bar.is_terminal
                ):
                    if isinstance(found, DataError):
                        damaged.append((file, found))
                        continue
                    seen[os.path.abspath(file)] = found[1]
                    if found[0] is not None:
                        kept.append(found[0])
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                if not keep and seen != known:
                    self._remember(seen)
        if damaged:
            raise _damage(damaged)
        counts = Counter(what for each in seen.values() for what in each.done)
        said = [f"{counts[what]} of {n} images are {what}" for what in DONE if counts[what]]
        if keep:
            return self._stacked(kept), said
        self.digests = [seen[os.path.abspath(file)].digest for file in self.files]
        self._stamps = [seen[os.path.abspath(file)].stamp for file in self.files]
        self.binary, self.fine = max(each.high for each in seen.values()) == 1, counts[FINE] > 0
        return None, said

    @property
    def _readers(self) -> list[Any]:
        """What decides about what is found in a file."""
        from PIL import __version__ as pillow

        return [pillow, self.size, self.channels, list(DONE)]

    def _recall(self) -> dict[str, Seen]:
        """File → what is remembered of it; nothing where the index is missing, damaged, or of other readers."""
        try:
            assert self.index is not None
            content = json.loads(self.index.read_text(encoding="utf-8"))
            if content["readers"] != self._readers:
                return {}
            return {
                file: Seen(tuple(stamp), str(digest), float(high), tuple(done))
                for file, (stamp, digest, high, done) in content["files"].items()
            }
        except (AssertionError, OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def _remember(self, seen: dict[str, Seen]) -> None:
        if self.index is not None:
            with suppress(SettingError):  # where it cannot be written, the next start reads all files
                write_json(self.index, {"readers": self._readers, "files": seen})


def _damage(damaged: list[tuple[Path, DataError]]) -> DataError:
    """The error for files that cannot be read, which names the first of them."""
    (_, first), *others = damaged
    if not others:
        return first
    names = ", ".join(str(file) for file, _ in others[:MOST_NAMED])
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return DataError(f"{first} Nor can be read: {names}{more}.")


MOST_NAMED = 4
"""Number of further files that a message names."""

READERS_OF_IMAGES = min(8, os.cpu_count() or 1)
"""Number of threads that read images at once."""


def folder(path: str, size: int = 32, channels: int = 3, in_memory_mib: float = 1024, remembered: str | None = None) -> Arrays:
    """All images below a folder, (N, channels, size, size): uint8, or floats where some images have finer levels.

    Every file is read before training. Up to `in_memory_mib` the images are kept in memory; a larger folder is streamed from
    its files, of which the next start reads those that have changed.

    Args:
        remembered: a folder, in which it is noted which files of a streamed folder were read.

    Raises: SettingError for an invalid size or number of channels; DataError for a folder without readable images.
    """
    if size < 1:
        raise SettingError(f"data.source.size={size} must be at least 1 pixel.")
    if channels not in (1, 3):
        raise SettingError(f"data.source.channels={channels} must be 1 (grey) or 3 (colour).")
    files, index = image_files(path), None
    if remembered is not None:
        name = hashlib.sha256(f"{os.path.realpath(Path(path).expanduser())} {size} {channels}".encode()).hexdigest()[:16]
        index = Path(remembered).expanduser() / f"{name}.json"
    store = ImageFiles(files, size, channels, index)
    kept, conversions = store.read_all(keep=len(store) * channels * size * size <= in_memory_mib * 2**20)
    return Arrays(store if kept is None else kept, conversions=tuple(conversions))
