"""Leaderboards: entries, and the tables made of them."""
