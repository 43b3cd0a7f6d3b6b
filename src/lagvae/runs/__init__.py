"""The run folder: its layout, the table of metrics in it, and the loggers that are used beside that table.

Of the package it imports only atomic writing and the errors; it knows no model, no data and no config.
"""
