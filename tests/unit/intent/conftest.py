"""Rendering is tested with the templates of this tree, whatever the user's own folders hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_templates_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    empty = tmp_path_factory.mktemp("config")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(empty))
        patch.delenv("VMCTL_TEMPLATE_PATH", raising=False)
        yield empty
