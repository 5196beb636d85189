"""Codes and texts of Triton's errors, the same through both doors."""

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from helpers.cluster import OPTIONS, failing_with
from helpers.triton import Stream, ensemble_inputs

PROMPT = "Once upon a time"


@pytest.fixture(params=["grpc", "http"])
def door(request, triton_cluster):
    module = {"grpc": triton_grpc, "http": triton_http}[request.param]
    gateway = triton_cluster.gateway
    with module.InferenceServerClient(gateway.address if module is triton_grpc else gateway.http_address) as client:
        client.module = module
        yield client


def inputs(door, **changes):
    """The ensemble's required tensors, with some of them changed or added: name=(array, datatype)."""
    values = {"INPUT_0": ([[PROMPT.encode()]], "BYTES"), "INPUT_1": (np.array([[4]], np.uint32), "UINT32"),
              "INPUT_2": ([[b""]], "BYTES"), "INPUT_3": ([[b""]], "BYTES"), **changes}
    made = []
    for name, value in values.items():
        if value is None:
            continue
        array = np.array(value[0], object) if value[1] == "BYTES" else value[0]
        tensor = door.module.InferInput(name, list(array.shape), value[1])
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def infer(door, outputs=(), model="ensemble", version="", **changes):
    return door.infer(model, inputs(door, **changes), model_version=version, request_id="e1",
                      outputs=[door.module.InferRequestedOutput(name) for name in outputs] or None)


def register_twice(door):
    import tritonclient.utils.shared_memory as shm
    region = shm.create_shared_memory_region("twice", "/errors_test_twice", 64)
    try:
        door.register_system_shared_memory("twice", "/errors_test_twice", 64)
        door.register_system_shared_memory("twice", "/errors_test_twice", 64)
    finally:
        door.unregister_system_shared_memory("twice")
        shm.destroy_shared_memory_region(region)


ID = "[request id: e1] "
uint32 = lambda values: (np.array(values, np.uint32), "UINT32")
# gRPC's code, HTTP's status, what is asked, the whole text (or its beginning, where it ends with …).
ROWS = {
    "INTERNAL": ("INTERNAL", 500, lambda door: infer(door, prompt_learning_task_name_ids=uint32([[0]])),
                 ID + "FasterTransformer execute failure: prompt_learning_type is prefix_prompt either p_prompt_tuning "
                 "when prompt_learning_task_name_ids are provided."),
    "NOT_FOUND": ("NOT_FOUND", 404, lambda door: infer(door, model="nothing"),
                  "Request for unknown model: 'nothing' is not found"),
    "NOT_FOUND version": ("NOT_FOUND", 404, lambda door: infer(door, version="3"),
                          "Request for unknown model: 'ensemble' version 3 is not found"),
    "UNAVAILABLE": ("UNAVAILABLE", 503, lambda door: door.load_model("ensemble"),
                    "explicit model load / unload is not allowed if polling is enabled"),
    "UNSUPPORTED": ("UNIMPLEMENTED", 501, lambda door: door.register_cuda_shared_memory("r", b"AAAA", 0, 4),
                    "CUDA shared memory is not supported…"),
    "ALREADY_EXISTS": ("ALREADY_EXISTS", 400, register_twice, "shared memory region 'twice' already in manager"),
    "INVALID_ARG unexpected input": (
        "INVALID_ARGUMENT", 400, lambda door: infer(door, memory_len=uint32([[1]])),
        ID + "unexpected inference input 'memory_len' for model 'ensemble'"),
    "INVALID_ARG unexpected output": (
        "INVALID_ARGUMENT", 400, lambda door: infer(door, ["output_ids"]),
        ID + "unexpected inference output 'output_ids' for model 'ensemble'"),
    "INVALID_ARG number of inputs": (
        "INVALID_ARGUMENT", 400, lambda door: infer(door, INPUT_3=None),
        ID + "expected number of inputs between 4 and 19 but got 3 inputs for model 'ensemble'. Got input(s) ['INPUT_0', "
        "'INPUT_1', 'INPUT_2'], but missing required input(s) ['INPUT_3']. Please provide all required input(s)."),
    "INVALID_ARG data-type": (
        "INVALID_ARGUMENT", 400, lambda door: infer(door, runtime_top_k=(np.array([[1]], np.int32), "INT32")),
        ID + "inference input 'runtime_top_k' data-type is 'INT32', but model 'ensemble' expects 'UINT32'"),
    "INVALID_ARG shape": (
        "INVALID_ARGUMENT", 400, lambda door: infer(door, runtime_top_k=uint32([1])),
        ID + "unexpected shape for input 'runtime_top_k' for model 'ensemble'. Expected [-1,1], got [1]…"),
    "INVALID_ARG batch size": (
        "INVALID_ARGUMENT", 400, lambda door: infer(door, runtime_top_k=uint32([[1], [2]])),
        ID + "input 'runtime_top_k' batch size does not match other inputs for 'ensemble'"),
    "INVALID_ARG too many rows": (
        "INVALID_ARGUMENT", 400, lambda door: infer(door, INPUT_0=([[b"a"]] * 1025, "BYTES")),
        ID + "inference request batch-size must be <= 1024 for 'ensemble'"),
}


@pytest.mark.parametrize("row", ROWS)
def test_code_and_text(door, row):
    code, status, call, text = ROWS[row]
    with pytest.raises(InferenceServerException) as refused:
        call(door)
    assert refused.value.status() == (f"StatusCode.{code}" if door.module is triton_grpc else str(status))
    if text.endswith("…"):
        assert refused.value.message().startswith(text[:-1])
    else:
        assert refused.value.message() == text


def test_code_cancelled(triton_cluster):
    with grpc.insecure_channel(triton_cluster.gateway.address, options=OPTIONS) as channel:
        request = pb.ModelInferRequest(model_name="ensemble")
        for given in ensemble_inputs([PROMPT], 1500, end_id=1):
            request.inputs.append(given._get_tensor())
            request.raw_input_contents.append(given._get_content())
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request, timeout=60)
        call.cancel()
        assert call.code() == grpc.StatusCode.CANCELLED
    triton_cluster.await_idle()


def test_an_error_in_a_stream_has_text_and_id_and_no_code(triton_cluster):
    request = pb.ModelInferRequest(model_name="ensemble", id="s1")
    with grpc.insecure_channel(triton_cluster.gateway.address, options=OPTIONS) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        [answer] = list(stub.ModelStreamInfer(iter([request]), timeout=60))
        assert answer.error_message.startswith("[request id: s1] expected number of inputs between 4 and 19 but got 0")
        assert answer.infer_response.id == "s1" and not answer.infer_response.outputs
        with failing_with(grpc.StatusCode.INVALID_ARGUMENT, "[request id: s1] expected number of inputs"):
            list(stub.ModelStreamInfer(iter([request]), metadata=[("triton_grpc_error", "true")], timeout=60))
    with Stream(triton_cluster.gateway.address) as stream:
        stream.send("ensemble", [], request_id="s2")
        stream.send("ensemble", ensemble_inputs([PROMPT], 2), request_id="s3")
        answers = [stream.next() for _ in range(2)]
    assert [error is not None for _, error in answers] == [True, False], "the stream goes on"


def test_readiness_is_no_error(door):
    """23.04's form: false for what is not known."""
    assert door.is_server_live() and door.is_server_ready() and door.is_model_ready("ensemble")
    assert not door.is_model_ready("nothing") and not door.is_model_ready("ensemble", "9")
