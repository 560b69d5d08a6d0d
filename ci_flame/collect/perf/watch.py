"""Stage 1, edge: whoever wanted a perf record has been killed: perf ends too, with its files.

    python -I -S watch.py OWNER PERF FOLDER      (pidfds of both, and perf's temporary folder)

perf itself would go on until the last process that it samples has ended, which may be a service
that runs for months. This sleeps until either has ended, and does something only if it was the
owner. Nothing is imported from ci_flame: it is a small process beside every recording.
"""

import os
import select
import shutil
import signal
import sys
from contextlib import suppress

PATIENCE_MS = 2_000


def main(words: list[str]) -> int:
    """Wait for the end of one of them; end perf and remove the folder if it was the owner's."""
    owner, perf, folder = int(words[0]), int(words[1]), words[2]
    both, alone = select.poll(), select.poll()
    for poll, descriptors in ((both, (owner, perf)), (alone, (perf,))):
        for each in descriptors:
            poll.register(each, select.POLLIN)
    if owner not in dict(both.poll()):
        return 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(perf, number)
        if alone.poll(PATIENCE_MS):
            break
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    for descriptor in range(3):
        with suppress(OSError):
            os.close(descriptor)  # the owner's terminal and pipes are not ours to hold open
    sys.exit(main(sys.argv[1:]))
