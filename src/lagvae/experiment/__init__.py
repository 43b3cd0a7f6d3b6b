"""One run: building objects from its config, calibration, training, evaluation, the summary and the report.

The modules of this package may import every layer below (runs, callbacks, metrics, the model, the data and what those are
built from). They may not import sweeps, explain, pareto or the command line.
"""
