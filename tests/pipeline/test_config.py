import time
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import local_runner

MINIMAL = "name: reviews\ndata: {source: reviews.csv}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "task.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        configs.load(write(folder, text))
    return str(caught.value)


def test_a_minimal_config_gets_the_defaults(tmp_path):
    config = configs.load(write(tmp_path, MINIMAL))
    assert config.data.source == ["reviews.csv"]
    assert config.train.batch_size == 32
    assert config.folder == str(tmp_path)
    assert config.serving_folder == str(config.root_folder / "serving")


def test_the_printed_config_is_complete_and_reads_back_the_same(tmp_path):
    config = configs.load(write(tmp_path, MINIMAL))
    printed = configs.dump(config)
    assert "warmup_share: 0.1" in printed
    assert configs.load(write(tmp_path, printed)) == config


def test_labels_are_printed_so_that_they_read_back_the_same(tmp_path):
    labels = ["1e3", "0o7", "true", "null", "012", "- x", "a: b", "x #y", "", "two\nlines", "g\x85h", "\u2028", "é 😀"]
    config = configs.load(write(tmp_path, MINIMAL))
    config = config.model_copy(update={"data": config.data.model_copy(update={"labels": labels})})
    printed = configs.dump(config)
    assert YAML(typ="safe", pure=True).load(printed)["data"]["labels"] == labels


