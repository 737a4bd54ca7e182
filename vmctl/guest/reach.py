"""How the client reaches a guest: the one place that knows.

Directly, from inside a private host's network namespace, or through the hypervisor by SSH.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from vmctl.hypervisor.uri import HostAddress

__all__ = ["Reach"]

# ATF_COM of <linux/if_arp.h>: the neighbour has answered.
_COMPLETE = 0x02


class Reach:
    """Opens connections to addresses as the hypervisor sees them. Thread-safe."""

    def __init__(self, host: HostAddress) -> None:
        self._host = host
        self._checked = False

    def open(self, address: str, port: int, *, timeout: float) -> Any:
        """Return a connected socket, or what behaves like one.

        Args:
            address: An address of the guest, or of the hypervisor itself (``127.0.0.1``).
            port: The port there, of something that speaks first, as SSH servers do.
            timeout: Seconds for the connection to be made.

        Raises:
            OSError: Nobody answers, or the hypervisor can't be reached by SSH.
        """
        if not self._host.is_local:
            # Each way is loaded by who goes it; most hosts need none of them.
            from vmctl.guest.jump import connect_through  # noqa: PLC0415

            return connect_through(self._host, address, port, timeout)
        if self._host.network_namespace is not None:
            from vmctl.guest.netns import connect_in  # noqa: PLC0415

            return connect_in(self._host.network_namespace, address, port, timeout)
        return socket.create_connection((address, port), timeout=timeout)

    def check(self) -> None:
        """See that there is a way to the guests of this host; looked at until there is.

        Raises:
            HostUnavailableError: A remote hypervisor can't be reached by SSH.
        """
        if not self._host.is_local and not self._checked:
            from vmctl.guest.jump import check_way_to  # noqa: PLC0415

            check_way_to(self._host)
            self._checked = True

    def run_program(
        self, text: str, *words: str, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python program where the guests of this host are reached from.

        Args:
            text: The program, which needs nothing but Python's own library.
            words: What a list of processes shows of it; the program need not read it.
            timeout: Seconds that it has.

        Raises:
            OSError: There is no way there, or no Python here, or it takes too long.
        """
        command = ["-I", "-S", "-", *words]
        if not self._host.is_local:
            from vmctl.guest.jump import run_there  # noqa: PLC0415

            return run_there(self._host, ["python3", *command], text, timeout)

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, *command],
                input=text,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )

        try:
            if self._host.network_namespace is None:
                return run()
            from vmctl.guest.netns import do_in  # noqa: PLC0415

            return do_in(self._host.network_namespace, run)
        except subprocess.TimeoutExpired as error:
            raise OSError("it does not answer") from error

    def neighbors(self) -> dict[str, list[str]]:
        """Return the hypervisor's IPv4 neighbours, by lower-case MAC, as its kernel knows them.

        Of a remote hypervisor, whose kernel can't be asked, there are none. The format: proc(5).
        """
        if not self._host.is_local:
            return {}
        namespace = self._host.network_namespace
        # /proc/PID/ns/net names the namespace, and /proc/PID/net is what is seen in it.
        own = Path("/proc/self/net") if namespace is None else namespace.parents[1] / "net"
        found: dict[str, list[str]] = {}
        with suppress(OSError):
            for line in (own / "arp").read_text(encoding="ascii").splitlines()[1:]:
                address, _hardware, flags, mac, *_rest = line.split()
                if int(flags, 16) & _COMPLETE:
                    found.setdefault(mac.lower(), []).append(address)
        return found
