"""Fine-tune a small language model once per CEFR level, as batch jobs, and compare the levels."""

__version__ = "0.1.0"
