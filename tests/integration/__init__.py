"""Tests with a real libvirtd and real guests."""

import pytest

# What it compares is told when it differs, as in a test.
pytest.register_assert_rewrite(f"{__name__}.snapshot_model")
pytest.register_assert_rewrite(f"{__name__}.striking")
