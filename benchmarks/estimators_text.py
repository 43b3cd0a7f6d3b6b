"""The words of docs/estimators.md; its numbers are made by estimators.py."""

HEAD = """# Estimators of information, tested where the truth is known

Which estimate of I_q(x;z) can be trusted, and when: every estimator that the package reports, on examples whose
information is known. Made by `make estimators`; the same code evaluates a run (`lagvae.metrics.Information`).

## What to trust

- **The interval, always.** Both ends are bounds in expectation for every encoder, so where they are close, I_q is
  known. `summary.json` and the report at the end of a run name the bound at each end (`i_q_lower_by`,
  `i_q_upper_by`).
- **I well below log K:** the aggregate posterior that includes the sample's own draw (`inclusive`) and the one that
  leaves it out (`leave one out`) agree.
- **I near log K or above:** `inclusive` is log K, which says nothing more about I; `leave one out` may be off by any
  number of nats. The upper end is then a density that was fitted to other samples. No lower bound that knows q(x) by
  K samples alone gets far beyond log K (McAllester & Stratos, 2020); one that knows how x is drawn does: see the
  images below.
- **The rate** is I + KL(q(z)‖p(z)): exact where the aggregate posterior equals the prior, as in the first table, and
  loose by their KL divergence otherwise. A small MMD does not imply that this is small.
- **`mixed`**, an equal mixture of all densities, is at most the log of their number above the best of them, and below
  all of them where they are good in different places.
- **The kernel density estimate** (the paper's eq. 21) is not a bound. It is accurate in two dimensions; in 16 and 64
  it is too large by nats, and more samples hardly help. It may also be too small. Do not use it alone.

InfoNCE is not in the tables by that name: with its optimal critic, log q(z|x), it *is* `inclusive`, and every other
critic gives less.

## Gaussian channels

z = ρ x + √(1 − ρ²) e in d dimensions, K samples. Mean error (estimate − I) ± spread over repetitions (20, 10, 5 and 2
for the four K), in nats. (≤) marks a lower and (≥) an upper bound.

![Error of each estimator over K](estimators.png)

*Mean error, on a scale that is linear up to one nat and logarithmic beyond; errors above 100 nats are cut off.*
"""

CLUSTERS = """## Clusters

The same channel with d = 16 around each of eight distant points: I is log 8 plus the information of the channel. q(z)
is not the prior, so the rate is loose."""

TIME = """## Time

Seconds at I = 10, d = 16, on one thread. At most 10⁸ pairs of a sample and a draw of x are evaluated; each mixture
is fitted to at most 5,000 samples and the kernel density to 10,000, so the time hardly grows beyond these."""

IMAGES = """## Images that are binarised anew

Where x is drawn as an image and then its binarisation, I(x;z) = I(m;z) + I(x;z|m) for images m. Each part has a lower bound of
its own, up to log N for N images and log R for R draws of an image, together far above log K; and a Gaussian for all draws
of an image is a better density than one Gaussian for each draw. Here 1,000 images of 16 numbers, whose draws differ by 1, 4
and 30 times the encoder's noise, K = 10,000. The table has the error of both ends of the interval, without these
bounds and with them."""

MMD = """## MMD: the power of each kernel

Power: how often a permutation test at level 0.05 (199 permutations, 200 repetitions) tells 250 samples of
N(0, 0.64 I) from 250 of N(0, I) in 64 dimensions. Size: how often it rejects where both are N(0, I) (0.05 ± 0.015 is
expected). The last column is the MMD of the first case, ± its spread between batches. With equally many samples of
both, the U- and the V-statistic order permutations alike, so the power does not depend on the statistic."""
