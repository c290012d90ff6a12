"""Imports point one way: pipeline -> streams -> monitoring -> components -> models, serving; there are no circles."""

import ast
import collections
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP = "bertline"
# layer -> the layers it may import beside itself; what stands in bertline/ itself may be imported by all of them
ALLOWED = {
    "pipeline": {"monitoring", "streams", "components", "models", "serving"},
    "streams": {"monitoring", "components", "models", "serving"},
    "monitoring": {"components", "models", "serving"},
    "components": {"models", "serving"},
    "models": set(),
    "serving": set(),
}
OUTSIDE = {"benchmarks", "tests"}
FILES = sorted(file for layer in (TOP, *ALLOWED) for file in (ROOT / layer).rglob("*.py"))


def module_name(file):
    """The import name of a file of the repository."""
    parts = [*file.relative_to(ROOT).with_suffix("").parts]
    parts = parts if parts[0] == TOP else [TOP, *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_name(file):
    name = module_name(file)
    return name if file.stem == "__init__" else name.rpartition(".")[0]


def imported_modules(source: str, package: str) -> set[str]:
    """Absolute names of all modules that `source`, a module of `package`, imports anywhere, functions included."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from . import x` and `from package import x` may both name a module by x.
            modules |= {f"{base}.{alias.name}".strip(".") for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            modules |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return modules


def layer_of(module):
    """The layer of an import name; "" for what stands in bertline/ itself, None for what is not ours."""
    first, _, rest = module.partition(".")
    if first in OUTSIDE:
        return first
    if first != TOP:
        return None
    return rest.partition(".")[0] if rest.partition(".")[0] in ALLOWED else ""


def forbidden_imports(layer, source, package):
    allowed = {None, "", layer, *ALLOWED[layer]}
    return {module for module in imported_modules(source, package) if layer_of(module) not in allowed}


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_point_one_way(layer):
    files = [file for file in FILES if file.is_relative_to(ROOT / layer)]
    assert files
    wrong = {
        str(file.relative_to(ROOT)): names
        for file in files
        if (names := forbidden_imports(layer, file.read_text(), package_name(file)))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("layer", "source", "found"),
    [
        ("models", "from bertline.components.gates import Verdict", {"bertline.components.gates.Verdict"}),
        ("models", "def load():\n    import bertline.serving.client", {"bertline.serving.client"}),
        ("models", "from bertline.models.recipe import Section\nimport pipelines", set()),
        ("models", "from bertline.errors import UserError\nfrom bertline import Client", set()),
        ("serving", "from bertline.models import features", {"bertline.models.features"}),
        ("serving", "from bertline import models", {"bertline.models"}),
        ("serving", "from . import client", set()),
        ("serving", "from .. import models", {"bertline.models"}),
        (
            "components",
            "import importlib\nimportlib.import_module('bertline.pipeline.config')",
            {"bertline.pipeline.config"},
        ),
        ("components", "from bertline.models import features\nfrom bertline.serving import client", set()),
        ("pipeline", "from benchmarks import speed", {"benchmarks.speed"}),
    ],
)
def test_a_wrong_import_is_found(layer, source, found):
    assert forbidden_imports(layer, source, f"{TOP}.{layer}") == found


def test_nothing_imports_the_folders_by_their_bare_names():
    bare = {
        str(file.relative_to(ROOT)): names
        for folder in (TOP, *ALLOWED, *OUTSIDE)
        for file in sorted((ROOT / folder).rglob("*.py"))
        if ".venv" not in file.parts  # make bench-peers builds one under benchmarks/
        if (names := {m for m in imported_modules(file.read_text(), package_name(file)) if m.split(".")[0] in ALLOWED})
    }
    assert bare == {}


def test_no_two_test_files_share_a_name():
    """pytest imports test files by their bare names, so that one of two fails, but only when both run."""
    names = collections.Counter(file.name for file in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name, times in names.items() if times > 1} == set()


def circle(imports):
    """A circle among modules, as a list of names; [] where there is none.

    Args:
        imports: module -> the modules that it imports.
    """
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others():
    names = {module_name(file) for file in FILES}
    imports = {}
    for file in FILES:
        modules = imported_modules(file.read_text(), package_name(file))
        # `from bertline.components.gates import Verdict` names the module or something in it.
        ours = {m if m in names else m.rpartition(".")[0] for m in modules} & names
        imports[module_name(file)] = ours - {module_name(file)}
    assert imports["bertline.pipeline.cli"]
    assert circle(imports) == []


def test_a_circle_is_found():
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_client_needs_neither_keras_nor_tfx():
    program = (
        "import sys; from bertline import Client, AsyncClient;"
        "heavy = {'keras', 'keras_hub', 'tfx', 'apache_beam', 'tensorflow_text'};"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & heavy),"
        "*sorted({'.'.join(name.split('.')[:2]) for name in sys.modules if name.startswith('bertline.')}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["bertline.serving"]


def test_no_tracker_is_imported_unless_a_run_is_told_to_one():
    program = (
        "import sys; from bertline.components import trackers, tracking; from bertline.pipeline import local_runner;"
        "import bertline.pipeline.pipeline; from bertline.components.options import TrackingOptions;"
        "trackers.check(TrackingOptions());"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'mlflow', 'wandb', 'tensorboard'}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []
