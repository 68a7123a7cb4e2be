"""The project's import graph, read from the source: what a stage runs, and what may import what.

`python -m tests.import_graph --write` writes every stage's code into dvc.yaml and full/dvc.yaml (`make deps`).
"""

import ast
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import ruamel.yaml

ROOT = Path(__file__).resolve().parent.parent
PIPELINES = (ROOT / "dvc.yaml", ROOT / "full" / "dvc.yaml")
PACKAGES = ("sae", "pipelines")


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """Dotted names of all that a module imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = whole & modules().keys()
            found |= submodules or {node.module or ""}
            if submodules != whole and submodules:
                found.add(node.module or "")
    return frozenset(found)


def closure(module: str) -> set[str]:
    """The project's modules that run when `module` does. Packages' own `__init__`s are empty, or resolve names lazily."""
    seen, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        if current not in seen and modules()[current].name != "__init__.py":
            seen.add(current)
            waiting += [name for name in imports(current) if name in modules()]
    return seen


def stage_code(stage: dict[str, Any]) -> list[str]:
    """Paths of the code that a stage's command runs (with the pages that the browser is made from), sorted."""
    module = re.search(r"-m (pipelines\.\w+)", stage["cmd"])
    assert module, stage["cmd"]
    paths = {modules()[name].relative_to(ROOT).as_posix() for name in closure(module[1])}
    if "sae/web/browser.py" in paths:
        paths |= {page.relative_to(ROOT).as_posix() for page in (ROOT / "sae/web/pages").iterdir() if page.is_file()}
    return sorted(paths)


def bodies(pipeline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What every stage of a dvc.yaml runs and depends on, by name; a matrix is one stage."""
    return {name: stage.get("do", stage) for name, stage in pipeline["stages"].items()}


def code_of(dependencies: list[str], folder: Path) -> list[str]:
    """Those that are the project's code, from its root; `folder` is where the dvc.yaml lies."""
    paths = [Path(os.path.normpath(folder / dependency)) for dependency in dependencies if "${" not in dependency]
    inside = [path.relative_to(ROOT).as_posix() for path in paths]
    return [path for path in inside if path.split("/")[0] in PACKAGES]


def write(path: Path) -> None:
    yaml = ruamel.yaml.YAML()
    yaml.width = 130
    pipeline = yaml.load(path)
    for stage in bodies(pipeline).values():
        data = [dependency for dependency in stage["deps"] if not code_of([dependency], path.parent)]
        for _ in range(len(stage["deps"])):
            stage["deps"].pop()
        stage["deps"].extend(data + [os.path.relpath(ROOT / code, path.parent) for code in stage_code(stage)])
    with open(path, "w", encoding="utf-8") as file:
        yaml.dump(pipeline, file)


if __name__ == "__main__" and "--write" in sys.argv:
    for pipeline in PIPELINES:
        write(pipeline)
