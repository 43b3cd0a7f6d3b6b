"""LogAscent compared with its recursion, and what its promises say: reach, rest, scale."""

from __future__ import annotations

from math import cos, exp, log, pi, sin, sqrt, tan
from typing import Any

import pytest
import torch
from helpers import follow
from torch import Tensor, nn

from lagvae.errors import SettingError
from lagvae.log_ascent import LogAscent


def multipliers(*start: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(start, dtype=torch.float64), requires_grad=False)


def whole(steps: int) -> float:
    """Σ_t π/2 · cos(π/2 · t / T) / T over t = 0 … T − 1, by Lagrange's identity: one, and π/4 of a step."""
    return pi / 4 / steps * (1 + 1 / tan(pi / 4 / steps))


@pytest.fixture
def errors(generator: torch.Generator) -> Tensor:
    return torch.randn(40, 3, generator=generator, dtype=torch.float64) + 0.3


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize(("steps", "reach", "beta"), [(40, 8.0, 0.99), (25, 3.0, 0.5), (100, 1.0, 0.0), (400, 2.0, 0.9)])
def test_the_recursion(steps: int, reach: float, beta: float, maximize: bool, errors: Tensor) -> None:
    value, mean, square, sums, expected = [1.0, 0.01, 30.0], [0.0] * 3, [0.0] * 3, [0.0] * 3, []
    sign = 1 if maximize else -1
    for t, error in enumerate(errors.tolist()):
        rate = pi / 2 * cos(pi / 2 * min(t / steps, 1)) * reach / steps
        left = max(log(steps / max(t + 1, 1 / (1 - beta))), 0) if t < steps / 2 else 0
        for i, e in enumerate(sign * x for x in error):
            mean[i] = beta * mean[i] + (1 - beta) * e
            square[i] = beta * square[i] + (1 - beta) * e * e
            corrected = 1 - beta ** (t + 1)
            sums[i] += (t + 1) * e
            now, earlier = mean[i] / corrected, sums[i] / ((t + 1) * (t + 2) / 2)
            rise = now if now <= 0 else min(max(now + 2 * left * (now - earlier), 0), now)
            value[i] = max(value[i], 1e-3) * exp(rate * rise / sqrt(square[i] / corrected))
        expected.append(list(value))
    parameter = multipliers(1.0, 0.01, 30.0)
    path = follow(LogAscent([parameter], steps, reach, beta, maximize=maximize), parameter, errors)
    torch.testing.assert_close(path, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


def test_it_does_not_wind_up_while_the_violation_is_on_its_way_to_zero() -> None:
    # e = ln(T / t) vanishes at T whatever λ does. Both means lag by a few steps, which matters only at the start. In the second
    # half the trend no longer counts: e / √v̂ is 1, so λ rises by what is left of the reach, 1 − sin(π/4) of it.
    steps, reach = 4000, 8.0
    falling = (steps / torch.arange(1, steps + 1, dtype=torch.float64)).log()
    parameter = multipliers(1.0, 1.0)
    violation = torch.stack([falling, falling.mean().expand(steps)], 1)
    path = follow(LogAscent([parameter], steps, reach, beta=0.9, maximize=True), parameter, violation)
    half = path[steps // 2 - 1].log().tolist()
    assert half[0] < 0.1 * reach
    assert half[1] == pytest.approx(sin(pi / 4) * reach, rel=0.01)
    assert float(path[-1, 0].log()) - half[0] == pytest.approx((1 - sin(pi / 4)) * reach, rel=0.05)


@pytest.mark.parametrize("steps", [10, 1000])
def test_a_constant_violation_moves_log_lambda_by_reach(steps: int) -> None:
    parameter = multipliers(1.0, 1.0)
    violation = torch.tensor([50.0, -0.2], dtype=torch.float64)
    path = follow(LogAscent([parameter], steps, reach=3.0, maximize=True), parameter, violation.expand(steps, 2))
    moved = 3.0 * whole(steps)
    assert path[-1].log().tolist() == pytest.approx([moved, -moved])


def test_after_the_run_it_rests(errors: Tensor) -> None:
    parameter = multipliers(1.0, 1.0, 1.0)
    path = follow(LogAscent([parameter], steps=20, maximize=True), parameter, errors)
    assert torch.equal(path[20], path[-1])
    assert not torch.equal(path[10], path[20])


def test_the_size_of_the_violation_and_of_the_multiplier_do_not_matter(errors: Tensor) -> None:
    paths = []
    for start, factor in ((1.0, 1.0), (100.0, 1.0), (1.0, 1e-4)):
        parameter = multipliers(start, start, start)
        paths.append(follow(LogAscent([parameter], 40, maximize=True), parameter, factor * errors) / start)
    torch.testing.assert_close(paths[1], paths[0])
    torch.testing.assert_close(paths[2], paths[0])


def test_noise_moves_it_less_than_a_violation_does(generator: torch.Generator) -> None:
    # A running mean spreads each error over later steps with weights that sum to one. So noise of variance one moves log λ with
    # the variance Σ r_t² = reach² · π² / (8 T) of the rates r_t. Bias correction adds 3 % to the standard deviation, as the
    # first hundred steps count double; estimated from 200 multipliers it has a standard error of 1 / √398 = 5 %.
    steps, reach = 5000, 8.0
    noise = torch.randn(steps, 200, generator=generator, dtype=torch.float64)
    parameter = multipliers(*[1.0] * 200)
    moved = follow(LogAscent([parameter], steps, reach, maximize=True), parameter, noise)[-1].log()
    assert float(moved.std()) == pytest.approx(reach * pi / sqrt(8 * steps), rel=0.03 + 4 * 0.05)


def test_a_multiplier_at_zero_can_rise() -> None:
    parameter = multipliers(0.0, 1e-9)
    follow(LogAscent([parameter], 10, reach=1.0, floor=0.01, maximize=True), parameter, torch.ones(10, 2, dtype=torch.float64))
    assert parameter.tolist() == pytest.approx([0.01 * exp(whole(10))] * 2)


def test_a_violation_that_is_zero_moves_nothing() -> None:
    parameter = multipliers(2.0)
    follow(LogAscent([parameter], 10, maximize=True), parameter, torch.zeros(5, 1, dtype=torch.float64))
    assert parameter.tolist() == [2.0]


def test_it_goes_on_from_its_state(errors: Tensor) -> None:
    def fresh(start: Tensor) -> tuple[nn.Parameter, LogAscent]:
        parameter = nn.Parameter(start.clone(), requires_grad=False)
        return parameter, LogAscent([parameter], 40, maximize=True)

    parameter, optimizer = fresh(torch.ones(3, dtype=torch.float64))
    uninterrupted = follow(optimizer, parameter, errors)
    parameter, optimizer = fresh(torch.ones(3, dtype=torch.float64))
    follow(optimizer, parameter, errors[:15])
    resumed, second = fresh(parameter)
    second.load_state_dict(optimizer.state_dict())
    assert torch.equal(follow(second, resumed, errors[15:]), uninterrupted[15:])


def test_it_goes_on_from_the_state_of_a_version_without_a_trend(errors: Tensor) -> None:
    parameter = multipliers(1.0, 1.0, 1.0)
    optimizer = LogAscent([parameter], 40, maximize=True)
    follow(optimizer, parameter, errors[:15])
    saved = optimizer.state_dict()
    del saved["state"][0]["earlier"]
    optimizer.load_state_dict(saved)
    assert follow(optimizer, parameter, errors[15:]).isfinite().all()


@pytest.mark.parametrize("settings", [{"steps": 0}, {"reach": 0.0}, {"reach": float("nan")}, {"beta": 1.0}, {"floor": 0.0}])
def test_settings_outside_their_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="LogAscent"):
        LogAscent([nn.Parameter(torch.zeros(1))], **({"steps": 10} | settings))