def test_one_line_switches_the_canary_on_and_its_defaults_have_their_names_in_the_file(tmp_path):
    assert configs.load(write(tmp_path, MINIMAL)).serve.canary is None
    canary = configs.load(write(tmp_path, MINIMAL + "serve: {canary: {}}\n")).serve.canary
    assert (canary.share, canary.shadow, canary.minimum_requests) == (0.1, False, 500)
    line = "serve: {canary: {share: 0.2, for: 90s, minimum_requests: 400}}\n"
    config = configs.load(write(tmp_path, MINIMAL + line))
    assert config.serve.canary.at_least.total_seconds() == 90
    printed = configs.dump(config)
    assert "for: 1m30s" in printed
    assert configs.load(write(tmp_path, printed)) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            MINIMAL + "serve: {canary: {fro: 1h}}\n",
            "serve.canary.fro: unknown key. Did you mean 'for'? Known here: share",
        ),
        (MINIMAL + "serve: {canary: {at_least: 1h}}\n", "serve.canary.at_least: unknown key."),
        (MINIMAL + "serve: {canary: {for: 1}}\n", "serve.canary.for: 1: write numbers with their units"),
        (
            MINIMAL + "serve: {canary: {minimum_requests: 100}}\n",
            "serve.canary: minimum_requests: 100 requests cannot show most_errors 0.01 with certainty 0.95, even "
            "without a fault; it takes 368",
        ),
        (MINIMAL + "serve: {canary: {agreement: 1}}\n", "serve.canary.agreement: 1: "),
        (MINIMAL + "serve: {canary: {share: 0.9}}\n", "serve.canary.share: 0.9: "),
        (MINIMAL + "serve: {canary: {share: 0}}\n", "serve.canary.share: 0: "),
        (
            MINIMAL + "serve: {canary: {key: X-User}}\n",
            "serve.canary.key: 'X-User': write a header's name in lower case",
        ),
        (MINIMAL + "serve: {canary: {certainty: 1}}\n", "serve.canary.certainty: 1: "),
        (MINIMAL + "serve: {keep_versions: 1, canary: {}}\n", "serve: canary: keep_versions: 1 removes the version"),
        (
            MINIMAL + "serve: {canary: {minimum_labels: 9}}\n",
            "serve: canary: minimum_labels waits for labels of recorded",
        ),
        (MINIMAL + "serve: {folder: 'gs://b/x', canary: {}}\n", "serve: canary: gs://b/x is an object store"),
        (MINIMAL + "train: {epoch: 3}\n", "train.epoch: unknown key. Did you mean 'epochs'? Known here: method, "),
        (
            MINIMAL.replace("reviews.csv", "reviews.csv, labels: [a, b, c]") + "export: {abstain: 0.3}\n",
            "export.abstain: 0.3 is never reached from below: with 3 labels",
        ),
        # YAML ends an unquoted value within braces at a comma
        (
            "name: x\ndata: {source: {url: 'sqlite:///x.db', query: select id, text from rows}}\n",
            "data.source.0.text from rows: unknown key. Known here: url, query",
        ),
        (MINIMAL + "trian: {epochs: 3}\n", "trian: unknown key. Did you mean 'train'?"),
        (MINIMAL + "train: {epochs: 0}\n", "train.epochs: 0: Input should be greater than 0"),
        (MINIMAL + "train: {precision: fp8}\n", "train.precision: 'fp8': Input should be 'auto', 'float32'"),
        ("name: reviews\n", "data: missing; it has no default."),
        ("name: re views\ndata: {source: a.csv}\n", "name: 're views': use letters, digits"),
        (
            "name: a\ndata: {source: a.csv, split: {train: 1}}\n",
            "split: no share is left for validation",
        ),
        ("name: a\ndata: {source: a.csv, labels: [x]}\n", "labels: list at least two different labels"),
        ("name: a\ndata: {source: a.csv, text: t, label: t}\n", "must be different columns, not t, t"),
        (MINIMAL + "evaluate: {slices: [brand]}\n", "'brand' is not in data.keep"),
        (MINIMAL + "evaluate: {gates: {not_worse: 0.1}}\n", "not_worse: unknown key. Did you mean 'not_worse_by'?"),
        (MINIMAL + "evaluate: {gates: {certainty: 95}}\n", "gates.certainty: 95: Input should be less than 1"),
        (MINIMAL + "evaluate: {gates: {max_size: big}}\n", "evaluate.gates.max_size: 'big': could not parse"),
        (MINIMAL + "evaluate: {gates: {slices: {gap: 0.1}}}\n", "evaluate.gates.slices.gap: unknown key."),
        (MINIMAL + "evaluate: {baseline: false, gates: {beats_baseline_by: 0}}\n", "needs the baseline"),
        (MINIMAL + "evaluate: {probe: false, gates: {beats_probe_by: 0}}\n", "take out `probe: false`"),
        (MINIMAL + "train: {method: probe}\nevaluate: {gates: {beats_probe_by: 0}}\n", "the model is the probe itself"),
        (MINIMAL + "train: {method: probe, warm_start: true}\n", "trains only a new head"),
        (MINIMAL + "train: {method: probe, head: random}\n", "the head is the probe's"),
        (
            MINIMAL + "train: {method: probe, head: probe}\nmodel: {backbone: {vocabulary: vocab.txt}}\n",
            "train.method: probe, train.head: probe: there is no probe here, since the random weights",
        ),
        (
            MINIMAL + "evaluate: {gates: {fairness: {column: dialect, label: a}}}\n",
            "set equal_opportunity, demographic_parity or both",
        ),
        (
            MINIMAL + "evaluate: {gates: {fairness: {column: dialect, label: a, demographic_parity: 0.1}}}\n",
            "evaluate.gates.fairness.column: 'dialect' is not in data.keep",
        ),
        (
            "name: a\ndata: {source: a.csv, keep: [sex], labels: [x, y]}\n"
            "evaluate: {gates: {fairness: {column: sex, label: z, equal_opportunity: 0.1}}}\n",
            "evaluate.gates.fairness.label: 'z' is not in data.labels",
        ),
        (MINIMAL + "evaluate: {ranking: {label: fits}}\n", "evaluate.ranking: rows must be a query in data.text"),
        (
            "name: a\ndata: {source: a.csv, text_pair: b}\nevaluate: {ranking: {label: fits}}\n",
            "evaluate.ranking: set data.split.group: text, so that no query of the test rows is in training too",
        ),
        (
            "name: a\ndata: {source: a.csv, text_pair: b, labels: [x, y], split: {group: text}}\n"
            "evaluate: {ranking: {label: fits}}\n",
            "evaluate.ranking.label: 'fits' is none of the labels",
        ),
        (MINIMAL + "evaluate: {gates: {ranking: {mrr: 0.5}}}\n", "set ranking: {label: LABEL}"),
        ("name: a\ndata: {source: a.csv, keep: [tfidf]}\n", "keep: bertline uses the name 'tfidf' itself"),
        (MINIMAL + "model: {backbone: {layers: 2}}\n", "model.backbone.vocabulary: missing"),
        (MINIMAL + "validation: {schema_file: none.pbtxt}\n", "'none.pbtxt' does not exist"),
        (MINIMAL + "name: again\n", 'found duplicate key "name"'),
        ("- a\n", "expected keys such as name and data"),
        ("data: [", "is not valid YAML"),
    ],
)
def test_a_wrong_config_is_refused_by_key_value_and_what_is_allowed(tmp_path, text, expected):
    message = refused(tmp_path, text)
    assert expected in message
    assert "task.yaml" in message


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("method: top_layers, top_layers: 6", "train.top_layers: 6 of 6 layers leave none frozen"),
        ("method: lora, lora: {rank: 385}", "train.lora.rank: 385 is above the backbone's width of 384"),
        ("method: adalora, adalora: {rank: 300}", "train.adalora.rank: 450 at the start (one and a half times rank)"),
        ("method: adapters, adapters: {size: 400}", "train.adapters.size: 400 is above the backbone's width of 384"),
        ("method: prefix, prefix: {tokens: 400}", "set it to 384 or less, or max_length lower"),
        ("method: prompt, prompt: {tokens: 400}", "train.prompt.tokens: 400 and model.max_length (128) are more than"),
        ("method: probe, adapters: {size: 8}", "it goes with method: adapters, and method is probe"),
    ],
)
def test_a_method_that_does_not_fit_the_backbone_is_refused_when_the_config_is_read(tmp_path, train, expected):
    assert expected in refused(tmp_path, MINIMAL + f"train: {{{train}}}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "train: {method: probe, adapters: {size: 48, kind: pfeiffer}}\n",
            "train.adapters: it goes with method: adapt",
        ),
        ("train: {lora: {}}\n", "train.lora: it goes with method: lora, and method is full"),
        ("model: {bilstm: {units: 64}}\n", "model.bilstm: it goes with family: bilstm, and family is auto"),
        ("train: {seed: -1}\n", "train.seed: -1: Input should be greater than or equal to 0"),
        (
            "train: {seed: 1099511627776}\n",
            "train.seed: 1099511627776: Input should be less than or equal to 2147483647",
        ),
        ("train: {augment: {operations: [swap], seed: -1}}\n", "train.augment.seed: -1: Input should be greater"),
        ("pretrain: {seed: 1099511627776}\n", "pretrain.seed: 1099511627776: Input should be less"),
    ],
)
def test_a_section_without_use_and_a_seed_out_of_range_are_refused(tmp_path, text, expected):
    assert expected in refused(tmp_path, MINIMAL + text)


