"""A baseline as users keep it, and the command line in this process."""

import pytest
from making import measure, publish

from oat_bench.checkpoint import load


@pytest.fixture(scope="session")
def honest(trained_folder):
    """A classifier that is right and robust more often than not; not to be changed."""
    return load(trained_folder)


@pytest.fixture(scope="session")
def measured(honest, digits):
    return measure(honest, digits)


@pytest.fixture
def baseline(tmp_path, honest, digits, measured):
    return publish(tmp_path / "digits.json", honest, digits, *measured)
