"""The small random models of make_golden.py: one row for everything that a LLaMA checkpoint can vary.

Dynamic NTK scaling needs care. transformers recomputes the rope frequencies of a whole forward pass from its longest
position, and never rotates keys again that are in the cache. So generate() with a cache answers differently from one
pass over the same tokens once a sequence is longer than max_position_embeddings, and depends on how the prompt was cut
into steps. Only two things are well defined for a server with a KV cache, and only those are golden here: sequences
that stay within max_position_embeddings to their last greedy token (plain rope), and the logits of one pass over a
whole prompt that is longer (frequencies for exactly that length). Such a prompt has no greedy tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch

BOS, EOS = 1, 2
SHORT = (1, 7, 100)  # one token, every position kept, longer than one KV block


def config(**changes: Any) -> dict[str, Any]:
    """A tiny LLaMA: GQA with two query heads for each of two KV heads of size 32."""
    base = {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    return base | changes


def narrow(**changes: Any) -> dict[str, Any]:
    """Two heads and one KV head, where the case is about something else and the file may be small."""
    return config(num_attention_heads=2, num_key_value_heads=1) | changes


@dataclass(frozen=True)
class Case:
    """One checkpoint and the lengths of its prompts."""

    name: str
    covers: str
    config: dict[str, Any] = field(default_factory=config)
    stored: torch.dtype = torch.float32
    shards: int = 1
    prompt_lengths: tuple[int, ...] = SHORT
    seed: int = 0

    def prompt(self, index: int, attempt: int) -> list[int]:
        """BOS and random ids that are not special; another attempt gives other ids."""
        rng = random.Random(f"{self.name} {index} {attempt}")
        ids = [rng.randrange(3, self.config["vocab_size"]) for _ in range(self.prompt_lengths[index])]
        return ids if len(ids) == 1 and attempt > 0 else [BOS, *ids[1:]]

    def has_greedy(self, prompt_tokens: int, new_tokens: int) -> bool:
        """False only where dynamic scaling would make the answer depend on the steps (see above)."""
        scaling = self.config.get("rope_scaling") or {}
        return (
            scaling.get("rope_type") != "dynamic"
            or prompt_tokens + new_tokens <= self.config["max_position_embeddings"]
        )


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

CASES = (
    Case(
        "mha",
        "as many KV heads as heads, no head_dim in the config, vocabulary no multiple of 2",
        {key: value for key, value in config(vocab_size=301, num_attention_heads=2).items() if key != "head_dim"},
    ),
    Case(
        "gqa",
        "grouped queries, three layers, rope_theta 500000, rms_norm_eps 1e-5",
        config(num_hidden_layers=3, rope_theta=500000.0, rms_norm_eps=1e-5),
    ),
    Case(
        "mqa",
        "one KV head for all, head size 64, hidden size differs from heads * head size",
        config(num_key_value_heads=1, head_dim=64),
        stored=torch.bfloat16,
    ),
    Case("tied", "tied embeddings: the file has no lm_head.weight", config(tie_word_embeddings=True)),
    Case(
        "eight_kv_heads",
        "eight KV heads of eight, for tensor parallelism up to 8",
        config(num_attention_heads=8, num_key_value_heads=8, intermediate_size=64),
        stored=torch.bfloat16,
    ),
    Case(
        "rope_linear",
        "linear rope scaling by 4",
        narrow(rope_scaling={"rope_type": "linear", "factor": 4.0}),
        prompt_lengths=(1, 7, 100, 200),
    ),
    Case(
        "rope_dynamic",
        "dynamic NTK rope scaling by 2, within the original 64 positions and beyond them",
        narrow(max_position_embeddings=64, rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
        prompt_lengths=(1, 7, 32, 100, 128),
    ),
    Case(
        "rope_llama3",
        "llama3 rope scaling",
        narrow(rope_theta=500000.0, max_position_embeddings=512, rope_scaling=LLAMA3),
        prompt_lengths=(1, 7, 100, 300),
    ),
    Case(
        "rope_yarn",
        "YaRN with its default attention factor 0.1 ln(4) + 1",
        narrow(rope_scaling=YARN),
        prompt_lengths=(1, 7, 100, 200),
    ),
    Case(
        "rope_yarn_mscale",
        "YaRN with mscale, mscale_all_dim, beta_fast and beta_slow",
        narrow(rope_scaling=YARN | {"mscale": 1.0, "mscale_all_dim": 0.6, "beta_fast": 16.0, "beta_slow": 2.0}),
        stored=torch.bfloat16,
        prompt_lengths=(1, 7, 200),
    ),
    Case(
        "rope_yarn_attention_factor",
        "YaRN with an explicit attention_factor",
        narrow(rope_scaling=YARN | {"attention_factor": 0.8}),
        stored=torch.bfloat16,
        prompt_lengths=(1, 7, 200),
    ),
    Case("biases", "attention_bias and mlp_bias", narrow(attention_bias=True, mlp_bias=True)),
    Case(
        "head_80",
        "head size 80",
        config(num_attention_heads=2, num_key_value_heads=1, head_dim=80),
        stored=torch.bfloat16,
    ),
    Case(
        "head_128",
        "head size 128",
        config(num_attention_heads=2, num_key_value_heads=1, head_dim=128),
        stored=torch.bfloat16,
    ),
    Case(
        "head_256",
        "head size 256",
        config(vocab_size=128, num_attention_heads=2, num_key_value_heads=1, head_dim=256),
        stored=torch.bfloat16,
    ),
    Case("sharded", "three safetensors files and their index", narrow(), shards=3),
    Case("float16", "weights stored as fp16", config(), stored=torch.float16),
    Case("bfloat16", "weights stored as bf16", config(), stored=torch.bfloat16),
    Case("large_epsilon", "rms_norm_eps so large that it shows", narrow(rms_norm_eps=0.3), stored=torch.bfloat16),
)