def test_pre_training_reads_columns_that_are_known_as_those_of_test_rows(tmp_path):
    data = "name: mails\ndata: {source: mails.csv, text: [subject, from, body]}\n"
    said = refused(tmp_path, data + "pretrain: {source: more.csv, text: from}\n")
    assert "pretrain.text: from: of the columns of data.text (subject, from, body), name the first or the last" in said
    for text in ("body", "subject", "[subject, from]", "[subject, from, body]", "other"):
        assert configs.load(write(tmp_path, data + f"pretrain: {{source: more.csv, text: {text}}}\n")).pretrain


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("train: {method: contrastive}\n", "train.method"),
        ("tune: {space: {train.method: [full, contrastive]}}\n", "tune.space: train.method"),
    ],
)
def test_rows_with_several_labels_are_not_trained_by_which_are_alike(tmp_path, text, key):
    several = 'name: reviews\ndata: {source: reviews.csv, multi_label: {separator: "|"}}\n'
    assert f"{key}: contrastive: with data.multi_label rows share some labels" in refused(tmp_path, several + text)


@pytest.mark.parametrize(
    ("method", "rate"),
    [("full", 5e-5), ("contrastive", 5e-5), ("lora", 5e-4), ("bitfit", 5e-4), ("prompt", 3e-3), ("prefix", 3e-3)],
)
def test_a_method_has_its_usual_rate(tmp_path, method, rate):
    config = configs.load(write(tmp_path, MINIMAL + f"train: {{method: {method}}}\n"))
    assert config.train.learning_rate == rate
    (tmp_path / "printed.yaml").write_text(configs.dump(config))
    assert configs.load(tmp_path / "printed.yaml") == config
    own = configs.load(write(tmp_path, MINIMAL + f"train: {{method: {method}, learning_rate: 5e-5}}\n"))
    assert own.train.learning_rate == 5e-5


