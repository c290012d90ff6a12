"""The cache key of each stage. Beside its inputs and options, a result depends on code, libraries and the backbone.

A stage's code is its module and all that it imports of bertline, so that a rule in page.css makes the review page anew
and trains nothing. Docstrings and comments do not count.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata as installed
from pathlib import Path

from bertline.models.recipe import ModelOptions
from bertline.pipeline.stages import Node

PACKAGE = "bertline"
TOP = Path(__file__).resolve().parent.parent  # holds components/, models/ ... in the repository and in a wheel
BACKBONE_MODULE = "bertline.models.families"  # what imports it may read the weights or the vocabulary
KEYED = [node for node in Node if node is not Node.FACTS]  # Facts makes the keys
PAGE_SUFFIXES = {".j2", ".css", ".js"}  # templates and what they include

# Import names -> distributions, of the libraries that decide figures. The others (pydantic, grpc ...) only carry them:
# tests/pipeline/test_cache_keys.py has both lists and refuses a library that is in neither.
LIBRARIES = {
    "cleanlab": "cleanlab",
    "datasketch": "datasketch",
    "fairlearn": "fairlearn",
    "keras": "keras",
    "keras_hub": "keras-hub",
    "nlpaug": "nlpaug",
    "numpy": "numpy",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow",
    "tensorflow_data_validation": "tensorflow-data-validation",
    "tensorflow_model_analysis": "tensorflow-model-analysis",
    "tensorflow_text": "tensorflow-text",
    "tensorflow_transform": "tensorflow-transform",
    "tfx": "tfx",
    "tfx_bsl": "tfx-bsl",
}


def of_stages(model: ModelOptions, files: Mapping[Node, str]) -> dict[Node, str]:
    """The key of each stage.

    Args:
        model: names the backbone.
        files: by stage, hash of the files that only it reads.

    Raises:
        UserError: the backbone cannot be found.
    """
    from bertline.models import families  # brings TensorFlow

    backbone_digest = families.of(model).digest(model)
    tree = SourceTree(TOP)
    return {node: key(node, tree, backbone_digest, files.get(node, "")) for node in KEYED}


def key(node: Node, tree: SourceTree, backbone_digest: str, files: str = "") -> str:
    """A stage's key.

    Args:
        node: the stage.
        tree: bertline's source.
        backbone_digest: of the weights and the vocabulary; it counts where the stage's code can read them.
        files: hash of the files that only this stage reads, "" for none.
    """
    modules = tree.closure(node.module)
    imported = {name.partition(".")[0] for module in modules for name in module.imports}
    parts = [f"{module.name} {module.digest}" for module in modules]
    parts += [f"{LIBRARIES[name]} {_version(LIBRARIES[name])}" for name in sorted(imported & set(LIBRARIES))]
    if any(module.name == BACKBONE_MODULE for module in modules):
        parts.append(f"backbone {backbone_digest}")
    if files:
        parts.append(f"files {files}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _version(distribution: str) -> str:
    """The installed version; "none" of an extra that is not installed."""
    try:
        return installed.version(distribution)
    except installed.PackageNotFoundError:
        return "none"


@dataclass(frozen=True)
class Module:
    """A module of bertline, or one of another package by its name only.

    Attributes:
        name: as it is imported.
        digest: hash of its code and its templates, without docstrings and comments.
        imports: absolute names of what it imports anywhere, functions included.
        strings: its texts that look like names in bertline, such as the module of a command that it starts.
    """

    name: str
    digest: str
    imports: frozenset[str]
    strings: frozenset[str] = frozenset()


class SourceTree:
    """bertline's source files, each read once.

    Args:
        top: the folder that holds components/, models/ and the others.
    """

    def __init__(self, top: Path):
        self._top = top
        self._modules: dict[str, Module] = {}

    def closure(self, name: str) -> list[Module]:
        """A module and all that it imports of bertline, directly or not, by name."""
        reached: dict[str, Module] = {}
        waiting = [name]
        while waiting:
            if (current := waiting.pop()) not in reached:
                reached[current] = self._module(current)
                waiting += self._used(reached[current])
        return [reached[name] for name in sorted(reached)]

    def _used(self, module: Module) -> set[str]:
        """The modules of bertline that a module imports or names, and the packages around them.

        Raises:
            LookupError: an import does not say which module it needs.
        """
        used: set[str] = set()
        for imported in module.imports:
            modules = self._on_the_way(imported)
            if imported.split(".")[0] == PACKAGE and not modules:
                # `from bertline import Client` is for Python callers; here it would hide what the stage depends on.
                raise LookupError(f"{module.name} imports {imported}: import it from its own module")
            used.update(modules)
        return used.union(*map(self._on_the_way, module.strings))

    def _on_the_way(self, name: str) -> list[str]:
        """The modules and packages that importing a name loads; its last part may be something in the module."""
        parts = name.split(".")
        prefixes = (".".join(parts[:end]) for end in range(2, len(parts) + 1))
        return [prefix for prefix in prefixes if self._file(prefix)]

    def _module(self, name: str) -> Module:
        if name not in self._modules:
            file = self._file(name)
            self._modules[name] = _read(name, file) if file else Module(name, "", frozenset({name}))
        return self._modules[name]

    def _file(self, name: str) -> Path | None:
        """The file of a module of bertline; None where there is none of this name."""
        path = name.removeprefix(f"{PACKAGE}.").replace(".", "/")
        # In a wheel bertline/errors.py lies beside components/, in the repository in a folder of its own.
        folders = (self._top, self._top / PACKAGE) if name.startswith(f"{PACKAGE}.") else ()
        files = (folder / form for folder in folders for form in (f"{path}.py", f"{path}/__init__.py"))
        return next((file for file in files if file.is_file()), None)


def _read(name: str, file: Path) -> Module:
    tree = _Bare().visit(ast.parse(file.read_bytes()))
    digest = hashlib.sha256(ast.dump(tree).encode())
    for template in _templates(tree, file.parent):
        digest.update(template.name.encode() + template.read_bytes())
    package = name if file.stem == "__init__" else name.rpartition(".")[0]
    strings = frozenset(text for text in _texts(tree) if re.fullmatch(rf"{PACKAGE}(\.\w+)+", text))
    return Module(name, digest.hexdigest(), frozenset(_imports(tree, package)), strings)


class _Bare(ast.NodeTransformer):
    """Takes out what changes nothing when the code runs: docstrings, and imports for type checkers."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """A string that stands by itself is a docstring."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """What stands under `if TYPE_CHECKING:` never runs."""
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute names of what a module of `package` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _texts(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _templates(tree: ast.AST, folder: Path) -> list[Path]:
    """The templates of a module that names one: all in its package, since they include each other."""
    if not any((folder / text).is_file() for text in _texts(tree) if Path(text).suffix in PAGE_SUFFIXES):
        return []
    paths = [path for suffix in PAGE_SUFFIXES for path in folder.rglob(f"*{suffix}")]
    return sorted(path for path in paths if _package(path) == folder)


def _package(path: Path) -> Path:
    """The folder of the package that a file lies in."""
    return next(folder for folder in path.parents if (folder / "__init__.py").exists())
