"""gRPC reflection, with which grpcurl and the like call the server without .proto files.

The tensorflow-serving-api package has the messages, but its descriptors of the two services are in a form that today's
protobuf cannot import, so they are declared here, after prediction_service.proto and model_service.proto.
"""

from __future__ import annotations

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection

from bertline.serving.protos import SERVICES

_PACKAGE = "tensorflow.serving"


def enable(server: grpc.aio.Server, names: list[str]) -> None:
    """Lets clients ask `server` what the services of these full names look like."""
    for service, methods in SERVICES.items():
        descriptor_pool.Default().AddSerializedFile(_file(service, methods).SerializeToString())
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)


def _file(service: str, methods: dict[str, tuple[type[Message], type[Message]]]) -> descriptor_pb2.FileDescriptorProto:
    name = f"bertline/{service}.proto"  # not the package's own names, which a process may have tried to import
    file = descriptor_pb2.FileDescriptorProto(name=name, package=_PACKAGE, syntax="proto3")
    declared = file.service.add(name=service)
    for method, (request, response) in methods.items():
        declared.method.add(
            name=method,
            input_type=f".{request.DESCRIPTOR.full_name}",
            output_type=f".{response.DESCRIPTOR.full_name}",
        )
        for message in (request, response):
            if message.DESCRIPTOR.file.name not in file.dependency:
                file.dependency.append(message.DESCRIPTOR.file.name)
    return file
