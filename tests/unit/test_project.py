"""Guards over the project itself: what it exports, what it ships, what its pages promise."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

import feedwater
from tests import ROOT

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "tests/README.md",
    ]
)
SHIPPED = ("client", "service", "protos")


def test_all_names_exactly_the_public_ones() -> None:
    """What `client/feedwater/__init__.py` defines, assigns or imports from its modules is in `__all__`."""
    tree = ast.parse((ROOT / "client/feedwater/__init__.py").read_text())

    assert sorted(feedwater.__all__) == sorted({"__version__", *_public_names(tree)})
    assert all(hasattr(feedwater, name) for name in feedwater.__all__)


def test_wheel_contains_every_module_and_nothing_else(tmp_path: pathlib.Path) -> None:
    """Both source roots are in the wheel, with types, and no test, document or cache is."""
    with zipfile.ZipFile(_built("wheel", tmp_path)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert names == {
        str(file.relative_to(package.parent))
        for package in (ROOT / "client/feedwater", ROOT / "service/feedwater_service")
        for file in package.rglob("*")
        if file.is_file() and _is_source(file)
    }


def test_sdist_is_clean(tmp_path: pathlib.Path) -> None:
    """The source archive holds the sources and the files that describe them: no environment, no cache."""
    with tarfile.open(_built("sdist", tmp_path)) as sdist:
        names = [pathlib.PurePath(name).parts[1:] for name in sdist.getnames()]

    files = {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert {name[0] for name in names} == {*SHIPPED, *files}
    assert not [name for name in names if "__pycache__" in name]


def test_pictures_of_the_docs_are_small() -> None:
    """None is above 160 KB: a clone fetches every version of each."""
    sizes = {file.name: file.stat().st_size for file in (ROOT / "docs/images").iterdir()}

    assert sizes
    assert {name: size for name, size in sizes.items() if size > 160_000} == {}


@pytest.mark.parametrize("marks", [set(), {"slow"}, {"real"}, {"slow", "real"}], ids=str)
def test_every_test_is_run_by_one_target_and_by_ci(marks: set[str]) -> None:
    """Of the targets that CI runs exactly one selects a test with these marks, so that none is lost."""
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci/run").read_text()
    selections = re.findall(r"^([a-z0-9-]+):.*\n\t\$\(BIN\)/pytest .*-m '(.+)'", makefile, re.MULTILINE)
    run = [wanted for target, wanted in selections if re.search(rf"make {target}(?![a-z-])", ci)]
    names = {name: name in marks for name in ("slow", "real", "soak", "nightly")}

    assert len([wanted for wanted in run if eval(wanted, {}, names)]) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_names_only_make_targets_that_exist(page: pathlib.Path) -> None:
    """Each `make TARGET` in a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {*re.findall(r"(?:`|^\s*\$?\s*)make ([a-z][a-z0-9-]*)", page.read_text(), re.MULTILINE)} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_links_only_to_files_that_exist(page: pathlib.Path) -> None:
    """Each relative link and picture in a page leads to a file of the repository."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|srcset|href)=\"([^\"#]+)\"", page.read_text())
    local = [target for pair in links for target in pair if target and "://" not in target]

    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_links_only_to_sections_that_exist(page: pathlib.Path) -> None:
    """Each `PAGE.md#section` or `#section` in a page is a heading of that page."""
    links = re.findall(r"\]\(((?:[^)#\s:]+\.md)?)#([^)\s]+)\)", page.read_text())

    assert [
        (target, section)
        for target, section in links
        if section not in _sections(page.parent / target if target else page)
    ] == []


def test_readme_names_only_commands_that_exist() -> None:
    """Each `feedwater COMMAND` in the README is one that the command line knows."""
    helped = subprocess.run(
        [sys.executable, "-m", "feedwater", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = set(re.findall(r"^ {4}([a-z]+) ", helped, re.MULTILINE))

    assert set(re.findall(r"(?:`|^\s*\$?\s*)feedwater ([a-z]+)", _readme(), re.MULTILINE)) <= commands


def test_readme_quotes_the_trainer_of_the_demo() -> None:
    """The line that the README shows as the integration is the one that the example runs."""
    integration = 'loader = feedwater.watch(loader, name="train")'

    assert integration in _readme()
    assert integration in (ROOT / "docs/examples/train_images.py").read_text()


def _sections(page: pathlib.Path) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _readme() -> str:
    return (ROOT / "README.md").read_text()


def _public_names(tree: ast.Module) -> set[str]:
    """Return the names that a module gives itself, type variables apart, which are for its signatures."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("feedwater"):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and "TypeVar" not in ast.unparse(node.value):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in names if not name.startswith("_")}


def _is_source(file: pathlib.Path) -> bool:
    return file.suffix in {".py", ".pyi"} or file.name == "py.typed" or file.parent.name == "assets"


def _built(kind: str, directory: pathlib.Path) -> pathlib.Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(directory)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (archive,) = directory.iterdir()
    return archive
