"""The house: a folder is a floor, and imports go down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aerial_seg"

FLOORS = [
    {"cli"},
    {"jobs"},
    {"report"},
    {"benchmarks"},
    {"training"},
    {"inference"},
    {"models", "vectors", "synthetic"},
    {"geo"},
    {"tiling", "polygonize", "crf"},
    {"files"},
    {"base"},
]
HEIGHT = {name: len(FLOORS) - k for k, floor in enumerate(FLOORS) for name in floor}
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "cli").glob("*.py")])


def floor_of_file(path: Path) -> str:
    if path.is_relative_to(ROOT / "cli"):
        return "cli"
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else "base"


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor_of_module(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "aerial_seg" or len(parts) == 1:
        return None
    return parts[1] if parts[1] in HEIGHT or parts[1] == "configs" else "base"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return  # the public names of all floors, imported lazily
    own = floor_of_file(path)
    for module in imported_modules(path):
        other = floor_of_module(module)
        if other is None or other in (own, "configs"):
            continue
        assert HEIGHT[other] < HEIGHT[own], f"{path.name} on floor {own} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_stay_on_their_floor(path: Path) -> None:
    own = floor_of_file(path)
    roots = {module.split(".")[0] for module in imported_modules(path)}
    if own in ("geo", "tiling", "polygonize", "crf", "files", "base"):
        assert not roots & {"torch", "torchvision", "segmentation_models_pytorch"}
    if own in ("models", "tiling", "crf", "files", "base"):
        assert not roots & {"rasterio", "geopandas", "pyogrio", "shapely", "pyproj"}
    if own == "polygonize":
        assert not roots & {"rasterio", "geopandas", "pyogrio", "pyproj"}
    if own in ("tiling", "polygonize", "crf"):
        assert not roots & {"pydantic", "click"}
    if own != "cli":
        assert "click" not in roots


def test_every_folder_is_a_known_floor() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(HEIGHT)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_jobs_never_print_nor_exit() -> None:
    for path in (PACKAGE / "jobs").glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {f.id for f in calls if isinstance(f, ast.Name)} | {
            f.attr for f in calls if isinstance(f, ast.Attribute)
        }
        assert not names & {"print", "exit", "echo"}, path


def test_only_device_names_cuda_and_memory_formats() -> None:
    for path in SOURCES:
        if path.name == "device.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not attributes & {"cuda", "autocast", "channels_last"}, path
