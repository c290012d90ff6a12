"""Writes the hidden states that Transformers gives for tiny networks, which tests/models/xlm_roberta compares with.

Run once, in an environment that has the libraries of requirements.txt:

    python benchmarks/peers/hidden_states.py > tests/models/xlm_roberta/hidden_states.json
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import xlm_roberta_folder as tiny

EVERY = 4  # of the numbers of a token: enough to tell any mistake


def main() -> None:
    """Prints the versions and the last hidden states of both kinds as JSON."""
    written = {"by": f"transformers {transformers.__version__}, torch {torch.__version__}", "every": EVERY}
    ids, lengths = torch.tensor(tiny.IDS), torch.tensor(tiny.LENGTHS)
    mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
    for kind in tiny.KINDS:
        with tempfile.TemporaryDirectory() as folder:
            model = transformers.AutoModel.from_pretrained(tiny.write_weights(Path(folder), kind), dtype=torch.float32)
        with torch.no_grad():
            states = model.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
        rows = [row[:length, ::EVERY] for row, length in zip(states, tiny.LENGTHS, strict=True)]
        written[kind] = [[[round(float(value), 6) for value in token] for token in row] for row in rows]
    print(json.dumps(written))


if __name__ == "__main__":
    main()
