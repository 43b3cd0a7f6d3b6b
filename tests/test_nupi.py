"""νPI compared with its recursion, and with the optimizers that are special cases of it."""

from __future__ import annotations

import pytest
import torch
from helpers import follow
from torch import Tensor, nn

from lagvae.errors import SettingError
from lagvae.nupi import NuPI


@pytest.fixture
def errors(generator: torch.Generator) -> Tensor:
    return torch.randn(40, 3, generator=generator, dtype=torch.float64) + 0.3


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize(("lr", "kp", "nu"), [(0.01, 1.0, 0.9), (0.1, 0.3, 0.0), (0.0, 2.0, 0.5), (0.05, 0.0, 0.7)])
def test_the_recursion(lr: float, kp: float, nu: float, maximize: bool, errors: Tensor) -> None:
    start = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
    sign = 1 if maximize else -1
    value, average, expected = start.tolist(), errors[0].tolist(), []
    for error in errors.tolist():
        for i, e in enumerate(error):
            new = nu * average[i] + (1 - nu) * e
            value[i] += sign * (lr * e + kp * (new - average[i]))
            average[i] = new
        expected.append(list(value))
    parameter = nn.Parameter(start.clone(), requires_grad=False)
    path = follow(NuPI([parameter], lr=lr, kp=kp, nu=nu, maximize=maximize), parameter, errors)
    torch.testing.assert_close(path, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("maximize", [True, False])
def test_without_the_proportional_term_it_is_plain_ascent(maximize: bool, errors: Tensor) -> None:
    paths = []
    for make in (
        lambda p: NuPI(p, lr=0.05, kp=0.0, nu=0.8, maximize=maximize),
        lambda p: torch.optim.SGD(p, lr=0.05, maximize=maximize),
    ):
        parameter = nn.Parameter(torch.ones(3, dtype=torch.float64), requires_grad=False)
        paths.append(follow(make([parameter]), parameter, errors))
    torch.testing.assert_close(paths[0], paths[1], rtol=0, atol=1e-12)


def test_the_proportional_term_sums_to_the_average(errors: Tensor) -> None:
    # The proportional terms telescope: after T steps λ is the integral plus kp (ξ_T − ξ_0), where ξ_0 is the first violation.
    lr, kp, nu = 0.02, 0.7, 0.6
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64), requires_grad=False)
    end = follow(NuPI([parameter], lr=lr, kp=kp, nu=nu, maximize=True), parameter, errors)[-1]
    weights = torch.tensor([(1 - nu) * nu**k for k in range(39)], dtype=torch.float64).flip(0)
    average = nu**39 * errors[0] + (weights.unsqueeze(1) * errors[1:]).sum(0)
    torch.testing.assert_close(end, lr * errors.sum(0) + kp * (average - errors[0]))


def test_a_constant_violation_makes_no_jump() -> None:
    # For a constant violation the steps are those of the integral term alone, however large the violation.
    parameter = nn.Parameter(torch.zeros(1), requires_grad=False)
    path = follow(NuPI([parameter], lr=0.01, kp=5.0, nu=0.9, maximize=True), parameter, torch.full((10, 1), 100.0))
    torch.testing.assert_close(path[:, 0], torch.arange(1.0, 11.0))


def test_the_state_is_saved_in_a_checkpoint(errors: Tensor) -> None:
    def fresh() -> tuple[nn.Parameter, NuPI]:
        parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64), requires_grad=False)
        return parameter, NuPI([parameter], lr=0.02, kp=0.7, nu=0.6, maximize=True)

    parameter, optimizer = fresh()
    whole = follow(optimizer, parameter, errors)
    first, before = fresh()
    follow(before, first, errors[:20])
    second, after = fresh()
    second.data.copy_(first)
    after.load_state_dict(before.state_dict())
    torch.testing.assert_close(follow(after, second, errors[20:]), whole[20:])


def test_a_parameter_without_gradient_stays() -> None:
    moved, still = (nn.Parameter(torch.ones(1), requires_grad=False) for _ in range(2))
    moved.grad = torch.ones(1)
    NuPI([moved, still], lr=0.1, maximize=True).step()
    assert float(still) == 1
    assert float(moved) == pytest.approx(1.1)


def test_the_default_gains() -> None:
    """After the violations 0 and 1 the integral term is lr = 0.01 and the proportional one kp (1 − ν) = 0.05."""
    parameter = nn.Parameter(torch.zeros(1), requires_grad=False)
    path = follow(NuPI([parameter]), parameter, torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(path[:, 0], torch.tensor([0.0, -0.06]))


@pytest.mark.parametrize(
    "gains",
    [{"lr": -0.1}, {"kp": -1.0}, {"nu": 1.0}, {"nu": -0.1}, {"nu": 1.5}, {"lr": float("nan")}, {"kp": float("nan")}],
)
def test_invalid_gains_are_rejected(gains: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="NuPI"):
        NuPI([nn.Parameter(torch.zeros(1))], **gains)
