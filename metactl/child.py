"""Run as a script: become another program that dies with the process that started it.

    python child.py PARENT_PID PROGRAM ARGUMENT...

A cluster on this machine must not outlive its launcher, however that ends, kill -9 included.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Ask the kernel for SIGKILL at the parent's death, then become the program."""
    parent_pid, program = int(arguments[0]), arguments[1]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"error: prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        sys.exit("error: the launcher is gone already")
    os.execv(program, [program, *arguments[2:]])  # noqa: S606 - becoming the program is the point


if __name__ == "__main__":
    main(sys.argv[1:])
