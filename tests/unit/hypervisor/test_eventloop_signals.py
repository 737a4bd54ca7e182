"""Ctrl-C while libvirt reports an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A signal that arrives within the call is handled by the first step of Python's after it has come.
_CODE = """
import signal, socket, sys, threading
from vmctl.hypervisor.connection import Connection

# Whoever connects is let go only when the signal is there: the error comes with it.
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()

def hang_up():
    peer, _ = listening.accept()
    peer.recv(1)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    peer.close()

threading.Thread(target=hang_up, daemon=True).start()
try:
    Connection("qemu+unix:///system?socket=" + sys.argv[1])
except BaseException as error:
    print(type(error).__name__)
"""


def test_it_is_ctrl_c(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE, f"{tmp_path}/socket"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("KeyboardInterrupt\n", "")
