"""Frames that guests send at each other: made here, sent and heard by `frames.c` in the guest."""

from __future__ import annotations

import ipaddress
import struct
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import vmctl

SOURCE = Path(__file__).with_name("frames.c")
PROGRAM = "/tmp/frames"
# Longer than any guest needs, even on a busy machine.
_SECONDS = 60

NOBODY = "0.0.0.0"  # noqa: S104 - nothing is bound


def build(folder: Path) -> Path:
    """Compile the program, so that it needs nothing of the guest."""
    program = folder / "frames"
    command = ["gcc", "-static", "-s", "-O1", "-Wall", "-Werror", "-D_GNU_SOURCE"]
    subprocess.run([*command, "-o", str(program), str(SOURCE)], check=True)
    return program


def token() -> bytes:
    """Return what no other frame has in it."""
    return uuid.uuid4().bytes


@dataclass(frozen=True)
class Station:
    """Somebody on the network."""

    mac: str
    ipv4: str
    ipv6: str
    link_local: str


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(source: str, to: str, kind: int, payload: bytes) -> bytes:
    return mac_bytes(to) + mac_bytes(source) + struct.pack("!H", kind) + payload


def _sum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def ipv4(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    ends = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(to).packed
    return head[:10] + struct.pack("!H", _sum(head + ends)) + ends + payload


def ipv6(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255)
    return head + ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(to).packed + payload


def udp4(source: str, to: str, ports: tuple[int, int], payload: bytes) -> bytes:
    # Over IPv4 a checksum of 0 is none.
    return ipv4(source, to, 17, struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload)


def _over_ipv6(source: str, to: str, protocol: int, body: bytes, at: int) -> bytes:
    """Put the checksum into a message."""
    ends = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(to).packed
    value = _sum(ends + struct.pack("!II", len(body), protocol) + body)
    return body[:at] + struct.pack("!H", value) + body[at + 2 :]


def udp6(source: str, to: str, ports: tuple[int, int], payload: bytes) -> bytes:
    body = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    return ipv6(source, to, 17, _over_ipv6(source, to, 17, body, 6))


def icmpv6(source: str, to: str, kind: int, body: bytes, *, behind: bytes = b"") -> bytes:
    """Make an ICMPv6 message; ``behind`` an extension header with the protocol number first."""
    whole = _over_ipv6(source, to, 58, struct.pack("!BBH", kind, 0, 0) + body, 2)
    return ipv6(source, to, 60 if behind else 58, behind + whole)


def arp(opcode: int, sender: tuple[str, str], target: tuple[str, str], padding: bytes) -> bytes:
    said = struct.pack("!HHBBH", 1, 0x0800, 6, 4, opcode)
    for mac, address in (sender, target):
        said += mac_bytes(mac) + ipaddress.IPv4Address(address).packed
    return said + padding


def router_advertisement(prefix: str, mac: str, mark: bytes) -> bytes:
    """The body of one that offers a way out, and a prefix of one's own."""
    head = struct.pack("!BBHII", 64, 0, 1800, 0, 0)
    source = b"\x01\x01" + mac_bytes(mac)
    network = ipaddress.IPv6Network(prefix).network_address.packed
    information = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 600, 600, 0) + network
    # An option that nobody knows holds the mark.
    return head + source + information + b"\xfd\x03" + mark.ljust(22, b"\0")


class Listener:
    """One who listens on a guest's NIC until the last of some marks comes."""

    def __init__(self, vm: vmctl.VM, device: str, marks: list[bytes]) -> None:
        self._vm = vm
        self._file = f"/tmp/heard-{uuid.uuid4().hex}"
        self._marks = marks
        words = " ".join(mark.hex() for mark in marks)
        command = f"sudo -n {PROGRAM} hear {device} {_SECONDS} {self._file} {words}"
        vm.run(command, check=True, timeout=60)

    def heard(self) -> list[bytes]:
        """Wait for the last mark; returns those that came."""
        wait = f"until [ -e {self._file} ]; do usleep 20000; done; cat {self._file}"
        # Not by the network: what was sent may have cut that off.
        done = self._vm.run(wait, check=True, timeout=2 * _SECONDS, via="agent")
        lines = done.stdout.split()
        return [mark for mark in self._marks if mark.hex() in lines]


def send(vm: vmctl.VM, device: str, frames: list[bytes]) -> None:
    words = " ".join(frame.hex() for frame in frames)
    vm.run(f"sudo -n {PROGRAM} send {device} {words}", check=True, timeout=60)
