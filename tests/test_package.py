"""The package as people install it: what it declares, what the wheel holds, and what works where only its core is installed."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sae
from tests.import_graph import ROOT, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = {"dvc"}
"""Declared, and run as commands: no module imports them."""
BY_NAME = {"umap": "map", "sklearn": "map", "obstore": "cloud", "triton": "triton"}
"""Packages behind doors of their own, which look for them when they are used, with the extra of each."""
SOURCES = ("sae", "pyproject.toml", "README.md", "LICENSE")


def declared(requirements: list[str]) -> set[str]:
    """Canonical names of the distributions in a list of requirements, but for the project itself."""
    return {canonicalize_name(Requirement(text).name) for text in requirements} - {"sae-pipeline"}


CORE = declared(PROJECT["dependencies"])
PIPELINE = declared(PROJECT["optional-dependencies"]["pipeline"])


def imported(tree: ast.AST, extra: str = "core") -> Iterator[tuple[str, str]]:
    """(top-level package, the extra it is imported under) for each import below a node of the syntax tree."""
    for node in ast.iter_child_nodes(tree):
        inside = extra
        if isinstance(node, ast.With) and ast.unparse(node.items[0].context_expr).startswith("needs("):
            inside = ast.literal_eval(node.items[0].context_expr.args[0])  # type: ignore[attr-defined]
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], inside
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0], inside
        yield from imported(node, inside)


def third_party() -> dict[str, set[str]]:
    """The extras under which the library imports each package that is neither Python's nor the project's."""
    found: dict[str, set[str]] = {}
    for name, path in modules().items():
        if name.split(".")[0] != "sae":
            continue
        for package, extra in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if package not in sys.stdlib_module_names and package != "sae":
                found.setdefault(package, set()).add(extra)
    return found


BROUGHT_BY = cache(metadata.packages_distributions)


def distributions(package: str) -> set[str]:
    """Canonical names of the installed distributions that bring a top-level package."""
    return {canonicalize_name(name) for name in BROUGHT_BY()[package]}


def test_what_is_imported_is_declared_where_it_is_needed():
    for package, extras in third_party().items():
        if package in BY_NAME:
            assert BY_NAME[package] in PROJECT["optional-dependencies"]
            continue
        brought = distributions(package)
        for extra in extras:
            wanted = CORE if extra == "core" else PIPELINE
            assert brought & wanted, f"'{package}' is imported under '{extra}' and not declared there"


def test_what_is_declared_is_imported():
    used = {name for package in third_party() if package not in BY_NAME for name in distributions(package)}
    assert CORE - used == set()
    assert PIPELINE - used == COMMANDS


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    cited = re.search(r"^version: (\S+)$", citation, re.MULTILINE)
    newest = re.search(r"^## (\S+)", changes, re.MULTILINE)
    assert cited is not None
    assert newest is not None
    assert cited[1] == newest[1] == sae.__version__


def test_windows_is_told_in_one_line():
    code = "import sys; sys.platform = 'win32'; import sae"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: sae-pipeline runs on Linux and macOS; on Windows,")


def needed(requirements: list[str]) -> set[str]:
    """The installed distributions that a list of requirements brings, with all that those need in turn."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        # An extra of a dependency is not followed: none of ours asks for one.
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += metadata.requires(name) or []
    return found


def link(distribution: str, into: Path) -> None:
    """Put an installed distribution into another environment, by links."""
    files = metadata.files(distribution) or []
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        source = metadata.distribution(distribution).locate_file(top)
        if not (into / top).exists():
            (into / top).symlink_to(source)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """Python of an environment that holds the wheel and what the core declares, and nothing else."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:  # linked, so that the build's own folders are not made in the checkout
        (source / name).symlink_to(ROOT / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(build, check=True, capture_output=True)
    python = folder / "env" / "bin" / "python"
    venv.create(folder / "env", with_pip=False)
    (wheel,) = folder.glob("*.whl")
    install = [*pip, "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    (packages,) = (folder / "env" / "lib").glob("python3*/site-packages")
    for name in sorted(needed(PROJECT["dependencies"])):
        link(name, packages)
    return python


def run_outside(python: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the environment's Python in a folder outside the checkout, as a user's shell would."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV"))}
    return subprocess.run([python, *args], capture_output=True, text=True, cwd=folder, env=clean)


TRAIN = """
import sys, sae, torch
assert "site-packages" in sae.__file__, sae.__file__
rows = torch.relu(torch.randn(4096, 16, generator=torch.Generator().manual_seed(0)))
trained = sae.train(rows, n_features=32, l1=0.1, steps=20, batch_size=256)
sae.save(trained, "made/dictionary")
loaded = sae.load("made/dictionary")
assert loaded.encode(rows).equal(trained.encode(rows))
assert loaded.run.versions["sae-pipeline"] == sae.__version__, loaded.run.versions
assert not {"transformer_lens", "datasets", "wandb", "dvc", "matplotlib"} & {name.split(".")[0] for name in sys.modules}
print("loaded", tuple(loaded.W_enc.shape))
"""


def test_the_core_alone_trains_saves_and_loads(fresh, tmp_path):
    done = run_outside(fresh, tmp_path, "-c", TRAIN)
    assert done.stdout == "loaded (32, 16)\n", done.stderr


def test_the_core_alone_has_the_command_and_names_a_missing_extra_in_one_line(fresh, tmp_path):
    command = fresh.with_name("sae")
    helped = run_outside(command, tmp_path, "--help")
    assert helped.returncode == 0, helped.stderr
    assert "Usage: sae" in helped.stdout
    code = "import sae; sae.LiveRows.open('data/A/transformer', 'data/tokens')"
    live = run_outside(fresh, tmp_path, "-c", code)
    assert re.fullmatch(
        r"sae\.errors\.MissingExtraError: this needs the package '\w+', which is not installed; "
        r"run: pip install 'sae-pipeline\[pipeline\]'",
        live.stderr.splitlines()[-1],
    )
    universality = run_outside(command, tmp_path, "universality", "A/1", "B/1")
    assert universality.returncode == 69
    assert universality.stderr.count("\n") == 1
    assert "pip install 'sae-pipeline[pipeline]'" in universality.stderr


def test_the_wheel_holds_the_library_and_nothing_else(fresh):
    (installed,) = (fresh.parent.parent / "lib").glob("python3*/site-packages/sae_pipeline-*.dist-info")
    record = (installed / "RECORD").read_text().splitlines()
    tops = {line.split("/")[0] for line in record}
    assert tops == {"..", "sae", installed.name}
    names = {line.split(",")[0] for line in record}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "sae/web/pages").iterdir()} <= names
    assert "sae/py.typed" in names
