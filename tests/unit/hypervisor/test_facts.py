"""What is made of a host's capabilities: above all, whether its KVM works."""

from __future__ import annotations

from dataclasses import dataclass

import libvirt
import pytest
from lxml import etree

from vmctl.hypervisor import facts

_DOMAINS = {
    True: "<domain type='qemu'/><domain type='kvm'/>",
    False: "<domain type='qemu'/>",
}


def capabilities(*, offered: bool, features: tuple[str, ...] = (), arch: str = "x86_64") -> str:
    named = "".join(f"<feature name='{name}'/>" for name in features)
    return (
        f"<capabilities><host><cpu><arch>{arch}</arch><model>Broadwell</model>{named}</cpu></host>"
        f"<guest><os_type>hvm</os_type><arch name='{arch}'>{_DOMAINS[offered]}</arch></guest>"
        "</capabilities>"
    )


@dataclass
class Host:
    """A connection that knows what a processor's model implies."""

    implied: tuple[str, ...] = ()
    broken: bool = False

    def baselineCPU(self, _cpus: list[str], _flags: int) -> str:  # noqa: N802 - libvirt's name
        if self.broken:
            raise libvirt.libvirtError("unknown model")
        return f"<cpu>{''.join(f'<feature name={name!r}/>' for name in self.implied)}</cpu>"


def kvm(host: Host, xml: str, arch: str = "x86_64") -> tuple[bool, str]:
    return facts._kvm(host, etree.fromstring(xml), arch)


def test_kvm_that_is_not_offered() -> None:
    works, reason = kvm(Host(implied=("vmx",)), capabilities(offered=False, features=("vmx",)))
    assert not works
    assert "/dev/kvm" in reason


@pytest.mark.parametrize("feature", ["vmx", "svm"])
def test_kvm_that_works(feature: str) -> None:
    for host in (Host(), Host(broken=True)):
        works, reason = kvm(host, capabilities(offered=True, features=("sse2", feature)))
        assert works
        assert feature in reason


def test_kvm_that_works_by_what_the_model_implies() -> None:
    works, _reason = kvm(Host(implied=("sse2", "svm")), capabilities(offered=True))
    assert works


@pytest.mark.parametrize("host", [Host(), Host(implied=("sse2",)), Host(broken=True)])
def test_kvm_that_is_offered_and_would_hang_its_guests(host: Host) -> None:
    """Nested and paravirtual hosts, where /dev/kvm opens and the processor can't do it."""
    works, reason = kvm(host, capabilities(offered=True, features=("sse2", "aes")))
    assert not works
    assert "neither vmx nor svm" in reason


def test_on_arm_what_is_offered_works() -> None:
    assert kvm(Host(), capabilities(offered=True, arch="aarch64"), "aarch64")[0]


def test_an_offer_is_known_apart_from_whether_it_works() -> None:
    for offered in (True, False):
        tree = etree.fromstring(capabilities(offered=offered))
        assert facts._offers_kvm(tree, "x86_64") is offered


LIMITS = """
<domainCapabilities>
  <os supported='yes'>
    <loader supported='yes'>
      <value>/usr/share/OVMF/OVMF_CODE_4M.fd</value>
      <value>/usr/share/OVMF/OVMF_CODE_4M.ms.fd</value>
      <value>/usr/share/unknown/FIRMWARE.fd</value>
    </loader>
  </os>
  <devices>
    <graphics supported='yes'><enum name='type'><value>vnc</value>{spice}</enum></graphics>
    <tpm supported='{tpm}'><enum name='backendModel'><value>emulator</value></enum></tpm>
  </devices>
</domainCapabilities>
"""


@pytest.mark.parametrize("able", [True, False])
def test_what_the_domain_capabilities_say(able: bool) -> None:
    spice = "<value>spice</value>" if able else ""
    limits = etree.fromstring(LIMITS.format(spice=spice, tpm="yes" if able else "no"))
    assert facts._offers(limits, "devices/graphics", "type", "spice") is able
    assert facts._offers(limits, "devices/tpm", "backendModel", "emulator") is able
    assert [(image.nvram_template, image.secure_boot) for image in facts._firmware(limits)] == [
        ("/usr/share/OVMF/OVMF_VARS_4M.fd", False),
        ("/usr/share/OVMF/OVMF_VARS_4M.ms.fd", True),
    ]


@pytest.mark.parametrize(("version", "able"), [(10_009_000, False), (10_010_000, True)])
def test_features_by_version(version: int, able: bool) -> None:
    class Old:
        def getLibVersion(self) -> int:  # noqa: N802 - libvirt's name
            return version

    found = facts._features(Old(), etree.Element("domainCapabilities"))
    assert ("internal-snapshot-nvram" in found) is able
