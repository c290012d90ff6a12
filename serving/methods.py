"""PredictionService's methods: from a request to the graph's inputs, and from the graph's outputs to the answer.

The errors' words and status codes are tensorflow_model_server's, with the model, version and signature added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import grpc
import numpy as np

from bertline.serving import tensors
from bertline.serving.calls import Call
from bertline.serving.errors import RequestError, invalid
from bertline.serving.examples import count, serialized
from bertline.serving.protos import (
    ClassificationRequest,
    ClassificationResponse,
    ClassificationResult,
    DataType,
    InferenceResult,
    Input,
    ModelSpec,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    RegressionResult,
    SignatureDef,
)
from bertline.serving.servable import DEFAULT_SIGNATURE, Servable

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
# Names that signatures for Classify and Regress give their tensors.
INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"

Outputs = Mapping[str, np.ndarray]  # tensor name -> value


class Method(NamedTuple):
    """A method: `prepare` makes a call from a request, `answer` a response from the call's outputs.

    Its requests and responses are in the field `log` of a PredictionLog.
    """

    name: str
    log: str
    spec: Callable[[Any], ModelSpec]
    prepare: Callable[[Servable, Any], Call]
    answer: Callable[[Servable, Any, Outputs], Any]


# === Predict ===


def _prepare_predict(servable: Servable, request: PredictRequest) -> Call:
    _, signature = _predict_signature(servable, request.model_spec)
    sent, wanted = set(request.inputs), set(signature.inputs)
    if not wanted - set(signature.defaults) <= sent <= wanted:
        extra = ",".join(sorted(sent - wanted))
        missing = ",".join(sorted(wanted - sent - set(signature.defaults)))
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({{{','.join(sorted(sent))}}}) != "
            f"len({{{','.join(sorted(wanted))}}}). Sent extra: {{{extra}}}. Missing but required: {{{missing}}}."
        )
    values = {**signature.defaults, **request.inputs}
    feeds = {
        _tensor_name("input", alias, info): tensors.decode(alias, info, values[alias])
        for alias, info in sorted(signature.inputs.items())
    }
    fetched = _wanted_outputs(signature, request.output_filter)
    return Call(feeds, tuple(_tensor_name("output", alias, signature.outputs[alias]) for alias in fetched))


def _answer_predict(
    servable: Servable, request: PredictRequest, outputs: Outputs, as_content: bool = False
) -> PredictResponse:
    name, signature = _predict_signature(servable, request.model_spec)
    response = PredictResponse()
    _name(response.model_spec, servable, name)
    for alias in _wanted_outputs(signature, request.output_filter):
        tensors.encode(outputs[signature.outputs[alias].name], response.outputs[alias], as_content)
    return response


def _tensor_name(kind: str, alias: str, info) -> str:
    if not info.name:
        raise invalid(
            f"{kind} {alias} is a sparse or ragged tensor, for which Predict has no form; export the model with its "
            "parts, or leave an output out by output_filter"
        )
    return info.name


def _predict_signature(servable: Servable, spec: ModelSpec) -> tuple[str, SignatureDef]:
    name = spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signature(name)
    if signature is None:
        raise RequestError(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found. {_signatures(servable)}'
        )
    return name, signature


def _wanted_outputs(signature: SignatureDef, output_filter: Iterable[str]) -> list[str]:
    """Names of the outputs to send: those of the filter, or all. The filter must name known outputs, each once."""
    wanted = list(output_filter)
    for position, alias in enumerate(wanted):
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{','.join(sorted(signature.outputs))}}}."
            )
        if alias in wanted[:position]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return wanted or sorted(signature.outputs)


# === Classify and Regress ===


def _prepare_classify(servable: Servable, request: ClassificationRequest) -> Call:
    signature = _example_signature(servable, request.model_spec)
    return _example_call(request.input, signature, _classify_outputs(signature))


def _answer_classify(servable: Servable, request: ClassificationRequest, outputs: Outputs) -> ClassificationResponse:
    signature = _example_signature(servable, request.model_spec)
    response = ClassificationResponse(result=_classifications(signature, outputs, count(request.input)))
    _name(response.model_spec, servable, request.model_spec.signature_name or DEFAULT_SIGNATURE)
    return response


def _prepare_regress(servable: Servable, request: RegressionRequest) -> Call:
    signature = _example_signature(servable, request.model_spec)
    return _example_call(request.input, signature, _regress_outputs(signature))


def _answer_regress(servable: Servable, request: RegressionRequest, outputs: Outputs) -> RegressionResponse:
    signature = _example_signature(servable, request.model_spec)
    response = RegressionResponse(result=_regressions(signature, outputs, count(request.input)))
    _name(response.model_spec, servable, request.model_spec.signature_name or DEFAULT_SIGNATURE)
    return response


def _example_signature(servable: Servable, spec: ModelSpec) -> SignatureDef:
    name = spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signature(name)
    if signature is None:
        raise invalid(f"No signature was found with the name: {name}. {_signatures(servable)}")
    return signature


def _classify_outputs(signature: SignatureDef) -> list[str]:
    _check_inputs(signature, "classification")
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    present = [alias for alias in (CLASSES, SCORES) if alias in signature.outputs]
    if not present:
        raise invalid(
            "Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}". It has: {", ".join(sorted(signature.outputs))}.'
        )
    return present


def _regress_outputs(signature: SignatureDef) -> list[str]:
    _check_inputs(signature, "regression")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if OUTPUTS not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef; it has: {', '.join(signature.outputs)}.")
    return [OUTPUTS]


def _check_inputs(signature: SignatureDef, kind: str) -> None:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if INPUTS not in signature.inputs:
        raise invalid(f"No {kind} inputs found in SignatureDef; it has: {', '.join(signature.inputs)}.")
    if signature.inputs[INPUTS].dtype != DataType.Value("DT_STRING"):
        raise invalid(f"Input {INPUTS} of the signature must be DT_STRING, serialized tf.Examples, for {kind}.")


def _example_call(input: Input, signature: SignatureDef, aliases: list[str]) -> Call:
    return Call(
        {signature.inputs[INPUTS].name: serialized(input)}, tuple(signature.outputs[alias].name for alias in aliases)
    )


def _classifications(signature: SignatureDef, outputs: Outputs, examples: int) -> ClassificationResult:
    values = {alias: outputs[signature.outputs[alias].name] for alias in _classify_outputs(signature)}
    for alias, dtype, words in ((CLASSES, np.object_, "DT_STRING"), (SCORES, np.float32, "DT_FLOAT")):
        value = values.get(alias)
        if value is None:
            continue
        if value.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {list(value.shape)} of {alias}")
        if value.dtype != dtype:
            raise invalid(f"Expected {alias} Tensor of {words}. Got: {value.dtype}")
        if value.shape[0] != examples:
            raise invalid(f"Expected {alias} output batch size of {examples}. Got: {value.shape[0]}")
    classes, scores = values.get(CLASSES), values.get(SCORES)
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    result = ClassificationResult()
    for row in range(examples):
        classification = result.classifications.add()
        for column in range((classes if classes is not None else scores).shape[1]):
            entry = classification.classes.add()
            if classes is not None:
                entry.label = _text(classes[row, column])
            if scores is not None:
                entry.score = scores[row, column]
    return result


def _text(label: bytes) -> str:
    try:
        return label.decode()
    except UnicodeDecodeError as error:  # the field is a string, which can only hold UTF-8
        raise invalid(f"The model's label {label!r} is not UTF-8, and Classify sends text; use Predict") from error


def _regressions(signature: SignatureDef, outputs: Outputs, examples: int) -> RegressionResult:
    value = outputs[signature.outputs[OUTPUTS].name]
    if value.ndim not in (1, 2) or (value.ndim == 2 and value.shape[1] != 1):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(value.shape)}"
        )
    if value.shape[0] != examples:
        raise invalid(f"Input batch size did not match output batch size: {examples} vs. {value.shape[0]}")
    if value.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {value.dtype}")
    result = RegressionResult()
    for number in value.ravel().tolist():
        result.regressions.add(value=number)
    return result


# === MultiInference ===


def _prepare_multi(servable: Servable, request: MultiInferenceRequest) -> Call:
    inputs, fetches, seen = set(), {}, set()
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        signature = servable.signature(name)
        if signature is None:
            raise invalid(f"Requested signature not found in model graph: {name}. {_signatures(servable)}")
        aliases = _task_outputs(task.method_name, signature)
        inputs.add(signature.inputs[INPUTS].name)
        fetches.update(dict.fromkeys(signature.outputs[alias].name for alias in aliases))
    # TensorFlow 2 gives each signature an input tensor of its own; all get the same examples.
    return Call(dict.fromkeys(sorted(inputs), serialized(request.input)), tuple(fetches))


def _answer_multi(servable: Servable, request: MultiInferenceRequest, outputs: Outputs) -> MultiInferenceResponse:
    response, examples = MultiInferenceResponse(), count(request.input)
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = servable.signatures[name]
        result = InferenceResult()
        if task.method_name == CLASSIFY_METHOD:
            result.classification_result.CopyFrom(_classifications(signature, outputs, examples))
        else:
            result.regression_result.CopyFrom(_regressions(signature, outputs, examples))
        _name(result.model_spec, servable, name)
        response.results.append(result)
    return response


def _task_outputs(method: str, signature: SignatureDef) -> list[str]:
    if method == CLASSIFY_METHOD:
        return _classify_outputs(signature)
    if method == REGRESS_METHOD:
        return _regress_outputs(signature)
    raise RequestError(
        grpc.StatusCode.UNIMPLEMENTED,
        f"Unsupported signature method_name: {method}; there are {CLASSIFY_METHOD} and {REGRESS_METHOD}",
    )


def _multi_spec(request: MultiInferenceRequest) -> ModelSpec:
    """The model that all tasks name."""
    names = {task.model_spec.name for task in request.tasks}
    if not request.tasks:
        raise invalid("Inference request must have at least one task.")
    if "" in names:
        raise invalid("Found ModelSpec with an empty model name.")
    if len(names) > 1:
        raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    return request.tasks[0].model_spec


def _own_spec(request: PredictRequest | ClassificationRequest | RegressionRequest) -> ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _name(spec: ModelSpec, servable: Servable, signature: str) -> None:
    spec.name = servable.model
    spec.version.value = servable.version
    spec.signature_name = signature


def _signatures(servable: Servable) -> str:
    known = sorted(name for name in servable.signatures if not name.startswith("__"))
    where = servable.where
    return f"{where[0].upper()}{where[1:]} has: {', '.join(known)}."


PREDICT = Method("Predict", "predict_log", _own_spec, _prepare_predict, _answer_predict)
CLASSIFY = Method("Classify", "classify_log", _own_spec, _prepare_classify, _answer_classify)
REGRESS = Method("Regress", "regress_log", _own_spec, _prepare_regress, _answer_regress)
MULTI_INFERENCE = Method("MultiInference", "multi_inference_log", _multi_spec, _prepare_multi, _answer_multi)
BY_NAME = {method.name: method for method in (PREDICT, CLASSIFY, REGRESS, MULTI_INFERENCE)}
