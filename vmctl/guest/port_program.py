"""A port of the hypervisor that leads into a guest, for as long as the guest's NIC is there.

With `port_holding` this is a program of its own: its text is handed to a Python on the hypervisor,
which need not have vmctl, and may be older (see `port_relays`). It leaves one process for each
port, which nobody has to look after. That one ends when the guest's tap device goes, which the
kernel takes away with QEMU in whatever way that ends, or when it is told to.

Who holds a port is asked of an abstract socket, ``vmctl-port/UUID/PROTOCOL/ADDRESS/PORT``: like the
device, it belongs to the network namespace, and nothing is left of it when the process ends.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from vmctl.guest.port_holding import ANSWER_SECONDS, CREDENTIALS, SAID, hold, is_there

__all__ = ["main"]

_PREFIX = "vmctl-port/"
# <linux/sockios.h>
_SIOCGIFHWADDR = 0x8927


class _RefusedError(Exception):
    """What is told to who asked."""

    def __init__(self, kind: str, text: str = "", uuid: str = "") -> None:
        super().__init__(kind)
        self.said = {"error": kind, "text": text, "uuid": uuid}


def main(asked: dict[str, Any]) -> None:
    """Do what is asked: ``open`` a port, ``close`` one, or ``list`` those of a machine."""
    try:
        said = {"open": _open, "close": _close, "list": _list}[asked["command"]](asked)
    except _RefusedError as error:
        said = error.said
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


# -- who holds a port ----------------------------------------------------------------------------


def _name_of(asked: dict[str, Any]) -> str:
    return f"{_PREFIX}{asked['uuid']}/{asked['protocol']}/{asked['address']}/{asked['port']}"


def _holders() -> list[tuple[str, list[str]]]:
    """Return the names of all holders in this network namespace, each with its four parts.

    Anybody on the host may take any name: those that are none of a holder's are passed over.
    """
    lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    last = (line.rpartition(" ")[2] for line in lines)
    names = sorted({name[1:] for name in last if name.startswith("@" + _PREFIX)})
    found = ((name, name.split("/")[1:]) for name in names)
    return [(name, parts) for name, parts in found if len(parts) == 4 and parts[3].isdecimal()]


def _call(name: str) -> tuple[socket.socket, dict[str, Any]] | None:
    """Return the line to who holds a port, and what it said of itself; None if it is gone.

    Raises:
        _RefusedError: It is somebody else's, or says nothing.
    """
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(ANSWER_SECONDS)
    try:
        line.connect("\0" + name)
        size = CREDENTIALS.size
        credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        # Whoever was quicker to take the name is not believed, unless it is this user, or root.
        if CREDENTIALS.unpack(credentials)[1] not in {0, os.geteuid()}:
            raise _RefusedError("not-ours", "another user's process holds " + name)
        greeting = line.makefile("r", encoding="utf-8").readline()
        if not greeting:
            line.close()
            return None
        return line, json.loads(greeting)
    except (ConnectionError, FileNotFoundError):
        line.close()
        return None
    except socket.timeout as error:  # noqa: UP041 - older Pythons
        line.close()
        raise _RefusedError("no-answer", "who holds it does not answer") from error
    except BaseException:
        line.close()
        raise


def _end(line: socket.socket) -> None:
    """Tell who holds a port to let go of it, and wait until it has."""
    with line:
        try:
            line.sendall(b"close\n")
            while line.recv(64):
                pass
        except ConnectionError:
            return
        except socket.timeout as error:  # noqa: UP041 - older Pythons
            raise _RefusedError("no-answer", "who holds it does not end") from error


def _close(asked: dict[str, Any]) -> dict[str, Any]:
    found = _call(_name_of(asked))
    if found is not None:
        _end(found[0])
    return {"closed": found is not None}


def _list(asked: dict[str, Any]) -> dict[str, Any]:
    found = []
    for name, (uuid, protocol, address, port) in _holders():
        if uuid != asked["uuid"]:
            continue
        try:
            called = _call(name)
        except _RefusedError as error:
            if error.said["error"] != "not-ours":
                raise
            # Whoever has the name, the port of this machine is not open there.
            continue
        if called is None:
            continue
        line, greeting = called
        line.close()
        found.append(
            {
                "protocol": protocol,
                "address": address,
                "port": int(port),
                "guest_port": greeting["guest_port"],
                "mac": greeting["mac"],
            }
        )
    return {"ports": found}


# -- opening one -----------------------------------------------------------------------------------


def _open(asked: dict[str, Any]) -> dict[str, Any]:
    index = _index_of(asked["device"], asked["mac"])
    asked["uid"] = os.geteuid()
    control = _take_name(asked, index)
    if control is None:
        return {"opened": False}
    try:
        listener = _listen(asked)
    except BaseException:
        control.close()
        raise
    _leave_behind(asked, index, control, listener)
    return {"opened": True}


def _index_of(device: str, mac: str) -> int:
    """Return the number of the guest's device, which no other one has after it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            index = socket.if_nametoindex(device)
            name = struct.pack("256s", device.encode()[:15])
            own = fcntl.ioctl(probe.fileno(), _SIOCGIFHWADDR, name)[18:24]
        except OSError as error:
            raise _RefusedError("no-device", device + " is not there") from error
    # libvirt gives a tap the guest's address with another first byte (virNetDevTapCreate).
    if own.hex(":")[3:] != mac[3:]:
        raise _RefusedError("no-device", device + " is another guest's")
    return index


