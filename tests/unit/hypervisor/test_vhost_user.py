"""Whether a host has virtiofsd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vmctl.hypervisor import vhost_user

HERE = ("qemu:///system", "qemu+unix:///system?socket=/run/x")


def test_virtiofsd_is_what_a_descriptor_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "vhost-user"
    monkeypatch.setattr(vhost_user, "_FOLDERS", (folder, tmp_path / "none"))
    # Not known, where descriptors lie elsewhere.
    assert not any(map(vhost_user.lacks_virtiofsd, HERE))
    folder.mkdir()
    assert all(map(vhost_user.lacks_virtiofsd, HERE))
    assert not vhost_user.lacks_virtiofsd("qemu+ssh://root@node1/system")

    program = tmp_path / "virtiofsd"
    descriptor = folder / "50-virtiofsd.json"
    descriptor.write_text(json.dumps({"type": "fs", "binary": str(program)}))
    assert all(map(vhost_user.lacks_virtiofsd, HERE))
    program.touch()
    assert not any(map(vhost_user.lacks_virtiofsd, HERE))
    for text in ("", "[]", json.dumps({"type": "gpu", "binary": str(program)})):
        descriptor.write_text(text)
        assert all(map(vhost_user.lacks_virtiofsd, HERE))
