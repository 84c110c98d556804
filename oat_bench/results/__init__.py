"""Results: what an evaluation left on disk, read, ranked and validated."""
