"""Trains the demo model: a SentencePiece tokenizer and a small LLaMA, on generated stories and nothing else.

    python train.py --out DIR                                        # the bundled model: minutes on one H200
    python train.py --out DIR --device cpu --documents 400 --steps 4 --batch_rows 2   # checks the script

Writes a Hugging Face folder: config.json, generation_config.json, model.safetensors, tokenizer.model,
tokenizer_config.json; and training.json, the numbers of the run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import random
import string
import time
from pathlib import Path

import numpy
import sentencepiece
import torch
import torch.nn.functional as functional
import transformers
from safetensors.torch import save_file

from story_generator import make_document

BOS, EOS = 1, 2
DOCUMENTS_PER_CHUNK = 1000
VALIDATION_SEED = 1 << 40  # no training chunk has this seed
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
ARCHITECTURE = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--documents", type=int, default=1_000_000, help="training documents to generate")
    parser.add_argument("--vocabulary", type=int, default=2048, help="pieces of the tokenizer")
    parser.add_argument("--tokenizer_documents", type=int, default=60_000, help="documents the tokenizer is trained on")
    parser.add_argument("--sequence_tokens", type=int, default=2048, help="length of a training row")
    parser.add_argument("--batch_rows", type=int, default=32, help="rows of one step")
    parser.add_argument("--steps", type=int, default=4131, help="steps, unless the time is up first")
    parser.add_argument("--max_seconds", type=float, default=900.0, help="the learning rate reaches zero by then")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--warmup_steps", type=int, default=200, help="steps up to the highest learning rate")
    parser.add_argument("--seed", type=int, default=20261123, help="of the weights and of the order of rows")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False, help="use torch.compile")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes that generate text")
    return parser.parse_args()


# Text ----------------------------------------------------------------------------------------------------------------


def generate_chunk(seed: int) -> list[str]:
    rng = random.Random(seed)
    return [make_document(rng) for _ in range(DOCUMENTS_PER_CHUNK)]


_tokenizer: sentencepiece.SentencePieceProcessor | None = None  # one per generating process


def _load_tokenizer(path: str) -> None:
    global _tokenizer
    _tokenizer = sentencepiece.SentencePieceProcessor(model_file=path)


def tokenize_chunk(seed: int) -> numpy.ndarray:
    """The chunk's documents as one row of ids, each from BOS to EOS."""
    assert _tokenizer is not None
    ids: list[int] = []
    for document in generate_chunk(seed):
        ids += [BOS, *_tokenizer.encode(document), EOS]
    return numpy.asarray(ids, dtype=numpy.int32)


def train_tokenizer(out: Path, arguments: argparse.Namespace) -> None:
    """Trains on the ASCII documents alone, so that accents and emoji are made of byte pieces, as in LLaMA."""
    chunks = range(-1, -1 - math.ceil(arguments.tokenizer_documents / DOCUMENTS_PER_CHUNK), -1)
    with multiprocessing.Pool(arguments.processes) as pool:
        documents = [text for chunk in pool.imap(generate_chunk, chunks) for text in chunk if text.isascii()]
    lines = (line for text in documents[: arguments.tokenizer_documents] for line in text.split("\n"))
    alphabet = [" ".join(string.ascii_letters + string.digits + string.punctuation)]  # each is a piece, told or not
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=itertools.chain(alphabet, lines),
        model_prefix=str(out / "tokenizer"),
        model_type="bpe",
        vocab_size=arguments.vocabulary,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=min(16, arguments.processes),
        minloglevel=1,
    )
    (out / "tokenizer.vocab").unlink()


def make_rows(out: Path, seeds: list[int], arguments: argparse.Namespace) -> torch.Tensor:
    """Generates, tokenizes and packs the chunks of these seeds: [rows, sequence_tokens + 1] on the device."""
    with multiprocessing.Pool(arguments.processes, _load_tokenizer, (str(out / "tokenizer.model"),)) as pool:
        ids = numpy.concatenate(list(pool.imap(tokenize_chunk, seeds)))
    width = arguments.sequence_tokens + 1
    rows = len(ids) // width
    return torch.from_numpy(ids[: rows * width].reshape(rows, width)).to(arguments.device)


# Training ------------------------------------------------------------------------------------------------------------


