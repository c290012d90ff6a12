"""Tiny models, vocabularies and texts for the tests, made offline."""


# === Serving ===


def pushed_after_a_look(serving, monkeypatch):
    """The prepared version `serving`/.8 is pushed just after somebody has listed the versions."""
    from bertline.serving import releases

    look = releases.whole_versions

    def look_before_a_push(folder):
        listed = look(folder)
        if (serving / ".8").exists():
            (serving / ".8").rename(serving / "8")
        return listed

    monkeypatch.setattr(releases, "whole_versions", look_before_a_push)


def save_mood_model(
    folder, positive_word: str = "good", abstains: bool = False, fails: bool = False, seconds: float = 0
):
    """Saves a SavedModel of the line's signatures that calls a text positive (0.75) when it holds `positive_word`.

    Any other text is negative (0.75), and abstained from where the model `abstains`. One that `fails` refuses each
    text, and one with `seconds` takes about that long for an answer. Signatures: `text`,
    `serving_default` (serialized tf.Example), `add`, which adds the float32 [batch, 2] `x` and the int64 scalar `n`,
    and `count`, which counts to the int64 scalar `n` (some microseconds each).
    """
    import tensorflow as tf

    def classify(texts):
        if fails:
            with tf.control_dependencies([tf.debugging.assert_less(tf.size(texts), 0, "no text suits this model")]):
                texts = tf.identity(texts)
        if seconds:  # some 5 us for each turn
            turns = tf.while_loop(lambda i: i < int(seconds * 200_000), lambda i: [i + 1], [tf.constant(0)])[0]
            texts = tf.where(turns < 0, "", texts)
        positive = tf.strings.regex_full_match(texts, f"(?s).*{positive_word}.*")
        probabilities = tf.where(positive[:, tf.newaxis], [[0.25, 0.75]], [[0.75, 0.25]])
        classes = tf.tile([["negative", "positive"]], [tf.size(texts), 1])
        label = tf.where(positive, "positive", "negative")
        answer = {"label": label, "probabilities": probabilities, "classes": classes}
        return answer | ({"abstained": ~positive} if abstains else {})

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def text(text):
        return classify(text)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def examples(examples):
        spec = {"text": tf.io.FixedLenFeature([], tf.string)}
        return classify(tf.io.parse_example(examples, spec)["text"])

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([], tf.int64, "n")])
    def add(x, n):
        return {"sum": x + tf.cast(n, tf.float32), "count": n}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64, "n")])
    def count(n):
        return {"n": tf.while_loop(lambda i: i < n, lambda i: [i + 1], [tf.constant(0, tf.int64)])[0]}

    signatures = {"text": text, "serving_default": examples, "add": add, "count": count}
    tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)
    return folder


