"""The command line: each ``cmd_*.py`` parses its options, calls ``cefr_batch.runner`` or ``report``, and prints."""