def _take_name(asked: dict[str, Any], index: int) -> socket.socket | None:
    """Return the socket that says who holds the port; None if this very port is open."""
    name = _name_of(asked)
    wanted = {key: asked[key] for key in SAID}
    for _attempt in range(3):
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            control.bind("\0" + name)
            control.listen(8)
        except OSError as error:
            control.close()
            if error.errno != errno.EADDRINUSE:
                raise
            found = _call(name)
            if found is None:
                continue
            line, greeting = found
            if greeting["index"] == index and all(greeting[k] == v for k, v in wanted.items()):
                line.close()
                return None
            _end(line)
        else:
            return control
    raise _RefusedError("no-answer", "somebody else is opening it")


def _listen(asked: dict[str, Any]) -> socket.socket:
    try:
        return _bind(asked)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _bind_after_another(asked, error)
        raise _RefusedError(_kind_of(error), error.strerror or str(error)) from error


def _bind_after_another(asked: dict[str, Any], error: OSError) -> socket.socket:
    """Bind a port that a machine which just ended had; refuse one that is in use."""
    for name, (uuid, protocol, _address, port) in _holders():
        if uuid == asked["uuid"] or (protocol, port) != (asked["protocol"], str(asked["port"])):
            continue
        found = _call(name)
        if found is not None:
            line, greeting = found
            if is_there(greeting["index"]):
                line.close()
                raise _RefusedError("in-use", error.strerror or "", uuid) from error
            _end(line)
    try:
        return _bind(asked)
    except OSError as again:
        raise _RefusedError(_kind_of(again), again.strerror or str(again)) from again


def _kind_of(error: OSError) -> str:
    kinds = {
        errno.EADDRINUSE: "in-use",
        errno.EACCES: "denied",
        errno.EPERM: "denied",
        errno.EADDRNOTAVAIL: "no-address",
    }
    return kinds.get(error.errno or 0, "failed")


def _bind(asked: dict[str, Any]) -> socket.socket:
    family = socket.AF_INET6 if ":" in asked["address"] else socket.AF_INET
    stream = asked["protocol"] == "tcp"
    made = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    try:
        if stream:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((asked["address"], asked["port"]))
        if stream:
            made.listen(128)
    except BaseException:
        made.close()
        raise
    made.setblocking(False)
    return made


def _leave_behind(
    asked: dict[str, Any],
    index: int,
    control: socket.socket,
    listener: socket.socket,
) -> None:
    """Go on in a process of its own, that has nothing of who asked; return in the first one."""
    ready, report = os.pipe()
    if os.fork():
        os.close(report)
        control.close()
        listener.close()
        os.wait()
        with os.fdopen(ready, "rb") as pipe:
            if not pipe.read(1):
                raise _RefusedError("failed", "the process that passes it on ended at once")
        return
    os.close(ready)
    os.setsid()
    if os.fork():
        os._exit(0)
    hold(asked, index, control, listener, report)
