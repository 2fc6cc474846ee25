"""aerial-seg assess"""

from __future__ import annotations

import click

from .design import design_command
from .report import report_command


@click.group(
    "assess",
    subcommand_metavar="design|report [ARGS]...",
    epilog="""\b
Examples:
  aerial-seg assess design map.tif -o points.gpkg
  aerial-seg assess design map.tif --standard-error 0.01 --minimum 75 --image ortho.tif -o points.gpkg
  aerial-seg assess report points.gpkg map.tif""",
)
def command() -> None:
    """State a map's accuracy and the areas of its classes, with intervals, as science wants them.

    design draws a random sample of the map's pixels, class by class; you look at each point in QGIS and say what is
    there; report estimates from that (Olofsson et al. 2014, Remote Sensing of Environment 148).
    """


command.add_command(design_command)
command.add_command(report_command)