BILSTM = "model: {family: bilstm}\n"


def test_a_family_without_pretrained_weights_has_defaults_of_its_own(tmp_path):
    config = configs.load(write(tmp_path, MINIMAL + BILSTM))
    assert (config.train.learning_rate, config.train.epochs, config.model.dropout) == (0.002, 10, 0.3)
    assert (config.probes, config.head_from_probe) == (False, False)
    own = configs.load(write(tmp_path, MINIMAL + "model: {family: bilstm, dropout: 0.1}\ntrain: {epochs: 2}\n"))
    assert (own.train.learning_rate, own.train.epochs, own.model.dropout) == (0.002, 2, 0.1)
    (tmp_path / "printed.yaml").write_text(configs.dump(own))
    assert configs.load(tmp_path / "printed.yaml") == own


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {method: lora}\n", "train.method: lora changes the layers of a pretrained transformer"),
        ("train: {method: contrastive}\n", "train.method: contrastive changes the layers"),
        ("train: {method: probe}\n", "there is no probe here"),
        ("train: {head: probe}\n", "there is no probe here"),
        ("train: {l2_sp: 0.1}\n", "train.l2_sp: the random weights that training starts from"),
        ("evaluate: {gates: {beats_probe_by: 0}}\n", "there is no probe here"),
        ("pretrain: {}\n", "pretrain: model.family: bilstm has no transformer"),
        ("compress: {vocabulary: used}\n", "compress: model.family: bilstm has no transformer"),
        ("tune: {space: {train.method: [full, lora]}}\n", "train.method: lora: train.method: lora changes the layers"),
    ],
)
def test_what_needs_pretrained_weights_is_refused_where_there_are_none(tmp_path, text, expected):
    assert expected in refused(tmp_path, MINIMAL + BILSTM + text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {method: lora}\n", "train.method: lora changes the layers of a pretrained transformer"),
        ("train: {method: probe}\n", "family: static has no encoder for it to read"),
        ("train: {unlabelled: more.csv}\n", "the probe labels the rows, and model.family: static has none"),
        ("train: {augment: {operations: [masked_lm]}}\n", "masked_lm: only BERTs can do it"),
        ("pretrain: {}\n", "pretrain: model.family: static has no transformer"),
        ("compress: {layers: 2}\n", "compress: model.family: static has no transformer"),
        ("export: {also: [onnx]}\n", "export.also: model.family: static has no transformer"),
        (
            "  static: {train_embeddings: false}\ntrain: {l2_sp: 0.1}\n",
            "train.l2_sp: with model.static.train_embeddings",
        ),
    ],
)
def test_what_needs_layers_is_refused_where_there_are_only_words(tmp_path, text, expected):
    assert expected in refused(tmp_path, MINIMAL + "model:\n  family: static\n" + text)


