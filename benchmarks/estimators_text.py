"""The words of docs/estimators.md; its numbers are made by estimators.py."""

HEAD = """# Estimators on trial

Which number for I_q(x;z) can be trusted, and when: each estimator that the package reports, where the truth is known.
Made by `make estimators`; the same code measures a run (`lagvae.metrics.Information`).

## What to trust

- **The interval, always.** Both ends hold in expectation whatever the encoder is, so where they are close the
  question is settled. `summary.json` and the table at the end of a run name the bound that each end is
  (`i_q_lower_by`, `i_q_upper_by`).
- **I well below log K:** the aggregate posterior with the own sample (`inclusive`) and without it (`leave one out`)
  meet.
- **I near log K or above:** `inclusive` reads log K and says no more than that; `leave one out` is off by any number
  of nats. Then the upper end is a density that was fitted on other samples. No lower bound that knows q(x) by K
  samples alone gets far beyond log K (McAllester & Stratos, 2020); one that knows how x is drawn does: see the images
  below.
- **The rate** is I + KL(q(z)‖p(z)): exact where the aggregate posterior is the prior, as in the first table, and as
  loose as the two differ. A small MMD does not say that they are the same.
- **`mixed`**, an equal mixture of all densities, is at most the log of their number above the best of them, and below
  all where each is good somewhere else.
- **The kernel density estimate** (the paper's eq. 21) is no bound. It is fair in two dimensions; in 16 and 64 it is
  too large by nats, and more samples hardly help. It may also be too small. Do not use it alone.

InfoNCE is not in the tables by that name: with the best critic there is, log q(z|x), it *is* `inclusive`, and every
other critic reads less.

## Gaussian channels

z = ρ x + √(1 − ρ²) e in d dimensions, K samples. Mean error (estimate − I) ± spread over repetitions (20, 10, 5 and 2
for the four K), in nats. (≤) and (≥): the side on which an estimator errs, by theory.

![Error of each estimator over K](estimators.png)

*Mean error, linear up to one nat and logarithmic beyond; what is above 100 nats is cut off.*
"""

CLUSTERS = """## Clusters

The same channel with d = 16 around each of eight far points: I = log 8 + that of the channel. q(z) is not the prior,
so the rate is loose."""

TIME = """## Time

Seconds at I = 10, d = 16, on one thread. At most 10⁸ pairs of a sample and a draw of x are looked at, 5,000 samples
make each mixture and 10,000 the kernel density, so little grows beyond these."""

IMAGES = """## Images that are drawn anew

Where x is an image and then its binarisation, I(x;z) = I(m;z) + I(x;z|m) for images m. Each part has a lower bound of
its own, up to log N for N images and log R for R draws of one, together far above log K; and a Gaussian for all draws
of an image makes a better density than one for each draw. Here 1,000 images of 16 numbers, whose draws differ by 1, 4
and 30 times the encoder's noise, K = 10,000: error of both ends of the interval, without these bounds and with them."""

MMD = """## MMD: the power of each kernel

How often a permutation test at level 0.05 (199 permutations, 200 repetitions) tells 250 samples of N(0, 0.64 I) from
250 of N(0, I) in 64 dimensions; how often it is wrong where both are N(0, I) (its size: 0.05 ± 0.015); and what MMD reads in
the first case, ± its spread between batches. With as many samples of both the U- and the V-statistic order
permutations alike, so power does not depend on the statistic."""
