"""Help of commands with many options: those that most runs need are explained, the others are named."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import click

from .. import console

_ALL = "aerial_seg.help_all"
"""In the context's notes: whether every option is to be explained."""


class ShortHelp(click.Command):
    """A command whose --help explains the options `common` and names the rest, which --help-all explains too.

    common: options by the long name that is typed, as `--overwrite`. An option that is not among them is never hidden:
    its name stands in the short help.
    """

    def __init__(self, *arguments: Any, common: Sequence[str], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.common = tuple(common)
        self.params.append(
            click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_all,
                help="Explain every option and exit.",
            )
        )

    def rare(self) -> list[click.Option]:
        """The options that the short help only names, in their order."""
        options = [option for option in self.params if isinstance(option, click.Option)]
        return [
            option
            for option in options
            if not {*self.common, "--help-all"} & set(option.opts) and not option.required
        ]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options: all, or the common ones with the names of the others below."""
        if ctx.meta.get(_ALL):
            super().format_options(ctx, formatter)
            return
        rare = self.rare()
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        shown = [option for option in options if option not in rare]
        rows = [row for row in (option.get_help_record(ctx) for option in shown) if row is not None]
        with formatter.section("Options"):
            formatter.write_dl(rows)
        with formatter.section("More options, which --help-all explains"):
            # Not by the formatter, which breaks lines within names, at their hyphens.
            indent = " " * formatter.current_indent
            names = " ".join(long_name(option) for option in rare)
            wrapped = textwrap.wrap(
                names,
                formatter.width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,
            )
            formatter.buffer.append("".join(f"{line}\n" for line in wrapped))


def long_name(option: click.Option) -> str:
    """The option as people write it in full: `--output`, not `-o`."""
    return max(option.opts, key=len)


def _show_all(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        console.say(ctx.get_help())
        ctx.exit()