def test_words_have_at_most_the_width_of_what_they_are_distilled_from(tmp_path):
    config = configs.load(write(tmp_path, MINIMAL + "model: {family: static, static: {dimensions: 384}}\n"))
    assert (config.train.learning_rate, config.train.epochs, config.model.dropout) == (0.001, 10, 0.3)
    random = MINIMAL + "model: {family: static, backbone: {vocabulary: v.txt}}\n"
    assert "model.backbone: family: static distils pretrained weights" in refused(tmp_path, random)
    wider = MINIMAL + "model: {family: static, static: {dimensions: 385}}\n"
    assert "model.static.dimensions: 385 are more than the 384 of model.backbone's vectors" in refused(tmp_path, wider)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {method: prefix}\n", "compress.layers: train.method: prefix leaves parts beside"),
        ("tune: {space: {train.method: [full, prompt]}}\n", "compress.layers: tune.space: train.method: prompt leaves"),
    ],
)
def test_a_student_with_fewer_layers_cannot_follow_a_method_that_adds_parts(tmp_path, text, expected):
    assert expected in refused(tmp_path, MINIMAL + "compress: {layers: 2}\n" + text)


@pytest.mark.parametrize(
    ("compress", "expected"),
    [
        ("family: static, layers: 2", "layers: a student of the family static has none of its teacher's"),
        ("family: static, distill: {hidden_weight: 1}", "distill.hidden_weight: a student of the family static has no"),
        ("family: bilstm, vocabulary: used", "vocabulary: used: a bilstm learns a vocabulary of its own"),
        ("family: static, bilstm: {units: 8}", "bilstm: it goes with family: bilstm"),
        ("family: static, static: {dimensions: 385}", "compress.static.dimensions: 385 are more than the 384 of model"),
        ("family: static}\nexport: {also: [onnx]", "export.also: a student of the family static cannot be written"),
    ],
)
def test_what_a_student_of_another_family_cannot_be_is_refused(tmp_path, compress, expected):
    assert expected in refused(tmp_path, MINIMAL + f"compress: {{{compress}}}\n")


@pytest.mark.parametrize(
    ("compress", "expected"),
    [
        ("hidden: 384", "compress.hidden: 384 is not below the 384 of model.backbone, the teacher's; 192 is the usual"),
        ("hidden: 100", "compress.hidden: 100 is not a multiple of 32, the width of each of the teacher's heads; 192"),
        ("hidden: 192, heads: 8", "compress.heads: 8 heads are wider than compress.hidden; set it to 6 or less"),
        ("hidden: 192, heads: 12", "compress.heads: 12 are not fewer than the 12 of model.backbone"),
        ("hidden: 192, family: bilstm", "hidden: a student of the family bilstm has none of its teacher's"),
        ("hidden: 192}\ntrain: {method: adapters", "compress.hidden: train.method: adapters leaves parts beside"),
    ],
)
def test_a_width_that_a_student_cannot_have_is_refused(tmp_path, compress, expected):
    assert expected in refused(tmp_path, MINIMAL + f"compress: {{{compress}}}\n")


def test_a_student_of_another_family_has_its_familys_usual_recipe(tmp_path):
    config = configs.load(write(tmp_path, MINIMAL + "compress: {family: static, distill: {epochs: 4}}\n"))
    distill = config.compress.distill
    assert (distill.epochs, distill.learning_rate, distill.hidden_weight) == (4, 0.001, 0)
    (tmp_path / "printed.yaml").write_text(configs.dump(config))
    assert configs.load(tmp_path / "printed.yaml") == config


