"""Every reason that libvirt gives for a state has a word."""

from __future__ import annotations

import libvirt
import pytest

from vmctl.hypervisor.domains import State
from vmctl.hypervisor.reasons import REASONS

_PREFIXES = {
    State.RUNNING: "VIR_DOMAIN_RUNNING_",
    State.PAUSED: "VIR_DOMAIN_PAUSED_",
    State.IN_SHUTDOWN: "VIR_DOMAIN_SHUTDOWN_",
    State.SHUT_OFF: "VIR_DOMAIN_SHUTOFF_",
    State.CRASHED: "VIR_DOMAIN_CRASHED_",
}
# Flags of virDomainShutdownFlags, which begin alike.
_NO_REASONS = {
    "ACPI_POWER_BTN", "DEFAULT", "GUEST_AGENT", "INITCTL", "PARAVIRT", "SIGNAL",
}  # fmt: skip


@pytest.mark.parametrize("state", _PREFIXES)
def test_every_reason_of_libvirts_has_a_word(state: State) -> None:
    prefix = _PREFIXES[state]
    numbers = {
        getattr(libvirt, name)
        for name in dir(libvirt)
        if name.startswith(prefix)
        and name.removeprefix(prefix) not in _NO_REASONS | {"UNKNOWN", "LAST"}
    }
    assert set(REASONS[state]) == numbers
    words = list(REASONS[state].values())
    assert len(set(words)) == len(words)
