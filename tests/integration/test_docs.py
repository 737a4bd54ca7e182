"""The documentation, run for real: every page's commands and programs, in their order.

A page is run in a folder of its own, with the files that it shows, on a private host of its own.
Its image is the micro guest, or the full Debian guest where the page, or its beginning, needs what
only that has.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_blocks import ROOT, Block, blocks

from tests.http_server import serving
from vmctl.guest.identity import make_key

from .legacy_guest import floppy

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="the pages use networks, which need root"),
]

HOST = "vmctl host start demo\nexport VMCTL_URI=private:demo\n"
WEB = "vmctl launch web.yaml\n"
# What has to be there before a page's first command.
PAGES = {
    "README.md": "",
    "docs/tutorial.md": "",
    "docs/how-to/launch-from-yaml.md": HOST,
    "docs/how-to/build-images.md": HOST,
    "docs/how-to/power.md": HOST + WEB,
    "docs/how-to/change-a-machine.md": HOST + WEB,
    "docs/how-to/snapshots.md": HOST + WEB,
    "docs/how-to/clone.md": HOST + WEB,
    "docs/how-to/back-up.md": HOST + WEB,
    "docs/how-to/files-and-ports.md": HOST + WEB,
    "docs/how-to/guest-agent.md": HOST + WEB,
    "docs/how-to/resize.md": HOST,
    "docs/how-to/devices.md": HOST + "truncate -s 1M disc.iso\n",
    "docs/how-to/move-a-machine.md": HOST + WEB,
    "docs/how-to/private-host.md": "",
    "docs/how-to/static-address.md": HOST,
    "docs/how-to/pools-and-volumes.md": HOST,
    "docs/how-to/networks.md": HOST,
    "docs/how-to/addresses.md": HOST,
    "docs/how-to/ports.md": HOST + WEB,
    "docs/how-to/security-groups.md": HOST,
    "docs/how-to/tenants.md": HOST,
    "docs/how-to/failed-launch.md": HOST,
    "docs/how-to/no-network.md": HOST,
    "docs/how-to/images.md": HOST,
    "docs/how-to/watch-machines.md": HOST + WEB,
    "docs/how-to/shared-folders.md": HOST,
    "docs/explanation/private-hosts.md": "",
    "docs/explanation/snapshots.md": HOST + WEB,
    "docs/reference/python.md": HOST,
    "docs/reference/events.md": HOST + WEB,
}
# To the heading from which on the micro guest does as well; each boot of the other takes a minute.
FULL_GUEST = {
    "docs/tutorial.md": None,
    "docs/how-to/launch-from-yaml.md": "## Without a network on the host",
}
# These install things, or run the tests that this is one of.
NOT_HERE = (
    "scripts/test",
    "scripts/quickstart",
    "python3 -m venv",
    ".venv/bin/pip",
    "export PATH=",
)


@pytest.fixture
def folder(client_home: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a folder to run in; whatever host a page leaves is removed afterwards."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    for block in blocks(ROOT / "README.md", "yaml"):
        (tmp_path / block.file).write_text(block.text)
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_ed25519.pub").write_text(f"{make_key().public}\n")
    yield tmp_path
    subprocess.run(
        [sys.executable, "-m", "vmctl.cli.main", "host", "stop", "--force", "demo"],
        check=False,
        capture_output=True,
    )


@pytest.fixture
def image_server(folder: Path, micro_image: str) -> Iterator[dict[str, str]]:
    """Serve the page's image on loopback, where its user's own catalogue says that it is.

    Returns what the page's commands find in their environment.
    """
    body = Path(micro_image).read_bytes()
    digits = hashlib.sha256(body).hexdigest()
    catalogue = folder / "config" / "vmctl" / "images.yaml"
    catalogue.parent.mkdir(parents=True)
    with serving() as server:
        server.page("/debian-12.qcow2", body)
        server.page("/SHA256SUMS", f"{digits}  debian-12.qcow2\n".encode())
        checksum = f"{{url: {server.url('/SHA256SUMS')}, kind: sha256}}"
        entry = f"{{name: debian-12, url: {server.url('/debian-12.qcow2')}, checksum: {checksum}}}"
        catalogue.write_text(f"images: [{entry}]\n")
        yield {
            "XDG_CONFIG_HOME": str(folder / "config"),
            "URL": server.url("/debian-12.qcow2"),
            "DIGITS": digits,
            "no_proxy": "127.0.0.1",
        }
    assert server.asked("/SHA256SUMS")
    assert server.sent["/debian-12.qcow2"] >= len(body)


def script_of(block: Block) -> str:
    if block.language == "python":
        return f"python - <<'PROGRAM'\n{block.text}PROGRAM\n"
    lines = []
    for command in block.commands():
        if command.startswith(NOT_HERE):
            continue
        if command.endswith("# fails"):
            lines.append(f"if {command.removesuffix('# fails')}; then exit 99; fi")
        else:
            lines.append(command)
    return "\n".join(lines) + "\n"


def _line_of(page: str, heading: str | None) -> int | None:
    if heading is None:
        return None
    return (ROOT / page).read_text(encoding="utf-8").splitlines().index(heading) + 1


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.full_guest] if page in FULL_GUEST else [])
        for page in PAGES
    ],
)
def test_page(page: str, folder: Path, micro_image: str, request: pytest.FixtureRequest) -> None:
    image = request.getfixturevalue("debian_image") if page in FULL_GUEST else micro_image
    shutil.copyfile(image, folder / "debian-12.qcow2")
    for block in blocks(ROOT / page, "yaml"):
        if block.file:
            (folder / block.file).write_text(block.text)
    (folder / "legacy.img").write_bytes(floppy())
    script = PAGES[page]
    turn = _line_of(page, FULL_GUEST.get(page))
    for block in blocks(ROOT / page, "console", "python"):
        if turn is not None and block.line > turn:
            script += f"cp {shlex.quote(micro_image)} debian-12.qcow2\n"
            turn = None
        script += script_of(block)
    assert turn is None
    environment = {
        **os.environ,
        "HOME": str(folder / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("VMCTL_URI", None)
    if page == "docs/how-to/images.md":
        environment |= request.getfixturevalue("image_server")
    done = subprocess.run(
        ["/bin/bash", "-euxo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_page_with_commands_is_run() -> None:
    found = set()
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for block in blocks(path, "console", "python"):
            if re.sub(r"\s", "", script_of(block)):
                found.add(block.page)
    assert found == set(PAGES)


def _state_of_the_machine() -> dict[str, object]:
    """Return what the quickstart must leave as it is."""
    folders = ("/etc/libvirt", "/var/lib/libvirt", "/etc/default", "/etc/systemd/system")
    files = {
        str(path): (status.st_size, status.st_mtime_ns, status.st_mode)
        for folder in folders
        for path in Path(folder).rglob("*")
        for status in (path.lstat(),)
    }
    links = {path.name for path in Path("/sys/class/net").iterdir()}
    mounts = Path("/proc/self/mounts").read_text()
    sockets = Path("/run/libvirt").exists()
    return {"files": files, "links": links, "mounts": mounts, "run": sockets}


@pytest.mark.usefixtures("client_home", "debian_image", "micro_image")
@pytest.mark.parametrize("words", [(), ("--image", "micro")], ids=["default", "micro"])
def test_quickstart_and_what_it_leaves(words: tuple[str, ...]) -> None:
    before = _state_of_the_machine()
    done = subprocess.run(
        [str(ROOT / "scripts" / "quickstart"), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "The quickstart worked" in done.stdout
    # The accident, and what the revert brought back.
    assert "cat: " in done.stdout
    assert done.stdout.rstrip().count("Good morning.") >= 2
    assert _state_of_the_machine() == before
    hosts = subprocess.run(
        [*shlex.split(f"{sys.executable} -m vmctl.cli.main host list --format json")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "vmctl-quickstart" not in hosts.stdout


@pytest.mark.usefixtures("client_home", "micro_image")
def test_a_quickstart_that_was_killed_can_be_run_again() -> None:
    command = [str(ROOT / "scripts" / "quickstart"), "--image", "micro"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if "vmctl launch" in line:
                os.killpg(first.pid, signal.SIGKILL)
                break
        first.stdout.read()
    again = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "an earlier quickstart was killed" in again.stderr
