"""The network: parameters and mathematics, nothing else."""
