"""Hugging Face folders with tokenizers of all kinds, made from the small models in tests/golden/tokenizer."""

import json
import pathlib
import shutil

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "golden" / "tokenizer"


def added(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": False, **flags}


LLAMA_SPECIALS = {"0": added("<unk>", special=True), "1": added("<s>", special=True), "2": added("</s>", special=True)}
MANY_ADDED = {
    **LLAMA_SPECIALS,
    "1600": added("<pad>", special=True),
    "1601": added("<|im_start|>", special=True),
    "1602": added("<|im_end|>", special=True, rstrip=True),
    "1603": added("<mask>", special=True, lstrip=True),
    "1604": added("<both>", lstrip=True, rstrip=True),
    "1605": added("caravan!", normalized=True),
    "1606": added("<word>", single_word=True),
    "1607": added("<strip_word>", single_word=True, lstrip=True, rstrip=True),
    "1608": added("extra_id_1"),
    "1609": added("extra_id_100"),
    "1610": added("🦙"),
    "1611": added("a b c"),
    "1612": added("\n\n\n"),
    "1613": added("▁under"),
    "1614": added("<a<b>"),
    "1615": added("a<b"),
}


def config(legacy, decoder=None, **more):
    base = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer",
            "clean_up_tokenization_spaces": False, "add_bos_token": True, "add_eos_token": False, **more}
    if legacy is not None:
        base["legacy"] = legacy
    if decoder is not None:
        base["added_tokens_decoder"] = decoder
    return base


UNKNOWN_ADDED = {"0": added("<unk>", special=True), "1": added("<s>", special=True), "2": added("</s>", special=True),
                 "4": added("##", special=False), "500": added("⭐", special=True), "501": added("<x>")}

# Name → (model, files of the folder).
FOLDERS = {
    "legacy": ("llama", {"tokenizer_config.json": config(True, LLAMA_SPECIALS)}),
    "new": ("llama", {"tokenizer_config.json": config(False, LLAMA_SPECIALS)}),
    "default": ("llama", {}),
    "no_prefix": ("llama", {"tokenizer_config.json": config(False, MANY_ADDED, add_prefix_space=False)}),
    "added_legacy": ("llama", {"tokenizer_config.json": config(
        True, MANY_ADDED, pad_token="<pad>", additional_special_tokens=["<|im_start|>", "<|im_end|>", "<mask>"])}),
    "added_new": ("llama", {"tokenizer_config.json": config(
        False, MANY_ADDED, pad_token="<pad>", additional_special_tokens=["<|im_start|>", "<|im_end|>", "<mask>"])}),
    "old_style": ("llama", {
        "tokenizer_config.json": {"bos_token": {"__type": "AddedToken", **added("<s>", normalized=True)},
                                  "eos_token": {"__type": "AddedToken", **added("</s>", normalized=True)},
                                  "unk_token": "<unk>", "pad_token": None, "legacy": False},
        "special_tokens_map.json": {"bos_token": added("<s>", lstrip=True), "eos_token": "</s>", "unk_token": "<unk>",
                                    "pad_token": "<pad>",
                                    "additional_special_tokens": ["<sys>", added("<end>", rstrip=True)]},
        "added_tokens.json": {"<sys>": 1601, "<pad>": 1600, "plain_added": 1602}}),
    "unknown_legacy": ("unknown", {"tokenizer_config.json": config(True, UNKNOWN_ADDED)}),
    "unknown_new": ("unknown", {"tokenizer_config.json": config(False, UNKNOWN_ADDED)}),
}


def make_folder(name, parent):
    """Writes the folder FOLDERS[name] under `parent`; its path."""
    model, files = FOLDERS[name]
    folder = pathlib.Path(parent) / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(MODELS / f"{model}.model", folder / "tokenizer.model")
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return folder
