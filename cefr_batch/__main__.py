"""``python -m cefr_batch`` is ``cefr-batch``."""

import sys

from cefr_batch.cli.main import main

sys.exit(main())
