"""The gRPC contract, message by message, as the running server describes it and as the official client has it."""

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2 as client_pb
from tritonclient.grpc import service_pb2_grpc

from conformance.triton_messages import CONFIGURATION, ENUMS, RPCS, SERVICE
from helpers.cluster import OPTIONS

KINDS = {getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
         for name in dir(FieldDescriptor) if name.startswith("TYPE_")}


@pytest.fixture(scope="module")
def server(triton_cluster):
    """What the gateway's reflection service says."""
    with grpc.insecure_channel(triton_cluster.gateway.address, options=OPTIONS) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        for symbol in ("inference.GRPCInferenceService", "inference.ModelConfig"):
            pool.FindFileContainingSymbol(symbol)
        yield pool


def type_of(field):
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return f"map<{type_of(key)},{type_of(value)}>"
    inner = field.message_type or field.enum_type
    return inner.name if inner is not None else KINDS[field.type]


def described(descriptor):
    fields = sorted(descriptor.fields, key=lambda field: field.number)
    repeated = lambda field: field.label == field.LABEL_REPEATED and not type_of(field).startswith("map<")
    return "; ".join(f"{field.number} {field.name} {'r ' if repeated(field) else ''}{type_of(field)}"
                     for field in fields)


@pytest.mark.parametrize("message", [*SERVICE, *CONFIGURATION])
def test_message(server, message):
    descriptor = server.FindMessageTypeByName(f"inference.{message}")
    assert described(descriptor) == {**SERVICE, **CONFIGURATION}[message]
    assert descriptor.file.syntax == "proto3" if hasattr(descriptor.file, "syntax") else True


@pytest.mark.parametrize("enum", ENUMS)
def test_enum(server, enum):
    values = server.FindEnumTypeByName(f"inference.{enum}").values
    assert {value.name: value.number for value in values} == ENUMS[enum]


def all_messages(descriptors):
    for descriptor in descriptors:
        if descriptor.GetOptions().map_entry:
            continue
        yield descriptor
        yield from all_messages(descriptor.nested_types)


def test_the_official_client_has_the_same_messages(server):
    """Every message and field that the client knows: name, number, type, in both of its files."""
    configuration = client_pb.DESCRIPTOR.dependencies[0]
    known = list(all_messages([*client_pb.DESCRIPTOR.message_types_by_name.values(),
                               *configuration.message_types_by_name.values()]))
    assert len(known) > 90
    for theirs in known:
        ours = {part for part in described(server.FindMessageTypeByName(theirs.full_name)).split("; ")}
        fields = set(described(theirs).split("; "))
        # Widened in later releases; the wire does not tell.
        widened = {part for part in fields - ours if part.replace("uint32", "uint64") in ours}
        assert fields - widened <= ours, theirs.full_name


@pytest.mark.parametrize("rpc", RPCS)
def test_rpc(server, rpc):
    method = server.FindServiceByName("inference.GRPCInferenceService").methods_by_name[rpc]
    assert (method.client_streaming, method.server_streaming) == RPCS[rpc]
    request = "ModelInferRequest" if rpc == "ModelStreamInfer" else f"{rpc}Request"
    assert (method.input_type.name, method.output_type.name) == (request, f"{rpc}Response")


def test_there_is_no_other_rpc(server):
    assert set(server.FindServiceByName("inference.GRPCInferenceService").methods_by_name) == set(RPCS)


REQUESTS = {"CudaSharedMemoryRegister": {"name": "r", "raw_handle": b"h", "byte_size": 4}}
# What an empty request of each gets; the path of the call is Triton's, not the descriptor's.
ANSWERS = {"ModelMetadata": "NOT_FOUND", "ModelConfig": "NOT_FOUND", "ModelInfer": "NOT_FOUND",
           "RepositoryModelLoad": "UNAVAILABLE", "RepositoryModelUnload": "UNAVAILABLE",
           "SystemSharedMemoryRegister": "INVALID_ARGUMENT", "CudaSharedMemoryRegister": "UNIMPLEMENTED"}


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if rpc != "ModelStreamInfer"])
def test_rpc_is_answered(triton_cluster, rpc):
    with grpc.insecure_channel(triton_cluster.gateway.address, options=OPTIONS) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = getattr(client_pb, f"{rpc}Request")(**REQUESTS.get(rpc, {}))
        try:
            answer = getattr(stub, rpc)(request, timeout=60)
            assert type(answer).__name__ == f"{rpc}Response" and rpc not in ANSWERS
        except grpc.RpcError as error:
            assert error.code().name == ANSWERS[rpc], error.details()


def test_health_check(triton_cluster):
    """grpc.health.v1.Health/Check: field 1 of HealthCheckResponse is 1, SERVING, where the server is live."""
    with grpc.insecure_channel(triton_cluster.gateway.address, options=OPTIONS) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check",
                                    request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                                    response_deserializer=lambda answer: answer)
        for service in ("", "inference.GRPCInferenceService"):
            assert check(health_pb2.HealthCheckRequest(service=service), timeout=30) == b"\x08\x01"
