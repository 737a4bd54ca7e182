"""What a guest can speak to: devices, screens, folders of the host."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from lxml import etree

from vmctl.auditing.line import AuditLine, fails, holds
from vmctl.auditing.seen import Seen

__all__ = ["judge"]

# A guest needs disks, NICs, a console and random numbers; ports and controllers come with them.
_MORE_THAN_NEEDED = {
    "sound": "sound: null",
    "audio": "sound: null",
    "memballoon": "balloon: null",
    "watchdog": "watchdog: null",
    "parallel": "no parallel port",
    "smartcard": "no smart card reader",
    "shmem": "no shared memory",
    "vsock": "no vsock",
    "memory": "no memory that was plugged in",
}
_EXCHANGES = frozenset({"com.redhat.spice.0", "org.spice-space.webdav.0"})


def judge(seen: Seen) -> Iterator[AuditLine]:
    """Look at the devices of a machine."""
    yield _usb(seen)
    yield _redirection(seen)
    yield _screen(seen)
    yield _exchange(seen)
    yield _folders(seen)
    yield _agent(seen)
    yield _devices(seen)


def _model(node: etree._Element) -> str:
    inner = node.find("model")
    return node.get("model", "") or ("" if inner is None else inner.get("type", ""))


def _usb(seen: Seen) -> AuditLine:
    found = [
        node.get("model") or "a controller"
        for node in seen.root.findall("devices/controller[@type='usb']")
        if node.get("model") != "none"
    ]
    if found:
        return fails("usb", ", ".join(found), spec="no device with `bus: usb`")
    return holds("usb", "there is no controller")


def _redirection(seen: Seen) -> AuditLine:
    found = [
        f"{tag} ({node.get('type') or node.get('bus') or ''})".replace(" ()", "")
        for tag in ("redirdev", "hostdev", "smartcard")
        for node in seen.root.findall(f"devices/{tag}")
    ]
    if found:
        return fails("redirection", ", ".join(found), spec="the machine without these devices")
    return holds("redirection", "no device of the host's, or of a client's, is passed to it")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _listens_on(server: etree._Element) -> list[str]:
    return [
        node.get("address") or server.get("listen") or "127.0.0.1"
        for node in server.findall("listen")
        if node.get("type") in {"address", "network"}
    ]


def _screen(seen: Seen) -> AuditLine:
    problems = []
    servers = seen.root.findall("devices/graphics")
    for server in servers:
        kind = server.get("type", "")
        problems += [
            f"{kind} listens on {address}"
            for address in _listens_on(server)
            if not _is_loopback(address)
        ]
        if not server.get("passwd"):
            problems.append(f"{kind} has no password")
    if problems:
        mend = "graphics: [], or `listen: 127.0.0.1` and a password"
        return fails("screen", ", ".join(problems), spec=mend)
    return holds("screen", "on loopback, with a password" if servers else "there is none")


def _exchange(seen: Seen) -> AuditLine:
    found = [
        f"the channel {name}"
        for target in seen.root.findall("devices/channel/target")
        if (name := target.get("name", "")) in _EXCHANGES
    ]
    for server in seen.root.findall("devices/graphics[@type='spice']"):
        for tag, attribute in (("clipboard", "copypaste"), ("filetransfer", "enable")):
            node = server.find(tag)
            if node is None or node.get(attribute) != "no":
                found.append(f"SPICE's {tag}")
    if found:
        return fails("clipboard-and-files", ", ".join(found), spec="graphics: [{exchange: false}]")
    return holds("clipboard-and-files", "nothing passes between it and a viewer but its screen")


def _folders(seen: Seen) -> AuditLine:
    found = [source.get("dir", "") for source in seen.root.findall("devices/filesystem/source")]
    if found:
        return fails("host-folders", ", ".join(found), spec="shares: []")
    return holds("host-folders", "it sees none")


def _agent(seen: Seen) -> AuditLine:
    name = "org.qemu.guest_agent.0"
    if seen.has(f"devices/channel/target[@name='{name}']"):
        return fails(
            "agent", "the host's programs read what the guest answers", spec="agent: false"
        )
    return holds("agent", "there is no channel for one")


def _devices(seen: Seen) -> AuditLine:
    found, mends = [], []
    for tag, mend in _MORE_THAN_NEEDED.items():
        for node in seen.root.findall(f"devices/{tag}"):
            # q35's own watchdog is in its chip set: it is there if it is written or not.
            quiet = tag == "audio" and node.get("type") == "none"
            own = tag == "watchdog" and _model(node) == "itco"
            if _model(node) == "none" or quiet or own:
                continue
            found.append(f"{tag} {_model(node)}".strip())
            mends.append(mend)
    for node in seen.root.findall("devices/video"):
        if _model(node) != "none":
            found.append(f"video {_model(node)}")
            mends.append("video: none")
    for node in seen.root.findall("devices/input"):
        # Those of PS/2 come with a screen, and can't be left out.
        if node.get("bus") != "ps2":
            found.append(f"input {node.get('type')} ({node.get('bus')})")
            mends.append("inputs: []")
    if found:
        return fails("devices", ", ".join(found), spec=", ".join(dict.fromkeys(mends)))
    return holds("devices", "no more than a guest needs")
