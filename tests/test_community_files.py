"""What stands around the code agrees with it: citation, workflow, issue forms, and what SECURITY.md promises."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = ROOT / ".github" / "workflows" / "tests.yml"


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version() -> None:
    citation = loaded(ROOT / "CITATION.cff")
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])
    assert (citation["license"], citation["keywords"]) == (PROJECT["license"], PROJECT["keywords"])
    assert citation["abstract"].rstrip() == PROJECT["description"]


def test_the_workflow_tests_every_system_and_python() -> None:
    jobs = loaded(WORKFLOW)["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "windows", "macos"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    for name, job in jobs.items():
        assert "timeout-minutes" in job, name


def test_the_extras_that_are_named_exist() -> None:
    """In the workflow, CI's script, the hooks and the documents: pip only warns about an extra that is not there."""
    places = [WORKFLOW, ROOT / ".ci" / "run", ROOT / ".pre-commit-config.yaml"]
    places += [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    found = {
        extra
        for place in places
        for names in re.findall(r"(?:aerial-seg|\"\.)\[([a-z,]+)\]", place.read_text(encoding="utf-8"))
        for extra in names.split(",")
    }
    assert {"test", "dev", "onnx"} <= found <= set(PROJECT["optional-dependencies"])


def test_issue_forms_ask_each_thing_once() -> None:
    for form in ("bug.yml", "feature.yml"):
        body = loaded(ROOT / ".github" / "ISSUE_TEMPLATE" / form)["body"]
        ids = [part["id"] for part in body if part["type"] != "markdown"]
        assert len(set(ids)) == len(ids) >= 4
        assert all(part["attributes"]["label"] for part in body if part["type"] != "markdown")


def calls() -> list[tuple[str, ast.Call]]:
    """Every call in the code as it is written: `torch.load`, `eval`."""
    return [
        (ast.unparse(node.func), node)
        for folder in ("aerial_seg", "cli", "configs")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def test_no_file_can_bring_code_along() -> None:
    """As SECURITY.md says: pickles are read as tensors alone, with a torch that keeps to that."""
    loads = [node for name, node in calls() if name == "torch.load"]
    assert len(loads) >= 1
    for node in loads:
        (only,) = [word.value for word in node.keywords if word.arg == "weights_only"]
        assert isinstance(only, ast.Constant)
        assert only.value is True
    running = re.compile(
        r"eval|exec|compile|.*pickle\.loads?|.*Unpickler|marshal\.loads?|yaml\.load|joblib\.load|(np|numpy)\.load|"
        r"os\.system|subprocess\.(run|call|check_call|check_output|Popen)|torch\.jit\.load|torch\.hub\.load"
    )
    assert [name for name, _ in calls() if running.fullmatch(name)] == []
    (torch,) = [one for one in PROJECT["dependencies"] if one.startswith("torch>")]
    assert tuple(map(int, torch.removeprefix("torch>=").split("."))) >= (2, 6)
