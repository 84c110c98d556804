"""Leaderboards: publishing entries, and the site of them."""
