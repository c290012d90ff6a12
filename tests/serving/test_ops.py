import subprocess
import sys
from pathlib import Path

import pytest

from bertline.errors import UserError
from bertline.serving import ops
from bertline.serving.protos import SavedModel
from bertline.serving.runtime import tf

TOP = Path(__file__).parents[2]


def save_nodes(folder, *nodes, function=None):
    """A SavedModel whose main graph, or one function, holds nodes of (op, name, attributes that are true)."""
    proto = SavedModel()
    graph = proto.meta_graphs.add().graph_def
    place = graph.node
    if function:
        added = graph.library.function.add()
        added.signature.name = function
        place = added.node_def
    for op, name, *attributes in nodes:
        node = place.add(op=op, name=name)
        for attribute in attributes:
            node.attr[attribute].b = True
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())
    return folder


def test_model_of_core_and_text_ops_has_no_fault(mood_models, tmp_path):
    assert ops.check(mood_models["good"]) == []
    nodes = [("MatMul", "a"), ("FastBertNormalize", "b"), ("WordpieceTokenizeWithOffsets", "c"), ("AccumulateNV2", "d")]
    assert ops.check(save_nodes(tmp_path, *nodes)) == []


def test_python_function_is_named_with_its_node(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def upper(text):
        return {"text": tf.py_function(lambda texts: texts, [text], tf.string)}

    tf.saved_model.save(tf.Module(), str(tmp_path), signatures={"text": upper})
    (fault,) = ops.check(tmp_path)
    assert fault.startswith("op EagerPyFunc (node 'EagerPyFunc' in function '__inference_upper_")
    assert "it runs Python, which TF Serving has none of" in fault


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (("PyFuncStateless", "x"), "it runs Python"),
        (("DecodeWebP", "x"), "newer than TF Serving 2.19.1"),
        (("MyFancyOp", "x"), "neither TensorFlow nor TF Text has it"),
        (("SimpleMLInferenceOp", "x"), "neither TensorFlow nor TF Text has it"),
        (("TPUReplicatedInput", "x"), "it has no kernel for a CPU"),
        (("XlaCallModule", "x", "use_shardy_partitioner"), "its attribute use_shardy_partitioner is newer"),
        (("StatefulPartitionedCall", "x", "_XlaMustCompile"), "it must be compiled by XLA"),
    ],
)
def test_each_fault_in_its_words(tmp_path, node, words):
    (fault,) = ops.check(save_nodes(tmp_path, ("Const", "fine"), node))
    assert fault.startswith(f"op {node[0]} (node 'x' in the main graph): {words}")


def test_functions_that_no_signature_reaches_count(tmp_path):
    (fault,) = ops.check(save_nodes(tmp_path, ("MyFancyOp", "x"), function="unused"))
    assert "(node 'x' in function 'unused')" in fault


def test_call_of_the_models_own_function_is_no_op(tmp_path):
    save_nodes(tmp_path, ("helper", "call"), ("Const", "x"), function="helper")
    assert ops.check(tmp_path) == []


def test_op_at_fault_is_told_once_and_long_lists_are_cut(tmp_path):
    nodes = [(f"Fancy{number}", f"{number}.{copy}") for number in range(5) for copy in range(2)]
    faults = ops.check(save_nodes(tmp_path, *nodes))
    assert len(faults) == 5
    assert ops.describe(faults).count("op Fancy") == 3
    assert ops.describe(faults).endswith("; and 2 more ops")


def test_compiled_function_as_tensorflow_saves_it(tmp_path):
    @tf.function(jit_compile=True)
    def double(x):
        return x * 2

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(x):
        return {"y": double(x)}

    tf.saved_model.save(tf.Module(), str(tmp_path), signatures={"serving_default": serve})
    assert any("it must be compiled by XLA" in fault for fault in ops.check(tmp_path))


@pytest.mark.parametrize("contents", [None, b"not a model"])
def test_file_that_is_no_saved_model_is_named(tmp_path, contents):
    if contents is not None:
        (tmp_path / "saved_model.pb").write_bytes(contents)
    with pytest.raises(UserError, match=rf"{tmp_path}/saved_model.pb: "):
        ops.check(tmp_path)


def test_as_a_program_it_prints_the_faults_and_fails(tmp_path):
    def run(folder):
        command = [sys.executable, "-P", "-m", "bertline.serving.ops", str(folder)]
        return subprocess.run(command, cwd=TOP, capture_output=True, text=True)

    ran = run(save_nodes(tmp_path / "bad", ("PyFunc", "x")))
    assert (ran.returncode, ran.stdout.count("op PyFunc (node 'x'")) == (1, 1)
    ran = run(save_nodes(tmp_path / "fine", ("Const", "x")))
    assert (ran.returncode, ran.stdout) == (0, "")


def test_what_is_said_to_be_newer_is_what_this_tensorflow_has():
    """Once TensorFlow is older or the pinned server newer, these lists have to be looked at again."""
    registered = {op: ops.op_def_registry.get(op) for op in {*ops.NEWER_OPS, *ops.NEWER_ATTRIBUTES}}
    assert all(registered.values())
    for op, attributes in ops.NEWER_ATTRIBUTES.items():
        assert attributes <= {attribute.name for attribute in registered[op].attr}
    assert tf.__version__ == "2.21.0"
