# %% [markdown]
# # From an array of your own to codes and pictures
#
# Usage: python examples/your_own_data.py, or cell by cell in an editor that knows `# %%`.

# %%
import subprocess
import sys

import numpy as np
import torch
from torchvision.utils import save_image

import lagvae

# %% [markdown]
# **The array** is (N, …), here 600 images (1, 8, 8) of a disc whose place is random. Grey levels are in [0, 1], or
# uint8. The file may also hold a test set `test`, and labels `y` and `test_y`, which are used for evaluation only.

# %%
rng = np.random.default_rng(0)
place = rng.uniform(2, 5, (600, 2))  # row and column of the middle of each disc
row, column = np.mgrid[:8, :8]
distance = np.hypot(row - place[:, 0, None, None], column - place[:, 1, None, None])
images = 1 / (1 + np.exp(8 * (distance - 2)))[:, None].astype(np.float32)
np.savez("discs.npz", x=images)
print(f"discs.npz: x has shape {images.shape}, values from {images.min():.2f} to {images.max():.2f}")

# %% [markdown]
# **Training** is one command; `lagvae train …` in a terminal does the same. It first calibrates: it finds the −ELBO that these
# networks can reach on held-out images in this many steps. Then it maximises the information between x and z, with −ELBO at
# most 1 nat above that, and ends with a report. More steps would gain more; the other small numbers, too, are for speed.

# %%
settings = """
    data=array data.source.path=discs.npz data.likelihood=bernoulli data.batch=64
    model.latent=2 model.encoder.hidden=[64] model.decoder.hidden=[64] model.optimizer.lr=5e-3
    alpha=maximize constraints.neg_elbo.gamma=1
    calibration.steps=600 training.steps=600 training.interval=300
    data.draws=600 callbacks.final.information.samples=2000
"""
subprocess.run([sys.executable, "-m", "lagvae", "train", *settings.split()], check=True)

# %% [markdown]
# **The trained model** needs neither the file nor the calibration. It takes numpy arrays and torch tensors.

# %%
model = lagvae.load("latest")  # or the folder of the run, its name, or a checkpoint
codes = model.encode(images)
error = np.square(images - model.reconstruct(images)).mean()
print(f"codes: {codes.shape}; squared error of reconstructions: {error:.4f}, of the mean image: {images.var(0).mean():.4f}")
nats, nats_negative = (model.log_prob(x).mean() for x in (images[:100], 1 - images[:100]))
print(f"log p(x) is at least {nats:.1f} nats for a disc; for a negative image the bound is {nats_negative:.1f} nats")

# %% [markdown]
# **A picture**: what the codes on a grid decode to. The place of the disc varies with z.

# %%
ticks = torch.linspace(-2, 2, 10)
decoded = model.decode(torch.cartesian_prod(ticks, ticks))
save_image(decoded.repeat_interleave(4, -1).repeat_interleave(4, -2), "discs.png", nrow=10)
print("discs.png: the means of p(x|z) for z from -2 to 2 along both axes")
