"""What the processes of a job's stages share."""

from __future__ import annotations

import subprocess
import sys


def test_a_line_is_logged_once_whatever_a_library_does_to_the_root_logger() -> None:
    code = (
        "import logging, os\n"
        "from cefr_batch.training.process import start_process\n"
        "start_process(os.getppid())\n"
        "logging.basicConfig()\n"
        "logging.getLogger('cefr_batch.training').info('step 1')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout + done.stderr).splitlines() == ["step 1"]
