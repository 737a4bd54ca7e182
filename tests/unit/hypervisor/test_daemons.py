"""What keeps a private host's daemons up, and when it gives up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import os, sys
from vmctl.hypervisor.private import daemons
daemons._SOON_SECONDS = float(sys.argv[1])
log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
command = ("/bin/sh", "-c", f"echo up; [ $(wc -l < {sys.argv[2]}) -gt 12 ] && exec kill $PPID")
daemons.keep_running((daemons.Daemon(command, log),), {})
"""


def ran(soon: float, log: Path) -> tuple[int, int]:
    """Return how it ended, and how often the daemon was started, which ends itself each time."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(soon), str(log)],
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    return done.returncode, len(log.read_text().splitlines())


def test_one_that_never_stays_up_is_given_up(tmp_path: Path) -> None:
    assert ran(60.0, tmp_path / "log") == (1, 5)


def test_one_that_stayed_up_for_long_enough_is_started_as_often_as_it_ends(tmp_path: Path) -> None:
    # The daemon itself ends the test, by a signal, when it was started so often.
    assert ran(0.0, tmp_path / "log") == (-15, 13)
