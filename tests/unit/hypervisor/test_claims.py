"""Whether somebody is still at work."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vmctl.hypervisor.claims import claimed


def test_a_living_process_is_at_work_however_late_it_is() -> None:
    with claimed(10) as claim:
        assert not claim.is_abandoned()
        assert not claim.is_abandoned(now=claim.expires + 1000)


def test_a_piece_of_work_that_its_own_process_gave_up_is_abandoned() -> None:
    with claimed(1000) as claim, claimed(1000) as other:
        pass
    with claimed(1000) as later:
        assert claim.is_abandoned()
        assert other.is_abandoned()
        assert not later.is_abandoned()


def test_a_process_of_this_machine_is_looked_up() -> None:
    with claimed(1000) as claim:
        # Process 1 is another one, and alive.
        started = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
        assert not replace(claim, pid=1, started=started).is_abandoned()


def test_a_dead_process_is_not_at_work() -> None:
    program = (
        "from vmctl.hypervisor.claims import claimed\n"
        "with claimed(1000) as claim: print(claim.pid, claim.started)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    pid, started = map(int, done.stdout.split())
    with claimed(1000) as claim:
        assert replace(claim, pid=pid, started=started).is_abandoned()


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_process_that_is_hidden_is_believed_until_its_time_is_over(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with /proc mounted with hidepid, for another user's process."""

    def hidden(*_arguments: object) -> None:
        raise PermissionError

    def unreadable(_path: Path, **_options: str) -> str:
        raise error

    with claimed(10) as claim:
        other = replace(claim, pid=claim.pid + 1)
    monkeypatch.setattr("vmctl.hypervisor.claims.os.kill", hidden)
    monkeypatch.setattr("vmctl.hypervisor.claims.os.getpid", lambda: 1)
    monkeypatch.setattr(Path, "read_text", unreadable)
    assert not other.is_abandoned()
    assert other.is_abandoned(now=other.expires + 1)


def test_another_process_of_the_same_number_is_not_the_same() -> None:
    with claimed(1000) as claim:
        assert replace(claim, started=claim.started - 1).is_abandoned()


def test_a_client_elsewhere_is_believed_until_its_time_is_over() -> None:
    with claimed(10) as claim:
        pass
    for elsewhere in (
        replace(claim, boot_id="another-machine"),
        replace(claim, pid_namespace="pid:[1]"),
    ):
        assert not elsewhere.is_abandoned()
        assert not elsewhere.is_abandoned(now=elsewhere.expires)
        assert elsewhere.is_abandoned(now=elsewhere.expires + 1)
