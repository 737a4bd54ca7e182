"""The tools that a build is made of: looked for beforehand, and heard when they fail."""

from __future__ import annotations

import os

import pytest

from vmctl.errors import ImageError, PermissionDeniedError, ResourceError, UnsupportedError
from vmctl.imaging.build import tools


def test_a_missing_tool_is_told_with_its_package() -> None:
    extra = {"no-such-tool": "no-such-package", "/no/such/file": "another"}
    with pytest.raises(UnsupportedError, match="can't be built without .*no-such-tool") as caught:
        tools.check_host(extra)
    assert caught.value.hint.startswith("apt install ")
    assert {"no-such-package", "another"} <= set(caught.value.hint.split())


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "PACKAGES", {"sh": "dash"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionDeniedError, match="needs root"):
        tools.check_host()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    tools.check_host()


def test_a_tool_s_output_is_returned() -> None:
    assert (
        tools.run(["sh", "-c", "cat; printf $MORE"], stdin="a", environment={"MORE": "b"}) == "ab"
    )


def test_a_failing_tool_is_heard() -> None:
    script = "echo 'E: Unable to locate package x'; echo 'E: mmdebstrap failed'; exit 25"
    with pytest.raises(ImageError) as caught:
        tools.run(["sh", "-c", script])
    assert caught.value.brief == "sh failed with status 25: Unable to locate package x"
    assert "E: mmdebstrap failed" in caught.value.details
    with pytest.raises(ImageError, match="false failed with status 1: no message"):
        tools.run(["false"])


def test_a_tool_that_finds_no_space_is_a_matter_of_resources() -> None:
    with pytest.raises(ResourceError, match="there is no space left for what sh writes"):
        tools.run(["sh", "-c", "head -c 100 /dev/zero > /dev/full"])
