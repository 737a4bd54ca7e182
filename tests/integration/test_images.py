"""Images in the pool: pulled, imported, named, shared, removed, pruned."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import vmctl
from tests.http_server import serving
from vmctl import bases
from vmctl.cli.output import human_size
from vmctl.cli.root import root
from vmctl.hypervisor import private
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.images import ImageInfo
from vmctl.imaging.build import built_path
from vmctl.imaging.download import fetch
from vmctl.imaging.download_cache import DownloadCache
from vmctl.imaging.http import Limits
from vmctl.render.volume import render_volume

from .conftest import pool_volumes, snapshot_of_host

pytestmark = pytest.mark.timeout(300)

# qemu-img's own word.
_DRIVERS = {"vhd": "vpc"}
SpecMaker = Callable[..., vmctl.VMSpec]


@pytest.fixture
def clean_images(host: vmctl.Host) -> Iterator[set[str]]:
    """See that a test leaves no image but those that were there; it begins with none."""
    host.images.prune(everything=True)
    before = pool_volumes(host)
    yield before
    for entry in host.list():
        host.get(entry.name).delete()
    host.images.prune(everything=True)
    assert pool_volumes(host) - before == set()


@pytest.fixture
def own_image(micro_image: str, tmp_path: Path) -> Path:
    """The micro guest's image under a digest that no other test has."""
    image = tmp_path / "own.qcow2"
    shutil.copy(micro_image, image)
    with image.open("ab") as file:
        file.write(tmp_path.name.encode())
    return image


def names_of(image: ImageInfo) -> list[str]:
    return [entry.name for entry in image.names]


