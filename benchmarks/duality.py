"""Strong duality on tables: random convex programs, solved by two solvers and by the package's own training (Algorithm 1).

    python benchmarks/duality.py [--problems 24] [--steps 3000] [--out results/duality.md]

Each row: V and λ* by Clarabel, how far SCS is off, λ* against −dV/dε by central differences, and where training ended: f − V,
the largest violation of a constraint, the duality gap f − L(λ) that its own λ certifies, and λ off by which share.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import grid
import torch
from rich.progress import track

from lagvae.oracles.duality import Program, Solution, dual_value, random_program, shadow_price, solve_program
from lagvae.oracles.softmax_tables import TrainedTables, train_tables
from lagvae.terminal import quiet_libraries

HEAD = ("problem", "x × z", "p(z)", "V (nats)", "SCS off by", "λ*", "−dV/dε off by", "f − V", "violation", "gap", "λ off by")


def row(seed: int, steps: int) -> tuple[Program, dict[str, float], list[str]]:
    program = random_program(seed)
    best, other = solve_program(program), solve_program(program, "SCS")
    ended = train_tables(program, steps)
    price = shadow_price(program, 0.01 * program.scales[0])
    numbers = {
        "solvers": abs(other.value - best.value),
        "price": abs(price / best.multipliers[0] - 1),
        "value": ended.value - best.value,
        "violation": max(violations(program, ended)),
        "gap": ended.value - dual_value(program, ended.multipliers),
        "multiplier": abs(ended.multipliers[0] / best.multipliers[0] - 1),
        "second": max((abs(a / b - 1) for a, b in zip(ended.multipliers[1:], best.multipliers[1:], strict=True)), default=0.0),
    }
    k, n = program.base.shape
    off = [numbers["multiplier"]] + ([numbers["second"]] if program.kernel is not None else [])
    texts = [
        *(str(seed), f"{n} × {k}", "free" if program.p_z is None else "given", f"{best.value:.5f}"),
        *(f"{numbers['solvers']:.0e}", ", ".join(f"{m:.4g}" for m in best.multipliers), f"{numbers['price']:.2%}"),
        *(f"{numbers['value']:+.0e}", f"{numbers['violation']:+.0e}", f"{numbers['gap']:+.0e}"),
        ", ".join(f"{share:.2%}" for share in off),
    ]
    return program, numbers, texts


def violations(program: Program, ended: TrainedTables | Solution) -> list[float]:
    """D − bound of the KL, and of the MMD where it is constrained."""
    found = [float(ended.world.kl("x,z")) - program.epsilon]
    if program.kernel is not None and program.epsilon_mmd is not None:
        found.append(float(ended.world.mmd(program.kernel, "z")) - program.epsilon_mmd)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", type=Path, help="also write the table there (results/duality.md)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    solve_program(random_program(0))  # a missing solver is told before any work
    found = [row(seed, options.steps) for seed in track(range(options.problems), description="Programs")]
    numbers = [n for _, n, _ in found]

    def worst(name: str) -> float:
        return max(abs(n[name]) for n in numbers)

    def typical(name: str) -> float:
        return statistics.median(abs(n[name]) for n in numbers)

    second = sum(program.kernel is not None for program, _, _ in found)
    lines = [
        "# Strong duality on tables",
        "",
        f"Made by `python benchmarks/duality.py`: {len(found)} random programs, {second} of",
    ]
    lines += [
        f"them with a second constraint (MMD), {options.steps} steps of Algorithm 1 each. Largest over all programs (median):",
        "",
    ]
    lines += [
        f"- the two solvers differ in V by {worst('solvers'):.1e} nat ({typical('solvers'):.1e});",
        f"- λ* differs from −dV/dε by {worst('price'):.2%} ({typical('price'):.2%});",
        f"- training ends off V by {worst('value'):.1e} nat ({typical('value'):.1e}), a violation of "
        f"{max(n['violation'] for n in numbers):.1e}, and a gap of its own λ of {worst('gap'):.1e} nat ({typical('gap'):.1e});",
        f"- its λ of the KL is off by {worst('multiplier'):.2%} ({typical('multiplier'):.2%}), of the MMD by "
        f"{worst('second'):.2%}.",
        "",
        *grid.table(HEAD, [texts for _, _, texts in found]),
    ]
    grid.tell(lines, options.out)


if __name__ == "__main__":
    main()
