"""Holding a port of the hypervisor: who passes on what comes, until the guest's NIC is gone.

As `port_program`, of which it is a part, it needs nothing but Python's own library.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any, NoReturn, cast

__all__ = ["ANSWER_SECONDS", "CREDENTIALS", "SAID", "hold", "is_there"]

ANSWER_SECONDS = 5.0
"""Who holds a port answers at once, and one that ends is gone as soon as the kernel says so."""
CREDENTIALS = struct.Struct("3i")
"""SO_PEERCRED: pid, uid, gid."""
SAID = ("guest_port", "mac", "targets", "subnets")
"""What who holds a port says of it."""

# <linux/if_arp.h>, <linux/rtnetlink.h>
_ATF_COM = 0x02
_RTMGRP_LINK = 1
_CHUNK = 65536
_CONNECT_SECONDS = 10.0
# A conversation by UDP is over when nothing was said for so long.
_IDLE_SECONDS = 60.0
_MOST_CONVERSATIONS = 1024
_MOST_WAITING = 16
_NOBODY = 65534


def is_there(index: int) -> bool:
    """Return whether there is a network device of that number."""
    try:
        socket.if_indextoname(index)
    except OSError:
        return False
    return True


def hold(
    asked: dict[str, Any],
    index: int,
    control: socket.socket,
    listener: socket.socket,
    report: int,
) -> NoReturn:
    """Pass on what comes, and end when the guest's device goes or somebody says so.

    Args:
        asked: What was asked for.
        index: The number of the guest's device.
        control: Listens for who asks of the port.
        listener: Listens on the port.
        report: Is told when the port is open.
    """
    code = 1
    try:
        os.chdir("/")
        nothing = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.close(nothing)
        asyncio.run(_Holder(asked, index, control).run(listener, report))
        code = 0
    finally:
        os._exit(code)


def _give_up_rights() -> None:
    """What is bound stays bound; to pass bytes on takes no rights."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


class _Holder:
    def __init__(
        self,
        asked: dict[str, Any],
        index: int,
        control: socket.socket,
    ) -> None:
        self.asked = asked
        self._index = index
        self._control = control
        self._subnets = [ipaddress.ip_network(text) for text in asked["subnets"]]
        self._links = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._links.setblocking(False)
        self._links.bind((0, _RTMGRP_LINK))

    async def run(self, listener: socket.socket, report: int) -> None:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def look() -> None:
            with contextlib.suppress(BlockingIOError, OSError):
                # What the kernel says of links is of no interest, only that it did; when it had
                # more to say than there was room for, that is an error, and looked at all the same.
                while self._links.recv(_CHUNK):
                    pass
            if not is_there(self._index):
                over.set()

        async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = cast("socket.socket", writer.get_extra_info("socket"))
            size = CREDENTIALS.size
            credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            said = {key: self.asked[key] for key in SAID}
            writer.write(json.dumps({"index": self._index, **said}).encode() + b"\n")
            allowed = CREDENTIALS.unpack(credentials)[1] in {0, self.asked["uid"]}
            wish = b""
            # Who says nothing keeps no descriptor.
            with contextlib.suppress(asyncio.TimeoutError):
                wish = await asyncio.wait_for(reader.readline(), ANSWER_SECONDS)
            if wish == b"close\n" and allowed:
                over.set()
                # This line ends with the process, when all is let go.
                await asyncio.sleep(ANSWER_SECONDS)
            writer.close()

        loop.add_reader(self._links, look)
        await asyncio.start_unix_server(tell, sock=self._control)
        if self.asked["protocol"] == "tcp":
            await asyncio.start_server(self._join, sock=listener)
        else:
            await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=listener)
        # Not sooner: of who listens, the kernel notes who it was when it last began to.
        _give_up_rights()
        os.write(report, b"1")
        os.close(report)
        # It may have gone before anybody listened to the kernel.
        look()
        await over.wait()

    def targets(self) -> list[str]:
        """Return where the guest is: where it was put, or where the kernel has seen its NIC."""
        fixed = list(self.asked["targets"])
        if fixed:
            return fixed
        mac = self.asked["mac"]
        seen = [address for address, found in _neighbors() if found == mac]
        hint = self.asked["hint"]
        inside = [text for text in seen if self._is_inside(text)]
        return inside + ([hint] if hint and hint not in inside else [])

    def _is_inside(self, text: str) -> bool:
        return any(ipaddress.ip_address(text) in subnet for subnet in self._subnets)

    def is_guests(self, address: str) -> bool:
        """Return whether it is the guest's NIC that answers at an address, and nobody else's."""
        return (address, self.asked["mac"]) in _neighbors()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            found = await self._reach_guest()
            if found is None:
                return
            guest_reader, guest_writer = found
            try:
                await asyncio.gather(_copy(reader, guest_writer), _copy(guest_reader, writer))
            finally:
                guest_writer.close()
        finally:
            writer.close()

    async def _reach_guest(
        self,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for address in self.targets():
            opening = asyncio.open_connection(address, self.asked["guest_port"])
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                reader, writer = await asyncio.wait_for(opening, _CONNECT_SECONDS)
                if self.is_guests(address):
                    return reader, writer
                writer.close()
        return None


def _neighbors() -> list[tuple[str, str]]:
    """Return address and MAC of who answered, as the kernel knows them (proc(5))."""
    found = []
    for line in Path("/proc/net/arp").read_text(encoding="utf-8").splitlines()[1:]:
        address, _hardware, flags, mac = line.split()[:4]
        if int(flags, 16) & _ATF_COM:
            found.append((address, mac.lower()))
    return found


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # An end that is closed, by whomever, is the end; what came before was passed on.
    with contextlib.suppress(OSError):
        while True:
            piece = await reader.read(_CHUNK)
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        writer.write_eof()


class _Datagrams(asyncio.DatagramProtocol):
    """What comes from outside; each who sends has a conversation of its own with the guest."""

    def __init__(self, holder: _Holder) -> None:
        self._holder = holder
        self._known: dict[Any, _Conversation] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        known = self._known.get(addr)
        if known is None:
            targets = self._holder.targets()
            if not targets or len(self._known) >= _MOST_CONVERSATIONS:
                return
            known = self._known[addr] = _Conversation(self, addr, targets[0])
        known.pass_on(data)

    def back(self, address: str, data: bytes, client: Any) -> None:
        if self._holder.is_guests(address):
            self.transport.sendto(data, client)

    def forget(self, client: Any) -> None:
        self._known.pop(client, None)

    @property
    def guest_port(self) -> int:
        return int(self._holder.asked["guest_port"])


class _Conversation(asyncio.DatagramProtocol):
    def __init__(self, outside: _Datagrams, client: Any, address: str) -> None:
        self._outside = outside
        self._client = client
        self._address = address
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_IDLE_SECONDS, self._end)
        remote = (address, outside.guest_port)
        self._opening = self._loop.create_task(
            self._loop.create_datagram_endpoint(lambda: self, remote_addr=remote)
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        for data in self._waiting:
            self._transport.sendto(data)
        self._waiting.clear()

    def pass_on(self, data: bytes) -> None:
        self._last_heard()
        if self._transport is not None:
            self._transport.sendto(data)
        elif len(self._waiting) < _MOST_WAITING:
            self._waiting.append(data)

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002 - it is connected
        self._last_heard()
        self._outside.back(self._address, data, self._client)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there now, which the next one may not find so."""

    def _last_heard(self) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(_IDLE_SECONDS, self._end)

    def _end(self) -> None:
        self._outside.forget(self._client)
        if self._transport is not None:
            self._transport.close()