def small_qcow2(folder: Path, name: str = "small.qcow2") -> Path:
    path = folder / name
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M"], check=True)
    with path.open("ab") as file:
        file.write(str(path).encode())
    return path


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on loopback that serves the folder ``www``."""
    folder = tmp_path / "www"
    folder.mkdir()
    code = (
        "import functools, http.server as h\n"
        f"k = functools.partial(h.SimpleHTTPRequestHandler, directory={str(folder)!r})\n"
        "s = h.ThreadingHTTPServer(('127.0.0.1', 0), k)\n"
        "print(s.server_port, flush=True)\ns.serve_forever()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.terminate()


def test_from_a_url_to_a_running_guest(
    host: vmctl.Host,
    own_image: Path,
    make_spec: SpecMaker,
    web: str,
    tmp_path: Path,
    clean_images: set[str],
) -> None:
    packed = tmp_path / "www" / "tiny-1.qcow2.xz"
    subprocess.run(["xz", "-0", "-T1", "--keep", str(own_image)], check=True)
    Path(f"{own_image}.xz").rename(packed)
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    with pytest.raises(vmctl.ImageError, match="needs a checksum"):
        host.images.pull(f"{web}/{packed.name}")
    made = host.images.pull(f"{web}/{packed.name}", sha256=digest)
    assert names_of(made) == ["tiny-1"]
    assert made.complete
    assert made.names[0].source == f"{web}/{packed.name}"
    assert "sha256" in made.names[0].verified_by
    assert made.digest == hashlib.sha256(own_image.read_bytes()).hexdigest()
    # From the pool alone: neither the file nor the server is needed any more.
    packed.unlink()
    first = host.launch(make_spec(image="tiny-1"))
    second = host.create(make_spec(image="tiny-1"))
    assert first.run("uname -s", check=True).stdout.strip() == "Linux"
    found = host.images.info("tiny-1")
    assert found.clones == 2
    assert found.saved == found.allocation
    (disk,) = [disk for disk in second.info().disks if disk.target == "vda"]
    assert disk.shared == found.allocation
    assert disk.allocation is not None
    assert 0 < disk.allocation < found.allocation / 10
    machines = {user.name for user in found.used_by if user.kind == "machine"}
    assert machines == {first.name, second.name}
    assert sum(user.kind == "volume" for user in found.used_by) == 2
    with pytest.raises(vmctl.ConflictError, match="is in use") as caught:
        host.images.remove("tiny-1")
    assert first.name in caught.value.details
    assert host.images.prune(everything=True) == []
    first.delete()
    second.delete()
    # A volume of somebody else's that lies on it counts as well.
    pool = host._connection.raw.storagePoolLookupByName("default")
    base = open_pool(host._connection, "default").path_of(bases.name_for(found.digest))
    pool.createXML(
        "<volume><name>foreign</name><capacity>1073741824</capacity><target>"
        f"<format type='qcow2'/></target><backingStore><path>{base}</path>"
        "<format type='qcow2'/></backingStore></volume>",
        0,
    )
    try:
        with pytest.raises(vmctl.ConflictError) as caught:
            host.images.remove(found.digest[:12])
        assert "default/foreign" in caught.value.details
    finally:
        pool.storageVolLookupByName("foreign").delete(0)
    assert host.images.remove("tiny-1").digest == found.digest
    assert pool_volumes(host) == clean_images


def test_a_url_with_its_checksum_in_a_spec(
    host: vmctl.Host, make_spec: SpecMaker, web: str, tmp_path: Path, clean_images: set[str]
) -> None:
    image = small_qcow2(tmp_path / "www")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    url = f"{web}/{image.name}"
    with pytest.raises(vmctl.ImageError, match="needs a checksum"):
        host.create(make_spec(image=url))
    with pytest.raises(vmctl.ImageError):
        host.create(make_spec(image=f"{url}#sha256={'0' * 64}"))
    with pytest.raises(vmctl.SpecError):
        host.create(make_spec(image=f"{url}#garbage"))
    assert pool_volumes(host) == clean_images
    vm = host.create(make_spec(image=f"{url}#sha256={digest}"))
    assert host.images.info(digest).clones == 1
    vm.delete()


def test_an_image_that_is_built(
    host: vmctl.Host, tmp_path: Path, clean_images: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The building itself has its own tests; here it was done before, with just these options."""
    monkeypatch.setenv("VMCTL_IMAGE_CACHE", str(tmp_path))
    packages, offline, mirror = ["tmux"], ["hello", "tree"], "http://mirror.example/debian"
    built = built_path("debian-12", packages=packages, offline=offline, mirror=mirror)
    small_qcow2(tmp_path).rename(built)
    words = "--package tmux --offline hello --offline tree --mirror http://mirror.example/debian"
    done = CliRunner().invoke(
        root,
        [*("-c", host.uri, "-f", "json", "image", "build", "debian-12"), *words.split()],
    )
    assert done.exit_code == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["digest"] == hashlib.sha256(built.read_bytes()).hexdigest()
    (name,) = made["names"]
    assert (name["name"], name["source"], name["verified_by"]) == ("debian-12", "built here", "apt")
    assert (name["os"], name["arch"], name["firmware"]) == ("debian12", "x86_64", "bios")
    again = host.images.build(
        "debian-12", name="site", packages=packages, offline=offline, mirror=mirror
    )
    assert names_of(again) == ["debian-12", "site"]
    # Two machines of it: one copy, and what the second one would have taken is shown as saved.
    for machine in ("one", "two"):
        host.create(vmctl.VMSpec.model_validate({"name": machine, "image": "site", "nics": []}))
    found = host.images.info("site")
    assert found.saved == found.allocation > 0
    saved = human_size(found.saved)
    table = CliRunner().invoke(root, ["-c", host.uri, "image", "list"]).stdout.splitlines()
    head = table[0].split()
    (line,) = [line.replace("debian-12, site", "both") for line in table if "site" in line]
    cells = re.split(" {2,}", line.strip())
    assert dict(zip(head, cells, strict=True)) == {
        "NAME": "both",
        "DIGEST": found.digest[:12],
        "DISK": "8 MiB",
        "SIZE": saved,
        "CLONES": "2",
        "SAVED": saved,
        "STATE": "whole",
    }
    shown = CliRunner().invoke(root, ["-c", host.uri, "image", "info", "site"]).stdout
    assert re.search(rf"^saved +{re.escape(saved)}$", shown, re.MULTILINE)
    assert re.search(r"^clones +2$", shown, re.MULTILINE)
    with pytest.raises(vmctl.NotFoundError, match="no recipe for an image 'debian-1'"):
        host.images.build("debian-1")