def save_pairs_model(folder):
    """Saves a SavedModel whose signature `text` calls equal texts of a pair "same" (0.75), others "other" (0.75)."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name) for name in ("text", "text_pair")])
    def text(text, text_pair):
        same = tf.equal(text, text_pair)
        return {
            "label": tf.where(same, "same", "other"),
            "probabilities": tf.where(same[:, tf.newaxis], [[0.75, 0.25]], [[0.25, 0.75]]),
            "classes": tf.tile([["same", "other"]], [tf.size(text), 1]),
        }

    tf.saved_model.save(tf.Module(), str(folder), signatures={"text": text})
    return folder


def save_half_plus_model(folder, addend: float = 2.0):
    """Saves a SavedModel as TensorFlow 1 made them: y = x / 2 + addend, with variables and four signatures.

    Signatures: `serving_default` (float32 [batch, columns] `x` -> `y`), and over the float32 feature `x` of tf.Examples
    in `inputs`: `regress` (-> `outputs` [batch, 1]), `classify` (-> `classes` "half-plus" and `scores` [batch, 1]) and
    `scores_only`. A fifth, `total`, answers the sum over all rows: it has no batch dimension.
    """
    import tensorflow as tf

    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        half, more = tf1.Variable(0.5, use_resource=False), tf1.Variable(addend, use_resource=False)
        x = tf1.placeholder(tf.float32, [None, None], "x")
        y = tf.add(x * half, more, "y")
        examples = tf1.placeholder(tf.string, [None], "examples")
        parsed = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        outputs = tf.add(parsed * half, more, "outputs")
        classes = tf.fill(tf.shape(outputs), "half-plus")

        def signature(inputs, outputs, method):
            info = tf1.saved_model.build_tensor_info
            return tf1.saved_model.build_signature_def(
                {name: info(tensor) for name, tensor in inputs.items()},
                {name: info(tensor) for name, tensor in outputs.items()},
                f"tensorflow/serving/{method}",
            )

        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": signature({"x": x}, {"y": y}, "predict"),
                "total": signature({"x": x}, {"total": tf.reduce_sum(y)}, "predict"),
                "regress": signature({"inputs": examples}, {"outputs": outputs}, "regress"),
                "classify": signature({"inputs": examples}, {"classes": classes, "scores": outputs}, "classify"),
                "scores_only": signature({"inputs": examples}, {"scores": outputs}, "classify"),
            },
        )
        builder.save()
    return folder


# === A task of its own: file, vocabulary, config ===

MOODS = {
    "negative": ("broken", "late", "awful", "refund"),
    "neutral": ("arrived", "package", "tuesday", "ordered"),
    "positive": ("great", "love", "perfect", "thanks"),
}
FILLERS = ("the", "it", "was", "and", "my", "item")


def reviews(rows: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """(text, label, shop) rows: distinct texts, two words of the label's own in each, half of them from each shop."""
    import random

    chance = random.Random(seed)
    table = []
    for number in range(rows):
        label = list(MOODS)[number % len(MOODS)]
        words = [*chance.sample(MOODS[label], 2), *chance.sample(FILLERS, 3), str(number)]
        chance.shuffle(words)
        table.append((" ".join(words), label, ("north", "south")[chance.randrange(2)]))
    return table