def test_a_method_over_a_backbone_that_is_not_here_is_left_to_the_trainer(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(MINIMAL + "train: {method: lora, lora: {rank: 9999}}\nmodel: {backbone: /only/on/the/cluster}\n")
    assert configs.load(path).train.lora.rank == 9999


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 20_000, "line 1 is nested more than 50 levels deep"),
        ("data: " + "{a: " * 20_000, "line 1 is nested more than 50 levels deep"),
        ("\n".join(" " * level + "data:" for level in range(1000)), "line 50 is nested more than 50 levels deep"),
        (f"{BOMB}data: {{source: *j}}\nname: x\n", "line 6: with its aliases it stands for more than 1,000,000 values"),
        ("data: &a {source: *a}", "line 1: *a stands inside what it names"),
    ],
    ids=["brackets", "braces", "blocks", "aliases of aliases", "itself"],
)
def test_yaml_that_no_machine_should_build_is_refused_at_once(tmp_path, text, expected):
    began = time.monotonic()
    message = refused(tmp_path, text)
    assert message == f"{tmp_path}/task.yaml: {expected}. No config is like that; `bertline init FILE` writes one."
    assert time.monotonic() - began < 20, "it took 2 s on a busy machine"


def test_aliases_of_a_usual_kind_are_read(tmp_path):
    config = configs.load(write(tmp_path, "name: &name reviews\ndata: {source: &s [a.csv], text: *name}\n"))
    assert (config.name, config.data.text) == ("reviews", "reviews")


def test_all_faults_are_named_at_once(tmp_path):
    message = refused(tmp_path, MINIMAL + "train: {epochs: -1, clip_norm: 0}\n")
    assert "train.epochs: -1" in message
    assert "train.clip_norm: 0" in message


def test_a_missing_config_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="bertline init FILE"):
        configs.load(tmp_path / "none.yaml")


def test_labels_that_yaml_could_take_for_other_types_stay_names(tmp_path):
    config = configs.load(write(tmp_path, "name: a\ndata: {source: a.csv, labels: [yes, no, 1]}\n"))
    assert config.data.labels == ["yes", "no", "1"]


def test_the_digest_changes_with_the_recipe_but_not_with_the_place(tmp_path):
    base = configs.load(write(tmp_path, MINIMAL))
    assert configs.load(write(tmp_path, MINIMAL + "train: {seed: 1}\n")).digest() != base.digest()
    assert configs.load(write(tmp_path, MINIMAL + f"root: {tmp_path}\nserve: {{port: 0}}\n")).digest() == base.digest()


def test_remote_folders_keep_their_addresses(tmp_path):
    config = configs.load(write(tmp_path, MINIMAL + "serve: {folder: gs://bucket/models/}\n"))
    assert config.serving_folder == "gs://bucket/models"
    assert config.root_folder == Path.cwd() / "runs/reviews"
    remote = configs.load(write(tmp_path, MINIMAL + "root: s3://bucket/runs\n"))
    assert remote.serving_folder == "s3://bucket/runs/serving"
    assert remote.below_root("checkpoints") == "s3://bucket/runs/checkpoints"


def test_a_run_on_this_machine_refuses_a_remote_root(tmp_path):
    config = configs.load(write(tmp_path, MINIMAL + "root: gs://bucket/runs\n"))
    with pytest.raises(UserError, match=r"root: gs://bucket/runs: .* must be a local folder, since it holds logs"):
        local_runner.run(config, "task.yaml")


def test_every_config_of_the_project_is_valid():
    paths = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
    assert {path.stem for path in paths} >= {"sentiment", "news", "tweets"}
    for path in paths:
        assert configs.load(path).name == path.stem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("export: {abstain: 0.5}", ("export.abstain", "data.multi_label")),
        ("evaluate: {gates: {accuracy: 0.5}}", ("evaluate.gates.accuracy", "data.multi_label", "subset_accuracy")),
        ("evaluate: {gates: {label_f1: {c: 0.5}}}", ("evaluate.gates.label_f1", "'c'")),
    ],
)
def test_what_several_labels_per_row_do_not_go_with_is_refused_by_both_keys(tmp_path, text, expected):
    several = "name: reviews\ndata: {source: reviews.csv, multi_label: {columns: [a, b]}}\n"
    assert configs.load(write(tmp_path, several)).data.label_columns == ["a", "b"]
    message = refused(tmp_path, several + text)
    for words in expected:
        assert words in message
    one = "evaluate: {gates: {micro_f1: 0.5}}"
    assert "data.multi_label" in refused(tmp_path, MINIMAL + one)
    both = "name: reviews\ndata: {source: reviews.csv, multi_label: {columns: [a, b], lists: true}}\n"
    assert "exactly one of separator, columns and lists" in refused(tmp_path, both)


