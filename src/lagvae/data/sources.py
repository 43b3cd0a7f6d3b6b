"""Where data come from: each source is a function that returns `Arrays`, or raises a DataError that says what to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from lagvae.errors import DataError, SettingError

OFFLINE = "data=digits and data=linear_gaussian work without a network; data=array and data=folder read your own files."


@dataclass
class Arrays:
    """Data before they are split.

    x: (N, *shape), uint8 (0 … 255, read as x / 255) or floating point; or image files that are streamed.
    test: data that the publisher set aside, or None: then a part of x is.
    """

    x: Tensor | ImageFiles
    test: Tensor | None = None


def digits() -> Arrays:
    """1,797 handwritten digits of 8×8 pixels with 17 grey levels, from scikit-learn (UCI, Alpaydin & Kaynak 1998)."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images).float() / 16
    return Arrays(images.unsqueeze(1))


def _torchvision(name: str, root: str) -> Arrays:
    from torchvision import datasets

    cls = getattr(datasets, name)
    try:
        parts = [cls(root, train=train, download=True) for train in (True, False)]
    except PermissionError as error:
        raise DataError(f"paths.data={root} cannot be written: {error}. Name a folder that can.") from error
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} is not under {root} and could not be downloaded ({error}). Put its files in {root}/{name}/raw. {OFFLINE}"
        ) from error
    return Arrays(*(part.data.unsqueeze(1) for part in parts))


def mnist(root: str) -> Arrays:
    """MNIST, 60,000 + 10,000 images of 28×28 (LeCun et al., 1998), downloaded by torchvision where it is missing."""
    return _torchvision("MNIST", root)


def fashion_mnist(root: str) -> Arrays:
    """Fashion-MNIST, 60,000 + 10,000 images of 28×28 (Xiao et al., 2017), downloaded where it is missing."""
    return _torchvision("FashionMNIST", root)


def array(path: str, key: str = "x") -> Arrays:
    """A user's own array, (N, …): an .npz or .npy of numpy, or a .pt that holds a tensor or a dict of tensors.

    Args:
        path: the file.
        key: which array of an .npz or of a dict; a key "test" beside it is used as the test set.

    Files are read without executing anything in them (no pickle).
    """
    if not path:
        raise DataError("data=array needs data.source.path=FILE (.npz, .npy or .pt).")
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"data.source.path={path}: there is no such file.")
    found: dict[str, Tensor]
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                found = {k: torch.from_numpy(np.asarray(archive[k])) for k in archive.files if k in (key, "test")}
                names = list(archive.files)
        elif file.suffix == ".npy":
            found = {key: torch.from_numpy(np.load(file, allow_pickle=False))}
            names = [key]
        elif file.suffix == ".pt":
            loaded = torch.load(file, map_location="cpu", weights_only=True)
            found = loaded if isinstance(loaded, dict) else {key: loaded}
            names = list(found)
        else:
            raise DataError(f"data.source.path={path}: unknown ending {file.suffix!r}; use .npz, .npy or .pt.")
    except DataError:
        raise
    except (OSError, ValueError, EOFError, BadZipFile, RuntimeError, TypeError) as error:
        raise DataError(f"data.source.path={path} cannot be read: {str(error).splitlines()[0]}.") from error
    except Exception as error:  # an unpickler's own error: the file holds more than tensors
        raise DataError(f"data.source.path={path} holds more than plain tensors and is not loaded.") from error
    if key not in found:
        raise DataError(
            f"data.source.path={path} has no array {key!r}, only {', '.join(map(str, names)) or 'none'}; set data.source.key."
        )
    if not all(isinstance(v, Tensor) for v in found.values()):
        raise DataError(f"data.source.path={path}: every entry must be a tensor.")
    return Arrays(_plain(found[key], path), _plain(found["test"], path) if "test" in found and key != "test" else None)


def _plain(x: Tensor, name: str) -> Tensor:
    if x.is_complex() or x.ndim < 2:
        raise DataError(f"{name}: the array must be real and of shape (N, …) with N samples, not {x.dtype} {tuple(x.shape)}.")
    return x if x.dtype == torch.uint8 else x.float()


IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}


def image_files(path: str) -> list[Path]:
    """All image files below a folder, in a fixed order."""
    if not path:
        raise DataError("data=folder needs data.source.path=FOLDER with images.")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"data.source.path={path}: there is no such folder.")
    files = sorted(Path(at) / f for at, _, names in os.walk(folder) for f in names if Path(f).suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise DataError(f"data.source.path={path} holds no images ({', '.join(sorted(IMAGE_ENDINGS))}).")
    return files


def read_image(file: Path, size: int, channels: int) -> Tensor:
    """One image as uint8 (channels, size, size): the short side is resized to `size`, the middle is kept."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            image = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (size, size))
            pixels = torch.from_numpy(np.array(image))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{file} is not an image that can be read ({error}). Remove or mend it.") from error
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()


class ImageFiles:
    """Images that are read when they are asked for: index (B,) → uint8 (B, channels, size, size)."""

    def __init__(self, files: list[Path], size: int, channels: int) -> None:
        self.files, self.size, self.channels = files, size, channels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.stack([read_image(self.files[i], self.size, self.channels) for i in index.tolist()])


def folder(path: str, size: int = 32, channels: int = 3, in_memory_mib: float = 1024) -> Arrays:
    """All images below a folder, as uint8 (N, channels, size, size).

    Up to `in_memory_mib` they are read once and held; a larger folder is streamed from its files.
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


def linear_gaussian(n: int = 4000, dim: int = 8, latent: int = 2, noise: float = 0.5, seed: int = 0) -> Arrays:
    """x = W z + noise · e with z, e standard normal: the world in which every quantity has a closed form.

    W is fixed by `seed` (see `lagvae.oracles.gaussian`).
    """
    if min(n, dim, latent) < 1 or not noise > 0:
        raise SettingError(f"data.source: n={n}, dim={dim}, latent={latent} must be ≥ 1 and noise={noise} > 0.")
    from lagvae.oracles.gaussian import LinearGaussian

    world = LinearGaussian.random(dim, latent, noise, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return Arrays(world.sample(torch.randn(n, latent, generator=generator), torch.randn(n, dim, generator=generator)))
