"""Sweeps: which runs of a union of grids are left to do, which of them train together as an ensemble, and where their jobs run.

The modules of this package may import `lagvae.experiment` and every layer below it. They may not import explain, pareto or the
command line.
"""
