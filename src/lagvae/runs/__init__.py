"""The run folder: its layout, its table of metrics, and loggers beside it."""
