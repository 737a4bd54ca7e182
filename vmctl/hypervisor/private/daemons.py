"""A private host's first process, once it is confined: it starts the daemons and keeps them up.

It reaps every process of the host at once. libvirt waits for a destroyed guest until its process
is gone, which where process 1 reaps slowly takes more than a second.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

from vmctl.hypervisor.private import linux

__all__ = ["Daemon", "keep_running"]

# A daemon that ends this often in a row, each time this soon, is not started again. One that works
# for longer may be ended as often as somebody likes.
_MOST_ENDS = 5
_SOON_SECONDS = 4.0
_OPEN_FILES = 8192  # what Debian's libvirtd.service asks for


@dataclasses.dataclass(frozen=True, slots=True)
class Daemon:
    """A program that runs in the foreground.

    Attributes:
        command: The program's path and arguments.
        log: A descriptor of the file that its output goes to, open for appending.
    """

    command: tuple[str, ...]
    log: int


def keep_running(daemons: tuple[Daemon, ...], environment: Mapping[str, str]) -> NoReturn:
    """Start the daemons, reap whatever ends, and start again what should not have ended.

    Guests outlive their libvirtd, so it is started again rather than the host given up.
    Ends this process when a daemon doesn't stay up.
    """
    _raise_open_files()
    running = {_spawn(daemon, environment): (daemon, time.monotonic()) for daemon in daemons}
    ends = dict.fromkeys(daemons, 0)
    while True:
        pid, status = os.waitpid(-1, 0)
        ended = running.pop(pid, None)
        if ended is None:
            continue
        daemon, started = ended
        code = os.waitstatus_to_exitcode(status)
        _say(f"{daemon.command[0]} ended with {code}")
        now = time.monotonic()
        ends[daemon] = ends[daemon] + 1 if now - started < _SOON_SECONDS else 0
        if ends[daemon] >= _MOST_ENDS:
            _say(f"{daemon.command[0]} ended {_MOST_ENDS} times; giving the host up")
            os._exit(1)
        running[_spawn(daemon, environment)] = (daemon, now)


def _spawn(daemon: Daemon, environment: Mapping[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        # In a PID namespace the kernel would end it anyway; where there is none, this does.
        linux.die_with_parent(signal.SIGKILL)
        os.dup2(daemon.log, 1)
        os.dup2(daemon.log, 2)
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        os.execve(daemon.command[0], daemon.command, environment)  # noqa: S606 - none is wanted
    except OSError as error:
        _say(f"{daemon.command[0]}: {error}")
    finally:
        os._exit(127)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _say(text: str) -> None:
    sys.stderr.write(f"vmctl: {text}\n")
    sys.stderr.flush()
