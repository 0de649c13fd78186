"""Feature sets: what is known at the issue time, and nothing else."""
