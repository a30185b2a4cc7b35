"""Training data: sentence pairs → list-format examples; checks, statistics, leakage; the starter corpus."""

from cefr_batch.data.dataset import Dataset, fetch_dataset, load_dataset, read_dataset, store_dataset, unique_words
from cefr_batch.data.examples import Example, prompt_of, text_of, words_in
from cefr_batch.data.stats import Leakage, leakage, sentences_of
from cefr_batch.data.tokens import TokenCounter

__all__ = [
    "Dataset",
    "Example",
    "Leakage",
    "TokenCounter",
    "fetch_dataset",
    "leakage",
    "load_dataset",
    "prompt_of",
    "read_dataset",
    "sentences_of",
    "store_dataset",
    "text_of",
    "unique_words",
    "words_in",
]
