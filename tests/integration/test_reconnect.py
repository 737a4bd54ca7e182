"""A connection that is lost is opened again; handles stay valid."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

import vmctl
from vmctl.hypervisor import private

pytestmark = pytest.mark.timeout(120)


class Relay:
    """A socket in front of libvirtd's, whose connections can be cut."""

    def __init__(self, path: Path, target: str) -> None:
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._lock = threading.Lock()
        self._passing = threading.Event()
        self._passing.set()
        self._pairs: list[socket.socket] = []
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                with self._lock:
                    self._pairs += [client, server]
                    self.accepted += 1
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._passing.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Pass nothing on, and close nothing, as where a network drops all that is sent."""
        self._passing.clear()

    def let_go(self) -> None:
        """Pass on what comes, and what came."""
        self._passing.set()

    def cut(self) -> None:
        """Cut every connection."""
        with self._lock:
            for end in self._pairs:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
            self._pairs.clear()

    def close(self) -> None:
        """Stop listening as well."""
        self.let_go()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@pytest.fixture
def relay(private_host: private.PrivateHost, tmp_path: Path) -> Iterator[Relay]:
    target = parse_qs(urlsplit(private_host.uri).query)["socket"][0]
    made = Relay(tmp_path / "sock", target)
    yield made
    with suppress(OSError):
        made.close()


def test_a_cut_connection_is_mended(
    relay: Relay, tmp_path: Path, host: vmctl.Host, make_spec: Callable[..., vmctl.VMSpec]
) -> None:
    with vmctl.connect(f"qemu+unix:///system?socket={tmp_path / 'sock'}") as other:
        vm = host.create(make_spec())
        handle = other.get(vm.name)
        assert handle.state == "shut off"
        for expected in (2, 3):
            relay.cut()
            assert _asked_again(handle) == "shut off"
            assert relay.accepted == expected
        assert vm.name in [entry.name for entry in other.list()]
        vm.delete()


def _asked_again(handle: vmctl.VM) -> str:
    """Return the state; the one call that meets the broken wire may say so, the next may not."""
    try:
        return handle.state
    except vmctl.HostUnavailableError:
        return handle.state


def test_events_go_on_over_a_connection_that_was_cut(
    relay: Relay, tmp_path: Path, host: vmctl.Host, make_spec: Callable[..., vmctl.VMSpec]
) -> None:
    with vmctl.connect(f"qemu+unix:///system?socket={tmp_path / 'sock'}") as other:
        vm = host.create(make_spec(cloud_init=None))
        with other.events(kinds=["undefined"], timeout=60) as stream:
            relay.cut()
            assert [next(stream).kind for _ in range(2)] == [
                "connection-lost",
                "connection-regained",
            ]
            vm.delete()
            assert next(stream).uuid == vm.uuid


def test_a_host_that_falls_silent_is_given_up(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody closes the connection; calls end nevertheless, and handles recover."""
    monkeypatch.setattr("vmctl.hypervisor.connection._KEEPALIVE_SECONDS", 2)
    monkeypatch.setattr("vmctl.hypervisor.connection._KEEPALIVE_COUNT", 2)
    monkeypatch.setattr("vmctl.hypervisor.connection._OPENING_SECONDS", 1.0)
    with vmctl.connect(f"qemu+unix:///system?socket={tmp_path / 'sock'}") as other:
        assert other.list() is not None
        relay.hold()
        # The first call meets the connection that is there, others have none to be had.
        for _ in range(3):
            begin = time.monotonic()
            with pytest.raises(vmctl.HostUnavailableError) as caught:
                other.list()
            assert caught.value.hint
            assert time.monotonic() - begin < 20
        assert [thread.name for thread in threading.enumerate()].count("vmctl-opening") == 1
        monkeypatch.undo()
        relay.let_go()
        assert other.list() is not None
        assert "vmctl-opening" not in {thread.name for thread in threading.enumerate()}


def test_a_host_that_went_away_is_one_clear_error(relay: Relay, tmp_path: Path) -> None:
    with vmctl.connect(f"qemu+unix:///system?socket={tmp_path / 'sock'}") as other:
        assert other.list() is not None
        relay.close()
        (tmp_path / "sock").unlink()
        for _ in range(2):
            with pytest.raises(vmctl.HostUnavailableError) as caught:
                other.list()
            assert caught.value.exit_code == 5
            assert caught.value.hint


def test_a_host_that_is_not_there() -> None:
    with pytest.raises(vmctl.HostUnavailableError) as caught:
        vmctl.connect("qemu+unix:///system?socket=/nowhere/sock")
    assert caught.value.exit_code == 5
    with pytest.raises(vmctl.NotFoundError) as missing:
        vmctl.connect("private:nowhere")
    assert missing.value.exit_code == 3
    with pytest.raises(vmctl.UsageError):
        vmctl.connect("nonsense")


def test_closing_leaves_no_thread(private_host: private.PrivateHost) -> None:
    before = {thread.name for thread in threading.enumerate()}
    for _ in range(20):
        with vmctl.connect(f"private:{private_host.name}") as other:
            other.list()
    assert {thread.name for thread in threading.enumerate()} <= before | {"vmctl-libvirt-events"}