def make_model(arguments: argparse.Namespace) -> transformers.LlamaForCausalLM:
    torch.manual_seed(arguments.seed)
    config = transformers.LlamaConfig(vocab_size=arguments.vocabulary, **ARCHITECTURE)
    return transformers.LlamaForCausalLM(config).to(arguments.device)


def make_optimizer(model: torch.nn.Module, arguments: argparse.Namespace) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=(0.9, 0.95), fused=arguments.device == "cuda")


def loss_of(model: torch.nn.Module, rows: torch.Tensor, device: str) -> torch.Tensor:
    rows = rows.long()
    with torch.autocast(device, dtype=torch.bfloat16):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def validate(model: torch.nn.Module, rows: torch.Tensor, arguments: argparse.Namespace) -> float:
    losses = [loss_of(model, part, arguments.device) for part in rows.split(arguments.batch_rows)]
    return torch.stack(losses).mean().item()


def train(model: torch.nn.Module, rows: torch.Tensor, arguments: argparse.Namespace) -> dict[str, float]:
    """Cosine schedule over the steps or over the time, whichever is further on."""
    optimizer = make_optimizer(model, arguments)
    run = torch.compile(model) if arguments.compile else model
    generator = torch.Generator().manual_seed(arguments.seed)
    started, order, step, loss, progress = time.monotonic(), torch.empty(0, dtype=torch.long), 0, None, 0.0
    while progress < 1:
        if len(order) < arguments.batch_rows:
            order = torch.randperm(len(rows), generator=generator)
        batch, order = order[: arguments.batch_rows], order[arguments.batch_rows :]
        rate = arguments.learning_rate * min(1.0, (step + 1) / arguments.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        loss = loss_of(run, rows[batch.to(rows.device)], arguments.device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 20 == 0 or step < 5:
            loss.item()  # waits for the device, so that the clock below is true
        elapsed = time.monotonic() - started
        progress = max(step / arguments.steps, elapsed / arguments.max_seconds)
        if step % 200 == 0 or step == 10:
            print(f"trained step={step} loss={loss.item():.4f} seconds={elapsed:.1f}", flush=True)
    tokens = step * arguments.batch_rows * arguments.sequence_tokens
    return {"steps": step, "tokens": tokens, "train_loss": loss.item(), "seconds": round(time.monotonic() - started, 1)}


# Files ---------------------------------------------------------------------------------------------------------------


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_model(out: Path, model: transformers.LlamaForCausalLM, vocabulary: int) -> None:
    """Writes the folder by hand, so that it is the same whatever the version of transformers."""
    tensors = {name: tensor.to(torch.bfloat16).contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    write_json(
        out / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocabulary,
            **ARCHITECTURE,
            "rope_scaling": None,
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "torch_dtype": "bfloat16",
            "use_cache": True,
        },
    )
    write_json(out / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS})
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "add_prefix_space": True,
            "legacy": True,
            "clean_up_tokenization_spaces": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": None,
            "model_max_length": ARCHITECTURE["max_position_embeddings"],
            "chat_template": CHAT_TEMPLATE,
        },
    )


def main() -> None:
    arguments = parse_arguments()
    started = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    train_tokenizer(arguments.out, arguments)
    print(f"tokenizer seconds={time.monotonic() - started:.1f}", flush=True)
    chunks = math.ceil(arguments.documents / DOCUMENTS_PER_CHUNK)
    rows = make_rows(arguments.out, list(range(chunks)), arguments)
    held_out = make_rows(arguments.out, [VALIDATION_SEED], arguments)
    print(f"generated rows={len(rows)} tokens={rows.numel()} seconds={time.monotonic() - started:.1f}", flush=True)
    model = make_model(arguments)
    numbers = {"parameters": sum(p.numel() for p in model.parameters()), "generated_tokens": rows.numel()}
    numbers |= train(model, rows, arguments)
    write_model(arguments.out, model, arguments.vocabulary)
    numbers["validation_loss"] = validate(model, held_out, arguments)
    model.to(torch.bfloat16)
    numbers["validation_loss_bfloat16"] = validate(model, held_out, arguments)
    numbers["total_seconds"] = round(time.monotonic() - started, 1)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentencepiece": sentencepiece.__version__,
    }
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    write_json(arguments.out / "training.json", {"device": device, **numbers, "versions": versions})
    print(json.dumps(numbers), flush=True)


if __name__ == "__main__":
    main()
