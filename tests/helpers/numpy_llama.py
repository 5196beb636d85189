"""A plain LLaMA forward pass in NumPy, float64: what tests compare the whole system with."""

import json
import pathlib

import numpy as np


def read_safetensors(path):
    """The tensors of a file as float64 arrays."""
    data = pathlib.Path(path).read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + header_bytes])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + header_bytes + begin:8 + header_bytes + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, {"F32": np.float32, "F16": np.float16}[entry["dtype"]])
        tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors


class Cache:
    """Keys and values of every layer, [sequences, kv heads, positions, head size]."""

    def __init__(self, layers):
        self.layers = [None] * layers

    def append(self, layer, keys, values):
        if self.layers[layer] is not None:
            keys = np.concatenate([self.layers[layer][0], keys], axis=2)
            values = np.concatenate([self.layers[layer][1], values], axis=2)
        self.layers[layer] = (keys, values)
        return keys, values

    def select(self, rows):
        """Sequence i becomes what sequence rows[i] was."""
        self.layers = [(keys[rows], values[rows]) for keys, values in self.layers]


class NumpyLlama:
    """A single-file model folder without biases, rope scaling or tied embeddings."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = read_safetensors(folder / "model.safetensors")
        self.vocab_size = self.config["vocab_size"]

    def new_cache(self):
        return Cache(self.config["num_hidden_layers"])

    def forward(self, token_ids, cache):
        """token_ids [sequences, new tokens] behind what the cache holds; logits of the last one, [sequences, vocab]."""
        position = 0 if cache.layers[0] is None else cache.layers[0][0].shape[2]
        x = self.weights["model.embed_tokens.weight"][np.asarray(token_ids)]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            normed = self._norm(x, prefix + "input_layernorm.weight")
            x = x + self._attention(normed, prefix + "self_attn.", layer, position, cache)
            normed = self._norm(x, prefix + "post_attention_layernorm.weight")
            gate = self._matmul(normed, prefix + "mlp.gate_proj.weight")
            up = self._matmul(normed, prefix + "mlp.up_proj.weight")
            x = x + self._matmul(gate / (1 + np.exp(-gate)) * up, prefix + "mlp.down_proj.weight")
        return self._matmul(self._norm(x[:, -1], "model.norm.weight"), "lm_head.weight")

    def _matmul(self, x, name):
        return x @ self.weights[name].T

    def _norm(self, x, name):
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + self.config["rms_norm_eps"]) * self.weights[name]

    def _heads(self, x, name, heads):
        y = self._matmul(x, name)
        return y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    def _rope(self, x, position):
        """Rotate-half: element i and i + half of a head turn by position * theta ^ (-2 i / size)."""
        half = x.shape[-1] // 2
        frequencies = self.config["rope_theta"] ** (-np.arange(half) / half)
        angles = np.outer(position + np.arange(x.shape[2]), frequencies)
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * np.cos(angles) - second * np.sin(angles),
                               second * np.cos(angles) + first * np.sin(angles)], axis=-1)

    def _attention(self, x, prefix, layer, position, cache):
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        queries = self._rope(self._heads(x, prefix + "q_proj.weight", heads), position)
        keys = self._rope(self._heads(x, prefix + "k_proj.weight", kv_heads), position)
        keys, values = cache.append(layer, keys, self._heads(x, prefix + "v_proj.weight", kv_heads))
        keys, values = (np.repeat(t, heads // kv_heads, axis=1) for t in (keys, values))
        scores = queries @ keys.transpose(0, 1, 3, 2) / np.sqrt(queries.shape[-1])
        visible = np.arange(keys.shape[2]) <= position + np.arange(x.shape[1])[:, None]
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = weights / weights.sum(axis=-1, keepdims=True) @ values
        return self._matmul(mixed.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1), prefix + "o_proj.weight")


def with_all_kv_heads(config, tensors):
    """The same model with a KV head for each query head, as older formats need it."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads
    wide = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            each = tensor.reshape(kv_heads, size, -1)
            wide[name] = np.repeat(each, heads // kv_heads, axis=0).reshape(heads * size, -1)
    return {**config, "num_key_value_heads": heads}, wide
