#!/usr/bin/env python3
"""Makes the table of causes in docs/diagnose.md: how often each way of spoiling a capture is named rightly, wrongly, or
"unknown", and how many alarms clean captures raise.

usage: diagnose_table.py TEST_DIAGNOSE [--check]   writes the part between the markers; --check: says whether it differs
"""
import pathlib
import re
import subprocess
import sys

BEGIN, END = "<!-- made by bench/diagnose_table.py: begin -->", "<!-- end -->"


def main():
    test = sys.argv[1]
    page = pathlib.Path(__file__).resolve().parent.parent / "docs" / "diagnose.md"
    ran = subprocess.run([test, "--gtest_filter=Diagnose.Names*:Diagnose.Raises*"], capture_output=True, text=True)
    rows = [line for line in ran.stdout.splitlines() if line.startswith("|")]
    alarms = re.search(r"^\d+ clean tokens of .*$", ran.stdout, re.M)
    if not rows or not alarms:
        sys.exit("no table came from " + test)
    made = BEGIN + "\n" + "\n".join(rows) + "\n\n" + alarms.group(0) + ".\n" + END
    text = page.read_text()
    new = text[: text.index(BEGIN)] + made + text[text.index(END, text.index(BEGIN)) + len(END):]
    if "--check" in sys.argv:
        sys.exit(0 if new == text else "docs/diagnose.md is not what the command makes")
    page.write_text(new)
    print("%d ways of spoiling a capture; %s" % (len(rows) - 2, alarms.group(0)))
    sys.exit(ran.returncode)


if __name__ == "__main__":
    main()