def test_what_a_catalogue_says_of_an_image(
    host: vmctl.Host,
    make_spec: SpecMaker,
    tmp_path: Path,
    clean_images: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*words: str, stdin: str = "") -> Result:
        return CliRunner().invoke(root, ["-c", host.uri, *words], input=stdin)

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    body = small_qcow2(tmp_path).read_bytes()
    spec = make_spec(image="ours").to_yaml()
    uefi = make_spec(image="ours", firmware="uefi").to_yaml()
    warning = "warning: nothing says what {} has to give: it was not verified\n"
    with serving() as server:
        server.page("/ours.qcow2", body)
        url = server.url("/ours.qcow2")
        entry = f"{{name: ours, url: '{url}', unverified: true, user: admin, os: debian12"
        (tmp_path / "vmctl").mkdir()
        listing = tmp_path / "vmctl" / "images.yaml"
        listing.write_text(f"images: [{entry}, firmware: uefi}}]\n")
        listed = run("image", "list", "--remote", "--arch", "x86_64").stdout.splitlines()
        assert listed[0].split()[-4:] == ["USER", "FIRMWARE", "OS", "DESCRIPTION"]
        (line,) = [line.split() for line in listed if line.startswith("ours ")]
        assert line == ["ours", "x86_64", "-", "admin", "uefi", "debian12", "-"]
        # Nothing is fetched for a machine that can't boot it.
        refused = run("create", "-", stdin=spec)
        assert (refused.exit_code, server.requests) == (7, [])
        assert "firmware.type: the image 'ours' needs uefi, and it is bios" in refused.stderr
        # A launch that fetches what nothing verifies says so, as a pull does.
        made = run("create", "-", stdin=uefi)
        assert made.exit_code == 0, made.stderr
        assert warning.format(url) in made.stderr
        pulled = run("-f", "json", "image", "pull", "ours")
        assert pulled.exit_code == 0, pulled.stderr
        assert pulled.stderr == warning.format(url)
    (name,) = json.loads(pulled.stdout)["names"]
    assert name == {
        "name": "ours",
        "source": url,
        "verified_by": "nothing",
        "user": "admin",
        "os": "debian12",
        "arch": "x86_64",
        "firmware": "uefi",
        "tenant": "",
    }
    said = "for x86_64, debian12, its own user is admin, needs UEFI)"
    assert said in run("image", "info", "ours").stdout
    # By its name in the pool, too.
    assert run("create", "-", stdin=spec).exit_code == 7


