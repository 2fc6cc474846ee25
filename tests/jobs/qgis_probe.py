"""Opens files in QGIS and tells what it shows; run by a Python that has QGIS, which the tests' own has not.

stdin: {"rasters": [path …], "layers": [path …], "maps": [{"paths", "extent", "size", "png"} …], "save": [path …],
"mirror": [in, out]}.
stdout: {"layers": {path: facts}, "messages": [what QGIS logged]}. paths of a map: the first lies on top. save: whose
styles QGIS saves as it shows them, as the default.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from PyQt5.QtCore import QSize
from PyQt5.QtGui import QColor
from qgis.core import (
    Qgis,
    QgsApplication,
    QgsExpression,
    QgsExpressionContext,
    QgsExpressionContextUtils,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)


def _box(layer: Any) -> list[float]:
    extent = layer.extent()
    return [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()]


def raster_facts(layer: Any) -> dict[str, Any]:
    renderer = layer.renderer()
    facts = {"valid": layer.isValid(), "renderer": renderer.type(), "extent": _box(layer)}
    if renderer.type() == "paletted":
        facts["classes"] = [[entry.value, entry.label, entry.color.name()] for entry in renderer.classes()]
    if renderer.type() == "singlebandgray":
        contrast = renderer.contrastEnhancement()
        facts["band"] = layer.bandName(renderer.grayBand())
        facts["range"] = [contrast.minimumValue(), contrast.maximumValue()]
    return facts


def layer_facts(layer: Any) -> dict[str, Any]:
    facts = {"valid": layer.isValid(), "extent": _box(layer), "features": layer.featureCount()}
    setups = {field.name(): layer.editorWidgetSetup(k) for k, field in enumerate(layer.fields())}
    facts["widgets"] = {
        name: [setup.type(), setup.config()] for name, setup in setups.items() if setup.type()
    }
    renderer = layer.renderer()
    facts["renderer"] = None if renderer is None else renderer.type()
    if facts["renderer"] == "categorizedSymbol":
        facts["column"] = renderer.classAttribute()
        facts["classes"] = [
            [entry.value(), entry.label(), entry.symbol().symbolLayer(0).fillColor().name()]
            for entry in renderer.categories()
        ]
    return facts


def draw(order: dict[str, Any], opened: dict[str, Any]) -> None:
    settings = QgsMapSettings()
    settings.setLayers([opened[path] for path in order["paths"]])
    settings.setExtent(QgsRectangle(*order["extent"]))
    settings.setOutputSize(QSize(*order["size"]))
    settings.setBackgroundColor(QColor("white"))
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    settings.setDestinationCrs(opened[order["paths"][0]].crs())
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    if job.errors() or not job.renderedImage().save(order["png"]):
        raise SystemExit(f"{order['png']}: {[error.message for error in job.errors()]}")


def mirror(source: str, target: str) -> None:
    """QGIS's own Affine transform, as a refusal of ours recommends it."""
    sys.path.append("/usr/share/qgis/python/plugins")
    from processing.core.Processing import Processing, processing
    from qgis.analysis import QgsNativeAlgorithms

    Processing.initialize()
    QgsApplication.processingRegistry().addProvider(QgsNativeAlgorithms())
    processing.run("native:affinetransform", {"INPUT": source, "SCALE_Y": -1, "OUTPUT": target})


def main() -> None:
    orders = json.load(sys.stdin)
    app = QgsApplication([], False)
    app.initQgis()
    messages: list[str] = []
    app.messageLog().messageReceived.connect(lambda text, tag, level: messages.append(f"{tag}: {text}"))
    opened = {path: QgsRasterLayer(path, Path(path).name, "gdal") for path in orders["rasters"]}
    facts = {path: raster_facts(layer) for path, layer in opened.items()}
    for path in orders["layers"]:
        opened[path] = QgsVectorLayer(path, Path(path).name, "ogr")
        QgsProject.instance().addMapLayer(opened[path], False)  # expressions find layers there
        facts[path] = layer_facts(opened[path])
        for _, config in facts[path]["widgets"].values():
            roots = config.get("PropertyCollection", {}).get("properties", {})
            for one in roots.values():
                context = QgsExpressionContext(
                    QgsExpressionContextUtils.globalProjectLayerScopes(opened[path])
                )
                one["value"] = QgsExpression(one["expression"]).evaluate(context)
    for order in orders["maps"]:
        draw(order, opened)
    for path in orders["save"]:
        if path.endswith(".gpkg"):
            opened[path].saveStyleToDatabase("mine", "", True, "")
        else:
            opened[path].saveDefaultStyle()
    if orders.get("mirror"):
        mirror(*orders["mirror"])
    json.dump({"layers": facts, "messages": messages, "version": Qgis.QGIS_VERSION}, sys.stdout)
    sys.stdout.flush()
    # QGIS crashes when Python tears it down in whatever order it likes.
    os._exit(0)


if __name__ == "__main__":
    main()
