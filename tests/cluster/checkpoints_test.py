"""The bundled model in the formats of others answers as it does in its own."""

import json
import shutil

import numpy as np
import pytest

from helpers import fastertransformer_format, torch_format
from helpers.cluster import DEMO_MODEL, Cluster
from helpers.numpy_llama import read_safetensors, with_all_kv_heads

LIMIT = pytest.mark.timeout(300)
TOKENIZER_FILES = ["tokenizer.model", "tokenizer_config.json", "generation_config.json"]


@pytest.fixture(scope="module")
def model():
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    tensors = read_safetensors(DEMO_MODEL / "model.safetensors")
    return config, {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def check_answers(cluster, golden_answers):
    for answer in golden_answers:
        result = cluster.generate(answer["prompt"], max_tokens=answer["max_tokens"])
        assert result.text.decode().removeprefix(" ") == answer["greedy_text"]


@LIMIT
@pytest.mark.parametrize("ranks,tensor_parallel,data_type", [
    (1, 1, "fp32"), (2, 1, "bf16"), (2, 2, "bf16"), (4, 2, "fp32"), (1, 4, "bf16"), (8, 4, "bf16")])
def test_a_fastertransformer_folder_loads_at_any_degree(tmp_path, model, golden_answers, ranks, tensor_parallel,
                                                        data_type):
    folder = fastertransformer_format.write(tmp_path, *with_all_kv_heads(*model), ranks, data_type)
    with Cluster(model=folder, tokenizer=DEMO_MODEL, tensor_parallel=tensor_parallel) as cluster:
        check_answers(cluster, golden_answers)


def bfloat16_tensor(array):
    bits = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return torch_format.Tensor(torch_format.Storage("BF16", bits.tobytes()), array.shape)


@LIMIT
@pytest.mark.parametrize("tensor_parallel,shards", [(1, 1), (2, 3)])
def test_files_of_torch_load(tmp_path, model, golden_answers, tensor_parallel, shards):
    config, tensors = model
    for name in ["config.json", *TOKENIZER_FILES]:
        shutil.copy(DEMO_MODEL / name, tmp_path)
    names = sorted(tensors)
    places = {}
    for shard in range(shards):
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        of_shard = names[shard::shards]
        torch_format.write(tmp_path / file, {name: bfloat16_tensor(tensors[name]) for name in of_shard})
        places.update(dict.fromkeys(of_shard, file))
    if shards > 1:
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    with Cluster(model=tmp_path, tensor_parallel=tensor_parallel) as cluster:
        check_answers(cluster, golden_answers)
