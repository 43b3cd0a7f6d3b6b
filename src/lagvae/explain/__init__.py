"""Explains objectives: what a member of the family prefers, which constraints it has, and how it is computed.

This package may see a config and import the algebra, the experiment and those below. It needs no data and no training.
"""
