"""`vmctl import` on a terminal: the spec is shown before anything is made, and one may say no."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import vmctl
from vmctl.cli.root import root

from .conftest import snapshot_of_host

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]


def ask(uri: str, path: Path, answer: str, meanwhile: Callable[[], None]) -> tuple[str, int]:
    """Import a file on a terminal; returns what it showed, and the exit status."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "vmctl.cli.main", "-c", uri, "import", str(path)]
    client = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    try:
        while not shown.endswith(b"[y/N]: "):
            shown += os.read(ours, 4096)
        # Several frames of what is drawn while something goes on.
        assert select.select([ours], [], [], 0.5)[0] == []
        meanwhile()
        os.write(ours, f"{answer}\n".encode())
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the last who had the terminal open is gone
                break
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()), client.wait(60)
    finally:
        client.kill()
        client.wait()
        os.close(ours)


def test_nothing_is_made_before_the_answer(
    host: vmctl.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    path = tmp_path / "asked.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", str(path), "8M"], check=True)
    before = snapshot_of_host(host)

    def untouched() -> None:
        assert snapshot_of_host(host) == before
        assert list(scratch.iterdir()) == []

    for answer in ("n", ""):
        shown, status = ask(host.uri, path, answer, untouched)
        said = shown.partition("Make the machine 'asked'?")[0]
        for line in ("name: asked", "size: 8MiB", "bus: sata", "warning: a disk says nothing"):
            assert line in said
        assert status == 1
        assert shown.rstrip().endswith("asked: not made")
        assert "Traceback" not in shown
        untouched()
    shown, status = ask(host.uri, path, "y", untouched)
    assert status == 0, shown
    assert host.get("asked").state == "shut off"
    host.get("asked").delete()


def test_in_a_pipe_it_is_shown_all_the_same(host: vmctl.Host, tmp_path: Path) -> None:
    path = tmp_path / "piped.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M"], check=True)
    done = CliRunner().invoke(root, ["-c", host.uri, "import", str(path)])
    assert done.exit_code == 0, done.stderr
    assert "name: piped" in done.stderr
    assert done.stdout.split()[:4] == ["NAME", "STATE", "PHASE", "piped"]
    host.get("piped").delete()
