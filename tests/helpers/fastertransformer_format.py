"""Writes the folder that FasterTransformer's huggingface_llama_convert.py writes, from {name: array} in NumPy."""

import pathlib

import numpy as np


def write(folder, config, tensors, ranks, data_type="fp32", **changes):
    """Makes folder/`ranks`-gpu of tensors named as Hugging Face names them; `changes` go into config.ini."""
    folder = pathlib.Path(folder) / f"{ranks}-gpu"
    folder.mkdir(parents=True)
    heads = config["num_attention_heads"]
    keys = {"model_name": "llama", "head_num": heads, "size_per_head": config["hidden_size"] // heads,
            "inter_size": config["intermediate_size"], "num_layer": config["num_hidden_layers"],
            "rotary_embedding": config["hidden_size"] // heads, "layernorm_eps": config["rms_norm_eps"],
            "vocab_size": config["vocab_size"], "start_id": 1, "end_id": 2, "weight_data_type": data_type, **changes}
    lines = [f"{key} = {value}" for key, value in keys.items() if value is not None]
    (folder / "config.ini").write_text("[llama]\n" + "\n".join(lines) + "\n")

    def save(array, name):
        if data_type == "bf16":
            bits = np.asarray(array, np.float32).view(np.uint32)
            np.ascontiguousarray((bits >> 16).astype(np.uint16)).tofile(folder / f"{name}.bin")
        else:
            np.ascontiguousarray(array, {"fp32": np.float32, "fp16": np.float16}[data_type]).tofile(
                folder / f"{name}.bin")

    def save_cut(array, axis, name):
        for rank, part in enumerate(np.split(array, ranks, axis=axis)):
            save(part, f"{name}.{rank}")

    save(tensors["model.embed_tokens.weight"], "model.wte.weight")
    save(tensors["model.norm.weight"], "model.final_layernorm.weight")
    save(tensors["lm_head.weight"], "model.lm_head.weight")
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            save(tensors[prefix + norm], prefix + norm)
        qkv = np.stack([tensors[f"{prefix}self_attn.{name}_proj.weight"].T for name in "qkv"], axis=1)
        save_cut(qkv, 2, prefix + "attention.query_key_value.weight")
        save_cut(tensors[prefix + "self_attn.o_proj.weight"].T, 0, prefix + "attention.dense.weight")
        save_cut(tensors[prefix + "mlp.gate_proj.weight"].T, 1, prefix + "mlp.gate_proj.weight")
        save_cut(tensors[prefix + "mlp.up_proj.weight"].T, 1, prefix + "mlp.up_proj.weight")
        save_cut(tensors[prefix + "mlp.down_proj.weight"].T, 0, prefix + "mlp.down_proj.weight")
    return folder
