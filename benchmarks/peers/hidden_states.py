"""Writes the hidden states that Transformers gives for tiny networks, which tests of the families compare with.

Run once for each, in an environment that has the libraries of requirements.txt:

    python benchmarks/peers/hidden_states.py bert_folder > tests/models/bert/hidden_states.json
    python benchmarks/peers/hidden_states.py xlm_roberta_folder > tests/models/xlm_roberta/hidden_states.json
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

EVERY = 4  # of the numbers of a token: enough to tell any mistake


def main() -> None:
    """Prints the versions and the last hidden states of all kinds as JSON."""
    tiny = importlib.import_module(sys.argv[1])
    written = {"by": f"transformers {transformers.__version__}, torch {torch.__version__}", "every": EVERY}
    ids, lengths = torch.tensor(tiny.IDS), torch.tensor(tiny.LENGTHS)
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()}
    for kind, config in tiny.KINDS.items():
        segments = {"token_type_ids": torch.tensor(tiny.SEGMENTS)} if config.get("type_vocab_size", 1) > 1 else {}
        with tempfile.TemporaryDirectory() as folder:
            model = transformers.AutoModel.from_pretrained(tiny.write_weights(Path(folder), kind), dtype=torch.float32)
        with torch.no_grad():
            states = model.eval()(**inputs, **segments).last_hidden_state
        rows = [row[:length, ::EVERY] for row, length in zip(states, tiny.LENGTHS, strict=True)]
        written[kind] = [[[round(float(value), 6) for value in token] for token in row] for row in rows]
    print(json.dumps(written))


if __name__ == "__main__":
    main()
