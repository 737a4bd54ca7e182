"""The process that holds a private host: ``python -m vmctl.hypervisor.private.supervisor``.

Two processes, one program. The supervisor itself stays in the machine's namespaces and waits for
one of three things: that somebody tells it to end (SIGTERM), that the process it is tethered to
ends, or that the host does. The first process of the host, its child, is confined and runs the
daemons. The kernel kills it when the supervisor ends in whatever way, and with it, as it is
process 1 of a PID namespace, everything that the host runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from vmctl.errors import ConflictError, VmctlError
from vmctl.hypervisor.private import linux, programs, teardown
from vmctl.hypervisor.private.confinement import (
    confine_session,
    confine_system,
    map_current_user,
)
from vmctl.hypervisor.private.daemons import Daemon, keep_running
from vmctl.hypervisor.private.launcher import CONTAINMENT_VARIABLE, RELEASE
from vmctl.hypervisor.private.layout import Layout
from vmctl.hypervisor.private.locking import lock
from vmctl.hypervisor.private.process import end_marked_processes
from vmctl.hypervisor.private.record import Record

__all__ = ["main"]

_LOCK_PATIENCE = 10.0


class _ToldToEndError(Exception):
    """Raised by the handler of SIGTERM."""


def main(arguments: list[str]) -> None:
    """Hold a host until it ends.

    Args:
        arguments: The host's state folder, and three inherited descriptors: the pipe to report
            to, the pipe to be released by, and a pidfd of the process that starts the host.
    """
    state_dir = Path(arguments[0])
    report, control, owner = map(int, arguments[1:])
    if os.fork():  # so that no process is left with a child that it doesn't know of
        os._exit(0)
    for descriptor in (report, control, owner):
        os.set_inheritable(descriptor, False)
    _forget_inherited_signals()
    layout = Layout(state_dir.name, state_dir)
    record = Record.read(layout.record)
    if record is None:
        return  # the starter has ended and its host was removed already
    try:
        starter = (control, owner, report)
        init, contained = _start_first_process(layout, record, starter)
        _tell(report, supervisor=os.getpid(), init=init)
    except OSError as error:
        _tell(report, error=str(error), supervisor=os.getpid(), init=0)
        return
    _hold(layout, record, init, starter, contained=contained)


def _forget_inherited_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _tell(report: int, **message: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(report, json.dumps(message).encode() + b"\n")


def _start_first_process(
    layout: Layout, record: Record, starter: tuple[int, int, int]
) -> tuple[int, bool]:
    """Return the pid of the host's first process, and whether a PID namespace contains it."""
    uid, gid = os.geteuid(), os.getegid()
    confine: Callable[[], None] | None
    if record.kind == "system":
        linux.unshare(linux.CLONE_NEWPID)

        def confine() -> None:
            confine_system(layout, record.network)
    elif os.environ.get(CONTAINMENT_VARIABLE) != "subreaper" and _user_may_confine(uid, gid):
        _enter_user_namespace(uid, gid)

        def confine() -> None:
            confine_session(uid)
    else:
        confine = None
        linux.become_subreaper()
    supervisor = os.pidfd_open(os.getpid())
    logs = {
        program: os.open(layout.log(program), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for program in ("libvirtd", "virtlogd")
    }
    pid = os.fork()
    if pid == 0:
        control, owner, report = starter
        os.close(control)
        os.close(owner)
        _first_process(layout, record, confine, logs, supervisor, report=report)
    for descriptor in (supervisor, *logs.values()):
        os.close(descriptor)
    return pid, confine is not None


def _enter_user_namespace(uid: int, gid: int) -> None:
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWPID)
    map_current_user(uid, gid)


