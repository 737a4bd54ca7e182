"""What a stranger's bundle says of its machine: mapped, cut down, or refused; never a crash."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl.errors import ImageError, VmctlError
from vmctl.imaging.bundle import BundledFile, Manifest, Writer
from vmctl.spec import VMSpec
from vmctl.transfer.bundled import Bundle

DISK = BundledFile(role="disk", size=5, target="vda", format="qcow2", virtual_size=1 << 20)
KERNEL = BundledFile(role="kernel", size=5)
WHOLE = VMSpec.model_validate(
    {
        "name": "web",
        "image": "debian-12",
        "firmware": "uefi",
        "disks": [{"size": "1MiB", "bus": "virtio"}],
        "cdroms": [{"path": "/root/secret.iso"}],
        "floppies": [{"path": "/root/secret.img"}],
        "nics": [{"network": "default", "mac": "52:54:00:00:00:01"}],
        "graphics": [{"type": "vnc", "listen": "192.0.2.1"}, "spice"],
        "rng": {"source": "/dev/vda"},
        "boot": {"kernel": "/root/vmlinuz", "cmdline": "quiet"},
        "labels": {"role": "web"},
        "cloud_init": {
            "users": [{"name": "admin", "ssh_authorized_keys": ["ssh-ed25519 " + "A" * 68]}],
            "write_files": [{"path": "/etc/motd", "content": "x"}],
        },
    }
).without_secrets()


def opened(spec: Any, *files: BundledFile) -> Bundle:
    target = io.BytesIO()
    Writer(target, Manifest(spec=spec, files=files or (DISK, KERNEL)))
    target.seek(0)
    return Bundle(target, "x.vmctl")


def test_it_reaches_nothing_of_the_host() -> None:
    spec, warnings = opened(WHOLE).mapped("copy")
    assert (spec.name, spec.image) == ("copy", None)
    assert spec.disks[0].size == 1 << 20
    assert spec.cdroms[0].path is None
    assert spec.floppies[0].path is None
    assert [server.listen for server in spec.graphics] == ["127.0.0.1", "127.0.0.1"]
    assert spec.rng is not None
    assert spec.rng.source == "/dev/urandom"
    assert spec.boot.kernel == "kernel"
    assert len(warnings) == 4
    assert "/root" not in spec.to_yaml()


def test_what_is_harmless_stays_without_a_word() -> None:
    given_spec = WHOLE | {"cdroms": [], "floppies": [], "rng": {"rate_bytes": 1}}
    given_spec["graphics"] = [{"type": "vnc", "listen": "::1", "port": 5901}]
    spec, warnings = opened(given_spec).mapped(None)
    assert warnings == ()
    assert (spec.graphics[0].listen, spec.graphics[0].port) == ("::1", 5901)


@pytest.mark.parametrize(
    ("changes", "files"),
    [
        ({"disks": []}, ()),
        ({"disks": [{}, {}]}, ()),
        ({"disks": ["web.qcow2"]}, ()),
        ({"cdroms": ["/etc/shadow"]}, ()),
        ({"boot": {"kernel": "/etc/shadow"}}, (DISK,)),
        ({"boot": {"kernel": "kernel", "initrd": "/etc/shadow"}}, ()),
        ({"boot": ["x"]}, ()),
        ({"cloud_init": []}, ()),
    ],
)
def test_a_spec_that_does_not_fit(changes: dict[str, Any], files: tuple[BundledFile, ...]) -> None:
    with pytest.raises(VmctlError):
        opened(WHOLE | changes, *files).mapped(None)


_paths = st.sampled_from(
    [(key,) for key in WHOLE]
    + [("disks", 0), ("nics", 0), ("cdroms", 0), ("graphics", 0), ("graphics", 0, "listen")]
    + [("rng", "source"), ("boot", "kernel"), ("cloud_init", "users"), ("cloud_init", "users", 0)]
    + [("nics", 0, "mac"), ("disks", 0, "bus"), ("firmware", "type")]
)
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["path", "volume", "name", "source", "listen", "kernel", "users", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(_paths, _anything)
def test_garbage_is_refused_in_words(path: tuple[str | int, ...], value: Any) -> None:
    spec: Any = copy.deepcopy(WHOLE)
    holder = spec
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    try:
        found, _warnings = opened(spec).mapped(None)
    except VmctlError:
        return
    assert found.rng is None or found.rng.source in {"/dev/urandom", "/dev/random"}
    assert all(server.listen in {"127.0.0.1", "::1"} for server in found.graphics)
    assert all(drive.path is None and drive.volume is None for drive in found.cdroms)
    assert found.boot.kernel in {None, "kernel"}


@pytest.mark.parametrize("content", [b"", b"bundle.json\0" + bytes(600), bytes(1024)])
def test_what_is_no_bundle_at_all(content: bytes) -> None:
    with pytest.raises(ImageError):
        Bundle(io.BytesIO(content), "x.vmctl")
