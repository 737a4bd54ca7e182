"""What a host is known to lack."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from vmctl.hypervisor import lacking

HERE = "qemu:///system"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.gz"
    monkeypatch.setattr(lacking, "_KERNEL", path)
    monkeypatch.setattr(lacking, "_BRIDGES", tmp_path / "none")
    return path


def test_a_kernel_says_what_it_was_built_without(kernel: Path) -> None:
    kernel.write_bytes(
        gzip.compress(b"CONFIG_NET_SCH_HTB=y\n# CONFIG_NET_SCH_SFQ is not set\n", mtime=0)
    )
    assert lacking.known_to_lack(HERE, privileged=True) == {"shaping"}
    # Of another machine, this one's kernel says nothing.
    assert lacking.known_to_lack("qemu+ssh://node/system", privileged=True) == set()


@pytest.mark.parametrize(
    "content", [None, b"", b"no gzip", gzip.compress(b"CONFIG_A=m\n", mtime=0)]
)
def test_what_is_not_said_is_not_lacking(kernel: Path, content: bytes | None) -> None:
    if content is not None:
        kernel.write_bytes(content)
    assert lacking.known_to_lack(HERE, privileged=True) == set()


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("values", "lacks"),
    [("", set()), ("11", set()), ("10", {"bridge-filters"}), ("01", {"bridge-filters"})],
)
def test_whether_the_firewall_sees_bridges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: str, lacks: set[str]
) -> None:
    monkeypatch.setattr(lacking, "_BRIDGES", tmp_path)
    for name, value in zip(lacking._SHOWN, values, strict=False):
        (tmp_path / name).write_text(f"{value}\n")
    assert lacking.known_to_lack(HERE, privileged=True) == lacks
    # Those of a private host are its own.
    private = "qemu+unix:///system?socket=/s"
    assert "bridge-filters" not in lacking.known_to_lack(private, privileged=True)


@pytest.mark.usefixtures("kernel")
def test_who_has_no_cgroups() -> None:
    assert lacking.known_to_lack("qemu:///session", privileged=False) == {"cpu-limits"}
    private = "qemu+unix:///system?socket=/s"
    assert lacking.known_to_lack(private, privileged=True) == {"cpu-limits"}
