"""Evaluation: operating points against attacks, outcomes example by example, statistics."""
