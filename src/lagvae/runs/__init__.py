"""The run folder: its layout, the table of metrics in it, and the loggers that are used beside that table.

It knows no model and no data, and of configs only what a run folder holds.
"""
