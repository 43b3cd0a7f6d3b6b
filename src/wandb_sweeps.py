"""Write the sweeps of sweeps/ for W&B, as sweeps/wandb/NAME.yaml: python src/wandb_sweeps.py."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    from lagvae.sweeps.wandb_sweeps import write_wandb_sweeps

    for path in write_wandb_sweeps(ROOT / "sweeps"):
        print(path)
