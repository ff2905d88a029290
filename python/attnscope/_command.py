"""The command ``attnscope``: the same program that a build of the sources makes."""

import os
import sys


def main() -> None:
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "attnscope")
    try:
        os.execv(program, ["attnscope", *sys.argv[1:]])
    except OSError as e:
        sys.exit(f"error: cannot start {program}: {e.strerror}")
