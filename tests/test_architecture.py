"""The design, as a test: who may import whom, one door a heavy package, and what each DVC stage depends on."""

import ast
import fnmatch
import re

import pytest
import yaml

from pipelines.common import sections
from tests.import_graph import PIPELINES, ROOT, bodies, code_of, imports, modules, stage_code

# A unit imports from lines above its own; siblings on a line are independent. Units are folders, or files at the top.
LAYERS = [
    ["shown"],
    ["errors", "shapes", "exchange"],
    ["chance", "device", "machine_code", "paths", "processor", "provenance", "progress", "tensors", "ties"],
    ["foreign"],
    ["config", "artefact", "opened", "accumulate"],
    ["metrics", "dictionary", "reports", "storage"],
    ["kernels", "source"],
    ["training"],
    ["harvest", "features"],
    ["proxies", "interpret", "toys", "interop", "repair", "live", "automata", "splitting", "causal"],
    ["claims"],
    ["library"],
    ["web"],
    ["cli"],
]

DOORS = {
    "zarr": {"sae.storage.arrays"},
    "obstore": {"sae.storage.bucket"},
    "datasets": {"sae.source.corpus_hub"},
    "transformer_lens": {"sae.source.transformer"},
    "triton": {"sae.kernels.triton_door"},
    "numba": {
        "sae.kernels.instructions",
        *(
            f"sae.kernels.native_{name}"
            for name in ("ablation", "bytes", "effects", "features", "lists", "partners", "products", "rows")
        ),
        "sae.machine_code",
        "sae.processor",
        "sae.storage.native_gather",
    },
    "llvmlite": {"sae.kernels.instructions", "sae.processor", "sae.provenance", "sae.storage.native_gather"},
    "numcodecs": {"sae.storage.packed", "sae.storage.shards"},
    "scipy": {"sae.metrics.matching"},
    "wandb": {"sae.training.mirror"},
}


def unit(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def layer(module: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if unit(module) in names)


LIBRARY = sorted(name for name in modules() if name.startswith("sae.") and modules()[name].name != "__init__.py")


@pytest.mark.parametrize("module", LIBRARY)
def test_imports_flow_one_way(module):
    for name in imports(module) & set(LIBRARY):
        if unit(name) != unit(module):
            assert layer(name) < layer(module), f"{module} imports {name}, which is not below it"


@pytest.mark.parametrize("module", LIBRARY)
def test_library_never_imports_the_pipelines_or_the_tests(module):
    assert not {name for name in imports(module) if name.split(".")[0] in ("pipelines", "tests")}


def test_no_import_cycles():
    def visit(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module in done:
            return
        for name in imports(module) & set(LIBRARY):
            visit(name, [*path, module])
        done.add(module)

    done: set[str] = set()
    for module in LIBRARY:
        visit(module, [])


@pytest.mark.parametrize(("package", "doors"), DOORS.items())
def test_heavy_packages_have_one_door(package, doors):
    users = {module for module in modules() if any(name.split(".")[0] == package for name in imports(module))}
    assert users == doors


def test_sub_inits_are_empty():
    for name, path in modules().items():
        if path.name == "__init__.py" and name not in ("sae", "pipelines"):
            assert path.read_text() == "", f"{path} must stay empty: knots form there"


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_dvc_stages_name_exactly_the_code_they_run(path):
    for name, stage in bodies(yaml.safe_load(path.read_text())).items():
        assert code_of(stage["deps"], path.parent) == stage_code(stage), f"stage {name}: run `make deps`"


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_new_stage_or_dictionary_re_runs_only_what_needs_it(path):
    """What comes before any dictionary depends on no code of one, and nothing on the list of sections."""
    stages = bodies(yaml.safe_load(path.read_text()))
    for name in ("corpus", "tokens", "transformer", "harvest"):
        assert not [code for code in code_of(stages[name]["deps"], path.parent) if code.startswith("sae/dictionary/")], name
    assert not [name for name, stage in stages.items() if any("sections.txt" in dep for dep in stage["deps"])]


def test_every_section_that_a_stage_reads_is_known():
    read = {name for path in (ROOT / "pipelines").glob("*.py") for name in re.findall(r'section\("(\w+)"', path.read_text())}
    assert read >= {"corpus", "judge"}
    assert read <= set(sections())


def test_the_full_pipeline_is_the_default_one_with_more_dictionaries():
    """Of what both have: the same sections of the same params.yaml, and the same things come out, at their own places."""
    plain, full = (bodies(yaml.safe_load(path.read_text())) for path in PIPELINES)
    assert plain.keys() - full.keys() == {"sweep", "summary"}
    for name in plain.keys() & full.keys():
        params = full[name].get("params", [{"../params.yaml": None}])[0]["../params.yaml"]
        assert params == plain[name].get("params"), name
        kinds = [[str(out).split("/")[-1] for out in stage["outs"]] for stage in (plain[name], full[name])]
        assert kinds[0] == kinds[1], name


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_dvc_keeps_the_figures_of_every_report(path):
    """Each list of figures lies in a folder that a stage writes and DVC caches, so that it knows those of other revisions."""
    pipeline = yaml.safe_load(path.read_text())
    written = [out for stage in bodies(pipeline).values() for out in stage["outs"]]
    flags = dict(one for out in written for one in ([(out, {})] if isinstance(out, str) else out.items()))
    outs = [re.sub(r"\$\{[^}]*\}", "*", out) for out, given in flags.items() if given.get("cache", True)]
    for figures in pipeline["metrics"]:
        folder = figures.rsplit("/", 1)[0]
        assert any(fnmatch.fnmatch(folder, out) for out in outs), figures
    stages = {name for name, stage in bodies(pipeline).items() if any("reports/" in str(out) for out in stage["outs"])} - {
        "summary"
    }
    assert {figures.split("/")[-2] for figures in pipeline["metrics"]} == stages


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_dvc_removes_no_folder_that_a_stage_writes(path):
    """It would before the stage runs, whatever is in it: the stage replaces what is its own, and refuses what is not."""
    stages = bodies(yaml.safe_load(path.read_text()))
    outs = [out for stage in stages.values() for out in stage["outs"] if "summary.txt" not in out]
    assert len(outs) > 10
    assert not [out for out in outs if isinstance(out, str) or not all(given.get("persist") for given in out.values())]


def test_functions_and_files_are_small():
    for module, path in modules().items():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 330, f"{module} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = (node.end_lineno or 0) - node.body[0].lineno + 1
                assert body <= 55, f"{module}.{node.name} has {body} lines"
