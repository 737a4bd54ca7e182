"""What vmctl says a guest uses is what the guest itself says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.events import Signal

from ..libvirt_calls import counted

pytestmark = pytest.mark.timeout(300)

_MIB = 1 << 20
# What the guest does of its own accord while it is looked at.
_NOISE = 2 * _MIB


@pytest.fixture(scope="module")
def guest(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    vm = host.launch(
        vmctl.VMSpec.model_validate(
            {
                "name": "measured",
                "image": micro_image,
                "memory": "192MiB",
                "nics": [{"network": "default"}],
                "balloon": {"stats_period": 1},
            }
        )
    )
    yield vm
    vm.delete()


def test_processor_time(guest: vmctl.VM) -> None:
    before = guest.stats()
    burn = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; cut -d' ' -f14 /proc/$$/stat"
    ticks = int(guest.run(["sh", "-c", burn], check=True).stdout)
    after = guest.stats(since=before)
    assert before.cpu.seconds is not None
    assert after.cpu.seconds is not None
    # The guest counts hundredths of a second, and those too in which its host let it wait.
    took = after.cpu.seconds - before.cpu.seconds
    assert ticks > 10
    assert took > 0.1 * ticks / 100
    assert after.cpu.percent == pytest.approx(100 * took / (after.clock - before.clock))


def test_disk(guest: vmctl.VM) -> None:
    def sectors() -> int:
        return int(guest.run("cut -c1-200 /sys/block/vda/stat", check=True).stdout.split()[6])

    before, theirs = guest.stats(), sectors()
    write = "dd if=/dev/urandom of=/var/tmp/written bs=1M count=16 conv=fsync"
    guest.run(f"{write} && rm /var/tmp/written && sync", check=True)
    after, written = guest.stats(since=before), (sectors() - theirs) * 512
    (was, now) = (next(d for d in one.disks if d.target == "vda") for one in (before, after))
    assert was.written_bytes is not None
    assert now.written_bytes is not None
    assert now.written_bytes - was.written_bytes >= 16 * _MIB
    assert abs(now.written_bytes - was.written_bytes - written) < _NOISE
    assert now.write_rate
    assert now.capacity is not None
    size = int(guest.run("cat /sys/block/vda/size", check=True).stdout) * 512
    assert now.capacity == size


def test_nic(guest: vmctl.VM) -> None:
    statistics = "cat $(ls -d /sys/class/net/* | grep -v /lo)/statistics/rx_bytes"
    before, theirs = guest.stats(), int(guest.run(statistics, check=True).stdout)
    guest.run("cat >/dev/null", stdin=bytes(4 * _MIB), check=True)
    after, received = guest.stats(since=before), int(guest.run(statistics).stdout) - theirs
    ((was,), (now,)) = (before.nics, after.nics)
    assert was.received_bytes is not None
    assert now.received_bytes is not None
    assert now.sent_bytes is not None
    assert now.received_bytes - was.received_bytes >= 4 * _MIB
    assert abs(now.received_bytes - was.received_bytes - received) < _NOISE
    assert now.receive_rate is not None
    assert now.send_rate is not None
    assert now.receive_rate > now.send_rate
    assert now.device in guest.xml()


def test_memory(guest: vmctl.VM) -> None:
    def meminfo() -> dict[str, int]:
        lines = guest.run("cat /proc/meminfo", check=True).stdout.splitlines()
        return {
            name: int(rest.split()[0]) << 10 for name, _, rest in (x.partition(":") for x in lines)
        }

    def reported() -> vmctl.MachineStats:
        """Return a measurement whose guest's view is newer than this moment."""
        old = guest.stats().memory.reported

        def look() -> vmctl.MachineStats | None:
            found = guest.stats()
            new = found.memory.reported
            return found if new and (old is None or (new - old).total_seconds() >= 2) else None

        found = Signal().wait_for(look, deadline=time.monotonic() + 60, recheck=0.2)
        assert found is not None
        return found

    before = reported()
    theirs = meminfo()
    assert before.memory.maximum == before.memory.current == 192 * _MIB
    assert before.memory.available == theirs["MemTotal"]
    assert before.memory.usable is not None
    assert abs(before.memory.usable - theirs["MemAvailable"]) < 8 * _MIB
    guest.run("dd if=/dev/zero of=/dev/shm/held bs=1M count=48", check=True)
    after = reported()
    guest.run("rm /dev/shm/held", check=True)
    assert after.memory.used is not None
    assert before.memory.used is not None
    assert 40 * _MIB < after.memory.used - before.memory.used < 64 * _MIB


@pytest.mark.usefixtures("guest")
def test_one_call_measures_all(host: vmctl.Host) -> None:
    with counted() as calls:
        found = host.stats()
    assert "measured" in [one.name for one in found]
    assert calls == {"virConnectGetAllDomainStats": 1}


def test_a_list_finds_the_address_without_asking_for_the_machine(
    host: vmctl.Host, guest: vmctl.VM
) -> None:
    with counted() as calls:
        found = {one.name: one for one in host.list()}
    assert not {name for name in calls if name.startswith("virDomain")}
    line = found[guest.name]
    assert (line.state, line.state_reason, line.saved) == ("running", "booted", False)
    (address,) = line.addresses
    assert f"inet {address}/" in guest.run("/sbin/ip -4 addr", check=True).stdout
    assert guest.info().addresses[0] == address


@pytest.mark.usefixtures("guest")
def test_on_the_command_line(private_host: private.PrivateHost) -> None:
    vmctl_ = [sys.executable, "-m", "vmctl.cli.main", "-c", f"private:{private_host.name}"]

    def run(*words: str) -> str:
        done = subprocess.run([*vmctl_, *words], check=True, capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout

    (one,) = json.loads(run("stats", "measured", "--interval", "0.2", "-f", "json"))
    assert one["cpu"]["percent"] is not None
    assert one["memory"]["used"] > 0
    tables = run(
        "top", "measured", "--iterations", "2", "--interval", "0.2", "--sort", "memory"
    ).splitlines()
    assert [line.split()[0] for line in tables] == ["NAME", "measured"] * 2
    lines = run("top", "--once", "--interval", "0.2", "-f", "json", "measured").splitlines()
    assert [[entry["name"] for entry in json.loads(line)] for line in lines] == [["measured"]]
