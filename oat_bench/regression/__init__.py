"""The regression check: a model against a baseline, example by example."""
