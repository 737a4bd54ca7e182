"""Which host is meant by what was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.errors import UsageError
from vmctl.hypervisor import uri
from vmctl.hypervisor.uri import default_uri, resolve


@pytest.mark.parametrize(
    "written",
    [
        "qemu+ssh://node1/system?command=/tmp/evil",
        "qemu+ssh://node1/system?socket=/s&command=/tmp/evil",
        # libvirt parts at semicolons as well.
        "qemu+ssh://node1/system?a=b;command=/tmp/evil",
        "qemu+ssh://node1/system?;command=/tmp/evil",
    ],
)
def test_a_command_of_the_uri_is_never_run(written: str) -> None:
    with pytest.raises(UsageError, match="names a command to run"):
        resolve(written)


def test_what_ssh_is_told() -> None:
    host = resolve("qemu+ssh://root@node1:2222/system?keyfile=/k&no_verify=1")
    assert (host.ssh_host, host.ssh_user, host.ssh_port) == ("node1", "root", 2222)
    assert (host.ssh_keyfile, host.ssh_verify, host.is_local) == ("/k", False, False)
    plain = resolve("qemu+ssh://node1/system")
    assert (plain.ssh_user, plain.ssh_port, plain.ssh_keyfile) == ("", None, "")
    assert plain.ssh_verify


@pytest.mark.parametrize("daemon", ["libvirt-sock", "virtqemud-sock"])
def test_the_system_is_meant_where_it_may_be_used(
    daemon: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VMCTL_URI", raising=False)
    monkeypatch.setattr("vmctl.hypervisor.uri.os.geteuid", lambda: 1000)
    sockets = (tmp_path / "libvirt-sock", tmp_path / "virtqemud-sock")
    monkeypatch.setattr(uri, "_SYSTEM_SOCKETS", sockets)
    assert default_uri() == "qemu:///session"
    (tmp_path / daemon).touch()
    assert default_uri() == "qemu:///system"
    monkeypatch.setenv("VMCTL_URI", "private:a")
    assert default_uri() == "private:a"
