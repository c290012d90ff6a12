import pytest
from factories import save_mood_model


@pytest.fixture(scope="session")
def mood_models(tmp_path_factory):
    """Two SavedModels: `good` calls texts with "good" positive, `great` those with "great"."""
    folder = tmp_path_factory.mktemp("mood")
    return {word: save_mood_model(folder / word, word) for word in ("good", "great")}
