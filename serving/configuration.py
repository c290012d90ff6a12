"""TF Serving's configuration files: protos in text form, read as tensorflow_model_server reads them.

Three of their messages are not in the tensorflow-serving-api package, so they are declared here, with the names and
numbers of TF Serving 2.19's session_bundle_config.proto, monitoring_config.proto and ssl_config.proto.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.message import Message

from bertline.errors import UserError

_PACKAGE = "tensorflow.serving"
_WRAPPERS = wrappers_pb2.DESCRIPTOR
_FIELD = descriptor_pb2.FieldDescriptorProto

# message -> field -> (number, type); a type is one of proto's own or the name of a message
_MESSAGES: dict[str, dict[str, tuple[int, int | str]]] = {
    "BatchingParameters": {
        "max_batch_size": (1, "google.protobuf.Int64Value"),
        "batch_timeout_micros": (2, "google.protobuf.Int64Value"),
        "max_enqueued_batches": (3, "google.protobuf.Int64Value"),
        "num_batch_threads": (4, "google.protobuf.Int64Value"),
        "thread_pool_name": (5, "google.protobuf.StringValue"),
        "allowed_batch_sizes": (6, _FIELD.TYPE_INT64),
        "pad_variable_length_inputs": (7, _FIELD.TYPE_BOOL),
        "enable_large_batch_splitting": (8, "google.protobuf.BoolValue"),
        "max_execution_batch_size": (9, "google.protobuf.Int64Value"),
    },
    "PrometheusConfig": {"enable": (1, _FIELD.TYPE_BOOL), "path": (2, _FIELD.TYPE_STRING)},
    "MonitoringConfig": {"prometheus_config": (1, f"{_PACKAGE}.PrometheusConfig")},
    "SSLConfig": {
        "server_key": (1, _FIELD.TYPE_STRING),
        "server_cert": (2, _FIELD.TYPE_STRING),
        "custom_ca": (3, _FIELD.TYPE_STRING),
        "client_verify": (4, _FIELD.TYPE_BOOL),
    },
}
_REPEATED = {"allowed_batch_sizes"}

AnyMessage = TypeVar("AnyMessage", bound=Message)


def _declared() -> dict[str, type[Message]]:
    """Message name -> class, in a pool of their own: no clash with a process that has TF Serving's own modules."""
    file = descriptor_pb2.FileDescriptorProto(name="bertline/configuration.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append(_WRAPPERS.name)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = _FIELD.LABEL_REPEATED if field in _REPEATED else _FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_WRAPPERS.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _declared()
BatchingParameters = _CLASSES["BatchingParameters"]
MonitoringConfig = _CLASSES["MonitoringConfig"]
SSLConfig = _CLASSES["SSLConfig"]


def read_text_proto(file: str | Path, message: type[AnyMessage]) -> AnyMessage:
    """A message from a file in protobuf's text form.

    Args:
        file: the file's path.
        message: the class of the message it holds.

    Raises:
        UserError: it cannot be read, or is not such a message; the message names the file and the line.
    """
    try:
        return text_format.Parse(Path(file).read_text(encoding="utf-8"), message())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except text_format.ParseError as error:
        reason = str(error).partition(" : ")[2] or str(error)
        where = f"{error.GetLine()}:{error.GetColumn()}: " if error.GetLine() else ""
        # tensorflow_model_server's own words, on which scripts rely; it does not name the file.
        words = f"Error parsing text-format {message.DESCRIPTOR.full_name}: {where}{reason}"
        raise UserError(f"{words} (in {file})") from error
