"""A model repository as Triton with LLaMA on FasterTransformer had it: four config.pbtxt."""

import pathlib

SAMPLING = [("runtime_top_k", "TYPE_UINT32"), ("runtime_top_p", "TYPE_FP32"),
            ("beam_search_diversity_rate", "TYPE_FP32"), ("temperature", "TYPE_FP32"), ("len_penalty", "TYPE_FP32"),
            ("repetition_penalty", "TYPE_FP32"), ("random_seed", "TYPE_UINT64"),
            ("is_return_log_probs", "TYPE_BOOL"), ("beam_width", "TYPE_UINT32"), ("start_id", "TYPE_UINT32"),
            ("end_id", "TYPE_UINT32"), ("prompt_learning_task_name_ids", "TYPE_UINT32"),
            ("top_p_decay", "TYPE_FP32"), ("top_p_min", "TYPE_FP32"), ("top_p_reset_ids", "TYPE_UINT32")]
OUTPUTS = [("sequence_length", "TYPE_UINT32", "-1"), ("cum_log_probs", "TYPE_FP32", "-1"),
           ("output_log_probs", "TYPE_FP32", "-1, -1")]
INSTANCE = "instance_group [\n  {\n    count: 1\n    kind: KIND_CPU\n  }\n]\n"


def tensors(kind, entries):
    parts = [f"  {{\n    name: \"{name}\"\n    data_type: {data_type}\n    dims: [ {dims} ]\n{more}  }}"
             for name, data_type, dims, more in entries]
    return f"{kind} [\n" + ",\n".join(parts) + "\n]\n"


def plain(entries):
    return [(*entry, "") for entry in entries]


def sampling(reshape=True):
    more = ("    reshape: { shape: [ ] }\n" if reshape else "") + "    optional: true\n"
    return [(name, data_type, "1", more) for name, data_type in SAMPLING]


def wires(kind, pairs):
    return "".join(f"      {kind} {{ key: \"{key}\" value: \"{value}\" }}\n" for key, value in pairs)


def step(name, inputs, outputs):
    return (f"    {{\n      model_name: \"{name}\"\n      model_version: -1\n" + wires("input_map", inputs)
            + wires("output_map", outputs) + "    }")


def ensemble():
    passed = [(name, name) for name, _ in SAMPLING]
    steps = [
        step("preprocessing",
             [("QUERY", "INPUT_0"), ("REQUEST_OUTPUT_LEN", "INPUT_1"), ("BAD_WORDS_DICT", "INPUT_2"),
              ("STOP_WORDS_DICT", "INPUT_3")],
             [("INPUT_ID", "_INPUT_ID"), ("REQUEST_INPUT_LEN", "_REQUEST_INPUT_LEN"),
              ("REQUEST_OUTPUT_LEN", "_REQUEST_OUTPUT_LEN"), ("BAD_WORDS_IDS", "_BAD_WORDS_IDS"),
              ("STOP_WORDS_IDS", "_STOP_WORDS_IDS")]),
        step("fastertransformer",
             [("input_ids", "_INPUT_ID"), ("input_lengths", "_REQUEST_INPUT_LEN"),
              ("request_output_len", "_REQUEST_OUTPUT_LEN"), ("bad_words_list", "_BAD_WORDS_IDS"),
              ("stop_words_list", "_STOP_WORDS_IDS"), *passed],
             [("output_ids", "_TOKENS_BATCH"), *((name, name) for name, _, _ in OUTPUTS)]),
        step("postprocessing", [("TOKENS_BATCH", "_TOKENS_BATCH"), ("sequence_length", "sequence_length")],
             [("OUTPUT", "OUTPUT_0")])]
    inputs = [("INPUT_0", "TYPE_STRING", "-1"), ("INPUT_1", "TYPE_UINT32", "-1"), ("INPUT_2", "TYPE_STRING", "-1"),
              ("INPUT_3", "TYPE_STRING", "-1")]
    return ("name: \"ensemble\"\nplatform: \"ensemble\"\nmax_batch_size: 1024\n"
            + tensors("input", plain(inputs) + sampling(reshape=False))
            + tensors("output", plain([("OUTPUT_0", "TYPE_STRING", "-1, -1"), *OUTPUTS]))
            + "ensemble_scheduling {\n  step [\n" + ",\n".join(steps) + "\n  ]\n}\n")


def fastertransformer(parameters):
    reshape = "    reshape: { shape: [ ] }\n"
    inputs = [("input_ids", "TYPE_UINT32", "-1", ""), ("input_lengths", "TYPE_UINT32", "1", reshape),
              ("request_output_len", "TYPE_UINT32", "-1", ""),
              ("bad_words_list", "TYPE_INT32", "2, -1", "    optional: true\n"),
              ("stop_words_list", "TYPE_INT32", "2, -1", "    optional: true\n"), *sampling()]
    text = ("name: \"fastertransformer\"\nbackend: \"fastertransformer\"\ndefault_model_filename: \"llama\"\n"
            "max_batch_size: 1024\nmodel_transaction_policy {\n  decoupled: True\n}\n"
            + tensors("input", inputs) + tensors("output", plain([("output_ids", "TYPE_UINT32", "-1, -1"), *OUTPUTS]))
            + INSTANCE)
    for key, value in parameters.items():
        text += f"parameters {{\n  key: \"{key}\"\n  value: {{\n    string_value: \"{value}\"\n  }}\n}}\n"
    return text


def python_model(name, inputs, outputs):
    return (f"name: \"{name}\"\nbackend: \"python\"\nmax_batch_size: 1024\n" + tensors("input", plain(inputs))
            + tensors("output", plain(outputs)) + INSTANCE)


def write(folder, checkpoint, **parameters):
    """Makes the repository; `parameters` are the fastertransformer model's, beside the shipped ones."""
    parameters = {"tensor_para_size": "1", "pipeline_para_size": "1", "data_type": "fp16", "model_type": "Llama",
                  "model_checkpoint_path": checkpoint, "enable_custom_all_reduce": "0", **parameters}
    configs = {
        "ensemble": ensemble(),
        "fastertransformer": fastertransformer(parameters),
        "preprocessing": python_model(
            "preprocessing",
            [("QUERY", "TYPE_STRING", "-1"), ("BAD_WORDS_DICT", "TYPE_STRING", "-1"),
             ("STOP_WORDS_DICT", "TYPE_STRING", "-1"), ("REQUEST_OUTPUT_LEN", "TYPE_UINT32", "-1")],
            [("INPUT_ID", "TYPE_UINT32", "-1"), ("REQUEST_INPUT_LEN", "TYPE_UINT32", "1"),
             ("BAD_WORDS_IDS", "TYPE_INT32", "2, -1"), ("STOP_WORDS_IDS", "TYPE_INT32", "2, -1"),
             ("REQUEST_OUTPUT_LEN", "TYPE_UINT32", "-1"), ("PROMPT_LEARNING_TASK_NAME_IDS", "TYPE_UINT32", "1")]),
        "postprocessing": python_model(
            "postprocessing", [("TOKENS_BATCH", "TYPE_UINT32", "-1, -1"), ("sequence_length", "TYPE_UINT32", "-1")],
            [("OUTPUT", "TYPE_STRING", "-1, -1")])}
    for name, text in configs.items():
        model = pathlib.Path(folder) / name
        (model / "1").mkdir(parents=True)
        (model / "config.pbtxt").write_text(text)
    return pathlib.Path(folder)
