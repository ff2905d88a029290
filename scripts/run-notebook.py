#!/usr/bin/env python3
"""Executes notebooks in place; an exception in a cell ends it. Output is kept small and the same from run to run.

  run-notebook.py [--check] NOTEBOOK ...     --check: only executes; the files stay as they are
"""

import json
import os
import sys

import nbformat
from nbclient import NotebookClient

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
LARGEST = 200_000  # bytes of a notebook with its output


def whats_wrong(notebook: dict) -> str:
    """By the notebooks' own schema; reading mends some of it without a word. "": nothing."""
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as e:
        return str(e)
    return ""


check = "--check" in sys.argv[1:]
for path in [a for a in sys.argv[1:] if a != "--check"]:
    notebook = nbformat.read(path, as_version=4)
    with open(path, encoding="utf-8") as file:
        problem = whats_wrong(json.load(file))
    if problem and check:
        sys.exit(f"{path} is no valid notebook: {problem}")
    for cell in notebook.cells:
        if cell.cell_type != "code":
            cell.pop("outputs", None)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": os.path.dirname(os.path.abspath(path))}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]  # progress bars
    nbformat.validate(notebook)
    text = nbformat.writes(notebook)
    if len(text) > LARGEST:
        sys.exit(f"{path} has {len(text)} bytes with its output; at most {LARGEST}")
    if not check:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    print(f"{path}: {len(notebook.cells)} cells executed")
