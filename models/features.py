"""Names of the features that travel from the rows to the SavedModel, shared by all stages."""

# === Raw Examples, written by ingestion (all bytes, one value, but for the labels of a multi-label row) ===
TEXT = "text"  # the row's text, UTF-8
TEXT_PAIR = "text_pair"  # the second text of a pair; absent where the config names none
LABEL = "label"  # the label's name; of a multi-label row those of all its labels, sorted, which may be none
ROW_ID = "row_id"  # hex hash of the normalised text: the same text has the same id in every run
SOURCE = "source"  # "FILE:ROW", rows counted from 1 as the file's reader counts them

# === Transformed Examples, written by Transform (int64) ===
TOKEN_IDS = "token_ids"  # [CLS] text [SEP] (pair [SEP]), ragged
SEGMENT_IDS = "segment_ids"  # 0 for the first text, 1 for the second; only for pairs, ragged
LABEL_ID = "label_id"  # index into the labels, scalar; of multi-label rows 1 or 0 for each label, [labels]

# === Outputs of the SavedModel's prediction signatures ===
PREDICTED_LABEL = "label"  # string, [batch]; not of a multi-label model
PROBABILITIES = "probabilities"  # float32, [batch, labels]
ABSTAINED = "abstained"  # bool, [batch]: the largest probability is below export.abstain; only where that is set
ASSIGNED = "assigned"  # bool, [batch, labels]: the labels that the row gets; only of a multi-label model
CLASSES = "classes"  # string, [batch, labels]: the label names in the order of the probabilities
# Of the signature `monitored`, beside those of the signature `text`
EMBEDDING = "embedding"  # float16, [batch, hidden]: the pooled vector, from which the head answers
PIECES, UNKNOWN = "pieces", "unknown"  # int32, [batch]: wordpieces, and those of them that the vocabulary lacks

# === Columns of the test rows once they are answered ===
SERIALIZED = "examples"  # the raw Examples themselves
PREDICTED = "predicted"  # name of the label that the model answers
PROBABILITY = "probability"  # of that label
PREVIOUS = "previous"  # name of the label that the last blessed model answers
TFIDF = "tfidf"  # name of the label that TF-IDF answers
PROBE = "probe"  # name of the label that the probe answers
LENGTH_BUCKET = "text_length"  # a bucket of the text's length, for slices
CANDIDATE, LAST_BLESSED = "candidate", "last_blessed"  # the two models, as TFMA knows them
TFMA_OUTPUTS = ("probabilities", "decision")  # of each model, in columns such as candidate_decision

# A kept column that had one of these names would be taken for what the line itself writes under it.
RESERVED = frozenset(
    {
        *(TEXT, TEXT_PAIR, LABEL, ROW_ID, SOURCE, TOKEN_IDS, SEGMENT_IDS, LABEL_ID),
        *(
            SERIALIZED,
            PREDICTED,
            PROBABILITY,
            PROBABILITIES,
            ABSTAINED,
            ASSIGNED,
            PREVIOUS,
            TFIDF,
            PROBE,
            LENGTH_BUCKET,
        ),
        *(f"{model}_{output}" for model in (CANDIDATE, LAST_BLESSED) for output in TFMA_OUTPUTS),
    }
)
SPLITS = ("train", "validation", "test")
