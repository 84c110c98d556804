"""Training: the in-house PGD and the OAT loop."""
