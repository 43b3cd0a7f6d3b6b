"""Many runs: which are left to do, which train together, and where."""
