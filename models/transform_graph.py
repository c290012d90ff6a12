"""Transform's graph, loaded to be applied and to be saved again as part of another model."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform.saved.saved_transform_io_v2 import SavedModelLoader


class TransformGraph(tf.Module):
    """What TFTransformOutput.transform_features_layer gives, but no Keras model.

    When a SavedModel is written, a Keras model in it traces a call of its own, which nothing reads. With autograph that
    took longer than the rest of the export.

    Args:
        output: of Transform.
    """

    def __init__(self, output: tft.TFTransformOutput):
        super().__init__()
        loader = SavedModelLoader(output.transform_savedmodel_dir)
        self._apply = loader.apply_transform_model
        self._imported = loader._imported  # tables and assets: saved with whatever holds this module

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Raw features to transformed ones; of a feature that is missing, what depends on it is missing too."""
        return self._apply(inputs)
