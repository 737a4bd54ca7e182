from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vmctl.cli.root import root
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.metadata import OwnedVolume, Phase, Record, Role


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("VMCTL_") or name == "NO_COLOR":
            monkeypatch.delenv(name)
    for name in ("CONFIG", "DATA", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    # Sockets have short paths, and pytest's folders long ones. Nothing is ever made there.
    monkeypatch.setenv("VMCTL_STATE_HOME", "/nonexistent")


Vmctl = Callable[..., Result]


@pytest.fixture
def vmctl() -> Vmctl:
    """Run the command line in this process."""

    def run(*args: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(root, list(args), input=stdin)

    return run


RECORD = Record(
    uuid="11111111-2222-3333-4444-555555555555",
    phase=Phase.READY,
    created="2026-01-01T00:00:00+00:00",
    spec={"name": "web"},
)


def host_with(record: Record, folder: Path) -> tuple[str, str]:
    """Name a host of libvirt's test driver with one machine, `web`, which runs.

    Whoever connects to it gets it anew (https://libvirt.org/drvtest.html).
    """
    node = folder / "node.xml"
    node.write_text(
        f"<node><domain type='test'><name>web</name><uuid>{record.uuid}</uuid>"
        "<memory>65536</memory><os><type>hvm</type></os>"
        f"<metadata>{record.to_xml()}</metadata></domain></node>",
        encoding="utf-8",
    )
    return ("-c", f"test://{node}")


@pytest.fixture
def own(tmp_path: Path) -> tuple[str, str]:
    """Name a host with one machine, `web`, that is vmctl's and runs."""
    return host_with(RECORD, tmp_path)


@pytest.fixture
def left_over(tmp_path: Path) -> tuple[str, str]:
    """Name a host with one machine, `web`, whose client was killed in the middle of its launch."""
    with claimed(60) as claim:
        pass
    record = replace(
        RECORD,
        phase=Phase.CREATING,
        claim=claim,
        volumes=(OwnedVolume(pool="default", name="web.vda.qcow2", role=Role.DISK),),
        brought=(("default", f"sha256-{'0' * 64}.qcow2"),),
        started_networks=("default",),
    )
    return host_with(record, tmp_path)


@pytest.fixture
def half_flat(tmp_path: Path) -> tuple[str, str]:
    """Name a host with one machine, `web`, whose client was killed while it flattened its disks."""
    with claimed(60) as claim:
        pass
    flattening = replace(RECORD, phase=Phase.FLATTENING, before=Phase.READY, claim=claim)
    return host_with(flattening, tmp_path)


Process = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def process() -> Process:
    """Run the command line as a process of its own."""

    def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vmctl.cli.main", *args]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )

    return run
