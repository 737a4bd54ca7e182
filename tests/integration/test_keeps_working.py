"""What goes on for long: a real guest looked at and spoken to again and again; nothing is left."""

from __future__ import annotations

import os
import signal

import pytest

import vmctl
from vmctl.hypervisor import private

from ..leftovers import NothingMore
from .test_waiting import _libvirtd_of

pytestmark = pytest.mark.timeout(300)


def test_nothing_is_left_of_a_thousand_operations(
    private_host: private.PrivateHost, shared_vm: vmctl.VM
) -> None:
    uri, name = f"private:{private_host.name}", shared_vm.name
    with NothingMore() as more:
        for _ in range(20):
            with vmctl.connect(uri) as other:
                vm = other.get(name)
                with other.on_event(str), vm.events() as stream:
                    for _ in range(12):
                        other.list()
                        other.stats()
                        vm.stats()
                        vm.info()
                    assert vm.run("true").exit_status == 0
                    vm.pause()
                    vm.resume()
                    assert stream.get(30) is not None
    assert sum(more.calls.values()) > 1000


def test_nothing_is_left_of_connections_that_broke(private_host: private.PrivateHost) -> None:
    uri = f"private:{private_host.name}"
    # What is made once in a process is made now.
    vmctl.connect(uri).close()
    with NothingMore():
        for _ in range(3):
            with vmctl.connect(uri) as other, other.events(kinds=["crashed"]) as stream:
                os.kill(_libvirtd_of(private_host), signal.SIGKILL)
                # These are told whatever is asked for.
                heard = [one.kind for one in (stream.get(60), stream.get(60)) if one]
                assert heard == ["connection-lost", "connection-regained"]
                assert other.list() is not None
