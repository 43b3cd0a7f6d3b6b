"""Around the entry points: Hydra, and errors as one paragraph."""
