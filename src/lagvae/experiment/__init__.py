"""One run: from a config to objects, calibration, training, evaluation, summary and report."""
