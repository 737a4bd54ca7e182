"""What is wanted: typed, frozen, and free of any hypervisor.

`VMSpec` is the whole; every other name here is a part of it. `vmctl/spec/profiles.py` has the
defaults that are a matter of policy.
"""

from vmctl.spec.balloon import BalloonSpec
from vmctl.spec.boot import BootDevice, BootSpec
from vmctl.spec.clock import ClockOffset, ClockSpec
from vmctl.spec.cloud_init import CloudInitSpec, NtpSpec, UserSpec, WriteFileSpec
from vmctl.spec.cpu import CpuFeature, CpuMode, CpuSpec, FeaturePolicy, TopologySpec
from vmctl.spec.describing import json_schema
from vmctl.spec.disk import Discard, DiskBus, DiskCache, DiskFormat, DiskIo, DiskSpec
from vmctl.spec.firmware import FirmwareSpec, FirmwareType, TpmVersion
from vmctl.spec.graphics import GraphicsSpec, GraphicsType
from vmctl.spec.input import InputBus, InputSpec, InputType
from vmctl.spec.launch_security import LaunchSecuritySpec, LaunchSecurityType
from vmctl.spec.lifecycle import CrashAction, EndAction, PanicModel, PanicSpec
from vmctl.spec.limits import BandwidthSpec, IoTuneSpec, RateSpec
from vmctl.spec.machine import Accel, VMSpec
from vmctl.spec.media import CdromSpec, FloppySpec
from vmctl.spec.network import DnsHost, DnsSpec, MacvtapMode, NetworkMode, NetworkSpec
from vmctl.spec.network_disk import DiskProtocol, NetworkDiskSpec
from vmctl.spec.nic import ForwardSpec, LinkState, NicModel, NicSpec, NicType, Protocol
from vmctl.spec.platforms import Arch
from vmctl.spec.pool import PoolAuth, PoolHost, PoolSource, PoolSpec, PoolType, SecretReference
from vmctl.spec.profiles import ProfileName
from vmctl.spec.rng import RngSpec
from vmctl.spec.security_group import SecurityGroupSpec, SecurityRuleSpec
from vmctl.spec.serial import ConsoleSpec, ConsoleType, SerialSpec, SerialType
from vmctl.spec.share import ShareDriver, ShareSpec
from vmctl.spec.sizes import Size
from vmctl.spec.sound import SoundModel, SoundSpec
from vmctl.spec.subnet import DhcpRange, ReservationSpec, SubnetSpec
from vmctl.spec.video import VideoModel, VideoSpec
from vmctl.spec.watchdog import WatchdogAction, WatchdogModel, WatchdogSpec

__all__ = [
    "Accel",
    "Arch",
    "BalloonSpec",
    "BandwidthSpec",
    "BootDevice",
    "BootSpec",
    "CdromSpec",
    "ClockOffset",
    "ClockSpec",
    "CloudInitSpec",
    "ConsoleSpec",
    "ConsoleType",
    "CpuFeature",
    "CpuMode",
    "CpuSpec",
    "CrashAction",
    "DhcpRange",
    "Discard",
    "DiskBus",
    "DiskCache",
    "DiskFormat",
    "DiskIo",
    "DiskProtocol",
    "DiskSpec",
    "DnsHost",
    "DnsSpec",
    "EndAction",
    "FeaturePolicy",
    "FirmwareSpec",
    "FirmwareType",
    "FloppySpec",
    "ForwardSpec",
    "GraphicsSpec",
    "GraphicsType",
    "InputBus",
    "InputSpec",
    "InputType",
    "IoTuneSpec",
    "LaunchSecuritySpec",
    "LaunchSecurityType",
    "LinkState",
    "MacvtapMode",
    "NetworkDiskSpec",
    "NetworkMode",
    "NetworkSpec",
    "NicModel",
    "NicSpec",
    "NicType",
    "NtpSpec",
    "PanicModel",
    "PanicSpec",
    "PoolAuth",
    "PoolHost",
    "PoolSource",
    "PoolSpec",
    "PoolType",
    "ProfileName",
    "Protocol",
    "RateSpec",
    "ReservationSpec",
    "RngSpec",
    "SecretReference",
    "SecurityGroupSpec",
    "SecurityRuleSpec",
    "SerialSpec",
    "SerialType",
    "ShareDriver",
    "ShareSpec",
    "Size",
    "SoundModel",
    "SoundSpec",
    "SubnetSpec",
    "TopologySpec",
    "TpmVersion",
    "UserSpec",
    "VMSpec",
    "VideoModel",
    "VideoSpec",
    "WatchdogAction",
    "WatchdogModel",
    "WatchdogSpec",
    "WriteFileSpec",
    "json_schema",
]
