"""`vmctl port`: what is read of its words."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest
from click.testing import Result

from vmctl.cli.port import _FORWARD, _PORT, _read
from vmctl.guest.ports import Port, ports_of

Vmctl = Callable[..., Result]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("8080:80", {"host": 8080, "guest": 80}),
        ("53:5353/udp", {"host": 53, "guest": 5353, "protocol": "udp"}),
        ("192.0.2.1:1:2/tcp", {"address": "192.0.2.1", "host": 1, "guest": 2, "protocol": "tcp"}),
        ("[::1]:1:2", {"address": "::1", "host": 1, "guest": 2}),
    ],
)
def test_a_forward_is_read(text: str, wanted: dict[str, object]) -> None:
    assert _read(_FORWARD, text, "it") == wanted


@pytest.mark.parametrize("text", ["", "80", "a:80", "80:80/icmp", "::1:80:80", "80:80:80", "1:2 "])
def test_what_is_no_forward_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="is not it"):
        _read(_FORWARD, text, "it")


def test_a_port_is_read() -> None:
    assert _read(_PORT, "0.0.0.0:8080/udp", "it") == {
        "address": "0.0.0.0",  # noqa: S104
        "host": 8080,
        "protocol": "udp",
    }


def test_another_machines_ports_are_not_known(vmctl: Vmctl) -> None:
    done = vmctl("-c", "test:///default", "port", "list", "test")
    assert done.exit_code == 4
    assert "was not made by vmctl" in done.stderr


def test_ports_of_a_recorded_spec() -> None:
    mac = "52:54:00:00:00:0A"
    nic = {"mac": mac, "address": ["192.0.2.5/24", "2001:db8::5/64"]}
    spec = {"nics": [{**nic, "forwards": [{"host": 1, "guest": 2}]}, {"mac": mac}]}
    (found,) = ports_of(spec)
    assert found == Port(
        mac=mac.lower(), protocol="tcp", address="127.0.0.1", host_port=1, guest_port=2
    )
    assert found.fixed == ("192.0.2.5",)
    assert ports_of({}) == []
