"""Makes the golden files: what Hugging Face transformers answers for small random LLaMA models, and for the demo model.

    python tests/golden/make_golden.py --models          # tests/golden/models/NAME/
    python tests/golden/make_golden.py --demo            # tests/golden/demo.json

Everything is computed in float32 on the CPU with eager attention, from the weights as they are stored (fp16 and bf16
ones are widened). The formats are described in README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path

import torch
import transformers
from golden_cases import CASES, Case
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

HERE = Path(__file__).resolve().parent
GREEDY_TOKENS = 32
ALL_POSITIONS_UP_TO = 16  # longer prompts keep the logits of their last positions only
LAST_POSITIONS = 4
ATTEMPTS = 30
ENOUGH_GAP = 0.08  # of the two best logits; what float32 computes in another order differs by less than 1e-3


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


# Random checkpoints --------------------------------------------------------------------------------------------------


def random_weights(model: LlamaForCausalLM, case: Case) -> None:
    """Spreads the logits: with the usual init of 0.02, a wrong rope or a lost bias hardly changes them."""
    generator = torch.Generator().manual_seed(case.seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            value = 1 + 0.2 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embed_tokens" in name or "lm_head" in name:
            value = noise * (0.35 if case.config.get("tie_word_embeddings") else 0.5)
        else:
            value = noise * (1.6 if "q_proj" in name or "k_proj" in name else 1.0) / parameter.shape[1] ** 0.5
        parameter.data.copy_(value.to(case.stored))  # rounded to what the file holds


def write_checkpoint(model: LlamaForCausalLM, case: Case, folder: Path) -> None:
    tensors = {name: parameter.data.to(case.stored).contiguous() for name, parameter in model.named_parameters()}
    dtype = str(case.stored).removeprefix("torch.")
    write_json(
        folder / "config.json",
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": dtype} | case.config,
    )
    if case.shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = sorted(tensors), {}
    for shard in range(case.shards):
        file = f"model-{shard + 1:05d}-of-{case.shards:05d}.safetensors"
        part = names[shard * len(names) // case.shards : (shard + 1) * len(names) // case.shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


# Answers -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def prompt_logits(model: LlamaForCausalLM, ids: list[int]) -> torch.Tensor:
    """[positions, vocabulary] of one forward pass over the whole prompt, without a cache."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


@torch.no_grad()
def greedy(model: LlamaForCausalLM, ids: list[int], tokens: int, eos: int | None) -> tuple[list[int], float]:
    """generate()'s greedy continuation, and the smallest distance of the two best logits on the way."""
    prompt = torch.tensor([ids])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=eos,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack([logits[0].float().topk(2).values for logits in output.logits])
    return output.sequences[0, len(ids) :].tolist(), (best[:, 0] - best[:, 1]).min().item()


def forget_rope(model: LlamaForCausalLM) -> None:
    """Dynamic scaling keeps the frequencies of the longest sequence so far; each answer starts without."""
    model.model.rotary_emb = LlamaRotaryEmbedding(model.config)


def find_prompt(model: LlamaForCausalLM, case: Case, index: int) -> tuple[list[int], list[int] | None, float | None]:
    """The first prompt whose greedy answer is never nearly tied, or the best of some; and that answer."""
    if not case.has_greedy(case.prompt_lengths[index], GREEDY_TOKENS):
        return case.prompt(index, 0), None, None
    best = None
    for attempt in range(ATTEMPTS):
        forget_rope(model)
        ids = case.prompt(index, attempt)
        new, gap = greedy(model, ids, GREEDY_TOKENS, eos=None)
        if best is None or gap > best[2]:
            best = (ids, new, gap)
        if gap >= ENOUGH_GAP:
            break
    return best


def answer(model: LlamaForCausalLM, case: Case) -> tuple[dict[str, torch.Tensor], list[dict]]:
    tensors, rows = {}, []
    for i, length in enumerate(case.prompt_lengths):
        ids, new, gap = find_prompt(model, case, i)
        forget_rope(model)
        logits = prompt_logits(model, ids)
        first = 0 if length <= ALL_POSITIONS_UP_TO else length - LAST_POSITIONS
        tensors[f"input_ids_{i}"] = torch.tensor(ids, dtype=torch.int32)
        tensors[f"positions_{i}"] = torch.arange(first, length, dtype=torch.int32)
        tensors[f"logits_{i}"] = logits[first:].contiguous()
        row = {"prompt_tokens": length, "logits_std": round(logits.std().item(), 3)}
        if new is not None:
            tensors[f"greedy_{i}"] = torch.tensor(new, dtype=torch.int32)
            row |= {"greedy_tokens": len(new), "greedy_min_gap": round(gap, 5)}
        rows.append(row)
    return tensors, rows


