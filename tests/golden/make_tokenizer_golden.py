"""Writes tests/golden/tokenizer/golden.json: ids of transformers' LlamaTokenizer for the folders of model_folders.py.

    python tests/golden/make_tokenizer_golden.py

Needs transformers 4.57.3, sentencepiece and jinja2. The C++ tests read the file; parity_test.py compares far more, but
needs transformers each time.
"""

import json
import pathlib
import random
import sys
import tempfile
import warnings

GOLDEN = pathlib.Path(__file__).parent / "tokenizer" / "golden.json"
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tokenizer_service"))

import fuzz_texts  # noqa: E402
from model_folders import FOLDERS, make_folder  # noqa: E402

TEXTS = ["", " ", "  ", "a", " a", "  a", "Hello, world!", "the caravan walked under the golden river",
         "  leading and  inner   spaces  ", "\n\ttabs\r\nand lines\n\n\n", "▁", "▁▁x", "x▁y", "naïve café Straße", "世界 こんにちは",
         "\x00\x01\x7f\x9f", "e\u0301 👩🏽‍🚀 🦙 ⭐", "<s>", "</s>x<s> y", "Hello <s>.", " <s> <s>", "<s", "<unk>", "a<s", "12345 3.14",
         "<|im_start|>user\nhi<|im_end|>  \nnext", "x <mask> y", "a <both> b", "<word>", "x<word>", "<word>x", "x <word> y",
         "the <strip_word> end", "the<strip_word>end", "extra_id_1 extra_id_10 extra_id_100", "a b c", "<a<b>", "<a<c>", "a<b",
         "<<a<b>>", "under", "caravan! caravan", "plain_added<sys><end>  x", "<sep>x ## <ctl>", "<x> <x>", "ﬁ Å \u3000 \u00a0"]

SPECIAL_WITHOUT_ROLE = {"unknown": [500]}  # "⭐"

# LLaMA 2's format in Jinja.
LLAMA2_TEMPLATE = """
{%- if messages[0].role == 'system' -%}
  {%- set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}{%- set rest = messages[1:] -%}
{%- else -%}
  {%- set system = '' -%}{%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
  {%- set content = system + message.content if loop.first else message.content -%}
  {%- if message.role == 'user' -%}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
  {%- else -%}{{ ' ' + content.strip() + ' ' + eos_token }}{%- endif -%}
{%- endfor -%}
"""
CHATS = [
    [("user", "Where is the caravan?")],
    [("system", "Be brief. "), ("user", "  Where is the caravan?  ")],
    [("system", ""), ("user", "a")],
    [("user", "one"), ("assistant", " two\n"), ("user", "three ▁ 世界")],
    [("system", "s"), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")],
]


def make_cases(reference, special, rng):
    cases = []
    for text in TEXTS + [fuzz_texts.text(rng) for _ in range(40)]:
        if len(text) > 300:
            continue
        ids = [reference.encode(text, add_special_tokens=False, split_special_tokens=split) for split in (True, False)]
        if set(ids[0]) & (set(reference.all_special_ids) | special) - {reference.unk_token_id}:
            continue  # transformers finds a special token in plain text: Caravan never does
        cases.append([text, *ids])
    return cases


def make_chats(reference):
    chats = []
    for turns in CHATS:
        messages = [{"role": role, "content": content} for role, content in turns]
        kinds = {"chat_template": LLAMA2_TEMPLATE, "conversation": messages}
        chats.append({"turns": turns, "text": reference.apply_chat_template(**kinds, tokenize=False),
                      "ids": reference.apply_chat_template(**kinds, tokenize=True)})
    return chats


def main():
    warnings.simplefilter("ignore")
    from transformers import LlamaTokenizer

    golden = {}
    rng = random.Random(7)
    with tempfile.TemporaryDirectory() as parent:
        for name, (model, files) in FOLDERS.items():
            reference = LlamaTokenizer.from_pretrained(str(make_folder(name, parent)))
            golden[name] = {"model": model, "files": files, "size": max(reference.get_vocab().values()) + 1, "bos": reference.bos_token_id,
                            "eos": reference.eos_token_id, "cases": make_cases(reference, set(SPECIAL_WITHOUT_ROLE.get(model, [])), rng)}
            if name in ("legacy", "new"):
                golden[name]["chats"] = make_chats(reference)
    lines = [json.dumps(name) + ": " + json.dumps(value, separators=(",", ":")) for name, value in golden.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
