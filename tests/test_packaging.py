"""The wheel holds what it should, and an editable install finds the folders that live outside the package."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {
    *("aerial_seg", "cli", "configs", "docs", "examples", "tests"),
    *(
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CITATION.cff",
        "LICENSE",
    ),
}


def pip(*arguments: str | Path, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without build leftovers, so that building does not touch the working tree."""
    copy = tmp_path_factory.mktemp("checkout") / "source"
    ignore = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignore)
    return copy


def folders_with_code() -> set[str]:
    inside = {p.parent.relative_to(ROOT) for p in (ROOT / "aerial_seg").rglob("*.py")}
    outside = {
        p.parent.relative_to(ROOT) for place in ("cli", "configs") for p in (ROOT / place).rglob("*.py")
    }
    return {".".join(folder.parts) for folder in inside} | {
        ".".join(("aerial_seg", *folder.parts)) for folder in outside
    }


def test_the_package_list_names_every_folder() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert set(settings["packages"]) == folders_with_code()


def optional_imports(tree: ast.Module) -> set[ast.AST]:
    """What stands in a `try` that goes on without the package."""
    return {
        node
        for attempt in ast.walk(tree)
        if isinstance(attempt, ast.Try)
        and any(one.type and "ImportError" in ast.unparse(one.type) for one in attempt.handlers)
        for part in attempt.body
        for node in ast.walk(part)
    }


def imported_packages() -> set[str]:
    """Third-party packages that the code cannot do without; extras are imported by name, or tried."""
    found: set[str] = set()
    for folder in ("aerial_seg", "cli", "configs"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            optional = optional_imports(tree)
            for node in ast.walk(tree):
                if node in optional:
                    continue
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"aerial_seg"}


def test_what_is_imported_is_asked_for_and_what_is_asked_for_is_imported() -> None:
    """Else a library that others happen to bring goes missing with them, in whatever version they like."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {re.split(r"[<>=!~ ]", one)[0].replace("-", "_") for one in project["dependencies"]}
    # pydantic asks for its own core in one exact version.
    other = {"PIL": "pillow", "pydantic_core": "pydantic"}
    imported = {other.get(name, name) for name in imported_packages()}
    assert asked == imported


def test_every_dependency_has_a_lowest_version() -> None:
    """CI installs the lowest ones; without a bound that would be the first release ever."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    unbound = [
        one
        for one in (*project["dependencies"], *(one for extra in extras.values() for one in extra))
        if ">=" not in one
    ]
    assert unbound == []


def test_the_top_level_shows_only_what_was_planned() -> None:
    shown = {
        p.name for p in ROOT.iterdir() if not p.name.startswith(".") and not p.name.endswith(".egg-info")
    }
    assert shown - {"build", "dist"} == TOP_LEVEL


def test_the_wheel_holds_the_package_and_nothing_beside_it(checkout: Path, tmp_path: Path) -> None:
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, checkout, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"aerial_seg"}
    expected = {
        f"aerial_seg/{p.relative_to(ROOT / 'aerial_seg')}" for p in (ROOT / "aerial_seg").rglob("*.py")
    }
    expected |= {
        f"aerial_seg/cli/{p.relative_to(ROOT / 'cli').as_posix()}" for p in (ROOT / "cli").rglob("*.py")
    }
    expected |= {
        f"aerial_seg/configs/{p.relative_to(ROOT / 'configs')}" for p in (ROOT / "configs").rglob("*.toml")
    }
    expected.add("aerial_seg/py.typed")
    assert expected <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_an_editable_install_finds_cli_and_configs(checkout: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip("install", "--no-deps", "--no-build-isolation", "--target", site, "-e", checkout, cwd=tmp_path)
    # Only what the .pth of the editable install leads to: an installed copy elsewhere must not answer instead.
    code = (
        f"import site, sys; site.addsitedir({str(site)!r})\n"
        "import importlib.util as util\n"
        "for name in ('aerial_seg.cli.main', 'aerial_seg.configs'): print(util.find_spec(name).origin)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    cli, configs = map(Path, done.stdout.split())
    assert cli == checkout / "cli" / "main.py"
    assert configs == checkout / "configs" / "__init__.py"


def test_programs_of_tests_import_what_is_installed_and_not_the_checkout() -> None:
    # `-c` looks into the working directory first: and finds the package there without cli and configs.
    started = re.compile(r"sys\.executable,((?:\s*\"-\w\",)*)\s*\"-c\"")
    flags = {
        f"{path.relative_to(ROOT)}:{found.start()}": found[1]
        for path in (ROOT / "tests").rglob("*.py")
        for found in started.finditer(path.read_text(encoding="utf-8"))
    }
    assert len(flags) > 10
    assert [where for where, given in flags.items() if "-P" not in given and "-I" not in given] == []
