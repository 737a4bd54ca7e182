"""Half-made networks, where there are no networks at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from vmctl.errors import HypervisorError
from vmctl.hypervisor.network_making import half_made


def host_that_refuses(code: int) -> Any:
    def refuse(_flags: int) -> None:
        error = libvirt.libvirtError("no")
        error.err = (code, 0, "no", 2, None, None, None, 0, 0)
        raise error

    return SimpleNamespace(raw=SimpleNamespace(listAllNetworks=refuse))


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_NO_CONNECT])
def test_a_libvirt_without_networks_has_none_that_is_half_made(code: int) -> None:
    assert half_made(host_that_refuses(code)) == []


def test_another_failure_is_told() -> None:
    with pytest.raises(HypervisorError):
        half_made(host_that_refuses(libvirt.VIR_ERR_INTERNAL_ERROR))
