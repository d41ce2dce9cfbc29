"""The ``kubetune`` command line; subcommands are imported only when they are used.

The operator starts through here too, so nothing heavy may be imported by this module.
"""

import importlib
import importlib.util

import click

COMMANDS = {
    "quickstart": "kubetune.cli.quickstart",
    "up": "kubetune.cli.cluster",
    "down": "kubetune.cli.cluster",
    "status": "kubetune.cli.cluster",
    "kubeconfig": "kubetune.cli.cluster",
    "kubectl": "kubetune.cli.cluster",
    "logs": "kubetune.cli.logs",
    "validate": "kubetune.cli.validate",
    "compare": "kubetune.cli.compare",
    "verify": "kubetune.cli.verify",
    "operator": "kubetune.cli.operator",
}


class LazyGroup(click.Group):
    """A group whose commands live in the modules of ``COMMANDS``, under their own names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, module in COMMANDS.items() if importlib.util.find_spec(module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        return getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kubetune")
def main() -> None:
    """Declarative fine-tuning of language models on Kubernetes.

    \b
    Try it on this machine, without Docker or root:
      kubetune quickstart                          fine-tune a small model, from nothing
      kubetune up                                  start a local cluster
      export KUBECONFIG=$(kubetune kubeconfig)     point kubectl at it
      kubetune kubectl -- get ftj -A -w            or use the kubectl that comes with it
      kubetune down                                stop it; state stays for the next up
    """