def mixed_reviews(rows: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """(text, labels, shop) rows with none, one or two labels, as "negative|positive": two words of each in the text."""
    import random

    chance = random.Random(seed)
    table = []
    for number in range(rows):
        labels = sorted(chance.sample(list(MOODS), chance.choice((0, 1, 1, 2, 2))))
        words = [word for label in labels for word in chance.sample(MOODS[label], 2)]
        words += [*chance.sample(FILLERS, 3), str(number)]
        chance.shuffle(words)
        table.append((" ".join(words), "|".join(labels), ("north", "south")[chance.randrange(2)]))
    return table


def shuffled(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The rows, each with the label of another."""
    labels = [label for _, label, _ in rows]
    return [(text, labels[(row * 7 + row // 3) % len(rows)], shop) for row, (text, _, shop) in enumerate(rows)]


def write_csv(path, rows, header=("text", "label", "shop")):
    """Writes rows as CSV; returns the path."""
    import csv

    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_review_vocabulary(path):
    """A BERT vocabulary that covers the reviews; returns the path."""
    words = [word for mood in MOODS.values() for word in mood]
    digits = [str(digit) for digit in range(10)]
    pieces = [*("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), *FILLERS, *words, *digits, *("##" + d for d in digits)]
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return path


def write_task(folder, rows, **train):
    """A folder with reviews.csv, vocab.txt and task.yaml for a BERT of two thin layers; returns the config's path."""
    write_csv(folder / "reviews.csv", rows)
    write_review_vocabulary(folder / "vocab.txt")
    recipe = {"epochs": 8, "learning_rate": 0.002, "precision": "float32", "tensorboard": False, **train}
    settings = "\n".join(f"  {key}: {str(value).lower()}" for key, value in recipe.items())
    config = folder / "task.yaml"
    config.write_text(
        f"""\
name: reviews
root: {folder}/runs
data:
  source: reviews.csv
  keep: [shop]
model:
  backbone: {{layers: 2, hidden: 64, heads: 2, intermediate: 128, vocabulary: {folder}/vocab.txt}}
  max_length: 16
train:
{settings}
evaluate:
  slices: [shop]
  length_buckets: [30]
  gates: {{accuracy: 0.8, macro_f1: 0.8}}
canary: {{rows: 20}}
serve: {{port: 0}}
""",
        encoding="utf-8",
    )
    return config


def write_mixed_task(folder, rows=600):
    """`write_task` with reviews of none, one or two labels; returns the config's path."""
    config = write_task(folder, mixed_reviews(rows), epochs=6)
    text = config.read_text(encoding="utf-8")
    text = text.replace("keep: [shop]", 'keep: [shop]\n  multi_label: {separator: "|", empty: no_label}')
    gates = "{subset_accuracy: 0.4, micro_f1: 0.7, label_f1: {positive: 0.7}}"
    config.write_text(text.replace("{accuracy: 0.8, macro_f1: 0.8}", gates), encoding="utf-8")
    return config


# === Models ===


def tiny_model_options(folder, **changes):
    """ModelOptions of a BERT of one thin layer over the reviews' vocabulary, written into the folder."""
    from bertline.models.recipe import ModelOptions

    vocabulary = str(write_review_vocabulary(folder / "vocab.txt"))
    backbone = {"layers": 1, "hidden": 64, "heads": 2, "intermediate": 128, "vocabulary": vocabulary}
    return ModelOptions(**{"backbone": backbone, "max_length": 16, **changes})


def tiny_backbone(folder):
    """A BERT of one thin layer over the reviews' vocabulary in Hugging Face's layout; returns its folder, `bert`."""
    import numpy as np

    from bertline.models.bert import backbone, classifier
    from bertline.models.bert import folder as hugging_face
    from bertline.models.bert.masked_lm import MaskedLm

    options, made = tiny_model_options(folder), folder / "bert"
    model = classifier.build(backbone.load(options), 2, dropout=0.1, seed=1)
    draw = np.random.default_rng(7)
    for variable in model.backbone.variables:  # far from 0, so that each word has a vector of its own
        variable.assign(draw.normal(scale=0.3, size=variable.shape) + (variable.name == "gamma"))
    made.mkdir()
    hugging_face.write(made, MaskedLm(model, None, 1), backbone.vocabulary(options), None)
    return made


def tokenised_reviews(options, rows: int, seed: int = 0):
    """Reviews as the Trainer reads them: bertline.models.dataset.Rows, labels 0 to 2 in the order of MOODS."""
    import numpy as np
    import tensorflow as tf

    from bertline.models.bert import backbone
    from bertline.models.bert.tokenizer import Tokenizer
    from bertline.models.dataset import Rows

    table = reviews(rows, seed)
    words = backbone.vocabulary(options)
    tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)
    ids, _ = tokenizer(tf.constant([text for text, _, _ in table]))
    labels = np.array([list(MOODS).index(label) for _, label, _ in table], np.int32)
    return Rows(tf.cast(ids, tf.int32), None, labels)


def trained_weights(folder, options, keywords):
    """What the Trainer leaves of a `keyword_classifier`; returns the folder."""
    from bertline.models.bert import backbone, classifier

    classifier.save(
        keyword_classifier(options, keywords), folder, list(MOODS), backbone_digest=backbone.digest(options)
    )
    return folder


def write_export_record(folder, temperature=1.0):
    """An export.json in the folder, as the Exporter leaves it beside the SavedModel; returns the folder."""
    from bertline.components import export_record

    figures = {"calibration_error": 0.1, "log_loss": 0.5}
    calibration = {"temperature": temperature, "note": "", "rows": 500, "before": figures, "after": figures}
    record = export_record.ExportRecord(dtype="float32", abstain=None, calibration=calibration)
    export_record.write(str(folder), record)
    return folder


def keyword_classifier(options, keywords):
    """A classifier whose answers are known by construction: of `keywords`, word -> label, the more frequent one wins.

    Words are random directions; a keyword's has a large part along its label's own. [CLS] attends to all tokens
    alike and passes their mean on, the feed-forward network adds nothing, and the head reads the labels' directions.
    """
    import numpy as np

    from bertline.models.bert import backbone, classifier
    from bertline.models.bert.tokenizer import read_vocabulary

    network = backbone.load(options)
    labels = len(set(keywords.values()))
    model = classifier.build(network, labels, dropout=0.0, seed=1)
    hidden = network.hidden_dim
    words = np.random.default_rng(0).normal(size=(network.vocabulary_size, hidden))
    words[:, :labels] = 0.0
    vocabulary = read_vocabulary(backbone.vocabulary(options).path)
    for word, label in keywords.items():
        words[vocabulary.index(word), label] = 8.0
    network.token_embedding.embeddings.assign(words)
    for block in network.transformer_layers:
        attention = block._self_attention_layer
        attention.query_dense.kernel.assign(np.zeros(attention.query_dense.kernel.shape))
        for dense in (attention.value_dense, attention.output_dense):
            dense.kernel.assign(np.eye(hidden).reshape(dense.kernel.shape))
        block._feedforward_output_dense.kernel.assign(np.zeros(block._feedforward_output_dense.kernel.shape))
    network.pooled_dense.kernel.assign(np.eye(hidden))
    model.output_dense.kernel.assign(5.0 * np.eye(hidden)[:, :labels])
    return model


# === Stages ===

# In memory, as the line does. Unless an image is named, TFX packs its sources for remote workers: seconds per stage.
BEAM = ("--direct_running_mode=in_memory", "--direct_num_workers=1", "--sdk_container_image=none")

_SCHEMA_FEATURE = 'feature { name: "%s" type: BYTES presence { min_fraction: 1.0 min_count: 1 } %s }\n'


def raw_examples(folder, splits, labels, fixed_shape=True):
    """The artifacts that ingestion and SchemaGen give for splits: name -> rows of (text, label) or (text, pair, label).

    A label may be a list of labels; then no row has a fixed number of them.

    Returns:
        the Examples and the Schema artifact, written into the folder.
    """
    import json

    import tensorflow as tf
    from tfx.types import standard_artifacts

    names = ("text", "text_pair", "label") if len(splits["train"][0]) == 3 else ("text", "label")
    examples, schema = standard_artifacts.Examples(), standard_artifacts.Schema()
    examples.uri, schema.uri = str(folder / "examples"), str(folder / "schema")
    examples.split_names = json.dumps(list(splits))
    for split, rows in splits.items():
        path = folder / "examples" / f"Split-{split}" / "data_tfrecord-00000-of-00001.gz"
        path.parent.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            for row in rows:
                features = {
                    name: tf.train.Feature(
                        bytes_list=tf.train.BytesList(
                            value=[each.encode() for each in ([value] if isinstance(value, str) else value)]
                        )
                    )
                    for name, value in zip(names, row, strict=True)
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    (folder / "examples/labels.txt").write_text("".join(json.dumps(label) + "\n" for label in labels), encoding="utf-8")
    (folder / "schema").mkdir()
    shape = "shape { dim { size: 1 } }" if fixed_shape else "value_count { min: 1 max: 1 }"
    features = [_SCHEMA_FEATURE % (name, shape) for name in names]
    if not isinstance(splits["train"][0][-1], str):
        features[-1] = 'feature { name: "label" type: BYTES }\n'
    (folder / "schema/schema.pbtxt").write_text("".join(features))
    return examples, schema


def transformed(folder, model, examples, schema, pair=False, multi_label=None):
    """Runs our Transform executor; returns the TransformGraph and the Examples artifact it wrote."""
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import channel_utils, standard_artifacts

    from bertline.components.options import DataOptions
    from bertline.components.transform import Executor, transform

    data = DataOptions(source="x", text_pair="text_pair" if pair else None, multi_label=multi_label)
    component = transform(channel_utils.as_channel([examples]), channel_utils.as_channel([schema]), model, data)
    graph, rows = standard_artifacts.TransformGraph(), standard_artifacts.Examples()
    graph.uri, rows.uri = str(folder / "graph"), str(folder / "transformed")
    context = BaseBeamExecutor.Context(
        beam_pipeline_args=list(BEAM),
        tmp_dir=str(folder / "tmp"),
        unique_id="1",
    )
    properties = {key: value for key, value in component.spec.exec_properties.items() if value is not None}
    Executor(context).Do(
        {"examples": [examples], "schema": [schema]},
        {"transform_graph": [graph], "transformed_examples": [rows]},
        properties,
    )
    return graph, rows


# === The review page ===


def answers(
    classes, labels, predicted, probabilities=None, previous=None, tfidf=None, probe=None, columns=None, **changes
):
    """Test rows and what was answered to them; labels and answers are indices, int [rows].

    Without `probabilities` each answer has 1. `previous`, `tfidf` and `probe` are the other models' answers.
    """
    import numpy as np

    from bertline.components.answers import PREVIOUS, PROBE, TFIDF, Answers

    names = [*classes, "another label"]
    others = {PREVIOUS: previous, TFIDF: tfidf, PROBE: probe}
    return Answers(
        list(classes),
        np.asarray(labels),
        np.asarray(predicted),
        np.eye(len(classes), dtype=np.float32)[predicted] if probabilities is None else probabilities,
        (columns or {})
        | {name: [names[each] for each in given] for name, given in others.items() if given is not None},
        **changes,
    )


def slice_figures(rows, inside):
    """Figures of some rows by scikit-learn, as the Evaluator has them by name."""
    import numpy as np
    from sklearn import metrics as sklearn_metrics

    from bertline.components import estimates

    true, answered, labels = rows.labels[inside], rows.predicted[inside], range(len(rows.classes))
    scores = sklearn_metrics.precision_recall_fscore_support(true, answered, labels=labels, zero_division=np.nan)
    accuracy = sklearn_metrics.accuracy_score(true, answered)
    return {
        "rows": len(true),
        "accuracy": accuracy,
        "micro_f1": accuracy,
        "macro_f1": sklearn_metrics.f1_score(true, answered, average="macro", zero_division=0),
        "weighted_f1": sklearn_metrics.f1_score(true, answered, average="weighted", zero_division=0),
        "per_class": {
            name: {
                key: None if np.isnan(value) else float(value)
                for key, value in zip(("precision", "recall", "f1"), values, strict=True)
            }
            for name, values in zip(rows.classes, zip(*scores[:3], strict=True), strict=True)
        },
        **estimates.probability_scores(true, rows.probabilities[inside]),
    }


def metrics(rows, **changes):
    """The Metrics of test rows by scikit-learn, as the Evaluator has them, with the slices that the rows have."""
    import numpy as np

    from bertline.components import estimates
    from bertline.components.evaluation import Cell, Metrics
    from bertline.models import calibration

    confusion, (error, interval) = rows.confusion, estimates.calibration_error(rows.confidence, rows.right)
    before = calibration.unscaled(rows.probabilities, 2.0)
    figures = {
        **slice_figures(rows, np.full(len(rows.labels), True)),
        "calibration_error": error,
        "intervals": {**estimates.intervals(confusion), "calibration_error": interval},
        "model_bytes": 2_500_000,
        "inference_seconds": 1.5,
        "majority_share": float(confusion.sum(-1).max() / confusion.sum()),
        "labels_present": int((confusion.sum(-1) > 0).sum()),
        "classes": rows.classes,
        "confusion": [Cell(*map(int, cell), int(confusion[tuple(cell)])) for cell in np.argwhere(confusion)],
        "slices": {name: slice_figures(rows, inside) for name, inside in rows.slices.items()},
        "calibration": {
            "temperature": 2.0,
            "before": estimates.calibration(rows.labels, rows.predicted, before),
            "after": estimates.calibration(rows.labels, rows.predicted, rows.probabilities),
        },
    }
    return Metrics.model_validate({**figures, **changes})


def review_evidence(classes, rows, seed=0, texts=None, absent=0, **changes):
    """What a run of `rows` test rows would have left: half of the answers right or more, the rest at random.

    The last `absent` classes have no test rows and are never answered.
    """
    import numpy as np

    from bertline.components import export_record
    from bertline.components.review_page.evidence import Evidence

    chance = np.random.default_rng(seed)
    present = len(classes) - absent
    truth = np.arange(rows) % present
    probabilities = chance.dirichlet(np.full(len(classes), 0.5), rows)
    probabilities[np.arange(rows), truth] += chance.uniform(0, 1, rows)
    probabilities[:, present:] = 0
    probabilities = (probabilities / probabilities.sum(-1, keepdims=True)).astype(np.float32)
    texts = texts or [f"text {row}" for row in range(rows)]
    shops = np.arange(rows) % 5 < 2
    columns = {
        "shop": [("south", "north")[north] for north in shops],
        "text": texts,
        "text_pair": [""] * rows,
        "row_id": [str(row) for row in range(rows)],
    }
    slices = {"shop=north": shops, "shop=south": ~shops}
    answered = answers(classes, truth, probabilities.argmax(-1), probabilities, columns=columns, slices=slices)
    figures = metrics(answered)
    labels = {name: {"rows": 10, "share": 1 / len(classes)} for name in classes}
    split = {"rows": 10 * len(classes), "labels": labels, "histogram": [{"from": 0, "rows": 9}, {"from": 8, "rows": 3}]}
    epoch = {"epoch": 1, "train_loss": 0.8, "validation_loss": 0.6, "validation_accuracy": 0.7}
    facts = {"git_commit": None, "config_hash": "c", "data_hash": "d", "code_hash": "e", "libraries": {"tfx": "1.21.0"}}
    trained = {
        "epochs": [epoch, {**epoch, "epoch": 2}],
        "best_epoch": 2,
        "step": 20,
        "examples_per_second": 90.0,
        "precision": "float32",
        "wall_seconds": 90.0,
        "resumed_at": [],
        "weights": 9,
        "trained_weights": 9,
        "ranks": {},
    }
    left = {
        "metrics": figures,
        "answers": answered,
        "verdicts": [verdict("accuracy >= 0.4", f"{figures.accuracy:.3f}")],
        "training": {**trained, "members": [trained]},
        "export": export_record.ExportRecord(
            dtype="float32", abstain=None, calibration={**figures.calibration.model_dump(), "note": "", "rows": 500}
        ),
        "ingest": {
            "rows": 99, "distinct": 90, "duplicates": 4, "not_sampled": 0, "quarantined": {"no text": 5},
            "doubts": {}, "label_map": [],
        },
        "texts": {
            "max_length": 8, "truncated": 0.01, "out_of_vocabulary": 0.0,
            "splits": {"train": split, "validation": split, "test": split},
        },
        "anomalies": [],
        "attributions": {},
        "canary": {"blessed": 1, "summary": "20 of 20 answers equal"},
        "push": {"version": "1795295123", "summary": "serving/1795295123"},
        "card": "---\nlicense: mit\n---\n\n# reviews\n\nNobody has written what it is for.\n",
        "release": {"name": "reviews", "parent": None, **facts},
        "labels": label_report(rows, texts, classes),
        "history": [],
    }  # fmt: skip
    return Evidence(**{**left, **changes})


def compression_report(rows=1000, teacher_seconds=(0.2,) * 8, **gates):
    """A student that gets 84% of the rows right where its teacher gets 85%, twice as fast and a third of the size.

    It takes 0.1 s for each batch.
    """
    import numpy as np

    from bertline.components import student_gate
    from bertline.components.compression_report import Steps
    from bertline.components.options import StudentGates

    truth = np.arange(rows) % 2
    wrong = np.arange(rows) / rows
    student, teacher = (answers(["no", "yes"], truth, truth ^ (wrong < share)) for share in (0.16, 0.15))
    timed = {
        name: student_gate.Timing(np.array(seconds), 512, p50_ms=1000 * seconds[0] / 20)
        for name, seconds in {"teacher": teacher_seconds, "student": [0.1] * len(teacher_seconds)}.items()
    }
    sizes = {"teacher": 90_000_000, "student": 30_000_000}
    both = {"teacher": teacher, "student": student}
    sides = {name: student_gate.side(each, sizes[name], timed[name]) for name, each in both.items()}
    steps = Steps(wordpieces={"before": 30_522, "after": 7_210})
    options = StudentGates(**{"not_worse_by": 0.01, **gates})
    return student_gate.compare(steps, sides, both, timed, options, 0.95)


def label_report(rows, texts, classes):
    """What LabelQuality would have left: an issue in each split, and a near-duplicate of a test row in train."""
    place = {"source": "reviews.csv:7", "row_id": "0", "text_pair": ""}
    judged = {"rows": rows, "found": 1, "by": "this model", "note": ""}
    issue = {**place, "label": classes[0], "suggested": classes[1], "by": "this model", "text": texts[0]}
    pair = {
        f"{side}_{name}": value
        for side, split, label in (("first", "train", classes[0]), ("second", "test", classes[1]))
        for name, value in {**place, "split": split, "label": label, "text": texts[0]}.items()
    }
    return {
        "issues": {"test": judged, "validation": judged, "train": {**judged, "by": "TF-IDF", "note": "a note"}},
        "near_duplicates": {
            "pairs": 2, "threshold": 0.8, "complete": True, "by_splits": {"train, test": 1}, "contradicting": 1,
        },
        "test_without_near_duplicates_of_train": {
            "left_out": 1, "rows": rows - 1, "accuracy": 0.75, "interval": [0.7, 0.8],
        },
        "issue_rows": [
            {**issue, "split": split, "score": str(score)}
            for split, score in (("train", 0.01), ("test", 0.02), ("validation", 0.03))
        ],
        "pair_rows": [{**pair, "first_split": "validation", "similarity": "1.0"}, {**pair, "similarity": "0.9"}],
    }  # fmt: skip


def verdict(gate, value, passed=True, reason=""):
    """A gate's verdict as the blessing holds it."""
    from bertline.components import gates

    return gates.Verdict(gate, value, "0.4", passed, reason, interval=(0.4, 0.6)).as_dict()


def page_tables(html):
    """The tables of a page by their id: for each row of the body, the cells' figures, or their texts without one."""
    from html.parser import HTMLParser

    tables = {}

    class Reader(HTMLParser):
        rows = cell = None

        def handle_starttag(self, tag, attributes):
            attributes = dict(attributes)
            if tag == "table":
                self.rows = tables.setdefault(attributes.get("id"), [])
            elif tag == "tr" and self.rows is not None:
                self.rows.append([])
            elif tag in ("td", "th") and self.rows is not None:
                self.figure, self.cell = attributes.get("data-value"), ""

        def handle_data(self, data):
            if self.cell is not None:
                self.cell += data

        def handle_endtag(self, tag):
            if tag in ("td", "th") and self.cell is not None:
                self.rows[-1].append(float(self.figure) if self.figure else self.cell.strip())
                self.cell = None
            elif tag == "thead" and self.rows is not None:
                self.rows.clear()

    Reader().feed(html)
    return tables
