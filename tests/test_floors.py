"""The house: a folder is a floor, and imports go down only."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aerial_seg"
TESTS = ROOT / "tests"

FLOORS = [
    {"cli"},
    {"jobs"},
    {"report"},
    {"benchmarks"},
    {"training"},
    {"inference"},
    {"models", "vectors", "synthetic", "labels"},
    {"outputs"},
    {"geo"},
    {"tiling", "polygonize", "crf"},
    {"files", "recipe"},
    {"base"},
]
HEIGHT = {name: len(FLOORS) - k for k, floor in enumerate(FLOORS) for name in floor}
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
MOST_FILES, MOST_LINES = 20, 400


def sources_below(folder: Path) -> list[Path]:
    """Every file of code in a folder of the package and in the folders within, of which there are some."""
    found = [path for path in SOURCES if path.is_relative_to(folder)]
    assert found, f"{folder} is empty: nothing would be tested"
    return found


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
    if own in ("geo", "outputs", "labels", "tiling", "polygonize", "crf", "files", "recipe", "base"):
        assert not roots & {"torch", "torchvision", "segmentation_models_pytorch"}
    if own in ("models", "tiling", "crf", "files", "recipe", "base"):
        assert not roots & {"rasterio", "geopandas", "pyogrio", "shapely", "pyproj"}
    if own == "polygonize":
        assert not roots & {"rasterio", "geopandas", "pyogrio", "pyproj"}
    if own in ("tiling", "polygonize", "crf"):
        assert not roots & {"pydantic", "click"}
    if own != "cli":
        assert "click" not in roots


def test_every_folder_is_a_known_floor() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders | {"cli", "base"} == set(HEIGHT)


def test_engines_know_no_rasters() -> None:
    for path in sources_below(PACKAGE / "inference" / "engines"):
        roots = {module.split(".")[0] for module in imported_modules(path)}
        assert not roots & {"rasterio", "geopandas", "pyogrio", "shapely", "pyproj"}, path
        assert not {floor_of_module(module) for module in imported_modules(path)} & {
            "geo",
            "outputs",
            "labels",
            "vectors",
        }, path


def test_the_device_room_opens_no_rasters() -> None:
    """Pixels come to it as tensors and arrays; numba belongs to the other carrier."""
    for path in sources_below(PACKAGE / "inference" / "device"):
        roots = {module.split(".")[0] for module in imported_modules(path)}
        assert not roots & {"rasterio", "geopandas", "pyogrio", "shapely", "pyproj", "numba"}, path


def rooms() -> list[Path]:
    """Every folder of the package that holds folders or several files."""
    return sorted({parent for path in SOURCES for parent in path.parents if parent.is_relative_to(PACKAGE)})


@pytest.mark.parametrize("folder", rooms(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_circle_among_what_a_folder_holds(folder: Path) -> None:
    """Files and folders side by side, a folder with all that it holds being one."""
    inside = ".".join(folder.relative_to(ROOT).parts) + "."
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for path in sources_below(folder):
        own = path.relative_to(folder).with_suffix("").parts[0]
        if own == "__init__":
            continue  # it names what the folder offers
        others = {
            m.removeprefix(inside).split(".")[0] for m in imported_modules(path) if m.startswith(inside)
        }
        sorter.add(own, *(others - {own}))
    sorter.prepare()  # CycleError names the circle


@pytest.mark.parametrize("root", [PACKAGE, ROOT / "cli", TESTS], ids=lambda path: path.name)
def test_files_and_folders_stay_small(root: Path) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert len(files) > 10, "nothing would be tested"
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in files
        if path.suffix == ".py" and (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}
    held = Counter(path.parent.relative_to(ROOT).as_posix() for path in files)
    assert {folder: count for folder, count in held.items() if count > MOST_FILES} == {}


def test_jobs_never_print_nor_exit() -> None:
    for path in sources_below(PACKAGE / "jobs"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {f.id for f in calls if isinstance(f, ast.Name)} | {
            f.attr for f in calls if isinstance(f, ast.Attribute)
        }
        assert not names & {"print", "exit", "echo"}, path


def test_only_device_names_cuda_and_memory_formats() -> None:
    seen = sources_below(PACKAGE)
    assert [path for path in seen if path.name == "device.py"] == [PACKAGE / "models" / "device.py"]
    for path in SOURCES:
        if path.name == "device.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not attributes & {"cuda", "autocast", "channels_last"}, path
