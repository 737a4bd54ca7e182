"""The command ``vmctl``: what there is below it, and how it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from vmctl import __version__
from vmctl.cli.context import App
from vmctl.cli.errors import catch_signals, guarded
from vmctl.cli.lazy import LazyGroup

__all__ = ["root", "run"]

_PACKAGE = "vmctl.cli"
_SECTIONS = {
    "Machines": {
        "launch": f"{_PACKAGE}.machines:launch",
        "create": f"{_PACKAGE}.machines:create",
        "list": f"{_PACKAGE}.machines:list_machines",
        "info": f"{_PACKAGE}.machines:info",
        "audit": f"{_PACKAGE}.audit:audit",
        "stats": f"{_PACKAGE}.watching:stats",
        "top": f"{_PACKAGE}.watching:top",
        "events": f"{_PACKAGE}.watching:events",
        "rename": f"{_PACKAGE}.upkeep:rename",
        "delete": f"{_PACKAGE}.machines:delete",
        "apply": f"{_PACKAGE}.change:apply",
        "set": f"{_PACKAGE}.change:set_",
        "snapshot": f"{_PACKAGE}.snapshot:snapshot",
        "clone": f"{_PACKAGE}.clone:clone",
        "flatten": f"{_PACKAGE}.flatten:flatten",
        "backup": f"{_PACKAGE}.backup:backup",
        "export": f"{_PACKAGE}.transfer:export",
        "import": f"{_PACKAGE}.transfer:import_",
    },
    "Power": {
        "start": f"{_PACKAGE}.power:start",
        "stop": f"{_PACKAGE}.power:stop",
        "restart": f"{_PACKAGE}.power:restart",
        "reset": f"{_PACKAGE}.power:reset",
        "pause": f"{_PACKAGE}.power:pause",
        "resume": f"{_PACKAGE}.power:resume",
        "save": f"{_PACKAGE}.power:save",
        "discard-saved": f"{_PACKAGE}.power:discard_saved",
        "autostart": f"{_PACKAGE}.upkeep:autostart",
        "nmi": f"{_PACKAGE}.upkeep:nmi",
        "dump": f"{_PACKAGE}.upkeep:dump",
    },
    "Devices": {
        "disk": f"{_PACKAGE}.disk:disk",
        "nic": f"{_PACKAGE}.nic:nic",
        "port": f"{_PACKAGE}.port:port",
        "cdrom": f"{_PACKAGE}.cdrom:cdrom",
    },
    "Inside the guest": {
        "wait": f"{_PACKAGE}.guest:wait",
        "ssh": f"{_PACKAGE}.guest:ssh",
        "exec": f"{_PACKAGE}.guest:execute",
        "console": f"{_PACKAGE}.console:console",
        "cp": f"{_PACKAGE}.cp:cp",
        "forward": f"{_PACKAGE}.reaching:forward",
        "agent": f"{_PACKAGE}.agent:agent",
        "ssh-config": f"{_PACKAGE}.reaching:ssh_config",
        "ssh-proxy": f"{_PACKAGE}.reaching:ssh_proxy",
        "logs": f"{_PACKAGE}.guest:logs",
        "screenshot": f"{_PACKAGE}.screen:screenshot",
        "send-key": f"{_PACKAGE}.screen:send_key",
        "type": f"{_PACKAGE}.screen:type_",
        "display": f"{_PACKAGE}.display:display",
    },
    "Storage": {
        "pool": f"{_PACKAGE}.pool:pool",
        "image": f"{_PACKAGE}.image:image",
        "volume": f"{_PACKAGE}.volume:volume",
    },
    "Networks": {
        "network": f"{_PACKAGE}.network:network",
        "addresses": f"{_PACKAGE}.naming:addresses",
        "hosts-file": f"{_PACKAGE}.naming:hosts_file",
        "security-group": f"{_PACKAGE}.security_group:security_group",
    },
    "Specs": {
        "validate": f"{_PACKAGE}.spec:validate",
        "render": f"{_PACKAGE}.spec:render",
        "schema": f"{_PACKAGE}.spec:schema",
    },
    "Hosts": {
        "doctor": f"{_PACKAGE}.doctor:doctor",
        "gc": f"{_PACKAGE}.gc:gc",
        "host": f"{_PACKAGE}.host:host",
    },
}


class _Root(LazyGroup):
    """The whole command line. It ends with vmctl's own exit codes and prints its own errors."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run it, and exit."""
        if "_VMCTL_COMPLETE" in os.environ:
            super().main(args, "vmctl", complete_var, standalone_mode, **extra)
        app = App()
        words = sys.argv[1:] if args is None else list(args)

        def call() -> Any:
            with self.make_context(prog_name or "vmctl", words, obj=app, **extra) as context:
                return self.invoke(context)

        sys.exit(guarded(call, debug=lambda: app.debug))


root = _Root(
    "vmctl",
    sections=_SECTIONS,
    help="Manage virtual machines on KVM/QEMU through libvirt.",
    epilog="The options stand before the command or after it. VMCTL_URI, VMCTL_FORMAT, VMCTL_POOL "
    "and VMCTL_ACCEL, then ~/.config/vmctl/config.toml, say what no flag says.",
    context_settings={"help_option_names": ["--help", "-h"]},
)
root.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=lambda context, _parameter, value: _version(context) if value else None,
        help="Print the version and exit.",
    )
)


def _version(context: click.Context) -> None:
    click.echo(f"vmctl {__version__}")
    context.exit()


def run() -> NoReturn:
    """Run the command line of this process."""
    # paramiko takes several times as long to load with invoke, which it does without just as well:
    # it is for `Match exec` in SSH's configuration, which vmctl leaves to ssh. None stands for a
    # module that isn't there.
    sys.modules.setdefault("invoke", None)  # type: ignore[arg-type]
    catch_signals()
    root.main(prog_name="vmctl")
