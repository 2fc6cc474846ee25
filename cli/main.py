"""The `aerial-seg` group: finds its commands by name and hands them to the net that turns errors into one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from . import COMMANDS, console
from .net import Session, exit_code_of, termination_interrupts


def _note_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if isinstance(ctx.obj, Session):
        # Called for every command, the innermost last, before anything else that is typed is looked at.
        ctx.obj.context = ctx
        ctx.obj.debug |= value


_DEBUG = click.Option(
    ["--debug"],
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_note_debug,
    help="Show the traceback of an error.",
)


def _take_debug(command: click.Command) -> None:
    """The command, and those below it, take --debug as their last option."""
    if _DEBUG not in command.params:
        command.params.append(_DEBUG)
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _take_debug(below)


class LazyGroup(click.Group):
    """Imports a command's module when it is asked for, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the work."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command `cmd_name`, from the module of that name, with _ for -."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"aerial_seg.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        _take_debug(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every command with its whole first sentence; one too long for the terminal goes on in the next line."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(limit=200)) for name, command in found if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; an unknown command is an error that names the nearest one."""
        name = args[0]
        if name in COMMANDS and isinstance(ctx.obj, Session):
            ctx.obj.command = name
        if name not in COMMANDS and not name.startswith("-"):
            from aerial_seg.errors import did_you_mean

            hint = did_you_mean(name, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}."
            raise click.UsageError(f"there is no command '{name}'{hint}", ctx=ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value and not ctx.resilient_parsing:
        from aerial_seg.version import __version__

        console.say(f"aerial-seg {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Examples:
  aerial-seg demo
  aerial-seg tile ortho.tif --labels buildings.gpkg --gsd 0.25 -o chips
  aerial-seg train chips --recipe deeplabv3 -o run
  aerial-seg predict run/best.safetensors new_ortho.tif -o map.tif --vectors map.gpkg""",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version.",
)
@click.pass_context
def group(context: click.Context) -> None:
    """Maps from aerial and satellite imagery: imagery and labels in, a trained model, a georeferenced mask and clean
    polygons out.

    Exit codes: 0 done, 1 data or processing error, 2 wrong use, 3 incomplete (run it again to go on), 130 interrupted.
    """
    if context.invoked_subcommand is None:
        console.note(context.get_help())
        context.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: an error is one line on stderr, never a traceback unless --debug asks for it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console.write_every_letter()
    with termination_interrupts():
        code = exit_code_of(_run, words)
    if code:
        sys.exit(code)


def _run(session: Session) -> int:
    """Not click's own main, which takes every EOFError for an interruption and every broken pipe for stdout's."""
    instruction = os.environ.get("_AERIAL_SEG_COMPLETE")
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(group, {}, "aerial-seg", "_AERIAL_SEG_COMPLETE", instruction)
    with group.make_context("aerial-seg", list(session.words), obj=session) as context:
        group.invoke(context)
    return 0


group.params.append(_DEBUG)
