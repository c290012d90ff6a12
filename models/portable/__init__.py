"""Models for programs without TensorFlow: ONNX, and the tokenizer as Hugging Face's tokenizer.json."""

from importlib import util

from bertline.errors import UserError


def check_installed() -> None:
    """Raises UserError where the package that writes ONNX is missing."""
    if util.find_spec("onnx") is None:
        raise UserError("export.also: onnx needs the package onnx: `pip install 'bertline[onnx]'` brings it.")
