"""Leaderboards as a static site: pages, style and scripts, which ask nothing of any server."""

from oat_bench.leaderboards.site.build import Site, build

__all__ = ["Site", "build"]