def _user_may_confine(uid: int, gid: int) -> bool:
    """Try a user namespace out. Distributions forbid them in several ways, some only halfway."""
    pid = os.fork()
    if pid == 0:
        try:
            _enter_user_namespace(uid, gid)
            inner = os.fork()
            if inner == 0:
                confine_session(uid)
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
        except OSError as error:
            _log(f"no user namespace: {error}")
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _first_process(
    layout: Layout,
    record: Record,
    confine: Callable[[], None] | None,
    logs: dict[str, int],
    supervisor: int,
    *,
    report: int,
) -> NoReturn:
    try:
        linux.die_with_parent(signal.SIGKILL)
        if _readable(supervisor):  # it ended before it could take this process with it
            os._exit(1)
        os.close(supervisor)
        os.chdir("/")
        os.umask(0o022)
        if confine is None:
            linux.become_subreaper()
        else:
            confine()
        daemons, environment = _daemons(layout, record, logs)
        _tell(report, confined=True)
        os.close(report)
        keep_running(daemons, environment)
    except BaseException as error:  # noqa: BLE001 - a forked child must not return into its parent
        with contextlib.suppress(OSError):
            _tell(report, error=str(error))
        _log(f"the first process failed: {error!r}")
    finally:
        os._exit(1)


def _daemons(
    layout: Layout, record: Record, logs: dict[str, int]
) -> tuple[tuple[Daemon, ...], dict[str, str]]:
    environment = {
        "PATH": programs.search_path(),
        "LANG": "C.UTF-8",
        teardown.MARK: str(layout.home),
    }
    if record.kind == "system":
        folder, pids = "/etc/libvirt", "/run/libvirt"
    else:
        run = teardown.short_link(record.short_dir or "")
        environment |= {
            "XDG_RUNTIME_DIR": str(run),
            "XDG_CONFIG_HOME": f"{run}/c",
            "XDG_CACHE_HOME": str(layout.state_dir / "cache"),
            "XDG_DATA_HOME": str(layout.state_dir / "lib"),
        }
        folder, pids = f"{run}/c/libvirt", f"{run}/libvirt"
    daemons = tuple(
        Daemon(
            (
                programs.require(program),
                *("-f", f"{folder}/{program}.conf"),
                *("-p", f"{pids}/{program}.pid"),
            ),
            logs[program],
        )
        for program in ("virtlogd", "libvirtd")
    )
    return daemons, environment


def _hold(
    layout: Layout,
    record: Record,
    init: int,
    starter: tuple[int, int, int],
    *,
    contained: bool,
) -> None:
    """Wait for one of the ends, and bring the others about."""
    control, owner, report = starter
    patience = 0.0
    first = os.pidfd_open(init)
    try:
        signal.signal(signal.SIGTERM, _told)
        if not _wait_for_end(first, control, owner):
            # Its state stays, for whoever wants to know why.
            _log("the host ended by itself")
            return
        patience = _LOCK_PATIENCE
    except _ToldToEndError:
        pass
    finally:
        # Not ignored: who tells it to end meanwhile has the lock, and removes the files.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        _end(first, init, layout, contained=contained)
        os.close(report)  # a starter that failed waits for this before it removes the files
    with contextlib.suppress(_ToldToEndError):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _remove(layout, record, patience)


def _told(_signal: int, _frame: object) -> None:
    raise _ToldToEndError


def _wait_for_end(first: int, control: int, owner: int) -> bool:
    """Return True when its owner has ended or failed, False when a host without owner has."""
    poll = select.poll()
    for descriptor in (first, control, owner):
        poll.register(descriptor, select.POLLIN)
    word = b""
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if owner in ready:
            return True
        if control in ready:
            word = os.read(control, 1)
            if not word:
                return True
            poll.unregister(control)
            os.close(control)
            if word == RELEASE:
                poll.unregister(owner)
                os.close(owner)
        if first in ready:
            if word == RELEASE:
                return False
            poll.unregister(first)  # the owner may want to know why; the files go when it does


def _end(first: int, init: int, layout: Layout, *, contained: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(first, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(init, 0)
    if not contained:
        end_marked_processes(teardown.MARK, str(layout.home))
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _remove(layout: Layout, record: Record, patience: float) -> None:
    """Remove the host's files, unless somebody else is at it or at a new host of this name."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with lock(layout, only_try=True):
                now = Record.read(layout.record)
                if now is not None and now.id == record.id:
                    teardown.remove_files(layout, record)
                return
        except ConflictError:
            if time.monotonic() >= deadline:
                return
            time.sleep(0.05)  # flock has no time limit of its own
        except VmctlError as error:
            _log(str(error))
            return


def _readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def _log(text: str) -> None:
    sys.stderr.write(f"vmctl: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
