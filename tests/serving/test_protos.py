import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]


def run(code):
    # TensorFlow Transform sets this variable for its process and its children: tf.keras is then the older Keras.
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    result = subprocess.run([sys.executable, "-c", code], cwd=TOP, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_client_starts_neither_tensorflow_nor_keras_nor_tfx():
    heavy = ("tensorflow", "keras", "tfx")
    code = f"import sys; from bertline import Client, AsyncClient; print(*[n for n in {heavy} if n in sys.modules])"
    assert run(code) == []


def test_tensorflow_keras_and_tf_text_are_whole_after_client_and_server():
    code = """
import sys
import bertline.serving.client
from bertline.serving.protos import TensorProto
from bertline.serving.runtime import tf
print("keras" in sys.modules, "tensorflow_text" in sys.modules, type(tf.make_tensor_proto([1, 2])) is TensorProto)
from tensorflow.core.framework import tensor_pb2
import tensorflow.core.framework.tensor_pb2 as same
print(tensor_pb2.TensorProto is TensorProto, same is tensor_pb2, tf.keras.layers.Dense.__name__)
import keras, tensorflow_text
tokens = tensorflow_text.FastBertTokenizer(["[UNK]", "good", "film"]).tokenize(["good film"])
print(keras.layers.Dense is tf.keras.layers.Dense, tokens.to_list())
"""
    assert run(code) == ["False", "False", "True", "True", "True", "Dense", "True", "[[1,", "2]]"]
