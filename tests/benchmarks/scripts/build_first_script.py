"""Examples as the first script built them: random.sample, json.dump. Arguments: pairs (.csv), how many, a folder."""

import csv
import json
import random
import sys
from pathlib import Path

source, number, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
folder.mkdir(exist_ok=True)
random.seed(42)
by_word: dict[str, list[str]] = {}
with Path(source).open(encoding="utf-8") as file:
    for row in csv.DictReader(file):
        by_word.setdefault(row["word"], []).append(row["sentence"])
pool = list(by_word)
examples = []
for _ in range(number):
    words = random.sample(pool, 10)
    listed = "\n".join(f"{i}. {word}" for i, word in enumerate(words, 1))
    examples.append(
        {
            "instruction": f"Generate B1-level English sentences for these 10 words:\n{listed}\n\n"
            "Provide numbered sentences (1-10), using each word naturally and appropriately for B1 level.",
            "input": "",
            "output": "\n".join(f"{i}. {random.choice(by_word[word])}" for i, word in enumerate(words, 1)),
        }
    )
random.shuffle(examples)
split = int(0.9 * number)
for name, part in (("train", examples[:split]), ("eval", examples[split:])):
    with (folder / f"{name}.json").open("w", encoding="utf-8") as target:
        json.dump(part, target, ensure_ascii=False, indent=2)
for name in ("train", "eval"):  # its check: load the file, look at every example
    with (folder / f"{name}.json").open(encoding="utf-8") as made:
        for example in json.load(made):
            assert example["instruction"]
            assert example["output"].count("\n") == 9
