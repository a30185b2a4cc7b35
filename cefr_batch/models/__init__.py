"""Pretrained models: a name → a local folder; sizes and devices; conversion from GGUF; merging an adapter."""
