"""The processor."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel

__all__ = ["CpuFeature", "CpuMode", "CpuSpec", "FeaturePolicy", "TopologySpec"]

Count = Annotated[int, Field(ge=1, le=4096)]
CpuName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._+-]+$")]


class CpuMode(StrEnum):
    """libvirt's CPU modes (https://libvirt.org/formatdomain.html#cpu-model-and-topology)."""

    HOST_PASSTHROUGH = "host-passthrough"
    HOST_MODEL = "host-model"
    MAXIMUM = "maximum"
    CUSTOM = "custom"


class FeaturePolicy(StrEnum):
    """What to do about one CPU feature."""

    FORCE = "force"
    REQUIRE = "require"
    OPTIONAL = "optional"
    DISABLE = "disable"
    FORBID = "forbid"


class CpuFeature(SpecModel):
    """One CPU feature, such as ``vmx``; its bare name means that it is required."""

    short_form = "name"

    name: CpuName
    """libvirt's name of the feature."""
    policy: FeaturePolicy = FeaturePolicy.REQUIRE
    """What to do about it."""


class TopologySpec(SpecModel):
    """How the virtual processors are arranged; the product is the highest number of them."""

    sockets: Count = 1
    """Number of sockets."""
    dies: Count = 1
    """Dies in a socket."""
    cores: Count = 1
    """Cores on a die."""
    threads: Count = 1
    """Threads of a core."""

    @property
    def total(self) -> int:
        """The number of processors that it makes."""
        return self.sockets * self.dies * self.cores * self.threads


class CpuSpec(SpecModel):
    """The processor's model and arrangement."""

    short_form = "mode"

    mode: CpuMode | None = None
    """Where the model comes from; the profile decides by accelerator when it is not given."""
    model: CpuName | None = None
    """libvirt's name of a model (`qemu64`, `pentium3`), with mode custom."""
    topology: TopologySpec | None = None
    """Sockets, dies, cores and threads; libvirt's default is a socket for each processor."""
    features: tuple[CpuFeature, ...] = ()
    """Features to add or take away."""
    limit: Annotated[int, Field(ge=1, le=100)] | None = None
    """How many percent of a processor of the host each virtual one may take, and QEMU besides."""

    def _problems(self) -> list[SpecProblem]:
        problems = []
        if self.mode is CpuMode.CUSTOM and self.model is None:
            problems.append(SpecProblem("model", "mode custom needs a model, such as qemu64"))
        if self.mode not in {None, CpuMode.CUSTOM} and self.model is not None:
            problems.append(
                SpecProblem("model", f"a model needs mode custom; {self.mode} brings its own")
            )
        names = [feature.name for feature in self.features]
        for index, name in enumerate(names):
            if name in names[:index]:
                problems.append(SpecProblem(f"features[{index}]", f"{name} is listed twice"))
        return problems
