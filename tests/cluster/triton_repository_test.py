"""`caravan up --triton_model_repository` serves an existing model repository."""

import json
import os
import subprocess

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from helpers import fastertransformer_format, triton_repository
from helpers.cluster import DEMO_MODEL, PROGRAMS, await_true, collect, pb, protos, request
from helpers.numpy_llama import read_safetensors, with_all_kv_heads
from helpers.triton import ensemble_inputs

LIMIT = pytest.mark.timeout(300)
CARAVAN = PROGRAMS / "caravan"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    tensors = {name: tensor.astype(np.float32)
               for name, tensor in read_safetensors(DEMO_MODEL / "model.safetensors").items()}
    return fastertransformer_format.write(tmp_path_factory.mktemp("llama"), *with_all_kv_heads(config, tensors), 2,
                                          "bf16")


def refusal(repository, *flags):
    result = subprocess.run([str(CARAVAN), "up", f"--triton_model_repository={repository}", "--gateway_port=0",
                             "--http_port=0", "--metrics_port=0", *flags], capture_output=True, text=True, timeout=60,
                            check=False)
    assert result.returncode != 0
    return result.stderr


def check_configuration(address, checkpoint):
    """What clients of that deployment read of it is what its repository said."""
    with triton_grpc.InferenceServerClient(address) as client:
        config = client.get_model_config("fastertransformer").config
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        assert parameters == {
            "tensor_para_size": "2", "pipeline_para_size": "1", "data_type": "bf16", "model_type": "Llama",
            "model_checkpoint_path": str(checkpoint), "enable_custom_all_reduce": "0"}
        assert config.model_transaction_policy.decoupled
        for model in ("ensemble", "fastertransformer", "preprocessing", "postprocessing"):
            assert client.is_model_ready(model)
            assert client.get_model_config(model).config.max_batch_size == 16
        with pytest.raises(InferenceServerException, match="batch-size must be <= 16"):
            client.infer("ensemble", ensemble_inputs(["hi"] * 17))


@LIMIT
def test_a_repository_is_served_as_it_says(tmp_path, checkpoint, golden_answers):
    repository = triton_repository.write(tmp_path / "models", checkpoint, tensor_para_size="2", data_type="bf16",
                                         int8_mode="1")
    config = repository / "preprocessing" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 1024", "max_batch_size: 16"))
    state, log = tmp_path / "state.json", tmp_path / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", str(CARAVAN), "up", f"--triton_model_repository={repository}",
             f"--tokenizer={DEMO_MODEL}", "--gateway_port=0", "--http_port=0", "--metrics_port=0", "--replicas=1",
             "--dtype=bfloat16", "--gateway_flags=--triton_stream_interval=5"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(os.environ, CARAVAN_STATE_FILE=str(state)))
    try:
        await_true(lambda: up.poll() is not None or state.exists(), "the state file")
        assert up.poll() is None, log.read_text()
        with grpc.insecure_channel(json.loads(state.read_text())["gateway"]) as channel:
            stub = protos.generation_grpc.GenerationStub(channel)
            model = stub.ListModels(pb.ListModelsRequest(), timeout=30).models[0]
            assert model.dtype == "bfloat16"
            assert model.replicas[0].tensor_parallel == 2
            assert model.name.startswith("llama")
            check_configuration(json.loads(state.read_text())["gateway"], checkpoint)
            for answer in golden_answers[:4]:
                result = collect(stub.Generate(request(answer["prompt"], max_tokens=answer["max_tokens"]), timeout=60))
                assert result.text.decode().removeprefix(" ") == answer["greedy_text"]
        assert "warning: fastertransformer: int8_mode is 1: weights are not quantized" in log.read_text()
        assert "note: preprocessing: its model.py is not run" in log.read_text()
        assert "is used" not in log.read_text(), "no flag says otherwise than the repository"
    finally:
        up.terminate()
        up.wait(timeout=60)


@LIMIT
@pytest.mark.parametrize("parameter,value,words", [
    ("tensor_para_size", "0", "parameter tensor_para_size is '0', must be a number from 1 to 64"),
    ("pipeline_para_size", "9999", "parameter pipeline_para_size is '9999'"),
    ("data_type", "fp8", "parameter data_type is 'fp8'; fp16, bf16 and fp32 are served"),
    ("model_type", "llama", "parameter model_type is 'llama'; Llama is served"),  # case matters
    ("model_checkpoint_path", "/none", "model_checkpoint_path /none"),
    ("enable_custom_all_reduce", "2", "parameter enable_custom_all_reduce is '2'"),
    ("int8_mode", "2", "parameter int8_mode is 2, which LLaMA never had"),
    ("int8_mode", "many", "parameter int8_mode is 'many'")], ids=lambda value: value if "_" in value else "")
def test_parameter_of_the_model(tmp_path, checkpoint, parameter, value, words):
    repository = triton_repository.write(tmp_path / "models", checkpoint, **{parameter: value})
    assert words in refusal(repository, f"--tokenizer={DEMO_MODEL}")


@LIMIT
def test_what_can_not_be_served_is_named(tmp_path, checkpoint):
    cases = [({"model_type": "GPT"}, "parameter model_type is 'GPT'"), ({"int8_mode": "2"}, "int8_mode is 2"),
             ({"tensor_para_size": "x"}, "parameter tensor_para_size is 'x'"),
             ({"data_type": "int4"}, "parameter data_type is 'int4'"),
             ({"model_checkpoint_path": "/none"}, "model_checkpoint_path /none")]
    for number, (parameters, words) in enumerate(cases):
        repository = triton_repository.write(tmp_path / str(number), checkpoint, **parameters)
        assert words in refusal(repository, f"--tokenizer={DEMO_MODEL}")
    repository = triton_repository.write(tmp_path / "good", checkpoint)
    # Flags rule, and say what they overrule.
    result = subprocess.run([str(CARAVAN), "up", f"--triton_model_repository={repository}", "--dtype=float32",
                             "--tensor_parallel=3", "--model=/none", f"--tokenizer={DEMO_MODEL}",
                             "--gateway_flags=--triton_max_batch_size=8 --triton_decoupled=true",
                             "--worker_flags=--dtype=bfloat16"],
                            capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode != 0
    for note in ("--dtype=float32 is used; the repository says float16", "--tensor_parallel=3 is used; the repository "
                 "says 1", f"--model=/none is used; the repository says {checkpoint}", "--triton_max_batch_size=8 of "
                 "--gateway_flags is used, in place of --triton_max_batch_size=1024",
                 "--dtype=bfloat16 of --worker_flags is used, in place of --dtype=float32"):
        assert f"note: {note}\n" in result.stdout, result.stdout
    assert "triton_decoupled" not in result.stdout
    assert "give its folder with --tokenizer" in refusal(repository)
    assert "there is no model repository" in refusal(tmp_path / "none")
