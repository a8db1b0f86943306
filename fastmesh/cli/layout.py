"""How the help of commands is laid out."""

from __future__ import annotations

import click


class Command(click.Command):
    """Keeps the line breaks of the epilog, which holds examples."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write_paragraph()
            formatter.write("\n".join(self.epilog.strip("\n").splitlines()) + "\n")


class Group(click.Group):
    command_class = Command
    format_epilog = Command.format_epilog  # type: ignore[assignment]
