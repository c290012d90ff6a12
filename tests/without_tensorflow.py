"""What docs/serving/onnx.md tells people without TensorFlow to do, done."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

PAGE = Path(__file__).parent.parent / "docs/serving/onnx.md"
TEN_LINES, PAIRS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def run_ten_lines(folder, texts):
    """The page's program on other texts: the label and the probability that it prints for each."""
    program = re.sub(r'Path\("[^"]+"\)', f"Path({str(folder)!r})", TEN_LINES, count=1)
    program = re.sub(r"encode_batch\(\[.*\]\)", lambda _: f"encode_batch({texts!r})", program)
    program += "import sys\nassert not {'tensorflow', 'bertline', 'onnx'} & set(sys.modules)\n"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    printed = [line.rsplit(" ", 1) for line in ran.stdout.splitlines()]
    return [label for label, _ in printed], [float(probability) for _, probability in printed]


def encode_pairs(folder, pairs):
    """The rows that the page's lines for pairs make, padded to one length."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = {"folder": folder, "json": json, "tokenizer": tokenizer}
    exec(PAIRS, names)
    rows = [names["encode"](*pair) for pair in pairs]
    longest, padding = max(len(row) for row in rows), tokenizer.padding
    for row in rows:
        row.pad(longest, pad_id=padding["pad_id"], pad_token=padding["pad_token"])
    return rows


def probabilities(folder, rows):
    """Of rows of tokens, float32 [rows, labels]."""
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    values = {
        "input_ids": [row.ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
        "token_type_ids": [row.type_ids for row in rows],
    }
    return session.run(["probabilities"], {each.name: np.array(values[each.name]) for each in session.get_inputs()})[0]
