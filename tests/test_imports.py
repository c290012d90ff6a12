"""Imports point one way: pipeline -> components -> models, serving."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("pipeline", "components", "models", "serving", "benchmarks", "tests")
# layer -> the layers it may import beside itself
ALLOWED = {
    "pipeline": {"components", "models", "serving"},
    "components": {"models", "serving"},
    "models": set(),
    "serving": set(),
}


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


def forbidden_imports(layer: str, source: str, package: str) -> set[str]:
    others = set(LAYERS) - ALLOWED[layer] - {layer}
    return {module for module in imported_modules(source, package) if module.split(".")[0] in others}


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_point_one_way(layer):
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): names
        for file in files
        if (names := forbidden_imports(layer, file.read_text(), ".".join(file.relative_to(ROOT).parent.parts)))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("layer", "source", "found"),
    [
        ("models", "from components.errors import LineError", {"components.errors.LineError"}),
        ("models", "def load():\n    import serving.client", {"serving.client"}),
        ("models", "from models.recipe import Section\nimport pipelines", set()),
        ("serving", "from models import features", {"models.features"}),
        ("serving", "from . import client", set()),
        ("serving", "from .. import models", {"models"}),
        ("components", "import importlib\nimportlib.import_module('pipeline.config')", {"pipeline.config"}),
        ("components", "from models import features\nfrom serving import client", set()),
        ("pipeline", "from benchmarks import speed", {"benchmarks.speed"}),
    ],
)
def test_a_wrong_import_is_found(layer, source, found):
    assert forbidden_imports(layer, source, layer) == found


def test_client_needs_neither_keras_nor_tfx():
    program = (
        "import sys, serving.client;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}"
        " & {'keras', 'keras_hub', 'tfx', 'apache_beam', 'tensorflow_text', 'models', 'components', 'pipeline'}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []


def test_no_tracker_is_imported_unless_a_run_is_told_to_one():
    program = (
        "import sys, components.tracking, components.trackers, pipeline.local_runner, pipeline.pipeline;"
        "from components.options import TrackingOptions; components.trackers.check(TrackingOptions());"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'mlflow', 'wandb', 'tensorboard'}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []
