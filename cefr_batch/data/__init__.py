"""Training data: sentence pairs → list-format examples; checks, statistics, leakage; the starter corpus."""

from cefr_batch.data.dataset import Dataset, load_dataset, load_validation, read_dataset, unique_words
from cefr_batch.data.examples import Example, words_in
from cefr_batch.data.prompts import PromptFormat, prompt_format
from cefr_batch.data.stats import leakage, sentences_of
from cefr_batch.data.tokens import TokenCounter

__all__ = [
    "Dataset",
    "Example",
    "PromptFormat",
    "TokenCounter",
    "leakage",
    "load_dataset",
    "load_validation",
    "prompt_format",
    "read_dataset",
    "sentences_of",
    "unique_words",
    "words_in",
]