def test_more_from_texts_that_could_not_be_is_refused(tmp_path):
    random = "model: {backbone: {vocabulary: vocab.txt}}\n"
    masked_lm = "train: {augment: {operations: [masked_lm]}}\n"
    assert "masked_lm: the random weights of model.backbone know no words" in refused(
        tmp_path, MINIMAL + random + masked_lm
    )
    assert configs.load(write(tmp_path, MINIMAL + random + masked_lm + "pretrain: {}\n")).probes
    said = refused(tmp_path, MINIMAL + "train: {warm_start: true}\npretrain: {source: texts.csv}\n")
    assert "pretrain: with train.warm_start: true training starts from the last blessed model" in said
    said = refused(tmp_path, MINIMAL + "train: {method: probe, augment: {operations: [swap]}}\n")
    assert "augment: with method: probe nothing is trained on more rows" in said
    said = refused(tmp_path, MINIMAL + "train: {augment: {operations: [swap]}}\n"
                   "tune: {space: {train.augment.variants: [2, 4]}}\n")  # fmt: skip
    assert "train.augment.variants: no trial may change it: the rows are made before the trials" in said
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/sentencepiece.bpe.model").touch()
    foreign = f"{MINIMAL}model: {{backbone: {tmp_path}/weights}}\n"
    assert "pretrain: only BERTs can be pre-trained further" in refused(tmp_path, foreign + "pretrain: {}\n")
    assert "masked_lm: only BERTs can do it" in refused(tmp_path, foreign + masked_lm)
    (tmp_path / "weights/sentencepiece.bpe.model").unlink()
    for kind, electra in (("electra", True), ("bert", False)):
        (tmp_path / "weights/config.json").write_text(f'{{"model_type": "{kind}"}}')
        for key, text in (("pretrain: ", "pretrain: {}\n"), ("train.augment.operations: masked_lm: ", masked_lm)):
            if electra:
                assert f"{key}ELECTRA was not trained to guess masked words" in refused(tmp_path, foreign + text)
            else:
                assert configs.load(write(tmp_path, foreign + text))


def test_pseudo_labels_that_could_not_be_are_refused(tmp_path):
    def train(keys, more=""):
        return f"{MINIMAL}train: {{{keys}}}\n{more}"

    assert configs.load(write(tmp_path, train("unlabelled: new.csv"))).probes
    threshold = "pseudo_threshold: 1 is reached by no row, as no probability is 1"
    assert threshold in refused(tmp_path, train("unlabelled: new.csv, pseudo_threshold: 1.0"))
    assert "it goes with unlabelled" in refused(tmp_path, train("pseudo_threshold: 0.9"))
    assert "pseudo_labels: it goes with unlabelled" in refused(tmp_path, train("pseudo_labels: spread"))
    both = "unlabelled: new.csv, pseudo_labels: spread, pseudo_threshold: 0.8"
    assert "spread all rows get a label" in refused(tmp_path, train(both))
    assert "with method: probe nothing" in refused(tmp_path, train("unlabelled: new.csv, method: probe"))
    random = "model: {backbone: {vocabulary: vocab.txt}}\n"
    assert "the random weights of model.backbone know nothing" in refused(tmp_path, train("unlabelled: a.csv", random))
    assert configs.load(write(tmp_path, train("unlabelled: a.csv", f"{random}pretrain: {{}}\n"))).probes
    (source,) = configs.load(write(tmp_path, MINIMAL)).data.source
    assert "is data.source" in refused(tmp_path, train(f"unlabelled: ./{source}"))
