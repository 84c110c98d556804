"""Leaderboards as a static site: pages, style and scripts, which ask nothing of any server."""

from oat_bench.leaderboards.site.building import Site, build

__all__ = ["Site", "build"]
