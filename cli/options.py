"""Options that several commands share, so that a name means the same everywhere."""

from __future__ import annotations

import click

from aerial_seg.jobs.predict.settings import PredictSettings

from .setting_options import setting_option

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
overwrite = setting_option(PredictSettings, "overwrite")
device = setting_option(PredictSettings, "device")
nodata = setting_option(PredictSettings, "nodata")
no_georef = setting_option(PredictSettings, "georeferenced")
map_tiles = setting_option(PredictSettings, "map_tiles")
