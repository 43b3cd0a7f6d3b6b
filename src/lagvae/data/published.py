"""Published data sets in formats that hold no code: CIFAR-10 in its binary version, and dSprites with its factors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lagvae.data.sources import Arrays, downloading
from lagvae.errors import DataError

CIFAR = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
RECORD = 1 + 3 * 32 * 32
"""Bytes of an image of CIFAR-10: its label, then the red, green and blue pixels by rows."""

DSPRITES = "https://github.com/google-deepmind/dsprites-dataset"


def cifar10(root: str) -> Arrays:
    """CIFAR-10, 50,000 + 10,000 colour images of 32×32 (Krizhevsky, 2009), downloaded if it is missing.

    The binary version is read, because the files of the Python version are pickles, which may run code.

    Args:
        root: the folder that has, or gets, the folder cifar-10-batches-bin.

    Raises: DataError for files that are damaged, or missing without a network.
    """
    folder = Path(root) / "cifar-10-batches-bin"
    train = [folder / f"data_batch_{k}.bin" for k in range(1, 6)]
    test = [folder / "test_batch.bin"]
    if not all(file.is_file() for file in (*train, *test)):
        from torchvision.datasets.utils import download_and_extract_archive

        with downloading("CIFAR-10", root, str(folder)):
            download_and_extract_archive(CIFAR, root, md5=CIFAR_MD5, remove_finished=True)
    (x, labels), (x_test, test_labels) = (_cifar_images(files) for files in (train, test))
    return Arrays(x, x_test, labels=labels, test_labels=test_labels)


def _cifar_images(files: list[Path]) -> tuple[Tensor, Tensor]:
    """The images, (N, 3, 32, 32), and labels, (N,), of some files."""
    parts = []
    for file in files:
        content = np.fromfile(file, dtype=np.uint8)
        if not content.size or content.size % RECORD or content[::RECORD].max() > 9:
            raise DataError(
                f"{file} is damaged: it is no list of labels and images of CIFAR-10. Remove {file.parent} and run again."
            )
        parts.append(content.reshape(-1, RECORD))
    records = torch.from_numpy(np.concatenate(parts))
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()


def dsprites(path: str, n: int | None = None) -> Arrays:
    """dSprites, 737,280 binary images of 64×64: a shape with a scale, an orientation and a position (Matthey et al., 2017).

    The factors, whole numbers, (N, 6), are colour (a single one), shape, scale, orientation, x and y; labels are the shapes.

    Args:
        path: the file dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz.
        n: the number of images that are used, a random choice; None for all, which take 3 GB of memory.

    Raises: DataError for a file that is missing, or has no images with factors.
    """
    file, named = Path(path).expanduser(), f"data.source.path={path}"
    if not file.is_file():
        raise DataError(f"{named}: there is no such file. Download the .npz file of {DSPRITES}, and name it with this setting.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            factors, images = archive["latents_classes"], archive["imgs"]
    except Exception as error:  # unzipping raises many kinds of errors
        reason = (str(error).splitlines() or [repr(error)])[0].rstrip(".")
        raise DataError(f"{named} is no file of dSprites ({reason}). Download it from {DSPRITES}.") from error
    if images.ndim != 3 or factors.shape != (len(images), 6):
        raise DataError(
            f"{named} has images of shape {images.shape} and factors of shape {factors.shape}; those of dSprites are "
            f"(N, 64, 64) and (N, 6). Download it from {DSPRITES}."
        )
    if n is not None and not 0 < n <= len(images):
        raise DataError(f"data.source.n={n} must be between 1 and {len(images)}, the number of images, or null for all.")
    if n is not None:
        chosen = np.sort(np.random.default_rng(0).choice(len(images), n, replace=False))
        factors, images = factors[chosen], images[chosen]
    found = torch.from_numpy(factors.astype(np.int64))
    return Arrays(torch.from_numpy(images).unsqueeze(1), labels=found[:, 1], factors=found, file=path)
