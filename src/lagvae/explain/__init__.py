"""Explains objectives: what a member of the family prefers, which constraints it has, and how it is computed.

This room may see a config and import the algebra, the experiment and all rooms below them; it needs no data and no training.
"""
