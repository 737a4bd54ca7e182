"""What cp, forward, exec and ssh-config make of their words, without a host."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import click
import pytest
from click.testing import Result

from vmctl.cli.reaching import _Ports, _Wanted
from vmctl.guest.ssh_config import render

Vmctl = Callable[..., Result]


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("80", (0, "127.0.0.1", 80)),
        ("8080:80", (8080, "127.0.0.1", 80)),
        ("db:5432", (0, "db", 5432)),
        ("15432:db.example:5432", (15432, "db.example", 5432)),
        ("1:10.0.0.7:22", (1, "10.0.0.7", 22)),
        ("1:[fd00::1]:22", (1, "fd00::1", 22)),
    ],
)
def test_ports(word: str, wanted: tuple[int, str, int]) -> None:
    assert _Ports().convert(word, None, None) == _Wanted(*wanted)


@pytest.mark.parametrize("word", ["", "0", "65536", "70000:80", "a", "80:", ":80", "1:2:3", "-1"])
def test_what_is_no_port(word: str) -> None:
    with pytest.raises(click.BadParameter):
        _Ports().convert(word, None, None)


@pytest.mark.parametrize(
    "words", [("cp", "a", "b"), ("cp", "a:x", "b:y"), ("cp", "./a:x", "y"), ("cp", "-", "-")]
)
def test_cp_needs_one_guest(vmctl: Vmctl, words: tuple[str, ...]) -> None:
    done = vmctl(*words)
    assert done.exit_code == 2
    assert "NAME:PATH" in done.stderr


def test_a_variable_that_is_not_there(vmctl: Vmctl) -> None:
    done = vmctl("exec", "--env", "NOT_THERE_AT_ALL", "web", "--", "true")
    assert done.exit_code == 2
    assert "NOT_THERE_AT_ALL" in done.stderr


def test_what_a_machine_that_is_not_ours_refuses(vmctl: Vmctl) -> None:
    for words in (("ssh-config", "test"), ("agent", "freeze", "test")):
        done = vmctl("-c", "test:///default", *words)
        assert done.exit_code == 4
        assert "was not made by vmctl" in done.stderr


def test_the_lines_for_openssh() -> None:
    text = render(
        host="web", uuid="u-u", user="ada", host_key="ssh-ed25519 AAAA c", uri="qemu+ssh://a/%s"
    )
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert (lines["Host"], lines["User"], lines["HostKeyAlias"]) == ("web", "ada", "u-u")
    assert lines["StrictHostKeyChecking"] == "yes"
    # No file that the user has learnt keys into counts.
    assert lines["UserKnownHostsFile"] == lines["GlobalKnownHostsFile"] == "none"
    assert lines["KnownHostsCommand"] == "/bin/echo u-u ssh-ed25519 AAAA"
    words = shlex.split(lines["ProxyCommand"])
    assert words[-4:] == ["--uri", "qemu+ssh://a/%%s", "ssh-proxy", "u-u"]
