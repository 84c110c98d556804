"""Conditional networks f(x, lambda) and the plain networks that they are at one lambda."""
