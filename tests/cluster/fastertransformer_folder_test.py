"""A checkpoint folder of FasterTransformer: every file and every key of its config.ini, missing or wrong."""

import json
import subprocess

import numpy as np
import pytest

from helpers import fastertransformer_format
from helpers.cluster import DEMO_MODEL, PROGRAMS, Cluster
from helpers.numpy_llama import read_safetensors, with_all_kv_heads

RANKS = 2
FILES = ["model.wte.weight.bin", "model.final_layernorm.weight.bin", "model.lm_head.weight.bin",
         "model.layers.{l}.input_layernorm.weight.bin", "model.layers.{l}.post_attention_layernorm.weight.bin",
         "model.layers.{l}.attention.query_key_value.weight.{r}.bin", "model.layers.{l}.attention.dense.weight.{r}.bin",
         "model.layers.{l}.mlp.gate_proj.weight.{r}.bin", "model.layers.{l}.mlp.up_proj.weight.{r}.bin",
         "model.layers.{l}.mlp.down_proj.weight.{r}.bin"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    tensors = {name: tensor.astype(np.float32)
               for name, tensor in read_safetensors(DEMO_MODEL / "model.safetensors").items()}
    return fastertransformer_format.write(tmp_path_factory.mktemp("llama"), *with_all_kv_heads(config, tensors), RANKS,
                                          "bf16")


def refusal(folder):
    result = subprocess.run([str(PROGRAMS / "caravan_worker"), f"--model={folder}", "--device=cpu",
                             "--listen_address=127.0.0.1:0", "--metrics_address=127.0.0.1:0"],
                            capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode not in (0, -6, -11), result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.parametrize("file", FILES)
def test_file(folder, file):
    """Missing, then of another size than config.ini says: the file is named."""
    path = folder / file.format(l=3, r=1)
    contents = path.read_bytes()
    path.unlink()
    try:
        assert path.name in refusal(folder)
        path.write_bytes(contents[:-2])
        said = refusal(folder)
        assert path.name in said and f"has {len(contents) - 2} bytes" in said and f"take {len(contents)}" in said
    finally:
        path.write_bytes(contents)


@pytest.fixture
def config_ini(folder):
    """Changes keys of the folder's config.ini; None takes a key away."""
    path = folder / "config.ini"
    before = path.read_text()

    def change(**keys):
        lines = [line for line in before.splitlines() if line.split(" ")[0] not in keys]
        path.write_text("\n".join([*lines, *(f"{key} = {value}" for key, value in keys.items() if value is not None)]))

    yield change
    path.write_text(before)


@pytest.mark.parametrize("key,wrong", [
    ("head_num", "0"), ("size_per_head", "x"), ("inter_size", "-1"), ("num_layer", "1.5"), ("vocab_size", ""),
    ("rotary_embedding", "7"), ("weight_data_type", "fp8")])
def test_required_key_of_config_ini(folder, config_ini, key, wrong):
    config_ini(**{key: None})
    assert f"[llama] {key} is missing" in refusal(folder)
    config_ini(**{key: wrong})
    said = refusal(folder)
    assert "config.ini" in said and f"[llama] {key} " in said


@pytest.mark.parametrize("key,value", [("num_tasks", "2"), ("prompt_learning_type", "3")])
def test_key_of_prompt_learning(folder, config_ini, key, value):
    config_ini(**{key: value})
    assert f"[llama] {key} is {value}; prompt learning is not supported" in refusal(folder)


def test_key_num_layer_below_the_layers_that_lie_there(folder, config_ini):
    config_ini(num_layer=7)
    assert "num_layer is 7, and the folder has more layers: model.layers.7.input_layernorm.weight.bin" in refusal(folder)


def test_keys_that_are_not_needed(folder, config_ini, golden_answers):
    """Without layernorm_eps, where FasterTransformer exits, LLaMA's own is taken; ids of it are not used, and said to be
    wrong where they are outside of the vocabulary; model_name and prompt_learning_start_id mean nothing here."""
    config_ini(layernorm_eps=None, end_id=99999, start_id=-1, model_name="other", prompt_learning_start_id=3)
    with Cluster(model=folder, tokenizer=DEMO_MODEL) as cluster:
        answer = golden_answers[0]
        result = cluster.generate(answer["prompt"], max_tokens=answer["max_tokens"])
        assert result.text.decode().removeprefix(" ") == answer["greedy_text"]
        log = cluster.workers[0][0].log
    assert "assumed layernorm_eps" in log
    for key, value in (("end_id", "99999"), ("start_id", "-1")):
        assert f"ignored a token id outside of the vocabulary; the tokenizer's own is used" in log
        assert f"key={key} value={value} vocab_size=2048" in log


@pytest.mark.parametrize("key", ["end_id", "start_id"])
def test_key_of_ids_inside_of_the_vocabulary_is_no_warning(folder, config_ini, key):
    config_ini(**{key: 2047, "num_layer": 7})  # ends at once, behind the keys
    assert "ignored a token id" not in refusal(folder)
