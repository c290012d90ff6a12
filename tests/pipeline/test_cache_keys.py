"""What makes a stage run anew, and what does not: keys of copies of the source tree."""

import functools
import shutil
import sys
from importlib import metadata as installed
from pathlib import Path

import factories
import pytest

from bertline.models.recipe import ModelOptions
from bertline.pipeline import cache_keys
from bertline.pipeline.stages import Node

TOP = Path(__file__).parents[2]
TRAINING = (Node.EXAMPLE_GEN, Node.STATISTICS_GEN, Node.SCHEMA_GEN, Node.TRANSFORM, Node.TRAINER)
# They carry rows, bytes, options and pages: figures are the same with each version of them.
CARRIERS = {
    "altair", "apache_beam", "cryptography", "filelock", "google", "grpc", "grpc_health", "grpc_reflection",
    "h11", "huggingface_hub", "jinja2", "keras_tuner", "limits", "markdown_it", "markupsafe", "mlflow",
    "onnx", "openpyxl", "optuna", "orjson",
    "presidio_analyzer",
    "prometheus_client", "psutil", "pydantic", "ruamel", "safetensors", "sentencepiece", "sqlalchemy", "starlette",
    "tensorboard", "tokenizers",
    "tensorflow_metadata", "tensorflow_serving", "threadpoolctl",
    "uvicorn", "vl_convert", "wandb", "xxhash", "yaml",
}  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    for folder in ("bertline", "components", "models", "monitoring", "streams", "serving", "pipeline"):
        shutil.copytree(TOP / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def keys(tree, backbone_digest="cafe"):
    source = cache_keys.SourceTree(tree)
    return {node: cache_keys.key(node, source, backbone_digest) for node in cache_keys.KEYED}


@functools.cache
def original_keys():
    return keys(TOP)


def changed(after):
    """The stages whose key is not the original one."""
    return {node for node in after if after[node] != original_keys()[node]}


def changed_by_edit(tree, file, old, new):
    """The stages whose key is another one after an edit."""
    text = (tree / file).read_text(encoding="utf-8")
    assert old in text
    (tree / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    return changed(keys(tree))


def test_a_docstring_or_a_comment_runs_nothing_anew(tree):
    assert changed_by_edit(tree, "serving/client.py", '"""', '"""Once more: ') == set()
    assert changed_by_edit(tree, "models/training.py", "\nimport ", "\n# why\nimport ") == set()


def test_code_of_the_client_runs_the_canary_anew_and_trains_nothing(tree):
    anew = changed_by_edit(tree, "serving/client.py", "\nimport ", "\nimport this\nimport ")
    assert Node.CANARY in anew
    assert not anew & {*TRAINING, Node.EVALUATOR, Node.PUSHER}


@pytest.mark.parametrize("file", ["page.css", "page.js", "sections/verdict.html.j2"])
def test_a_rule_of_the_page_runs_the_review_alone(tree, file):
    (tree / "components" / "review_page" / file).open("a").write("\n")
    assert changed(keys(tree)) == {Node.REVIEW}


def test_the_cards_template_runs_the_card_alone(tree):
    assert changed_by_edit(tree, "components/model_card.md.j2", "#", "# ") == {Node.MODEL_CARD}


def test_code_of_the_server_that_the_canary_starts_runs_the_canary_anew(tree):
    anew = changed_by_edit(tree, "serving/grpc_service.py", "\nimport ", "\nimport this\nimport ")
    assert Node.CANARY in anew
    assert not anew & {*TRAINING, Node.EVALUATOR, Node.PUSHER}


def test_code_of_the_release_files_trains_nothing(tree):
    anew = changed_by_edit(tree, "serving/releases.py", "\nimport ", "\nimport this\nimport ")
    assert Node.PUSHER in anew
    assert not anew & {*TRAINING, Node.EXPORTER}


def test_training_code_trains_anew_and_reads_no_row_again(tree):
    anew = changed_by_edit(tree, "models/training.py", "\nimport ", "\nimport this\nimport ")
    assert Node.TRAINER in anew
    assert not anew & {Node.EXAMPLE_GEN, Node.STATISTICS_GEN, Node.SCHEMA_GEN, Node.TRANSFORM}


def test_code_that_a_stage_reaches_through_others_counts(tree):
    assert Node.TRAINER in changed_by_edit(tree, "models/bert/kernels.py", "\nimport ", "\nimport this\nimport ")
    assert Node.EXAMPLE_GEN in changed_by_edit(
        tree, "components/data/parquet.py", "\nimport ", "\nimport this\nimport "
    )


def test_an_import_within_a_function_counts_and_one_for_type_checkers_does_not(tmp_path):
    folder = tmp_path / "components"
    folder.mkdir()
    (folder / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bertline.components import c\n"
        "def run():\n    from bertline.components.b import work\n"
    )
    for name in "bc":
        (folder / f"{name}.py").write_text("")
    names = [module.name for module in cache_keys.SourceTree(tmp_path).closure("bertline.components.a")]
    assert [name for name in names if name.startswith("bertline")] == ["bertline.components.a", "bertline.components.b"]


def test_an_import_that_hides_its_module_is_refused(tmp_path):
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "a.py").write_text("from bertline import Client\n")
    with pytest.raises(LookupError, match=r"components\.a imports bertline\.Client: import it from its own module"):
        cache_keys.SourceTree(tmp_path).closure("bertline.components.a")


def test_a_wheel_has_the_same_keys(tmp_path):
    shutil.copytree(TOP / "bertline", tmp_path / "bertline")
    for layer in ("components", "models", "monitoring", "streams", "serving", "pipeline"):
        shutil.copytree(TOP / layer, tmp_path / "bertline" / layer)
    assert changed(keys(tmp_path / "bertline")) == set()


def test_other_weights_train_anew_and_no_row_is_read_again():
    anew = changed(keys(TOP, "another"))
    assert anew >= {Node.DATA_GATE, Node.TRANSFORM, Node.TRAINER}
    assert not anew & {Node.EXAMPLE_GEN, Node.STATISTICS_GEN, Node.SCHEMA_GEN, Node.EVALUATOR, Node.PUSHER}


def test_a_replaced_vocabulary_is_another_backbone(tmp_path):
    factories.write_task(tmp_path, factories.reviews(3))
    options = {"backbone": {"vocabulary": str(tmp_path / "vocab.txt"), "layers": 1, "heads": 1, "hidden": 8}}
    model = ModelOptions.model_validate(options)
    before = cache_keys.of_stages(model, {})
    words = (tmp_path / "vocab.txt").read_text(encoding="utf-8")
    (tmp_path / "vocab.txt").write_text(f"{words}another\n", encoding="utf-8")
    after = cache_keys.of_stages(model, {})
    assert before[Node.TRANSFORM] != after[Node.TRANSFORM]
    assert before[Node.EXAMPLE_GEN] == after[Node.EXAMPLE_GEN]


def test_another_tensorflow_is_noticed_by_what_uses_it(monkeypatch):
    version = installed.version
    original_keys()
    monkeypatch.setattr(installed, "version", lambda name: "9" if name == "tensorflow" else version(name))
    anew = changed(keys(TOP))
    assert anew >= {Node.TRANSFORM, Node.TRAINER, Node.EVALUATOR}
    assert Node.SCHEMA_GEN not in anew


def test_each_library_of_the_stages_decides_figures_or_does_not():
    source = cache_keys.SourceTree(TOP)
    modules = [module for node in cache_keys.KEYED for module in source.closure(node.module)]
    imported = {name.partition(".")[0] for module in modules for name in module.imports}
    imported -= {"bertline", *sys.stdlib_module_names}
    assert imported == {*cache_keys.LIBRARIES} | CARRIERS
