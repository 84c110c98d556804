"""Reports: what a terminal, Markdown, CSV and LaTeX show of results."""