def test_a_cache_that_is_emptied_beside_a_launch(
    host: vmctl.Host,
    make_spec: SpecMaker,
    web: str,
    tmp_path: Path,
    clean_images: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image was fetched and looked at, and goes in the moment before it is uploaded."""
    # One that other tests have left nothing in.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = small_qcow2(tmp_path / "www")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    spec = make_spec(image=f"{web}/{image.name}#sha256={digest}")
    before = snapshot_of_host(host)
    removed: list[str] = []

    def empty(progress: vmctl.Progress) -> None:
        if (progress.phase, progress.state) == ("disks", "begin"):
            removed.extend(entry.path for entry in host.images.prune_cache())

    with pytest.raises(vmctl.NotFoundError, match="there is no image file") as caught:
        host.create(spec, progress=empty)
    (gone,) = removed
    assert gone in caught.value.brief
    assert (caught.value.exit_code, bool(caught.value.hint)) == (3, True)
    assert snapshot_of_host(host) == before
    # Nothing of it is in the way: the next one fetches it again.
    host.create(spec).delete()


def test_a_launch_from_a_server_that_misbehaves(
    host: vmctl.Host,
    own_image: Path,
    make_spec: SpecMaker,
    clean_images: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The same attempts as always, without the pauses between them.
    hasty = functools.partial(fetch, limits=Limits(pause=0))
    monkeypatch.setattr("vmctl.imaging.acquiring.fetch", hasty)
    body = own_image.read_bytes()
    digest, half = hashlib.sha256(body).hexdigest(), len(body) // 2
    before = snapshot_of_host(host)
    with serving() as server:
        spec = make_spec(image=f"{server.url('/own.qcow2')}#sha256={digest}")

        def fails(words: str) -> vmctl.ImageError:
            with pytest.raises(vmctl.ImageError, match=words) as caught:
                host.launch(spec)
            assert "\n" not in caught.value.brief
            assert caught.value.hint
            assert snapshot_of_host(host) == before
            assert host.gc() == []
            assert not DownloadCache().file(digest).exists()
            return caught.value

        server.page("/own.qcow2", body[:half] + b"?" + body[half + 1 :])
        error = fails("wrong checksum")
        assert digest in error.details
        # Whole as HTTP has it, and half of the file.
        server.page("/own.qcow2", body[:half], etag='"two"')
        fails("wrong checksum")
        # It never gets further than this, however often it is asked.
        server.page("/own.qcow2", body, etag='"three"', ranges=False, cut=[half] * 20)
        fails("broke off")
        # Cut off once more, and resumed from there.
        page = server.page("/own.qcow2", body, etag='"three"', cut=[1 << 20])
        vm = host.launch(spec)
        assert page.cut == []
        assert any(asked.get("range") for asked in server.asked("/own.qcow2"))
    assert vm.run("uname -s", check=True).stdout.strip() == "Linux"
    assert host.images.info(digest).clones == 1
    vm.delete()


@pytest.mark.parametrize("kind", ["raw", "vmdk", "vdi", "vhd", "vhdx"])
def test_other_formats_are_imported(
    host: vmctl.Host,
    private_host: private.PrivateHost,
    tmp_path: Path,
    clean_images: set[str],
    kind: str,
) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(kind.encode() * (1 << 18))
    path = tmp_path / f"disk.{kind}"
    if kind != "raw":
        subprocess.run(
            [
                "qemu-img",
                "convert",
                "-f",
                "raw",
                "-O",
                _DRIVERS.get(kind, kind),
                str(raw),
                str(path),
            ],
            check=True,
        )
    made = host.images.import_file(path, name=f"from-{kind}", format=kind)
    assert names_of(made) == [f"from-{kind}"]
    there = private_host.state_dir / "lib" / "images" / bases.name_for(made.digest)
    shown = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", "-f", "qcow2", str(there)],
            check=True,
            capture_output=True,
        ).stdout
    )
    assert shown["virtual-size"] == made.virtual_size


def test_what_is_not_fit_leaves_nothing(
    host: vmctl.Host, tmp_path: Path, clean_images: set[str]
) -> None:
    base = small_qcow2(tmp_path, "base")
    over = tmp_path / "over"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(over)],
        check=True,
    )
    with pytest.raises(vmctl.ImageError, match="names a backing file"):
        host.images.import_file(over)
    with pytest.raises(vmctl.ImageError, match="declared as raw"):
        host.images.import_file(base, format="raw")
    with pytest.raises(vmctl.UsageError, match="can't be an image's name"):
        host.images.import_file(base, name="../../etc/passwd")
    with pytest.raises(vmctl.NotFoundError, match="no image 'no-such-thing'"):
        host.create(vmctl.VMSpec.model_validate({"name": "x", "image": "no-such-thing"}))
    assert pool_volumes(host) == clean_images


def test_an_upload_that_fails_leaves_nothing(
    host: vmctl.Host, tmp_path: Path, clean_images: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StoredVolume.upload

    def broken(self: StoredVolume, *arguments: object, **options: object) -> None:
        if bases.is_base(self.name):
            raise vmctl.ResourceError("the pool is full", hint="make room")
        real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(StoredVolume, "upload", broken)
    with pytest.raises(vmctl.ResourceError):
        host.images.import_file(small_qcow2(tmp_path))
    assert pool_volumes(host) == clean_images


_DYING = """
import os, signal, sys, vmctl
from vmctl import bases
from vmctl.hypervisor.volumes import StoredVolume
real = StoredVolume.upload
def upload(self, *arguments, **options):
    if bases.is_base(self.name):
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *arguments, **options)
StoredVolume.upload = upload
with vmctl.connect(sys.argv[1]) as host:
    host.images.import_file(sys.argv[2])
