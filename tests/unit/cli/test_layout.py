import click
from click.testing import CliRunner

from fastmesh.cli.layout import Group

EPILOG = """
Examples:
  one
    two, indented
"""


def test_an_epilog_keeps_its_lines():
    @click.group(cls=Group, epilog=EPILOG)
    def top():
        pass

    @top.command(epilog=EPILOG)
    def below():
        pass

    for arguments in (["--help"], ["below", "--help"]):
        assert CliRunner().invoke(top, arguments).output.endswith("\n\nExamples:\n  one\n    two, indented\n")
