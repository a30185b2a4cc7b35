"""Run a command and write its seconds, largest resident memory in KB and exit status to a file.

A process of its own, since the kernel counts the memory of whoever starts a process as that process's too.
"""

import json
import os
import subprocess
import sys
import time

started = time.monotonic()
child = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(child.pid, 0)
with open(sys.argv[1], "w") as file:  # noqa: PTH123 (pathlib takes time to import)
    json.dump([time.monotonic() - started, usage.ru_maxrss, os.waitstatus_to_exitcode(status)], file)
