"""What the documents say is there: links, anchors, paths, names, commands and their options."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

import aerial_seg
from aerial_seg.cli.main import group

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES]
ASIDE = ("cli", "configs", "tests", "docs", "examples")
"""Folders beside the package; other paths in a document are those of aerial_seg/."""

fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def prose(document: Path) -> str:
    """The text without its code blocks."""
    return fence.sub("", document.read_text(encoding="utf-8"))


def blocks(document: Path, language: str) -> list[str]:
    return [text for kind, text in fence.findall(document.read_text(encoding="utf-8")) if kind == language]


def links(document: Path) -> list[str]:
    without_code = re.sub(r"`[^`]*`", "", prose(document))
    return re.findall(r"\]\(([^)\s]+)\)", without_code)


def anchors(document: Path) -> set[str]:
    """The names that the headings have as anchors: lower case, without punctuation, dashes for blanks."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@named
def test_code_blocks_are_closed(document: Path) -> None:
    """Else the rest of the page is code, and no test below reads it as what it is."""
    fences = [line for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("```")]
    assert [bool(line.strip("`")) for line in fences[1::2]] == [False] * (len(fences) // 2)
    assert len(fences) % 2 == 0


@named
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / unquote(name)).resolve() if name else document
        assert target.is_relative_to(ROOT), link
        assert target.exists(), f"{document.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{document.name}: {link}; {target.name} has {anchors(target)}"


def test_the_readme_stays_short_and_leads_to_the_pages() -> None:
    readme = ROOT / "README.md"
    assert readme.stat().st_size <= 9_000
    assert "docs/index.md" in links(readme)


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    assert {link for link in links(index) if "/" not in link} == {
        page.name for page in PAGES if page != index
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_begins_with_what_the_reader_gets(page: Path) -> None:
    title, blank, first = page.read_text(encoding="utf-8").splitlines()[:3]
    assert title.startswith("# ")
    assert blank == ""
    assert re.match(r"You (get|find) ", first)


def command_lines(document: Path) -> Iterator[list[str]]:
    """The arguments of every `aerial-seg …` in the document's sh blocks."""
    for text in blocks(document, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "aerial-seg" in words:
                words = words[words.index("aerial-seg") + 1 :]
                yield words[: words.index("&&")] if "&&" in words else words


@named
def test_every_command_that_a_document_shows_can_be_typed(document: Path) -> None:
    """Commands and options exist, and no argument is missing; the files named are the reader's."""
    for words in command_lines(document):
        command: click.Command | None = group
        arguments = words
        while isinstance(command, click.Group):
            if not arguments:
                break
            context = click.Context(command, info_name=arguments[0], **group.context_settings)
            command, arguments = command.get_command(context, arguments[0]), arguments[1:]
        assert command is not None, words
        if isinstance(command, click.Group):
            continue
        context = click.Context(command, **group.context_settings)
        values, left, _ = command.make_parser(context).parse_args(list(arguments))
        assert left == [], words
        for parameter in command.params:
            assert not parameter.required or values.get(parameter.name or "") not in (None, ()), words


def code_spans(text: str) -> set[str]:
    """What prose and tables write as code."""
    return {re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", text)}


def is_path(text: str) -> bool:
    """Whether it reads as a path of this repository, not as an option, a command or a reader's file."""
    if re.search(r"[\s<>{}$=:…]|NAME|OUT", text):
        return False
    return text.split("/")[0] in (*ASIDE, "aerial_seg", ".ci", ".github") or text.endswith(".py")


def files_of(text: str) -> list[Path]:
    """What the path stands for: from the top, or from the package."""
    return [found for folder in (ROOT, ROOT / "aerial_seg") for found in folder.glob(text.rstrip("/"))]


@named
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    if document.name == "CHANGELOG.md":
        return  # it tells of what was
    missing = [text for text in code_spans(prose(document)) if is_path(text) and not files_of(text)]
    assert missing == []


def tree(text: str) -> Iterator[str]:
    """The paths of an indented picture of folders: `aerial_seg/` and what stands below it."""
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = re.match(r"( *)([\w.*]+/?)( |$)", line)
        if found is None:
            continue
        indent = len(found[1])
        above = [(depth, name) for depth, name in above if depth < indent]
        if found[2].endswith("/"):
            above.append((indent, found[2]))
            yield "".join(name for _, name in above)


def test_the_picture_of_the_house_shows_every_room() -> None:
    """CONTRIBUTING draws all folders with code, and none that is not there."""
    (picture,) = [text for text in blocks(ROOT / "CONTRIBUTING.md", "") if "aerial_seg/" in text]
    drawn = {path.rstrip("/") for path in tree(picture)}
    there = {
        path.parent.relative_to(ROOT).as_posix()
        for folder in ("aerial_seg", "cli", "configs")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert drawn == there


def defined_in(path: Path) -> set[str]:
    """The functions, classes, fields, methods and constants of a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


WORDS = {"pytest", "click", "ruff", "mypy", "height", "width"}
"""Programs, libraries and keywords that CONTRIBUTING names as they are typed."""


def test_every_name_in_contributing_is_in_a_file_that_stands_beside_it() -> None:
    """A guide that names what is gone sends people nowhere. The files are those of the paragraph, row or step."""
    passages = re.split(r"\n\n|\n(?=\d\. |- |\|)", prose(ROOT / "CONTRIBUTING.md"))
    seen = 0
    for passage in passages:
        spans = code_spans(passage)
        files = [file for text in spans if is_path(text) for file in files_of(text)]
        sources = [
            source for file in files for source in ([file] if file.suffix == ".py" else file.glob("*.py"))
        ]
        known = set().union(*(defined_in(source) for source in sources))
        for text in spans:
            if re.fullmatch(r"_?[A-Za-z]\w*", text) and text not in WORDS:
                seen += 1
                assert text in known, (
                    f"{text} is in none of {[str(file.relative_to(ROOT)) for file in files]}"
                )
    assert seen >= 12


def test_the_readme_shows_python_in_five_lines() -> None:
    """tests/jobs/test_demo.py runs them on what the demo leaves behind."""
    (text,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in text.splitlines() if line.strip()]) == 5


@named
def test_every_name_of_the_package_in_python_is_public(document: Path) -> None:
    for text in blocks(document, "python"):
        module = ast.parse(text)
        known = {
            alias.asname or alias.name
            for node in ast.walk(module)
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.name == "aerial_seg"
        }
        used = {
            node.attr
            for node in ast.walk(module)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known
        }
        assert used <= set(aerial_seg.__all__), document.name
