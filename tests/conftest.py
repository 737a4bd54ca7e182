"""Options of the tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does. Each run plays the same ones;
# VMCTL_TEST_FUZZ=1 looks for others, which become examples of their tests where one fails.
settings.register_profile(
    "vmctl", deadline=None, derandomize="VMCTL_TEST_FUZZ" not in os.environ, database=None
)
settings.load_profile("vmctl")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write what is rendered into tests/golden instead of comparing it",
    )


@pytest.fixture
def rewrite_golden(request: pytest.FixtureRequest) -> bool:
    """Whether the golden files are to be written anew."""
    return bool(request.config.getoption("--rewrite-golden"))
