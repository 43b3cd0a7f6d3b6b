"""Time per step of train.py, with default logging and evaluation, over a plain hand-written PyTorch loop of the same step.

    python benchmarks/step.py [--rounds N] [--threads N] [--device cpu|gpu] [--out results/step.md]

Both train the same network on the same data with the same objective, optimizer and batch, in turns within one process;
the ratio of each pair of turns is taken, then the median. Where trainer.precision=auto is bf16, `train.py` is timed with both
precisions. `train.py` is timed through its own trainer: data, noise, callbacks, logging, evaluation in every interval and
checkpoints. Making the trainer and the final evaluation are left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
CASES = {  # name: overrides, steps of a turn
    "digits default (mlp)": (["data=digits", "model=mlp"], 1000),
    "paper's network (mlp_paper, MNIST shape)": (
        ["data=array", "data.likelihood=bernoulli", "data.batch=250", "model=mlp_paper"],
        500,
    ),
}


ASKS_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""The variable that Lightning sets: with it Adam looks for a driver in each step on a machine without a GPU."""


def compose(overrides: list[str]) -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=overrides)


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a processor has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plain_loop(cfg: Any, x: torch.Tensor, steps: int) -> float:
    """A loop as a practitioner would write it: no framework, no logging. Returns seconds per step."""
    act = {"gelu": torch.nn.GELU, "softplus": torch.nn.Softplus}[cfg.model.encoder.activation]
    d, n = cfg.model.latent, x[0].numel()
    h1, h2 = cfg.model.encoder.hidden
    net = torch.nn.Sequential
    linear = torch.nn.Linear
    encoder = net(linear(n, h1), act(), linear(h1, h2), act(), linear(h2, 2 * d))
    decoder = net(linear(d, h1), act(), linear(h1, h2), act(), linear(h2, n))
    encoder, decoder = encoder.to(x.device), decoder.to(x.device)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    lr, betas = cfg.model.optimizer.lr, tuple(cfg.model.optimizer.get("betas", (0.9, 0.999)))
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=betas)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if cfg.model.schedule else None
    batch, x = cfg.data.batch, x.flatten(1)
    lam, bound, unit = torch.tensor([[1.0, 1.0], [24.0, 4e-4], [1.0, 1e-3]], device=x.device)

    def gram(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        r = (a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T).clamp(min=0) / (2 * d)
        return (torch.exp(-r * 4) + torch.exp(-r) + torch.exp(-r / 4)) / 3

    order = torch.randperm(len(x), device=x.device)
    at = 0
    wait(x.device)
    start = time.perf_counter()
    for _ in range(steps):
        if at + batch > len(x):
            order, at = torch.randperm(len(x), device=x.device), 0
        pixels = x[order[at : at + batch]]
        at += batch
        pixels = (pixels > torch.rand_like(pixels)).float()
        mu, raw = encoder(pixels).chunk(2, 1)
        sigma = F.softplus(raw) + 1e-4
        z = mu + sigma * torch.randn_like(mu)
        distortion = F.binary_cross_entropy_with_logits(decoder(z), pixels, reduction="none").sum(1).mean()
        rate = 0.5 * (mu.square() + sigma.square() - 1 - 2 * sigma.log()).sum(1).mean()
        w = torch.randn(batch, d, device=x.device)
        k_zz, k_ww, k_zw = gram(z, z), gram(w, w), gram(z, w)
        mmd = (k_zz.sum() - k_zz.diagonal().sum()) / (batch * (batch - 1))
        mmd = mmd + (k_ww.sum() - k_ww.diagonal().sum()) / (batch * (batch - 1)) - 2 * k_zw.mean()
        violation = (torch.stack([rate + distortion, mmd]) - bound) / unit
        loss = distortion + (lam * violation).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
        lam = (lam + 0.01 * violation.detach()).clamp(0, 100)
    wait(x.device)
    return (time.perf_counter() - start) / steps


def through_trainer(cfg: Any, steps: int, warm: int = 0) -> float:
    """Seconds per step of our own training, from its first batch to its end.

    Args:
        warm: if above 0, only the steps from this one to the last are timed, and nothing that follows the last.
    """
    import pytorch_lightning as pl

    from lagvae.experiment.factory import build_data, build_model
    from lagvae.experiment.fit import Fit
    from lagvae.runs.layout import RunFolder

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_start(self, *_: Any) -> None:
            self.look()

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if warm and trainer.global_step in (warm, steps):
                self.look()

        def on_train_end(self, *_: Any) -> None:
            self.look()

        def look(self) -> None:
            wait(model.device)
            self.times.append(time.perf_counter())

    data = build_data(cfg)
    model = build_model(cfg, data)
    run = RunFolder.create(Path(cfg.paths.runs), "bench")
    session = Fit(cfg, data, model, run, "bench")
    clock = Clock()
    session.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    session.train()
    begun, *within, ended = clock.times
    return (within[1] - within[0]) / (steps - warm) if warm else (ended - begun) / steps


def machine(device: str) -> str:
    """What it is measured on: the GPU; or the processor, its instructions for bf16, and the number of threads."""
    if device == "gpu":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found[1] if found else platform.processor() or platform.machine()
    fast = [words for words in ("amx_bf16", "avx512_bf16", "bf16") if re.search(rf"\b{words}\b", text)]
    instructions = f" ({', '.join(fast) or 'no instructions for bf16'})" if text else ""
    return f"{name}{instructions}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=Path, help="also write the table there (results/step.md)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["LAGVAE_ROOT"] = root = tempfile.mkdtemp(prefix="bench-")
    from rich.progress import track

    from lagvae.cli.entry import register
    from lagvae.data.sources import digits
    from lagvae.experiment.precision import choose_precision
    from lagvae.terminal import quiet_libraries

    quiet_libraries()
    register(ROOT)
    lines = [
        f"{machine(options.device)}, torch {torch.__version__}, {options.rounds} rounds; medians.",
        "",
        "| case | precision | plain loop, fp32 (ms/step) | train.py (ms/step) | ratio: median (min – max) |",
        "|---|---|---|---|---|",
    ]
    generator = torch.Generator().manual_seed(0)
    torch.save((torch.rand(25_000, 1, 28, 28, generator=generator) < 0.2).float(), f"{root}/x.pt")
    for name, (overrides, steps) in CASES.items():
        explicit = [
            "epsilon=explicit",
            "constraints.neg_elbo.epsilon=24",
            "constraints.mmd.epsilon=4e-4",
            "training.start=scratch",
        ]
        extra = [f"data.source.path={root}/x.pt"] if "data=array" in overrides else []
        cfg = compose(
            [
                *overrides,
                *explicit,
                *extra,
                f"training.steps={steps}",
                f"trainer={options.device}",
                f"training.threads={options.threads}",
            ]
        )
        x = digits().x if "data=digits" in overrides else torch.load(f"{root}/x.pt", weights_only=True)
        assert isinstance(x, torch.Tensor)
        x = x.to("cuda" if options.device == "gpu" else "cpu")
        plain_loop(cfg, x, steps // 5)
        plain: list[float] = []
        ours: dict[str, list[float]] = {precision: [] for precision in dict.fromkeys(("32-true", choose_precision(cfg)))}
        for _ in track(range(options.rounds), name, transient=True):
            asks = os.environ.pop(ASKS_NVML, None)  # a plain loop imports no Lightning
            plain.append(plain_loop(cfg, x, steps))
            os.environ |= {} if asks is None else {ASKS_NVML: asks}
            for precision, times in ours.items():
                cfg.trainer.precision = precision
                times.append(through_trainer(cfg, steps))
        for precision, times in ours.items():
            ratios = [a / b for a, b in zip(times, plain, strict=True)]
            lines.append(
                f"| {name} | {precision} | {1e3 * statistics.median(plain):.2f} | {1e3 * statistics.median(times):.2f} | "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f}) |"
            )
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
