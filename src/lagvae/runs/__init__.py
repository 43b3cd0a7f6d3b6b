"""The run folder: its layout, the table of metrics in it, and the loggers that are used beside that table.

This room may import only rooms below it; it needs little more than the errors and atomic writing. It knows nothing of configs.
"""
