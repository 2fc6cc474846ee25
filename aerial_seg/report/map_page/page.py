"""The page itself: one text that holds its style, its program and its pictures, and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aerial_seg.report.map_page.content import Content, View
from aerial_seg.report.map_page.html import Section, text
from aerial_seg.report.map_page.more_sections import assessment_section, data_uri, training_section
from aerial_seg.report.map_page.sections import (
    area_section,
    confusion_section,
    fact_section,
    place_section,
    reliability_section,
    score_section,
    told_intervals,
)
from aerial_seg.version import __version__

Pixels = NDArray[np.uint8]

_PROGRAM = ("viewer.js", "controls.js", "tables.js")
_LAYERS = {
    "image": ("image", 100), "map": ("map", 60), "labels": ("labels", 60), "confidence": ("confidence", 80),
    "errors": ("errors", 90),
}  # fmt: skip
"""By name: what a reader calls it, and how opaque it is at first, in per cent."""
_KEYS = (
    "Drag to move, double-click or pinch to zoom; the wheel zooms once the map has been pressed. Keys on the map: "
    "arrows move, + and − zoom, 0 shows all, [ and ] swipe."
)


def map_page(content: Content) -> str:
    """HTML of a report on a map."""
    sections = [
        area_section(content.areas, content.legend),
        *_of_scores(content),
        place_section(content.places),
        None if content.assessment is None else assessment_section(content.assessment, content.legend),
        None if content.training is None else training_section(content.training),
        fact_section(content),
    ]
    shown = [Section("map", "Map", _viewer(content)), *(one for one in sections if one is not None)]
    lead = f"{content.width:,} × {content.height:,} pixels, {len(content.legend)} classes"
    return html_page(content.title, lead, shown)


def _of_scores(content: Content) -> list[Section | None]:
    if content.scores is None:
        return []
    told = "" if content.intervals is None else told_intervals(content.intervals, content.square)
    return [
        score_section(content.scores, content.intervals, content.legend, told),
        confusion_section(content.scores),
        None if content.bins is None else reliability_section(content.bins),
    ]


def html_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """A whole page of sections. No markup comes from data, and only this program may run, whatever data hold."""
    program = "\n".join(_own(name) for name in _PROGRAM)
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode("ascii")
    rules = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    links = "".join(f'<a href="#{one.anchor}">{text(one.title)}</a>' for one in sections)
    parts = [
        "<!doctype html>",
        '<html lang="en" data-theme="auto"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{rules}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{text(title)}</title>",
        f"<style>{_own('page.css')}</style></head><body>",
        f'<a class="skip" href="#{sections[0].anchor}">To the content</a>',
        '<header><div class="tools"><label>Colours <select id="theme"><option value="auto">as the system</option>'
        '<option value="light">light</option><option value="dark">dark</option></select></label>'
        '<button type="button" id="print">Print</button></div>',
        f'<h1>{text(title)}</h1><p class="lead">{text(lead)}</p><nav aria-label="Sections">{links}</nav>'
        "</header><main>",
        *(
            f'<section id="{one.anchor}" aria-label="{text(one.title)}"><h2>{text(one.title)}</h2>{one.html}</section>'
            for one in sections
        ),
        f"</main><footer>aerial-seg {text(__version__)}</footer>",
        f"<script>{program}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _own(name: str) -> str:
    return files("aerial_seg.report.map_page").joinpath(name).read_text(encoding="utf-8")


def _viewer(content: Content) -> str:
    first = content.views[0]
    there = {
        "image": first.image is not None, "map": True, "labels": first.truth is not None,
        "confidence": first.confidence is not None, "errors": first.truth is not None,
    }  # fmt: skip
    layers = [name for name, is_there in there.items() if is_there]
    seen = ("image", "map") if first.truth is None else ("image", "map", "errors")
    rows = [
        f'<div class="layer"><label><input type="checkbox" data-layer="{name}"{_if(name in seen, "checked")}> '
        f'{_LAYERS[name][0]}</label><input type="range" min="0" max="100" value="{_opacity(name, first)}" '
        f'data-opacity="{name}" aria-label="Opacity of {_LAYERS[name][0]}"></div>'
        for name in layers
    ]
    above = [name for name in layers if name != "image"]
    options = "".join(f'<option value="{name}">{_LAYERS[name][0]}</option>' for name in above)
    classes = "".join(
        f'<label><input type="checkbox" data-class="{k}" checked> <span class="swatch" '
        f'style="background:{text(entry.colour)}"></span>{text(entry.name)}</label>'
        for k, entry in enumerate(content.legend.entries)
    )
    return "\n".join(
        (
            '<div class="viewer"><div><div class="stage"><canvas id="view" tabindex="0" role="application" '
            'aria-label="Map: arrows move, plus and minus zoom, 0 shows all" aria-describedby="keys"></canvas>'
            '<div id="swipe-line" hidden></div></div><p id="readout" role="status"></p></div>',
            '<div class="controls">',
            '<fieldset class="no-print"><legend>Zoom</legend><div class="row">'
            '<button type="button" id="zoom-in" aria-label="Zoom in">+</button>'
            '<button type="button" id="zoom-out" aria-label="Zoom out">−</button>'
            '<button type="button" id="zoom-fit">show all</button></div></fieldset>',
            f'<fieldset class="no-print"><legend>Layers and their opacity</legend>{"".join(rows)}',
            _errors(content) if there["errors"] else "",
            "</fieldset>",
            '<fieldset class="no-print"><legend>Swipe</legend><div class="row"><select id="swipe" '
            f'aria-label="Layer to swipe"><option value="">nothing</option>{options}</select></div>'
            '<input type="range" id="swipe-at" min="0" max="100" value="50" disabled aria-label="Where the swiped '
            'layer ends"></fieldset>',
            f'<fieldset><legend>Classes</legend><div class="classes">{classes}</div><div class="row no-print">'
            '<button type="button" data-classes="all">all</button><button type="button" data-classes="none">none'
            "</button></div></fieldset></div></div>",
            f'<p id="keys" class="lead">{text(_KEYS)}</p>',
            f'<script type="application/json" id="data">{_json(_data(content))}</script>',
        )
    )


def _errors(content: Content) -> str:
    options = '<option value="-1">all classes: share wrong</option>' + "".join(
        f'<option value="{k}">{text(entry.name)}</option>' for k, entry in enumerate(content.legend.entries)
    )
    key = "".join(
        f'<span><span class="swatch" style="background:{colour}"></span>{name}</span>'
        for name, colour in (("miss", "#d55e00"), ("false alarm", "#f0e442"), ("hit", "#009e73"))
    )
    return (
        f'<div class="row"><label>Errors of <select id="errors-of">{options}</select></label></div>'
        f'<div class="row">{key}</div>'
    )


def _opacity(name: str, first: View) -> int:
    """Without imagery below nothing has to shine through."""
    return 100 if name == "map" and first.image is None else _LAYERS[name][1]


def _if(condition: bool, word: str) -> str:
    return f" {word}" if condition else ""


def _data(content: Content) -> dict[str, Any]:
    return {
        "height": content.height,
        "width": content.width,
        "transform": content.transform,
        "classes": [{"name": entry.name, "colour": entry.colour} for entry in content.legend.entries],
        "views": [_view(one) for one in content.views],
        "places": [[one.top, one.left, one.height, one.width] for one in content.places],
    }


def _view(view: View) -> dict[str, Any]:
    h, w = view.classes.shape
    found: dict[str, Any] = {
        "top": view.top, "left": view.left, "height": view.height, "width": view.width, "h": h, "w": w,
        "classes": _packed(view.classes),
    }  # fmt: skip
    for name, pixels in (("truth", view.truth), ("confidence", view.confidence), ("errors", view.errors)):
        if pixels is not None:
            found[name] = _packed(pixels)
    if view.image is not None:
        data = io.BytesIO()
        Image.fromarray(view.image).save(data, "JPEG", quality=85)
        found["image"] = data_uri(data.getvalue(), "image/jpeg")
    return found


def _packed(pixels: Pixels) -> str:
    """The bytes, row by row: what is read back from a picture a browser may have changed."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(pixels).tobytes(), 6)).decode("ascii")


def _json(document: Any) -> str:
    """JSON that no text in it can end: it lies within a page."""
    written = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
