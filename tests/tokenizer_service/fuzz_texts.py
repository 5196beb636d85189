"""Random texts that are hard on a tokenizer."""

import random

WORDS = """the caravan under tokens river don't straightforward internationalization counterrevolutionary naïve café
Straße привет κόσμος שלום مرحبا नमस्ते สวัสดี 世界 こんにちは 한국어 int main(void) return 0; x_y_z CamelCase http://a.b/c?d=e
extra_id_1 extra_id_10 extra_id_100 caravan! <0x0A> <0xFF> [INST] [/INST] <<SYS>> a b c <a<b> a<b <a<c""".split()
SPACES = [" ", "  ", "   ", "    ", " " * 17, "\t", "\n", "\r\n", "\n\n\n", " \n ", "\u00a0", "\u2003", "\u3000", "\u2028",
          "\x0b", "\x0c", "\x1c", "\x85", "\u200b", "\ufeff"]
CLUSTERS = ["e\u0301", "n\u0303\u0323", "\u0301", "👨‍👩‍👧‍👦", "👩🏽‍🚀", "🏳️‍🌈", "🇩🇪", "❤️", "⭐", "🦙", "क्षि", "각", "\u200d",
            "\ufffd", "\U0010ffff", "\uffff", "￾", "\u202e", "ﬁ", "Å", "İ"]
MARKS = ["▁", "▁▁", " ▁", "▁ ", "▁the", "▁under", "<s>", "</s>", "<unk>", "<s", "s>", "<s>s>", "<<s>>", "</s><s>", "<pad>",
         "<unk", "<|im_start|>", "<|im_end|>", "<mask>", "<both>", "<word>", "<strip_word>", "<sep>", "##", "<ctl>", "<x>",
         "<sys>", "<end>", "plain_added"]


def character(rng):
    """A character of any plane; surrogates are none."""
    plane = rng.choice([0, 0, 0, 0, 1, 1, 2, 3, rng.randint(0, 16)])
    code = plane * 0x10000 + rng.randint(0, 0xFFFF)
    return character(rng) if 0xD800 <= code <= 0xDFFF else chr(code)


def part(rng):
    draw = rng.random()
    if draw < 0.25:
        return rng.choice(WORDS)
    if draw < 0.45:
        return rng.choice(SPACES)
    if draw < 0.65:
        return rng.choice(MARKS)
    if draw < 0.73:
        return rng.choice(CLUSTERS)
    if draw < 0.80:
        return "".join(character(rng) for _ in range(rng.randint(1, 6)))
    if draw < 0.86:
        return "".join(chr(rng.randint(32, 126)) for _ in range(rng.randint(1, 12)))
    if draw < 0.90:
        return chr(rng.randint(0, 0x9F)) * rng.randint(1, 3)
    if draw < 0.94:
        return str(rng.randint(0, 10 ** rng.randint(1, 20)))
    if draw < 0.995:
        return rng.choice(WORDS) * rng.randint(1, 4)
    return "".join(rng.choice("abcdefghijklmnop\u00e9\u4e16") for _ in range(rng.randint(200, 1500)))


def text(rng: random.Random):
    glue = rng.choice(["", "", " "])
    return glue.join(part(rng) for _ in range(rng.choice([0, 1, 1, 2, 3, 4, 5, 7, 9, 12])))
