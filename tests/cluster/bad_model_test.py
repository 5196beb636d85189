"""A model that can't be served, or a wrong flag: one sentence that names the cause, and exit code 1."""

import json
import os
import shutil
import struct
import subprocess

import pytest

from helpers.cluster import DEMO_MODEL, PROGRAMS, ROOT

LIMIT_S = 60


def copy_of(model, folder):
    """A folder with links to the model's files, so that a test can replace some of them."""
    folder.mkdir()
    for file in model.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    return folder


def replace(path, content):
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    replace(folder / "config.json", json.dumps(config))


def read_safetensors(path):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), data[8 + length:]


def write_safetensors(path, header, body):
    text = json.dumps(header).encode()
    replace(path, struct.pack("<Q", len(text)) + text + body)


def change_tensor(folder, name, **changes):
    header, body = read_safetensors(folder / "model.safetensors")
    header[name].update(changes)
    write_safetensors(folder / "model.safetensors", header, body)


def no_config(folder):
    (folder / "config.json").unlink()


def config_is_no_json(folder):
    replace(folder / "config.json", "{]")


def config_is_a_list(folder):
    replace(folder / "config.json", "[1, 2]")


def unknown_architecture(folder):
    edit_config(folder, architectures=["GPT2LMHeadModel"], model_type="gpt2")


