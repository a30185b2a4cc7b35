"""The README.md beside a model: what others read of it."""
