"""A project of QGIS opens with all its layers, in groups, in their colours, wherever the folder goes."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS

from aerial_seg.errors import OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.jobs.report.job import report_map
from aerial_seg.jobs.report.settings import ReportSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.legend import make_legend
from aerial_seg.outputs.maps import write_mask
from aerial_seg.vectors.from_mask.settings import VectorizeSettings

PYTHON = Path("/usr/bin/python3")
LEGEND = make_legend({0: "background", 3: "<b>\"road\" & 'rail'</b>", 7: "Gewässer"}, background=[0])
GRID = Grid(CRS(32645), Affine(2.0, 0, 300_000, 0, -2.0, 3_060_000), 40, 60)
LOOK = """
import json, os, sys
from qgis.core import QgsApplication, QgsProject, QgsMapSettings, QgsMapRendererParallelJob
from PyQt5.QtCore import QSize
app = QgsApplication([], False)
app.initQgis()
project = QgsProject.instance()
assert project.read(sys.argv[1]), project.error()
root = project.layerTreeRoot()
found = {
    "title": project.title(), "crs": project.crs().authid(),
    "groups": {group.name(): [[one.name(), one.isVisible()] for one in group.findLayers()]
               for group in root.findGroups()},
    "layers": {one.name(): [one.isValid(), one.crs().authid(), one.renderer().type()]
               for one in project.mapLayers().values()},
    "classes": {one.name(): [[c.value, c.label, c.color.name()] for c in one.renderer().classes()]
                for one in project.mapLayers().values() if one.renderer().type() == "paletted"},
}
settings = QgsMapSettings()
settings.setLayers([one.layer() for one in root.findLayers() if one.isVisible()])
settings.setDestinationCrs(project.crs())
settings.setExtent([one for one in project.mapLayers().values() if one.name() == "map.tif"][0].extent())
settings.setOutputSize(QSize(600, 400))
job = QgsMapRendererParallelJob(settings)
job.start()
job.waitForFinished()
assert job.renderedImage().save(sys.argv[2])
print(json.dumps(found), flush=True)
os._exit(0)
"""


def project(folder: Path) -> Path:
    """A mask, its confidence and polygons, labels of another name, and imagery in a folder beside."""
    (folder / "imagery").mkdir(parents=True)
    random = np.random.default_rng(0)
    values = np.kron(random.choice([0, 3, 7], (8, 12)), np.ones((5, 5), int)).astype(np.uint8)
    mask, image = folder / "map.tif", folder / "imagery" / "a 'b' & c.tif"
    write_mask(mask, values, grid=GRID, legend=LEGEND)
    vectorize(mask, folder / "map.gpkg", VectorizeSettings())
    vectorize(mask, folder / "truth.gpkg", VectorizeSettings())
    facts = {
        "driver": "GTiff",
        "height": 40,
        "width": 60,
        "dtype": "uint8",
        "crs": 32645,
        "transform": GRID.transform,
    }
    with rasterio.open(folder / "map_confidence.tif", "w", count=1, nodata=255, **facts) as opened:
        opened.write(random.integers(0, 251, (40, 60), dtype=np.uint8), 1)
        opened.scales = (0.004,)
    with rasterio.open(image, "w", count=3, **facts) as opened:
        opened.write(random.integers(1, 255, (3, 40, 60), dtype=np.uint8))
    report = report_map(mask, folder / "map.qgz", [folder / "truth.gpkg"], ReportSettings(image=image))
    assert report.evaluation is None
    return report.path


def test_a_project_names_its_files_from_its_own_folder_on(tmp_path: Path) -> None:
    path = project(tmp_path / "a")
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        root = Xml.fromstring(archive.read(name))
    assert name == "map.qgs"
    sources = [one.findtext("datasource") for one in root.iter("maplayer")]
    assert sources == [
        "./truth.gpkg|layername=truth", "./map.gpkg|layername=map", "./map.tif", "./map_confidence.tif",
        "./imagery/a 'b' & c.tif",
    ]  # fmt: skip
    assert [one.get("name") for one in root.iter("layer-tree-group")] == [None, "Labels", "Map", "Imagery"]
    again = project(tmp_path / "b")
    assert again.read_bytes() == path.read_bytes()


def test_a_file_that_a_project_cannot_name_is_refused(tmp_path: Path) -> None:
    write_mask(
        tmp_path / "a|b.tif",
        np.zeros((4, 5), np.uint8),
        grid=Grid(None, Affine.identity(), 4, 5),
        legend=LEGEND,
    )
    with pytest.raises(OutputError, match="rename it"):
        report_map(tmp_path / "a|b.tif", tmp_path / "map.qgz")
    assert not (tmp_path / "map.qgz").exists()


@pytest.mark.slow
def test_qgis_opens_the_project_wherever_the_folder_goes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "LC_ALL": "C.UTF-8",
        "QT_QPA_PLATFORM": "offscreen",
    }  # fmt: skip
    if (
        not PYTHON.exists()
        or subprocess.run([PYTHON, "-c", "import qgis.core"], env=environment, check=False).returncode
    ):
        pytest.skip(
            f"NOT TESTED: {PYTHON} has no QGIS; on Debian: apt-get install --no-install-recommends python3-qgis"
        )
    project(tmp_path / "made")
    folder = (tmp_path / "made").rename(tmp_path / "moved")
    picture = tmp_path / "seen.png"
    done = subprocess.run(
        [PYTHON, "-c", LOOK, folder / "map.qgz", picture],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["title"] == "Report on map.tif"
    assert seen["crs"] == "EPSG:32645"
    assert seen["groups"] == {
        "Labels": [["truth.gpkg", True]],
        "Map": [["map.gpkg: map", False], ["map.tif", True], ["map_confidence.tif", False]],
        "Imagery": [["a 'b' & c.tif", True]],
    }
    assert seen["layers"] == {
        "truth.gpkg": [True, "EPSG:32645", "singleSymbol"],
        "map.gpkg: map": [True, "EPSG:32645", "categorizedSymbol"],
        "map.tif": [True, "EPSG:32645", "paletted"],
        "map_confidence.tif": [True, "EPSG:32645", "singlebandgray"],
        "a 'b' & c.tif": [True, "EPSG:32645", "multibandcolor"],
    }
    assert seen["classes"]["map.tif"] == [[one.value, one.name, one.colour] for one in LEGEND.entries]
    assert picture.stat().st_size > 10_000
