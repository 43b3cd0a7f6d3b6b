"""Explain the objective that settings give, or one that is written out.

Usage: python src/explain.py [GROUP=OPTION ...] [KEY=VALUE ...]
       python src/explain.py objective="..." [within=likelihood|unary|binary]
       python src/explain.py table=FILE

Examples:
  python src/explain.py family=infovae alpha.q=-2
  python src/explain.py objective="-I_q + KL(q(x|z)||p(x|z)) + 2*JS(q(z)||p(z))"
  python src/explain.py objective="-E_q[log p(x)]" within=likelihood
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="explain")
def main(cfg: DictConfig) -> None:
    from lagvae.cli.entry import guarded

    with guarded():
        from lagvae.explain.explain import explain

        explain(cfg)


if __name__ == "__main__":
    from lagvae.cli.entry import run_program
    from lagvae.experiment.schema import ExplainConfig

    run_program(ROOT, main, ExplainConfig)
