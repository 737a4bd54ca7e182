"""The commands, against libvirt's own test driver and no host at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
import yaml
from click.testing import Result

from vmctl.cli import machines
from vmctl.cli.context import App
from vmctl.cli.machines import _print_info
from vmctl.hypervisor.chains import Layer
from vmctl.info import DiskInfo, MachineInfo
from vmctl.spec import VMSpec

Vmctl = Callable[..., Result]
_TEST = ("-c", "test:///default")
_GOOD = "name: web\nimage: micro.qcow2\nmemory: 256MiB\nnics: [{user: true}]\n"
_SECRET = (
    "name: web\nimage: micro.qcow2\nfirmware: {type: uefi, secure_boot: true}\ncdroms: [{}]\n"
    "cloud_init: {runcmd: ['echo s3cret']}\n"
)


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(_GOOD, encoding="utf-8")
    return str(path)


def test_alone_it_explains_itself(vmctl: Vmctl) -> None:
    for words in ((), ("--help",), ("-h",)):
        done = vmctl(*words)
        assert done.exit_code == 0
        assert "Machines:" in done.stdout
    assert "snapshot" in vmctl("snapshot").stdout


def test_list_as_a_table(vmctl: Vmctl) -> None:
    done = vmctl(*_TEST, "list")
    assert done.exit_code == 0
    heading, line = done.stdout.splitlines()
    assert heading.split() == ["NAME", "STATE", "ADDRESSES"]
    assert line.split() == ["test", "running", "-"]
    assert done.stderr == ""


def test_list_with_what_is_asked_of_each_machine(vmctl: Vmctl, own: tuple[str, str]) -> None:
    heading, line = vmctl(*_TEST, "list", "--long").stdout.splitlines()
    assert heading.split() == ["NAME", "STATE", "PHASE", "ADDRESSES", "TENANT", "LABELS"]
    assert line.split() == ["test", "running", "-", "192.168.122.3", "-", "-"]
    (found,) = json.loads(vmctl(*own, "list", "-l", "-f", "json").stdout)
    assert (found["name"], found["phase"], found["labels"]) == ("web", "ready", {})


def test_the_options_stand_before_the_command_and_after_it(vmctl: Vmctl) -> None:
    before = vmctl(*_TEST, "-f", "json", "list")
    after = vmctl("list", *_TEST, "--format", "json")
    assert before.exit_code == after.exit_code == 0
    assert before.stdout == after.stdout
    assert list(json.loads(after.stdout)[0]) == [
        "name", "uuid", "state", "state_reason", "addresses", "autostart", "saved", "phase",
        "labels",
        "tenant",
    ]  # fmt: skip


def test_json_and_yaml_say_the_same(vmctl: Vmctl) -> None:
    as_json = json.loads(vmctl(*_TEST, "-f", "json", "info", "test").stdout)
    as_yaml = yaml.safe_load(vmctl(*_TEST, "-f", "yaml", "info", "test").stdout)
    assert as_json == as_yaml
    assert as_json["memory"] == 2 << 30
    assert as_json["disks"][0]["target"] == "vda"


def test_info_as_a_table(vmctl: Vmctl) -> None:
    lines = vmctl(*_TEST, "info", "test").stdout.splitlines()
    assert lines[0].split() == ["name", "test"]
    assert ["memory", "2", "GiB"] in [line.split() for line in lines]


def test_all_of_info_is_in_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    image = Layer(path="/pool/image", format="qcow2", capacity=None, allocation=300 << 20)
    own = Layer(path="/pool/own", format="qcow2", capacity=5 << 30, allocation=200 << 20)
    disk = DiskInfo(
        target="vda",
        device="disk",
        bus="virtio",
        source=own.path,
        format="qcow2",
        capacity=own.capacity,
        allocation=own.allocation,
        shared=300 << 20,
        chain=(own, image),
    )
    crashed = MachineInfo(
        name="web",
        uuid="u",
        state="shut off",
        state_reason="crashed",
        saved=True,
        addresses=("192.0.2.7",),
        started="2026-01-01T00:00:00+00:00",
        uptime=3723.4,
        disks=(disk,),
        snapshots=("clean", "later"),
        current_snapshot="later",
        frozen=True,
    )
    _print_info(crashed)
    said = capsys.readouterr().out
    for words in (
        "shut off (crashed), with a saved state",
        "2026-01-01T00:00:00+00:00 (1:02:03)",
        "192.0.2.7",
        "vda (virtio disk) /pool/own, 5 GiB, takes 200 MiB",
        "on /pool/image, 300 MiB, shared",
        "later (current)",
        "vmctl agent thaw web",
    ):
        assert words in said, words


def test_a_name_that_is_close_is_suggested(vmctl: Vmctl) -> None:
    done = vmctl(*_TEST, "info", "tset")
    assert done.exit_code == 3
    assert done.stderr.splitlines() == [
        "error: there is no machine 'tset' at test:///default",
        "hint: did you mean test?",
    ]
    assert "vmctl list" in vmctl(*_TEST, "info", "quite-another").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pause", "web"), "paused"),
        (("resume", "web"), "running"),
        (("start", "web"), "running"),
        (("stop", "web", "--force", "--timeout", "0"), "shut off (force)"),
        (("restart", "web", "--force", "--timeout", "0"), "running (force)"),
        (("save", "web"), "shut off (saved)"),
        (("discard-saved", "web"), "running (it had no saved state)"),
        (("autostart", "web"), "running (starts with its host)"),
        (("autostart", "--off", "web"), "running (doesn't start with its host)"),
    ],
)
def test_power_verbs(vmctl: Vmctl, own: tuple[str, str], words: tuple[str, ...], said: str) -> None:
    state = said.partition(" (")[0]
    done = vmctl(*own, *words)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"web: {said}\n")
    data = json.loads(vmctl(*own, *words, "-f", "json").stdout)
    assert [(entry["name"], entry["state"]) for entry in data] == [("web", state)]


@pytest.mark.parametrize(
    "words",
    [
        ("start", "test"),
        ("stop", "test", "--force", "--timeout", "0"),
        ("restart", "test", "--force", "--timeout", "0"),
        ("pause", "test"),
        ("resume", "test"),
        ("reset", "test"),
        ("save", "test"),
        ("discard-saved", "test"),
        ("nmi", "test"),
        ("dump", "test", "memory"),
        ("autostart", "test"),
        ("rename", "test", "other"),
        ("delete", "test", "--yes"),
        ("snapshot", "create", "test", "s"),
    ],
)
def test_a_machine_of_somebody_elses_is_not_changed(vmctl: Vmctl, words: tuple[str, ...]) -> None:
    before = vmctl(*_TEST, "info", "test", "-f", "json").stdout
    done = vmctl(*_TEST, *words)
    assert done.exit_code == 4
    assert "not made by vmctl" in done.stderr
    assert vmctl(*_TEST, "info", "test", "-f", "json").stdout == before


def test_what_a_start_and_a_stop_came_to_is_data(vmctl: Vmctl, own: tuple[str, str]) -> None:
    (started,) = json.loads(vmctl(*own, "start", "web", "-f", "json").stdout)
    assert set(started) == {"name", "uuid", "state", "started"}
    assert started["started"] == {"how": "was running", "clock": ""}
    words = ("stop", "web", "--force", "--timeout", "0", "-f", "json")
    (stopped,) = json.loads(vmctl(*own, *words).stdout)
    assert set(stopped["stopped"]) == {"ended_by", "seconds", "steps", "saved"}
    assert stopped["stopped"]["ended_by"] == "force"
    (step,) = stopped["stopped"]["steps"]
    assert (step["how"], step["said"]) == ("force", "the plug was pulled")


def test_snapshots_of_somebody_elses_are_listed_and_left_alone(vmctl: Vmctl) -> None:
    with libvirt.open(_TEST[1]) as raw:
        raw.lookupByName("test").snapshotCreateXML(
            "<domainsnapshot><name>theirs</name></domainsnapshot>"
        )
        try:
            listed = json.loads(vmctl(*_TEST, "snapshot", "list", "test", "-f", "json").stdout)
            assert [entry["name"] for entry in listed] == ["theirs"]
            for verb in ("revert", "delete"):
                done = vmctl(*_TEST, "snapshot", verb, "test", "theirs")
                assert done.exit_code == 4
                assert "not made by vmctl" in done.stderr
            assert vmctl(*_TEST, "snapshot", "list", "test", "-f", "json").exit_code == 0
            assert raw.lookupByName("test").snapshotLookupByName("theirs").getName() == "theirs"
        finally:
            raw.lookupByName("test").snapshotLookupByName("theirs").delete()


def test_what_snapshots_lose_is_asked_first_on_a_terminal(
    vmctl: Vmctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmctl.cli.snapshot.asks_on_terminal", lambda: True)
    with libvirt.open(_TEST[1]) as raw:
        machine = raw.lookupByName("test")
        for name in ("old", "new"):
            machine.snapshotCreateXML(f"<domainsnapshot><name>{name}</name></domainsnapshot>")
        try:
            shown = json.loads(
                vmctl(*_TEST, "snapshot", "info", "test", "old", "-f", "json").stdout
            )
            assert (shown["name"], shown["children"], shown["of_others"]) == ("old", ["new"], True)
            said = vmctl(*_TEST, "snapshot", "info", "test", "old").stdout
            assert "another program" in said
            lost = {
                ("revert",): "back to 'old', and lose what it has now?",
                ("delete", "--children"): "'old' of 'test', and all that were taken after it?",
            }
            for words, question in lost.items():
                command = (*_TEST, "snapshot", *words, "test", "old")
                done = vmctl(*command, stdin="n\n")
                assert (done.exit_code, question in done.stderr) == (1, True)
                # It is another program's machine, which is said after a yes.
                for more in ({"stdin": "y\n"}, {}):
                    done = vmctl(*command, *([] if more else ["--yes"]), **more)
                    assert (done.exit_code, "not made by vmctl" in done.stderr) == (4, True)
                    assert (question in done.stderr) == bool(more)
            # Where nothing is lost, nothing is asked.
            kept = vmctl(*_TEST, "snapshot", "revert", "--keep", "now", "test", "old")
            alone = vmctl(*_TEST, "snapshot", "delete", "test", "old")
            assert (kept.exit_code, alone.exit_code) == (4, 4)
            assert len(machine.listAllSnapshots()) == 2
        finally:
            for name in ("new", "old"):
                machine.snapshotLookupByName(name).delete()


def test_nothing_is_done_when_a_name_is_wrong(vmctl: Vmctl) -> None:
    done = vmctl(*_TEST, "stop", "--force", "--timeout", "0", "test", "absent")
    assert done.exit_code == 3
    assert done.stderr.count("error:") == 1


def test_quiet_says_nothing(vmctl: Vmctl, own: tuple[str, str]) -> None:
    done = vmctl(*own, "-q", "pause", "web")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_gc_finds_nothing(vmctl: Vmctl) -> None:
    done = vmctl(*_TEST, "gc", "--dry-run")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "nothing is left over\n")
    assert json.loads(vmctl(*_TEST, "gc", "-f", "json").stdout) == []


def test_gc_says_that_a_machine_that_was_flattened_stays(
    vmctl: Vmctl, half_flat: tuple[str, str]
) -> None:
    done = vmctl(*half_flat, "gc", "--dry-run")
    assert "the machine stays" in done.stdout
    assert "1 leftover would be removed" in done.stderr


def test_gc_shows_all_that_goes(vmctl: Vmctl, left_over: tuple[str, str]) -> None:
    base = f"default/sha256-{'0' * 64}.qcow2"
    done = vmctl(*left_over, "gc", "--dry-run")
    assert (done.exit_code, done.stderr) == (0, "1 machine would be removed\n")
    assert [line.split()[3:] for line in done.stdout.splitlines()[1:]] == [
        ["machine"],
        ["volume", "default/web.vda.qcow2"],
        ["volume", base],
        ["network", "default,", "stopped"],
    ]
    (found,) = json.loads(vmctl(*left_over, "gc", "--dry-run", "-f", "json").stdout)
    keys = ["name", "uuid", "phase", "client", "volumes", "networks", "snapshots"]
    keys.append("addresses")
    assert list(found) == keys
    assert (found["volumes"], found["networks"]) == (["default/web.vda.qcow2", base], ["default"])


def test_doctor_ends_with_1_when_something_fails(vmctl: Vmctl) -> None:
    # The test driver has no pool of that name.
    done = vmctl(*_TEST, "doctor")
    assert done.exit_code == 1
    assert "fail  pool" in done.stdout
    assert vmctl(*_TEST, "doctor", "--pool", "default-pool").exit_code == 0


def test_doctor_as_json(vmctl: Vmctl) -> None:
    done = vmctl("-c", "qemu+unix:///system?socket=/nowhere", "doctor", "-f", "json")
    assert done.exit_code == 1
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert found["daemon"]["status"] == "fail"
    assert found["daemon"]["hint"]


def test_host_list_of_nobody(vmctl: Vmctl) -> None:
    assert json.loads(vmctl("host", "list", "-f", "json").stdout) == []
    assert vmctl("host", "stop", "absent").exit_code == 3
    assert vmctl("host", "start", "No Such Name").exit_code == 2


# -- specs ----------------------------------------------------------------------------------------


def test_validate_says_ok_on_stderr(vmctl: Vmctl, good: str) -> None:
    done = vmctl("validate", good)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"{good}: ok\n")
    assert vmctl("validate", "-", stdin=_GOOD).stderr == "stdin: ok\n"


def test_validate_reports_every_problem_of_every_file(
    vmctl: Vmctl, good: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: a/b\nmemori: 1GiB\nvcpus: many\n", encoding="utf-8")
    done = vmctl("validate", str(bad), good, "/no/such/file")
    assert done.exit_code == 7
    assert done.stdout == ""
    assert done.stderr.count("error:") == 2
    assert all(f"\n  {path}: " in done.stderr for path in ("name", "memori", "vcpus"))
    found = json.loads(vmctl("validate", str(bad), good, "-f", "json").stdout)
    assert [entry["valid"] for entry in found] == [False, True]
    assert {problem["path"] for problem in found[0]["problems"]} == {"name", "memori", "vcpus"}


@pytest.mark.parametrize("text", [b"", b"- a\n", b"a: [", b"\xff\xfe", b"name: x\nname: y\n"])
def test_what_is_no_spec_is_exit_code_7(vmctl: Vmctl, text: bytes) -> None:
    for verb in ("validate", "render", "launch", "create"):
        done = vmctl(*_TEST, verb, "-", stdin=text)
        assert done.exit_code == 7
        assert done.stderr.startswith("error: ")
        assert "hint: " in done.stderr


def test_render_needs_no_host(vmctl: Vmctl, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMCTL_URI", "qemu+unix:///system?socket=/nowhere")
    once, again = vmctl("render", good), vmctl("render", good)
    assert once.exit_code == 0
    assert once.stdout == again.stdout
    assert once.stdout.startswith("<domain type='qemu'>")
    assert json.loads(vmctl("render", good, "-f", "json").stdout) == {"xml": once.stdout}


def test_render_with_a_uri_asks_that_host(vmctl: Vmctl, good: str) -> None:
    done = vmctl("render", good, "-c", "qemu+unix:///system?socket=/nowhere")
    assert done.exit_code == 5


def test_secrets_are_rendered_only_when_asked_for(vmctl: Vmctl) -> None:
    assert "s3cret" not in vmctl("render", "-", stdin=_SECRET).stdout
    assert "s3cret" not in vmctl("render", "-", "-f", "json", stdin=_SECRET).stdout
    done = vmctl("render", "-", "--seed", stdin=_SECRET)
    assert "s3cret" in done.stdout
    assert "==> user-data <==" in done.stdout
    data = json.loads(vmctl("render", "-", "--seed", "-f", "json", stdin=_SECRET).stdout)
    assert set(data["seed"]) >= {"user-data", "meta-data", "network-config"}


def test_schema_is_a_json_schema(vmctl: Vmctl) -> None:
    schema = json.loads(vmctl("schema").stdout)
    assert "2020-12" in schema["$schema"]
    assert yaml.safe_load(vmctl("schema", "-f", "yaml").stdout) == schema


def test_flags_replace_what_the_spec_says(good: str) -> None:
    spec = machines._load(App(), good, "other", "/x.qcow2", "tcg")
    assert (spec.name, spec.image, spec.accel) == ("other", "/x.qcow2", "tcg")


def test_a_wish_for_all_machines_stands_behind_the_spec(
    good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accel(file: str, flag: str | None = None) -> str:
        spec: VMSpec = machines._load(App(), file, None, None, flag)
        return spec.accel

    own = tmp_path / "own.yaml"
    own.write_text(_GOOD + "accel: kvm\n", encoding="utf-8")
    monkeypatch.setenv("VMCTL_ACCEL", "tcg")
    assert accel(good) == "tcg"
    assert accel(str(own)) == "kvm"
    assert accel(str(own), "auto") == "auto"


def test_a_replaced_name_is_checked_too(vmctl: Vmctl, good: str) -> None:
    done = vmctl(*_TEST, "launch", good, "--name", "../x")
    assert done.exit_code == 7
    assert "name" in done.stderr


# -- the guest ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("exec", "test", "--", "ls", "-l"),
        ("exec", "test", "ls", "-l"),
        ("exec", "test", "--timeout", "3", "--", "ls", "-c", "x"),
        ("exec", "--timeout=3", "test", "--", "ls", "--uri"),
        ("ssh", "test", "--", "ls | wc -l"),
        ("ssh", "test", "-f", "json", "--", "ls"),
        ("ssh", "test"),
        ("logs", "test"),
        ("wait", "test"),
    ],
)
def test_a_guest_of_somebody_elses_is_not_entered(vmctl: Vmctl, words: tuple[str, ...]) -> None:
    done = vmctl(*_TEST, *words)
    assert done.exit_code == 4
    assert "not made by vmctl" in done.stderr


def test_exec_without_a_command_is_a_usage_error(vmctl: Vmctl) -> None:
    for words in (("exec", "test"), ("exec", "test", "--")):
        done = vmctl(*_TEST, *words)
        assert done.exit_code == 2
        assert "see `vmctl exec --help`" in done.stderr


def test_keys_that_make_no_sense(vmctl: Vmctl, own: tuple[str, str]) -> None:
    done = vmctl(*own, "send-key", "web", "ctrl-delte")
    assert done.exit_code == 2
    assert "did you mean delete" in done.stderr
    done = vmctl(*own, "type", "--layout", "xx", "web", "a")
    assert (done.exit_code, "one of: us, de" in done.stderr) == (2, True)
    done = vmctl(*own, "type", "web", "-", stdin=b"\xff")
    assert (done.exit_code, "is no text" in done.stderr) == (2, True)
