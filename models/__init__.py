"""TensorFlow and Keras only: from token ids to the SavedModel."""