def make_model(case: Case, root: Path) -> None:
    folder = root / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = LlamaConfig(**case.config, attn_implementation="eager")
    random_weights(model := LlamaForCausalLM(config), case)
    write_checkpoint(model, case, folder)
    # Read back what a server reads, so that the answers belong to the files and not to the objects above.
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.generation_config = transformers.GenerationConfig()
    tensors, rows = answer(model, case)
    save_file(tensors, folder / "golden.safetensors", metadata={"format": "pt"})
    about = {
        "name": case.name,
        "covers": case.covers,
        "stored": str(case.stored).removeprefix("torch."),
        "seed": case.seed,
    }
    write_json(folder / "golden.json", about | {"versions": versions(), "prompts": rows})
    size = sum(file.stat().st_size for file in folder.iterdir())
    gaps = [row.get("greedy_min_gap") for row in rows]
    print(f"made {case.name} bytes={size} std={[row['logits_std'] for row in rows]} gaps={gaps}", flush=True)


# Demo model ----------------------------------------------------------------------------------------------------------

DEMO_TOKENS = 128
DEMO_LEAST_GAP = 0.3  # logits; a bfloat16 server gives the same ids
DEMO_CHAT_PROMPTS = ("[INST] Hello! [/INST]", "[INST] Who are you? [/INST]", "[INST] Thank you! [/INST]")
DEMO_STORY_PROMPTS = 6
DEMO_CANDIDATES = 500


def demo_candidates(demo_model: Path) -> list[str]:
    """Beginnings of stories, cut after any word, by the demo model's own generator (seeds it was not trained on)."""
    sys.path.insert(0, str(demo_model))
    from story_generator import make_document

    rng, prompts = random.Random(1 << 41), []
    while len(prompts) < DEMO_CANDIDATES:
        words = make_document(rng).replace("\n", " \n").split(" ")
        prompts.append(" ".join(words[: rng.randrange(4, 120)]).replace(" \n", "\n"))
    return prompts


@torch.no_grad()
def steady_tokens(model: LlamaForCausalLM, ids: list[int], eos: int) -> int:
    """How many greedy tokens follow until two are nearly tied (the generator's choices are), or until EOS."""
    past, fed = None, torch.tensor([ids])
    for count in range(DEMO_TOKENS):
        output = model(input_ids=fed, past_key_values=past, use_cache=True)
        past, best = output.past_key_values, output.logits[0, -1].topk(2)
        if best.values[0] - best.values[1] < DEMO_LEAST_GAP:
            return count
        if best.indices[0] == eos:
            return count + 1
        fed = best.indices[None, :1]
    return DEMO_TOKENS


def make_demo(folder: Path, path: Path) -> None:
    """Keeps the chat prompts, and the story prompts whose greedy answers are longest before they are nearly tied."""
    tokenizer = transformers.LlamaTokenizer.from_pretrained(folder)
    wide, narrow = (
        LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
        for dtype in (torch.float32, torch.bfloat16)
    )
    eos, rows = wide.config.eos_token_id, []
    stories = [(steady_tokens(wide, tokenizer(text)["input_ids"], eos), text) for text in demo_candidates(folder)]
    chats = [(DEMO_TOKENS, text) for text in DEMO_CHAT_PROMPTS]
    for tokens, prompt in chats + sorted(stories, reverse=True):
        ids = tokenizer(prompt)["input_ids"]
        new, gap = greedy(wide, ids, tokens, eos)
        new_narrow, gap_narrow = greedy(narrow, ids, tokens, eos)
        if new == new_narrow and gap >= DEMO_LEAST_GAP:
            row = {"prompt": prompt, "prompt_ids": ids, "max_tokens": tokens, "greedy_ids": new}
            row |= {"greedy_text": tokenizer.decode(new, skip_special_tokens=True)}
            row |= {"finish": "eos" if new[-1] == eos else "length"}
            row |= {"min_gap": round(gap, 4), "min_gap_bfloat16": round(gap_narrow, 4)}
            rows.append(row)
        if len(rows) == len(DEMO_CHAT_PROMPTS) + DEMO_STORY_PROMPTS:
            break
    write_json(path, {"model": "models/demo", "versions": versions(), "answers": rows})
    print(f"made demo tokens={[len(row['greedy_ids']) for row in rows]} gaps={[row['min_gap'] for row in rows]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", action="store_true", help="make the random models and their answers")
    parser.add_argument("--demo", action="store_true", help="make the demo model's answers")
    parser.add_argument("--only", action="append", help="only the random model of this name; may be repeated")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the golden files")
    parser.add_argument("--demo_model", type=Path, default=HERE.parent.parent / "models" / "demo")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one order of summation
    if arguments.models:
        for case in CASES:
            if not arguments.only or case.name in arguments.only:
                make_model(case, arguments.out / "models")
    if arguments.demo:
        make_demo(arguments.demo_model, arguments.out / "demo.json")


if __name__ == "__main__":
    main()
