"""Who holds which port: names that anybody on the host may take are believed of nobody."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from unittest.mock import Mock

import pytest

from vmctl.guest import port_program
from vmctl.guest.port_holding import CREDENTIALS

MACHINE = str(uuid.uuid4())


def taken(stack: ExitStack, rest: str) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    made.bind(f"\0vmctl-port/{rest}")
    made.listen(4)
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    port_program.main({"command": "list", "uuid": MACHINE})
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("rest", ["", "x", "{}", "{}/tcp/127.0.0.1", "{}/tcp/127.0.0.1/80/1"])
def test_names_of_nobody(stack: ExitStack, capsys: pytest.CaptureFixture[str], rest: str) -> None:
    taken(stack, rest.format(MACHINE))
    assert listed(capsys) == {"ports": []}


def test_another_users_process_is_not_asked(
    stack: ExitStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = taken(stack, f"{MACHINE}/tcp/127.0.0.1/80")

    def answer() -> None:
        line, _address = other.accept()
        # Who doesn't believe it has hung up.
        with line, suppress(ConnectionError):
            line.sendall(b'{"guest_port": 22, "mac": "52:54:00:00:00:01"}\n')

    def run() -> dict[str, object]:
        thread = threading.Thread(target=answer)
        thread.start()
        found = listed(capsys)
        thread.join()
        return found

    assert len(run()["ports"]) == 1  # type: ignore[arg-type]
    strange = Mock(size=CREDENTIALS.size, **{"unpack.return_value": (1, os.geteuid() + 1, 1)})
    monkeypatch.setattr(port_program, "CREDENTIALS", strange)
    assert run() == {"ports": []}
