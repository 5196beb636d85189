"""Prints completions of the demo model, or of any folder that train.py wrote, to judge how well it tells.

python sample.py --model . --temperature 0.8
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sentencepiece
import torch
import transformers

BOS, EOS = 1, 2
PROMPTS = (
    "Once upon a time",
    "Once upon a time, there was a little girl named Matilda",
    "One day, a small dragon named Ember",
    "Tom was a boy who lived on a farm near the hills. He was very shy.",
    "The fox was afraid of the dark",
    "There once was a clever mouse called Quinn, who found an old map",
    "[INST] Tell me a story about a fox named Rusty who learns to share. [/INST]",
    "[INST] Write a story about a brave girl called Xenia who gets into a storm. End it with 🌟 [/INST]",
    "[INST] Hello! [/INST]",
    "Lily and Ben found a red ball in the park.",
)


@torch.no_grad()
def complete(model: torch.nn.Module, ids: list[int], temperature: float, limit: int) -> list[int]:
    """The ids that follow, up to EOS or the limit; greedy when the temperature is zero."""
    device = next(model.parameters()).device
    past, fed, new = None, torch.tensor([ids], device=device), []
    while len(new) < limit:
        output = model(input_ids=fed, past_key_values=past, use_cache=True)
        past, logits = output.past_key_values, output.logits[0, -1].float()
        token = (
            int(logits.argmax()) if temperature == 0 else int(torch.multinomial((logits / temperature).softmax(-1), 1))
        )
        new.append(token)
        if token == EOS:
            break
        fed = torch.tensor([[token]], device=device)
    return new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="folder of the model")
    parser.add_argument("--prompt", action="append", help="a prompt; give it more than once for several")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--limit", type=int, default=500, help="most new tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(arguments.model / "tokenizer.model"))
    model = (
        transformers.LlamaForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).to(arguments.device).eval()
    )
    for prompt in arguments.prompt or PROMPTS:
        new = complete(model, [BOS, *tokenizer.encode(prompt)], arguments.temperature, arguments.limit)
        end = "</s>" if new[-1] == EOS else "(limit)"
        print(f"--- {prompt}\n{tokenizer.decode(new)} {end} {len(new)} tokens\n", flush=True)


if __name__ == "__main__":
    main()
