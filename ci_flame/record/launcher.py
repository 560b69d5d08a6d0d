"""Stage 1, edge: a script that waits for the word and then becomes the command.

    python -I -S launcher.py GO TOLD PROGRAM ARGUMENT…

GO is a pipe with `go` and the environment. TOLD is one for two words: the ns of CPU time that
this script has used, and the error number should PROGRAM not run. The command gets the
environment and the signals that it would have had without us: Python adds LC_CTYPE and ignores
SIGPIPE.
"""

import os
import signal
import sys
import time


def main(go: int, told: int, command: list[str]) -> None:
    """Wait, then become the command; end with 127 where it cannot be run."""
    os.set_inheritable(told, False)  # noqa: FBT003 - the function has no keywords
    data = b""
    while piece := os.read(go, 65_536):
        data += piece
    os.close(go)
    words = data.split(b"\0")
    if words.pop(0) != b"go":
        os._exit(0)
    environment = dict(word.split(b"=", 1) for word in words if word)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.write(told, b"%d " % time.process_time_ns())
    try:
        os.execve(command[0], command[1:], environment)  # noqa: S606 - as it was given
    except OSError as error:
        os.write(told, str(error.errno).encode())
    os._exit(127)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
