"""Duality on tables: convex programs, Algorithm 1 through the package's own module, and the maximising problem."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf, log

import numpy as np
import pytest
import torch
from torch import Tensor

from lagvae.data import Batch
from lagvae.distributions import JointSamples, draw_noise
from lagvae.divergences import MMD, RBF, Distortion, NegElbo, Rate, i_p_upper, neg_i_p_lower
from lagvae.errors import SettingError, SolverError
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.noise import Noise
from lagvae.oracles import Tabular
from lagvae.oracles.duality import (
    Program,
    dual_value,
    kl_without_information,
    least_kl,
    random_program,
    shadow_price,
    solve_program,
)
from lagvae.oracles.maximising import mixing_lowers_the_bound, random_tables, search, search_free, simplex, trade_off_curve
from lagvae.oracles.softmax_tables import (
    ExactSamples,
    TableDecoder,
    TableEncoder,
    TableJoint,
    TablePrior,
    model_of,
    rows,
    train_tables,
)
from lagvae.terminal import quiet_libraries

EXACT = {"rel": 0, "abs": 1e-12}


def noise_takers(world: Tabular, drawn: bool) -> TableJoint:
    n, k = world.q_z_given_x.shape
    return TableJoint(
        TablePrior(world.p_z.log(), learned=False, drawn=drawn),
        TableEncoder(world.q_z_given_x.log(), drawn),
        TableDecoder(world.p_x_given_z, 0.0, torch.zeros(k, n), drawn),
    )


@pytest.fixture
def world() -> Tabular:
    return replace(Tabular.random(3, 4, 5), q_x=torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64))


# ---- the package's own objective on tables


def test_the_packages_terms_are_exact_on_tables(world: Tabular) -> None:
    joint, x = noise_takers(world, drawn=False), rows(world.q_x)
    assert len(x) == 10
    kernel = torch.eye(4, dtype=torch.float64) + 0.3
    mmd = ExactSamples(lambda w: w.mmd(kernel, "z"), nats=False)
    constraints = [Constraint("neg_elbo", NegElbo()), Constraint("rate", Rate()), Constraint("d", Distortion())]
    lagrangian = Lagrangian(Preference(-0.5), [*constraints, Constraint("mmd", mmd, multiplier=3.0)])
    samples = JointSamples(joint, x, draw_noise(lagrangian.required_noise, joint, Noise(0), 0, x))
    values = lagrangian.measure(samples)
    known = [world.neg_elbo, world.rate, world.distortion, world.mmd(kernel, "z")]
    assert values.divergences.tolist() == pytest.approx([float(v) for v in known], **EXACT)
    assert values.terms["rate"].item() == pytest.approx(float(world.rate), **EXACT)
    total = 0.5 * world.distortion + world.neg_elbo + world.rate + world.distortion + 3 * world.mmd(kernel, "z")
    # λ is kept in single precision, and 0.5 and 3 are whole numbers of it.
    assert lagrangian(values).item() == pytest.approx(float(total), rel=1e-6)


def test_sampled_estimates_converge_to_the_exact_values(
    world: Tabular, mean_is: Callable[[Tensor, float | Tensor], float]
) -> None:
    joint, x = noise_takers(world, drawn=True), rows(world.q_x).repeat(5000, 1)
    with torch.no_grad():
        samples = JointSamples(joint, x, draw_noise(frozenset({"z_q", "z_p", "x_p"}), joint, Noise(3), 0, x))
        assert mean_is(samples.distortion, world.distortion) < 0.01
        assert mean_is(-samples.q_z_given_x_p.log_prob(samples.z_p), world.entropy("p", "z") - world.i_p_lower) < 0.01
        assert float(neg_i_p_lower(samples)) == pytest.approx(-float(samples.q_z_given_x_p.log_prob(samples.z_p).mean()))
        assert samples.z_q.sum(1).eq(1).all()
        # One-hot values lie at squared distance 2, so that the kernel is (1 − c) I + c with c = exp(−2/8), by batches of 250.
        c = torch.exp(torch.tensor(-0.25, dtype=torch.float64))
        truth = world.mmd((1 - c) * torch.eye(4) + c, "z")
        order = Noise(4).permutation("mix", 0, len(x))
        batches = [JointSamples(joint, x[i], {n: e[i] for n, e in samples.noise.items()}) for i in order.split(250)]
        assert mean_is(torch.stack([MMD(RBF())(batch) for batch in batches]), truth) < 0.01 * float(truth) + 1e-3
        # The leave-one-out bound on I_p lies above it, by less than 1/B for each value that is rare.
        upper = torch.stack([i_p_upper(batch) for batch in batches])
        assert float(upper.mean()) == pytest.approx(float(world.information("p")), abs=0.02)


def test_laws_of_tables_are_refused_or_made_with_reason(world: Tabular) -> None:
    with pytest.raises(SettingError, match="is the law of no 1000 rows"):
        rows(torch.tensor([1 / torch.pi, 1 - 1 / torch.pi], dtype=torch.float64))
    samples = JointSamples(torch.nn.Module(), torch.zeros(1, 1), {})  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="takes the laws of tables, not Module"):
        ExactSamples(lambda w: w.rate)(samples)


# ---- convex programs


@pytest.fixture
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        quiet_libraries()
        yield


@pytest.fixture(scope="module")
def program() -> Program:
    return random_program(0)


def test_a_program_whose_answer_is_known() -> None:
    # x fair, the decoder a symmetric channel of error e, the prior fair: by symmetry q(z|x) is right with some w, the rate is
    # log 2 − h(w) and KL is Σ q log q/p = −h(w) − w log(1−e) − (1−w) log e. λ* is −α (dR/dw) / (dKL/dw).
    e, w, alpha = 0.1, 0.7, 2.0
    half, channel = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([[1 - e, e], [e, 1 - e]], dtype=torch.float64)
    h = -w * log(w) - (1 - w) * log(1 - w)
    kl = -h - w * log(1 - e) - (1 - w) * log(e)
    found = solve_program(Program(half, channel, 0.0, half, alpha, kl))
    logit = log(w / (1 - w))
    # The solver's tolerance is 1e-8 of the value; λ is a ratio of slopes.
    assert found.value == pytest.approx(alpha * (log(2) - h), abs=1e-6)
    assert found.multipliers[0] == pytest.approx(-alpha * logit / (logit - log((1 - e) / e)), rel=1e-3)
    assert found.world.q_z_given_x.diagonal().tolist() == pytest.approx([w, w], abs=1e-5)


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_two_solvers_agree_and_the_multiplier_is_the_shadow_price(seed: int) -> None:
    program = random_program(seed)
    one, other = solve_program(program), solve_program(program, "SCS")
    # SCS is asked for 1e-9 in its own residuals; values here are of order 0.1.
    assert other.value == pytest.approx(one.value, abs=2e-6)
    assert other.multipliers[0] == pytest.approx(one.multipliers[0], rel=2e-3)
    # A step of 1 % of the range of ε leaves an error of some 1e-4 of λ, its third derivative being of the scale of the range.
    assert shadow_price(program, 0.01 * program.scales[0]) == pytest.approx(one.multipliers[0], rel=2e-3)
    # The solution meets its bounds, spends them, and its λ certifies it: no gap.
    assert float(one.world.kl("x,z")) == pytest.approx(program.epsilon, abs=1e-6)
    assert dual_value(program, one.multipliers) == pytest.approx(one.value, abs=1e-6)
    assert dual_value(program, tuple(0.8 * m for m in one.multipliers)) < one.value - 1e-4, "another λ does not"
    if program.kernel is not None and program.epsilon_mmd is not None:
        assert float(one.world.mmd(program.kernel, "z")) == pytest.approx(program.epsilon_mmd, abs=1e-6)
    assert least_kl(program) < program.epsilon < kl_without_information(program)


@pytest.mark.usefixtures("_silent")
def test_algorithm_1_finds_value_and_multiplier(program: Program) -> None:
    known, ended = solve_program(program), train_tables(program, steps=800)
    assert ended.value == pytest.approx(known.value, abs=1e-3)
    assert ended.multipliers[0] == pytest.approx(known.multipliers[0], rel=0.02)
    assert float(ended.world.kl("x,z")) == pytest.approx(program.epsilon, abs=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("_silent")
@pytest.mark.parametrize("seed", range(8))
def test_algorithm_1_finds_what_the_solver_finds(seed: int) -> None:
    # Measured on 24 programs: within 1.3e-4 nat, λ within 2.1 %.
    program = random_program(seed)
    known, ended = solve_program(program), train_tables(program)
    assert ended.value == pytest.approx(known.value, abs=5e-4)
    assert ended.multipliers == pytest.approx(known.multipliers, rel=0.05)
    assert abs(ended.value - dual_value(program, ended.multipliers)) < 5e-4


def test_the_model_of_a_program_is_the_packages(program: Program) -> None:
    model = model_of(program)
    x = rows(program.q_x)
    with torch.no_grad():
        values = model.measure(Batch(x, torch.arange(len(x)), 0))
        world = model.joint.world(x)  # type: ignore[operator]
    assert float(values.divergences[0]) == pytest.approx(float(world.neg_elbo), **EXACT)
    assert float(values.divergences[0] - world.entropy("q", "x")) == pytest.approx(float(world.kl("x,z")), **EXACT)
    violation = float(model.lagrangian.violation(values.divergences)[0]) * program.scales[0]
    assert violation == pytest.approx(float(world.kl("x,z")) - program.epsilon, abs=1e-6)  # single precision


# ---- what is refused


def test_a_program_out_of_reach_is_an_error_and_its_duals_are_not_read(program: Program) -> None:
    for solver in ("CLARABEL", "SCS"):
        with pytest.raises(SolverError, match=r"ended with status 'infeasible.*raise epsilon="):
            solve_program(replace(program, epsilon=0.5 * least_kl(program)), solver)


def test_a_second_bound_out_of_reach_is_named_too(program: Program) -> None:
    kernel = torch.eye(len(program.base), dtype=torch.float64)
    program = replace(program, kernel=kernel, epsilon_mmd=0.0, epsilon=0.5 * least_kl(program))
    with pytest.raises(SolverError, match=r"epsilon=.*or epsilon_mmd=0;"):
        solve_program(program)


def test_a_price_too_near_the_least_kl_names_the_programs_own_bound(program: Program) -> None:
    program = replace(program, epsilon=least_kl(program) + 1e-4)
    with pytest.raises(SolverError, match=rf"epsilon={program.epsilon:g}: no difference of V.*smaller step"):
        shadow_price(program)
    with pytest.raises(SolverError, match=rf"epsilon={program.epsilon:g}: no difference of V.*smaller step"):
        shadow_price(program, 1.0)


def test_softmax_tables_cannot_meet_zeros(program: Program) -> None:
    base = torch.eye(3)[:, [0, 1, 2, 2, 2]] if len(program.q_x) == 5 else torch.eye(len(program.q_x))
    base = base / base.sum(-1, keepdim=True)
    with pytest.raises(SettingError, match="base has zeros"):
        model_of(replace(program, base=base, share=0.0))
    model_of(replace(program, base=base))  # a share that is learned fills them
    with pytest.raises(SettingError, match="p_z has zeros"):
        model_of(replace(program, p_z=torch.tensor([0.5, 0.5, 0.0])))


def test_a_status_that_is_not_optimal_is_an_error(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from lagvae.oracles import duality

    monkeypatch.setitem(duality.SOLVERS, "SCS", {"max_iters": 20})
    with pytest.raises(SolverError, match=r"ended with status 'optimal_inaccurate'|did not solve"):
        solve_program(program, "SCS")


def test_a_solver_that_is_missing_names_the_extra(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(SolverError, match=r"need cvxpy .*pip install -e '\.\[duality\]'"):
        solve_program(program)


def test_an_unknown_solver_is_named(program: Program) -> None:
    with pytest.raises(SolverError, match="NOSUCH did not solve the program"):
        solve_program(program, "NOSUCH")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"alpha": -1.0}, "alpha=-1.0 must be positive"),
        ({"share": 1.0}, "share=1.0"),
        ({"epsilon": -0.1}, "epsilon=-0.1"),
        ({"epsilon_mmd": 0.1}, "kernel and epsilon_mmd belong together"),
        ({"q_x": torch.tensor([0.5, 0.25, 0.0])}, "q_x sums to 0.75"),
        ({"alpha": inf}, "alpha=inf must be a finite number"),
        ({"epsilon": inf}, "epsilon=inf must be a finite number"),
        ({"scales": (0.0, 1.0)}, r"scales=\(0\.0, 1\.0\) must be finite numbers above 0"),
        ({"kernel": torch.eye(2), "epsilon_mmd": 0.1}, r"kernel has shape \(2, 2\); over z it must be \(3, 3\)"),
        ({"kernel": -torch.eye(3), "epsilon_mmd": 0.1}, "least eigenvalue is -1"),
        ({"kernel": torch.eye(3) + torch.ones(3, 3).triu(1), "epsilon_mmd": 0.1}, "must be symmetric"),
        ({"kernel": torch.full((3, 3), inf), "epsilon_mmd": 0.1}, "kernel must hold finite numbers"),
        ({"kernel": torch.eye(3), "epsilon_mmd": -0.1}, "epsilon_mmd=-0.1 must be at least 0"),
        ({"kernel": torch.eye(3), "epsilon_mmd": inf}, "epsilon_mmd=inf must be a finite number"),
    ],
)
def test_programs_that_are_none_are_refused(change: dict[str, object], why: str, program: Program) -> None:
    with pytest.raises(SettingError, match=why):
        replace(program, **change)


# ---- maximising


def test_the_counterexample() -> None:
    # The bound of eq. 13 on the line of tables with q = p, which are t/2 on a diagonal; the oracle says the same.
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    for t in (0.1, 0.5, 0.9):
        channel = torch.tensor([[t, 1 - t], [1 - t, t]], dtype=torch.float64)
        world = Tabular(half, channel, half, channel)
        assert float(world.i_q_lower - world.entropy("q", "x")) == pytest.approx(mixing_lowers_the_bound(t), **EXACT)
        assert float(world.kl("x,z")) == pytest.approx(0, **EXACT)
    ends = (mixing_lowers_the_bound(0.1) + mixing_lowers_the_bound(0.9)) / 2
    assert ends == pytest.approx(0.1 * log(0.1) + 0.9 * log(0.9), **EXACT)
    assert ends - mixing_lowers_the_bound(0.5) > 0.3, "a concave function is not below the mean of two of its values"


def test_the_lemma_on_random_lines() -> None:
    # −|α| I_q + λ KL along lines of encoders, model fixed: convex for λ ≥ |α|, by second differences; not always below.
    generator = np.random.default_rng(0)
    least = {}
    for factor in (1.0, 0.3):
        differences = []
        for _ in range(300):
            start = Tabular.random(2, 2, int(generator.integers(10**6)))
            ends = [torch.from_numpy(generator.dirichlet(np.ones(2) / 2, 2)) for _ in range(2)]
            values = []
            for t in (0.0, 0.5, 1.0):
                world = replace(start, q_z_given_x=(1 - t) * ends[0] + t * ends[1])
                values.append(float(-world.information("q") + factor * world.kl("x,z")))
            differences.append(values[0] - 2 * values[1] + values[2])
        least[factor] = min(differences)
    assert least[1.0] > -1e-12
    assert least[0.3] < -1e-2


def test_the_hull_and_the_gap_of_a_cloud_that_is_known() -> None:
    # Corners (0, 0), (1, 1), (3, 2) with (2, 1.2) below the chord: there the hull is 1.5, the gap 0.3 and λ = ½.
    found = trade_off_curve(np.array([0, 1, 2, 3, 2.5, 0.5]), np.array([0, 1, 1.2, 2.0, 0.1, 0.4]))
    assert found.kl.tolist() == [0, 0.5, 1, 2, 3]
    assert found.gap.tolist() == pytest.approx([0, 0.1, 0, 0.3, 0], **EXACT)
    assert found.multiplier.tolist() == [1, 1, 1, 0.5, 0.5]
    assert len(simplex(3, 4)) == 15
    assert simplex(3, 4).sum(1).tolist() == [1.0] * 15


@pytest.mark.parametrize("shape", [(2, 3), (3, 2)])
def test_the_numbers_of_a_grid_are_those_of_the_oracle(shape: tuple[int, int]) -> None:
    q_x, p_z, decoder = random_tables(*shape, 1)
    found, rows_ = search(q_x, p_z, decoder, cells=6), simplex(shape[1], 6)
    for at in range(0, len(found.kl), 5):
        table = rows_[list(np.unravel_index(found.tables[at], (len(rows_),) * shape[0]))]
        world = Tabular(*(torch.from_numpy(t) for t in (q_x, table, p_z, decoder)))
        assert float(world.kl("x,z")) == pytest.approx(found.kl[at], abs=1e-11)
        assert float(world.information("q")) == pytest.approx(found.information[at], **EXACT)


def test_with_the_model_given_no_gap_is_left_where_lambda_is_large() -> None:
    low = []
    for seed in range(4):
        found = search(*random_tables(2, 2, seed), cells=200, polished=20)
        high = found.multiplier >= 1
        # The hull holds the polished points too, whose own error is that of the local search, 1e-9.
        assert found.gap[high].max(initial=0) < 1e-6
        low.append(found.gap[~high].max(initial=0))
    assert max(low) > 0.01, "and below it one is"


def test_with_the_decoder_free_a_gap_is_left_at_any_lambda() -> None:
    q_x = np.array([0.5, 0.5])
    for p_one, least in ((0.7, 4), (0.6, 10), (0.52, 79)):
        found, coarse = search_free(q_x, p_one), search_free(q_x, p_one, 2000)
        at = int(found.gap.argmax())
        assert found.gap[at] == pytest.approx(coarse.gap.max(), rel=0.03)
        assert found.gap[at] > 9e-4
        assert found.multiplier[at] > least


def test_the_free_decoders_search_agrees_with_all_tables() -> None:
    # By brute force over q(z|x): I_q and KL(q(z)‖p(z)), on a grid that has q(z) of the other search.
    q_x, p = np.array([0.4, 0.6]), np.array([0.3, 0.7])
    rows_ = simplex(2, 200)
    a, b = rows_[:, None, 0], rows_[None, :, 0]
    ones = q_x[0] * a + q_x[1] * b

    def h(w: np.ndarray) -> np.ndarray:
        from scipy.special import xlogy

        return -xlogy(w, w) - xlogy(1 - w, 1 - w)

    information = h(ones) - q_x[0] * h(a) - q_x[1] * h(b)
    kl = np.where(ones > 0, ones * np.log(np.maximum(ones, 1e-300) / p[0]), 0)
    kl = kl + np.where(ones < 1, (1 - ones) * np.log(np.maximum(1 - ones, 1e-300) / p[1]), 0)
    found = search_free(q_x, p[0])
    for epsilon in (0.02, 0.1, 0.3):
        brute = information[kl <= epsilon].max()
        exact = found.information[found.kl <= epsilon].max()
        assert brute <= exact + 1e-12
        assert brute == pytest.approx(exact, abs=0.01)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(SettingError, match=r"cells=1000 makes 501501\^2 tables of 2 × 3"):
        search(*random_tables(2, 3, 0), cells=1000)
    with pytest.raises(SettingError, match=r"cells=0 must be at least 1"):
        search(*random_tables(2, 2, 0), cells=0)
    q_x, p_z, decoder = random_tables(2, 2, 0)
    with pytest.raises(SettingError, match="q_x sums to"):
        search(2 * q_x, p_z, decoder, cells=4)
    with pytest.raises(SettingError, match="p_x_given_z has a zero"):
        search(q_x, p_z, np.eye(2), cells=4)
    with pytest.raises(SettingError, match="q_x has a zero"):
        search_free(np.array([1.0, 0.0]), 0.5)
    for p_one in (0.0, 1.0, float("nan")):
        with pytest.raises(SettingError, match=f"p_one={p_one} must lie above 0 and below 1"):
            search_free(q_x, p_one)
    with pytest.raises(SettingError, match=r"t=1\.5"):
        mixing_lowers_the_bound(1.5)
