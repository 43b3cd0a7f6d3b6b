"""Sources of data: functions that return `Arrays`, or raise a DataError that says what to do."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from gzip import BadGzipFile
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from lagvae.errors import DataError, LagvaeError, SettingError
from lagvae.io import storage_error

OFFLINE = "data=digits and data=linear_gaussian work without a network; data=array and data=folder read your own files."

DOWNLOAD_PATIENCE = 10.0
"""Seconds without a response after which a download fails."""


@dataclass
class Arrays:
    """Data before they are split.

    Attributes:
        x: (N, *shape), uint8 (0 … 255, used as x / 255) or floating point; or image files that are streamed.
        test: a separate test set; None if a part of x serves as one.
        digest: a hash of the content, once it has been computed.
        labels, test_labels: (N,), integers that only evaluation uses.
        second: samples of a second domain, (M, …), whose order is unrelated to that of x.
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
    second: Tensor | None = None
    partner: Callable[[Tensor], Tensor] | None = None


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
    default_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_PATIENCE)  # torchvision would wait for an unresponsive server without limit
    try:
        parts = [cls(root, train=train, download=True) for train in (True, False)]
    except Exception as error:  # servers, archives and files raise many kinds of errors
        raise _torchvision_error(error, name, root) from error
    finally:
        socket.setdefaulttimeout(default_timeout)
    (x, labels), (test, test_labels) = ((part.data.unsqueeze(1), part.targets.long()) for part in parts)
    return Arrays(x, test, labels=labels, test_labels=test_labels)


def _torchvision_error(error: Exception, name: str, root: str) -> LagvaeError:
    raw, reason = f"{root}/{name}/raw", (str(error).splitlines() or [repr(error)])[-1].strip("<>")
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


def array(path: str, key: str = "x", labels: str | None = "y") -> Arrays:
    """A user's own array, (N, …), from an .npz or .npy file of numpy, or a .pt file with a tensor or a dict of tensors.

    Args:
        path: the file.
        key: the array of an .npz or of a dict. An array "test" in the same file is used as the test set, and "second" as
            samples of a second domain.
        labels: the name of the array with the labels of the samples, (N,), if there is one; "test_" is prepended for those of
            the test set. None for no labels.

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
    if file.suffix not in READERS:
        raise DataError(f"{named} has the unknown ending {file.suffix!r}; use .npz, .npy or .pt.")
    if file.stat().st_size == 0:
        raise DataError(f"{named} is an empty file; write it again.")
    try:
        arrays_of_file = READERS[file.suffix](file, (key, "test", "second", labels, f"test_{labels}"))
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
    arrays = Arrays(x, test, second=optional("second", _plain))
    if labels is not None:
        arrays.labels = optional(labels, _labels, len(x))
        arrays.test_labels = None if test is None else optional(f"test_{labels}", _labels, len(test))
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
    """A dense tensor, uint8 or float; DataError for anything but an array of real numbers of shape (N, …)."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
        x = torch.from_numpy(np.ascontiguousarray(x, x.dtype.newbyteorder("=")))
    if not isinstance(x, Tensor) or x.is_complex() or x.layout is not torch.strided:
        kind = (
            f"{x.dtype}"
            if isinstance(x, np.ndarray)
            else f"{x.layout} {x.dtype}"
            if isinstance(x, Tensor)
            else type(x).__name__
        )
        raise DataError(f"{named} is {kind}; it must be a dense array of real numbers.")
    if x.ndim < 2:
        raise DataError(
            f"{named} has the shape {tuple(x.shape)}; it must be (N, …), N samples of at least one axis: numbers are (N, 1)."
        )
    return x.detach() if x.dtype == torch.uint8 else x.detach().float()


def _labels(y: Any, named: str, n: int) -> Tensor:
    """Labels as integers, (N,); DataError for anything else."""
    y = torch.from_numpy(y) if isinstance(y, np.ndarray) and y.dtype.kind in "iufb" else y
    valid = isinstance(y, Tensor) and not y.is_complex() and y.shape == (n,) and bool((y == y.double().round()).all())
    if not valid:
        kind = f"{y.dtype} of shape {tuple(y.shape)}" if hasattr(y, "shape") else type(y).__name__
        raise DataError(
            f"{named} is {kind}; labels are whole numbers, one for each of the {n} samples. Name another array with "
            "data.source.labels, or set data.source.labels=null to use no labels."
        )
    return y.long()


IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}


def image_files(path: str) -> list[Path]:
    """All image files below a folder, sorted by path."""
    if not path:
        raise DataError("data=folder needs data.source.path=FOLDER with images.")
    folder = Path(path).expanduser()
    if folder.is_file():
        raise DataError(f"data.source.path={path} is a file; name a folder of images, or read an array with data=array.")
    if not folder.is_dir():
        raise DataError(f"data.source.path={path}: there is no such folder.")
    files = sorted(Path(at) / f for at, _, names in os.walk(folder) for f in names if Path(f).suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise DataError(f"data.source.path={path} holds no images ({', '.join(sorted(IMAGE_ENDINGS))}).")
    return files


def read_image(file: Path, size: int, channels: int) -> Tensor:
    """One image as uint8 (channels, size, size): the shorter side is resized to `size`, the longer one cropped centrally."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            square = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (size, size))
            pixels = torch.from_numpy(np.array(square))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{file} is not an image that can be read ({error}). Remove or mend it.") from error
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()


class ImageFiles:
    """Images that are read on access: index (B,) → uint8 (B, channels, size, size)."""

    def __init__(self, files: list[Path], size: int, channels: int) -> None:
        self.files, self.size, self.channels = files, size, channels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.stack([read_image(self.files[i], self.size, self.channels) for i in index.tolist()])


def folder(path: str, size: int = 32, channels: int = 3, in_memory_mib: float = 1024) -> Arrays:
    """All images below a folder, as uint8 (N, channels, size, size).

    Up to `in_memory_mib` they are read once and kept in memory; a larger folder is streamed from its files.

    Raises: SettingError for an invalid size or number of channels; DataError for a folder without readable images.
    """
    if size < 1:
        raise SettingError(f"data.source.size={size} must be at least 1 pixel.")
    if channels not in (1, 3):
        raise SettingError(f"data.source.channels={channels} must be 1 (grey) or 3 (colour).")
    store = ImageFiles(image_files(path), size, channels)
    if len(store) * channels * size * size > in_memory_mib * 2**20:
        return Arrays(store)
    from rich.progress import track

    return Arrays(torch.cat([store[torch.tensor([i])] for i in track(range(len(store)), "Reading images", transient=True)]))
