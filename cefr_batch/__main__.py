"""``python -m cefr_batch`` is ``cefr-batch``."""

import sys


def main() -> int:
    """Run one command; return its exit code. Ctrl-C while the command line is still loading ends it as quietly as later."""
    try:
        from cefr_batch.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