def no_hidden_size(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    replace(folder / "config.json", json.dumps(config))


def absurd_hidden_size(folder):
    edit_config(folder, hidden_size=-5)


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def truncated_weights(folder):
    data = (DEMO_MODEL / "model.safetensors").read_bytes()
    replace(folder / "model.safetensors", data[:len(data) // 2])


def empty_weights(folder):
    replace(folder / "model.safetensors", b"")


def absurd_header_length(folder):
    replace(folder / "model.safetensors", struct.pack("<Q", 1 << 62) + b"{}")


def header_is_no_json(folder):
    replace(folder / "model.safetensors", struct.pack("<Q", 5) + b"hello")


def wrong_shape(folder):
    change_tensor(folder, "model.norm.weight", shape=[1, 2])


def wrong_dtype(folder):
    change_tensor(folder, "model.norm.weight", dtype="I64")


def offsets_outside(folder):
    change_tensor(folder, "model.norm.weight", data_offsets=[0, 1 << 60])


def missing_tensor(folder):
    header, body = read_safetensors(folder / "model.safetensors")
    header["model.nrom.weight"] = header.pop("model.norm.weight")
    write_safetensors(folder / "model.safetensors", header, body)


def weights_are_a_fifo(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def index_is_a_fifo(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors.index.json")


def link(path, target):
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def config_link_leads_nowhere(folder):
    link(folder / "config.json", "blobs/nowhere")


def generation_config_link_leads_nowhere(folder):
    link(folder / "generation_config.json", "blobs/nowhere")


def weights_link_leads_nowhere(folder):
    link(folder / "model.safetensors", "blobs/nowhere")


def shard_link_leads_nowhere(folder):
    (folder / "model.safetensors").unlink()
    replace(folder / "model.safetensors.index.json", json.dumps({"weight_map": {"lm_head.weight": "one.safetensors"}}))
    link(folder / "one.safetensors", "blobs/nowhere")


def index_link_leads_in_a_circle(folder):
    (folder / "model.safetensors").unlink()
    link(folder / "model.safetensors.index.json", "model.safetensors.index.json")


# What is done to the folder → words of the sentence.
DAMAGES = {
    no_config: ["config.json"],
    config_is_no_json: ["config.json"],
    config_is_a_list: ["config.json"],
    unknown_architecture: ["GPT2LMHeadModel"],
    no_hidden_size: ["hidden_size"],
    absurd_hidden_size: ["hidden_size"],
    no_weights: ["safetensors"],
    truncated_weights: ["model.safetensors"],
    empty_weights: ["model.safetensors"],
    absurd_header_length: ["model.safetensors"],
    header_is_no_json: ["model.safetensors"],
    wrong_shape: ["model.norm.weight"],
    wrong_dtype: ["model.norm.weight", "I64"],
    offsets_outside: ["model.norm.weight"],
    missing_tensor: ["model.norm.weight"],
    weights_are_a_fifo: ["model.safetensors is not a regular file"],
    index_is_a_fifo: ["model.safetensors.index.json is not a regular file"],
    config_link_leads_nowhere: ["/config.json is a symbolic link to blobs/nowhere, which leads nowhere"],
    generation_config_link_leads_nowhere: ["/generation_config.json is a symbolic link to blobs/nowhere"],
    weights_link_leads_nowhere: ["/model.safetensors is a symbolic link to blobs/nowhere, which leads nowhere"],
    shard_link_leads_nowhere: ["/one.safetensors is a symbolic link to blobs/nowhere, which leads nowhere"],
    index_link_leads_in_a_circle: ["model.safetensors.index.json is a symbolic link", "which leads in a circle"],
}


def run(*arguments):
    return subprocess.run(list(map(str, arguments)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=LIMIT_S, check=False)


def check(result, words, code=1):
    assert result.returncode == code, result.stderr
    for word in words:
        assert word in result.stderr, f"{result.stderr!r} does not say {word!r}"
    for word in ("terminate called", "what():", "Traceback", "Aborted", "check failed"):
        assert word not in result.stderr, result.stderr


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_worker_names_what_is_wrong_with_the_model(damage, tmp_path):
    folder = copy_of(DEMO_MODEL, tmp_path / "model")
    damage(folder)
    check(run(PROGRAMS / "caravan_worker", f"--model={folder}", "--listen_address=127.0.0.1:0"), DAMAGES[damage])


@pytest.mark.parametrize("damage", [no_config, unknown_architecture, truncated_weights, missing_tensor,
                                    weights_are_a_fifo, config_link_leads_nowhere, weights_link_leads_nowhere],
                         ids=lambda damage: damage.__name__)
def test_up_says_it_and_ends(damage, tmp_path):
    folder = copy_of(DEMO_MODEL, tmp_path / "model")
    damage(folder)
    result = run(PROGRAMS / "caravan", "up", f"--model={folder}", "--tensor_parallel=2", "--gateway_port=0",
                 "--http_port=0", "--metrics_port=0", f"--log_dir={tmp_path / 'logs'}")
    check(result, DAMAGES[damage])
    # One sentence; a renamed tensor is two things that are wrong, a line each.
    assert result.stderr.count("\n") == (2 if damage is missing_tensor else 1), result.stderr


@pytest.mark.parametrize("content,words", [
    (None, ["tokenizer.model"]),
    (b"", ["tokenizer.model"]),
    (b"\x00" * 100, ["tokenizer.model"]),
    ((ROOT / "README.md").name.encode() * 1000, ["tokenizer.model"]),
])
def test_the_tokenizer_names_what_is_wrong_with_its_model(content, words, tmp_path):
    folder = copy_of(DEMO_MODEL, tmp_path / "model")
    (folder / "tokenizer.model").unlink()
    if content is not None:
        replace(folder / "tokenizer.model", content)
    check(run(PROGRAMS / "caravan_tokenizer", f"--model={folder}", "--listen_address=127.0.0.1:0"), words)


@pytest.mark.parametrize("file", ["tokenizer.model", "tokenizer_config.json"])
def test_the_tokenizer_refuses_a_fifo_at_once(file, tmp_path):
    folder = copy_of(DEMO_MODEL, tmp_path / "model")
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    check(run(PROGRAMS / "caravan_tokenizer", f"--model={folder}", "--listen_address=127.0.0.1:0"),
          [f"{file} is not a regular file"])


# The demo's own tokenizer_config.json lists all added tokens, and then the older files are not read.
@pytest.mark.parametrize("file", ["tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                                  "added_tokens.json", "generation_config.json", "chat_template.jinja"])
def test_the_tokenizer_takes_no_link_that_leads_nowhere_for_an_absent_file(file, tmp_path):
    folder = copy_of(DEMO_MODEL, tmp_path / "model")
    replace(folder / "tokenizer_config.json", "{}")
    link(folder / file, "blobs/nowhere")
    check(run(PROGRAMS / "caravan_tokenizer", f"--model={folder}", "--listen_address=127.0.0.1:0"),
          [f"/{file} is a symbolic link to blobs/nowhere, which leads nowhere"])


def test_a_vocabulary_that_disagrees_with_the_tokenizer_is_told(tmp_path):
    golden = ROOT / "tests" / "golden" / "models" / "gqa"
    folder = copy_of(golden, tmp_path / "model")
    shutil.copy(DEMO_MODEL / "tokenizer.model", folder / "tokenizer.model")
    result = run(PROGRAMS / "caravan", "up", f"--model={folder}", "--gateway_port=0", "--http_port=0", "--metrics_port=0",
                 f"--log_dir={tmp_path / 'logs'}")
    check(result, ["vocabulary"])


@pytest.mark.parametrize("flags,words", [
    (["--tensor_parallel=3"], ["tensor_parallel", "3"]),
    (["--tensor_parallel=0"], ["tensor_parallel"]),
    (["--rank=2", "--tensor_parallel=2"], ["rank"]),
    (["--rank=1", "--tensor_parallel=2"], ["leader_address"]),
    (["--dtype=int7"], ["dtype", "int7"]),
    (["--load_format=floppy"], ["load_format", "floppy"]),
    (["--kv_cache_bytes=1"], ["kv_cache_bytes"]),
    (["--max_batch_tokens=0"], ["max_batch_tokens"]),
    (["--listen_address=nowhere"], ["listen_address"]),
])
def test_the_worker_names_a_flag_that_is_wrong(flags, words, tmp_path):
    check(run(PROGRAMS / "caravan_worker", f"--model={DEMO_MODEL}", "--listen_address=127.0.0.1:0", *flags), words)


@pytest.mark.parametrize("flag,words", [
    ("--triton_data_type=fp7", "--triton_data_type is 'fp7'; it must be fp16, bf16 or fp32"),
    ("--triton_model_control_mode=poll", "--triton_model_control_mode is 'poll'; it must be none or explicit"),
    ("--triton_tensor_parallel=0", "--triton_tensor_parallel is 0; it must be at least 1"),
    ("--http_threads=100000000", "--http_threads is 100000000; it must be from 1 to 1024"),
    ("--http_large_body_threads=0", "--http_large_body_threads is 0; it must be from 1 to 1024"),
    ("--triton_trace_file={fifo}", "--triton_trace_file is '{fifo}': {fifo} is not a regular file"),
    ("--triton_trace_file={folder}", "--triton_trace_file is '{folder}': {folder} is not a regular file"),
    ("--triton_trace_file=/dev/null", "/dev/null is not a regular file"),
    ("--triton_trace_file={folder}/none/trace", "can't make a file in {folder}/none/: No such file or directory"),
])
def test_the_gateway_names_a_flag_that_is_wrong(flag, words, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    check(run(PROGRAMS / "caravan_gateway", "--listen_address=127.0.0.1:0", "--replicas=127.0.0.1:1",
              "--tokenizers=127.0.0.1:1", flag.format(fifo=fifo, folder=tmp_path)),
          [words.format(fifo=fifo, folder=tmp_path)])


@pytest.mark.parametrize("flag,words", [
    ("--chat_format=chatml", "--chat_format is 'chatml'; it must be auto, llama2, llama3 or plain"),
    ("--long_request_threads=100000000", "--long_request_threads is 100000000; it must be from 1 to 1024"),
])
def test_the_tokenizer_names_a_flag_that_is_wrong(flag, words):
    check(run(PROGRAMS / "caravan_tokenizer", f"--model={DEMO_MODEL}", "--listen_address=127.0.0.1:0", flag), [words],
          code=2)


@pytest.mark.parametrize("program", ["caravan_gateway", "caravan_tokenizer", "caravan_worker"])
def test_an_unknown_flag_is_an_error(program):
    result = run(PROGRAMS / program, "--no_such_flag=1")
    assert result.returncode != 0
    assert "no_such_flag" in result.stderr


@pytest.mark.parametrize("program", ["caravan_gateway", "caravan_tokenizer", "caravan_worker"])
def test_help_lists_the_programs_own_flags(program):
    result = run(PROGRAMS / program, "--help")
    assert "--listen_address" in result.stdout + result.stderr
    assert "port_file" in result.stdout + result.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "deploy" / "flags").glob("*.flags")), ids=lambda file: file.stem)
def test_the_flag_files_hold_flags_of_their_program(file):
    result = run(PROGRAMS / f"caravan_{file.stem}", f"--flagfile={file}", "--listen_address=nowhere",
                 f"--model={DEMO_MODEL}" if file.stem != "gateway" else "--log_level=info")
    assert result.returncode != 0
    assert "--listen_address is 'nowhere'" in result.stderr, result.stderr