"""


def test_what_a_killed_client_left_is_found_by_gc(
    host: vmctl.Host, tmp_path: Path, clean_images: set[str]
) -> None:
    image = small_qcow2(tmp_path)
    done = subprocess.run([sys.executable, "-c", _DYING, host.uri, str(image)], check=False)
    assert done.returncode == -9
    assert len(pool_volumes(host) - clean_images) == 2
    (left,) = host.gc(dry_run=True)
    assert left.phase == "uploading"
    host.gc()
    assert pool_volumes(host) == clean_images
    # And it can be imported as if nothing had been.
    assert host.images.import_file(image).complete


_DYING_WHILE_REMOVING = """
import os, signal, sys, vmctl
from vmctl import bases
from vmctl.hypervisor.volumes import StoredVolume
real = StoredVolume.delete
def delete(self):
    if bases.is_base(self.name):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self)
StoredVolume.delete = delete
with vmctl.connect(sys.argv[1]) as host:
    host.images.remove(sys.argv[2])
"""


def test_what_was_left_by_a_client_that_was_killed_while_it_removed_an_image(
    host: vmctl.Host, tmp_path: Path, clean_images: set[str]
) -> None:
    made = host.images.import_file(small_qcow2(tmp_path), name="staying")
    done = subprocess.run(
        [sys.executable, "-c", _DYING_WHILE_REMOVING, host.uri, "staying"], check=False
    )
    assert done.returncode == -9
    base = bases.name_for(made.digest)
    note = f"{base}.vmctl-removing"
    assert pool_volumes(host) - clean_images == {base, note}
    (found,) = host.gc(dry_run=True)
    assert (found.name, found.phase) == (f"default/{base}", "removing")
    assert found.volumes == (f"default/{note}",)
    assert pool_volumes(host) - clean_images == {base, note}
    assert host.gc() == [found]
    assert pool_volumes(host) - clean_images == {base}
    assert host.gc() == []
    # It lost its name before; nothing else is wrong with it.
    assert host.images.info(made.digest).complete
    # Who is at work is left alone.
    pool = open_pool(host._connection, "default")
    with claimed(60) as claim, bases.being_removed(pool, base, claim):
        assert host.gc() == []
        assert bases.is_being_removed(pool, base)


def test_writing_the_same_again_is_seen(
    host: vmctl.Host, private_host: private.PrivateHost, clean_images: set[str]
) -> None:
    volume = StoredVolume.of(open_pool(host._connection, "default"), "rewritten")
    volume.create(render_volume(volume.name, capacity=1 << 20, format="raw"))
    try:
        volume.write(b"x" * (1 << 20))
        # Far enough back for the clock's grain.
        file = private_host.state_dir / "lib" / "images" / volume.name
        os.utime(file, ns=(0, 10**18 + 1))
        before = volume.stamp()
        assert before.written == "1000000000.000000001"
        assert volume.stamp() == before
        volume.write(b"x" * (1 << 20))
        assert volume.stamp().allocation == before.allocation
        assert volume.stamp() != before
        assert volume.read(start=(1 << 20) - 3) == b"xxx"
        assert volume.read(start=5, length=2) == b"xx"
    finally:
        volume.delete()


def test_names_and_prune(host: vmctl.Host, tmp_path: Path, clean_images: set[str]) -> None:
    image = small_qcow2(tmp_path)
    first = host.images.import_file(image, name="one")
    assert names_of(host.images.import_file(image, name="two")) == ["one", "two"]
    assert host.images.remove("one").digest == first.digest
    assert names_of(host.images.info("two")) == ["two"]
    other = host.images.import_file(small_qcow2(tmp_path, "other"), name="two")
    assert other.digest != first.digest
    # What "two" stood for has no name any more.
    (pruned,) = host.images.prune(dry_run=True)
    assert pruned.digest == first.digest
    assert [entry.digest for entry in host.images.prune()] == [first.digest]
    assert host.images.info("two").digest == other.digest
    with pytest.raises(vmctl.NotFoundError):
        host.images.info(first.digest)


def test_a_launch_waits_while_its_image_is_removed(
    host: vmctl.Host, tmp_path: Path, make_spec: SpecMaker, clean_images: set[str]
) -> None:
    image = small_qcow2(tmp_path)
    made = host.images.import_file(image, name="going")
    pool = open_pool(host._connection, "default")
    volume = bases.name_for(made.digest)
    said: list[str] = []

    with claimed(60) as claim, bases.being_removed(pool, volume, claim):
        assert bases.is_being_removed(pool, volume)

        def told(report: vmctl.Progress) -> None:
            said.append(report.detail)
            if report.detail == "somebody else is removing it":
                raise vmctl.ConflictError("enough", hint="")

        with pytest.raises(vmctl.ConflictError, match="enough"):
            host.create(make_spec(image="going"), progress=told)
    assert not bases.is_being_removed(pool, volume)
    host.create(make_spec(image="going")).delete()


def test_a_base_that_was_removed_behind_vmctls_back(
    host: vmctl.Host, tmp_path: Path, make_spec: SpecMaker, clean_images: set[str]
) -> None:
    made = host.images.import_file(small_qcow2(tmp_path), name="gone")
    vm = host.create(make_spec(image="gone"))
    pool = host._connection.raw.storagePoolLookupByName("default")
    pool.storageVolLookupByName(bases.name_for(made.digest)).delete(0)
    checks = {check.name: check for check in vmctl.examine(host.uri)}
    assert checks["images"].status == "fail"
    assert vm.name in checks["images"].detail
    # The name is there still, and stands for nothing.
    with pytest.raises(vmctl.NotFoundError):
        host.create(make_spec(image="gone"))
    vm.delete()


def test_a_base_whose_file_was_removed(
    host: vmctl.Host,
    private_host: private.PrivateHost,
    tmp_path: Path,
    make_spec: SpecMaker,
    clean_images: set[str],
) -> None:
    """As by rm: libvirt lists it until it looks through the pool again."""
    made = host.images.import_file(small_qcow2(tmp_path), name="gone")
    vm = host.create(make_spec(image="gone"))
    (private_host.state_dir / "lib" / "images" / bases.name_for(made.digest)).unlink()
    assert host.gc() == []
    vm.delete()


def test_images_are_nobodys_to_write_to(
    host: vmctl.Host,
    private_host: private.PrivateHost,
    tmp_path: Path,
    make_spec: SpecMaker,
    clean_images: set[str],
) -> None:
    file = small_qcow2(tmp_path)
    made = host.images.import_file(file, name="fixed")
    volume = bases.name_for(made.digest)
    with pytest.raises(vmctl.ConflictError, match="must not change"):
        host.volumes.grow(volume, "4GiB")
    folder = private_host.state_dir / "lib" / "images"
    vm = host.create(make_spec(cloud_init=None))
    for reference in (volume, f"default/{volume}", str(folder / volume)):
        with pytest.raises(vmctl.ConflictError, match="must not change"):
            host.create(make_spec(cloud_init=None, disks=[{}, {"volume": reference}]))
        with pytest.raises(vmctl.ConflictError, match="must not change"):
            vm.disks.attach(vmctl.DiskSpec(volume=reference))
    vm.disks.attach(vmctl.DiskSpec(volume=volume, read_only=True))
    vm.delete()
    assert (folder / volume).read_bytes() == file.read_bytes()
    # Nor is any volume made that would be taken for an image, or for the name of one.
    for name in (bases.name_for("0" * 64), "mine.vmctl-image"):
        with pytest.raises(vmctl.UsageError, match="a name that images have"):
            host.volumes.upload(file, name)
    theirs = folder / "theirs.vmctl-image"
    theirs.write_bytes(b"somebody else's" * 300)
    open_pool(host._connection, "default").refresh()
    try:
        with pytest.raises(vmctl.ConflictError, match="already"):
            host.images.import_file(file, name="theirs")
        assert theirs.read_bytes() == b"somebody else's" * 300
    finally:
        theirs.unlink()
        open_pool(host._connection, "default").refresh()


def test_what_somebody_put_under_the_name_of_an_image(
    host: vmctl.Host, private_host: private.PrivateHost, tmp_path: Path, clean_images: set[str]
) -> None:
    file = small_qcow2(tmp_path)
    wanted = hashlib.sha256(file.read_bytes()).hexdigest()
    theirs = private_host.state_dir / "lib" / "images" / bases.name_for(wanted)
    contents = {
        "is not the image that its name states": small_qcow2(tmp_path, "b").read_bytes() + b"x",
        "there is a volume .* already": b"no image" * 512,
    }
    try:
        for words, content in contents.items():
            theirs.write_bytes(content)
            open_pool(host._connection, "default").refresh()
            with pytest.raises(vmctl.ConflictError, match=words):
                host.images.import_file(file, name="wanted")
            assert theirs.read_bytes() == content
    finally:
        theirs.unlink()
        open_pool(host._connection, "default").refresh()


def test_an_overlay_that_somebody_made_in_another_pool(
    host: vmctl.Host,
    private_host: private.PrivateHost,
    tmp_path: Path,
    clean_images: set[str],
) -> None:
    made = host.images.import_file(small_qcow2(tmp_path), name="under")
    base = private_host.state_dir / "lib" / "images" / bases.name_for(made.digest)
    folder = tmp_path / "other"
    folder.mkdir()
    pool = {"name": "other-overlays", "type": "dir", "target": str(folder)}
    host.pools.create(vmctl.PoolSpec.model_validate(pool))
    try:
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "qcow2"]
        overlay = folder / "by-hand.qcow2"
        named = open_pool(host._connection, "default").path_of(base.name)
        subprocess.run([*command, "-b", named, str(overlay), "8M"], check=True)
        with pytest.raises(vmctl.ConflictError, match="is in use") as caught:
            host.images.remove("under")
        assert "other-overlays/by-hand.qcow2" in caught.value.details
        base.unlink()
        (found,) = [check for check in vmctl.examine(host.uri) if check.name == "images"]
        assert found.status == "fail"
        assert "other-overlays/by-hand.qcow2" in found.detail
    finally:
        overlay.unlink()
        host.pools.delete("other-overlays")


@pytest.mark.parametrize("grows", [False, True])
def test_an_image_that_was_changed_is_found(
    host: vmctl.Host,
    private_host: private.PrivateHost,
    make_spec: SpecMaker,
    tmp_path: Path,
    clean_images: set[str],
    monkeypatch: pytest.MonkeyPatch,
    grows: bool,
) -> None:
    made = host.images.import_file(small_qcow2(tmp_path), name="changing")
    vm = host.create(make_spec(image="changing"))
    file = private_host.state_dir / "lib" / "images" / bases.name_for(made.digest)

    def check() -> vmctl.Check:
        (found,) = [check for check in vmctl.examine(host.uri) if check.name == "images"]
        return found

    assert check().status == "ok"
    with monkeypatch.context() as patched:
        # It was read, and need not be again.
        patched.setattr(StoredVolume, "read", _header_only)
        assert check().status == "ok"
    before = file.stat()
    with file.open("r+b") as handle:
        handle.seek(0 if grows else -1, os.SEEK_END)
        handle.write(b"x" * 8192 if grows else b"x")
    # The clock's grain: the time of a change is another one.
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert (file.stat().st_blocks == before.st_blocks) is not grows
    found = check()
    assert (found.status, vm.name in found.detail) == ("fail", True), found
    vm.delete()


_read = StoredVolume.read


def _header_only(self: StoredVolume, *, start: int = 0, length: int = 0) -> bytes:
    assert not (bases.is_base(self.name) and length > 4)
    return _read(self, start=start, length=length)


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_a_full_clone_stands_alone(
    host: vmctl.Host, own_image: Path, make_spec: SpecMaker, clean_images: set[str], kind: str
) -> None:
    made = host.images.import_file(own_image, name="whole")
    size = made.virtual_size + (64 << 20)
    vm = host.launch(
        make_spec(
            image="whole", disks=[{"full_clone": True, "format": kind, "size": f"{size >> 20}MiB"}]
        )
    )
    # Nothing lies on the image any more, so it can go, under the running guest.
    assert host.images.remove("whole").clones == 0
    seen = vm.run("cat /sys/class/block/vda/size", check=True).stdout
    assert int(seen) * 512 == size >> 20 << 20
    vm.restart()
    assert vm.run("uname -s", check=True).stdout.strip() == "Linux"
    (disk,) = [disk for disk in vm.info().disks if disk.target == "vda"]
    assert (disk.format, disk.shared) == (kind, 0)
    vm.delete()
