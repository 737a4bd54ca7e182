"""A thousand operations, and nothing is left of them: counted on libvirt's test driver."""

from __future__ import annotations

from pathlib import Path

import vmctl

from ..leftovers import NothingMore
from .cli.conftest import RECORD, host_with


def test_after_a_thousand_operations_on_one_connection(tmp_path: Path) -> None:
    uri = host_with(RECORD, tmp_path)[1]
    # What is made once in a process is made now.
    vmctl.connect(uri).close()
    with NothingMore() as more, vmctl.connect(uri) as host:
        vm = host.get("web")
        for _ in range(100):
            host.list()
            host.list(details=True)
            host.stats(since=host.stats())
            vm.info()
            vm.stats()
            with vm.events() as stream:
                vm.pause()
                vm.resume()
                assert stream.get(10) is not None
            with host.on_event(str, kinds=["resumed"]):
                vm.pause()
                vm.resume()
    assert more.calls["virConnectOpen"] == 1
    assert more.calls["virConnectDomainEventRegisterAny"] > 1000


def test_after_a_thousand_connections(tmp_path: Path) -> None:
    uri = host_with(RECORD, tmp_path)[1]
    vmctl.connect(uri).close()
    with NothingMore() as more:
        for number in range(1000):
            with vmctl.connect(uri) as host:
                if number % 10 == 0:
                    # Left open: closing the host ends them.
                    host.events()
                    host.on_event(str)
    assert more.calls["virConnectClose"] == 1000
