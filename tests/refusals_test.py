"""Holds what src/attach/ says of programs that it cannot follow against docs/errors.md and the tests: each message is explained on that page,
under "Attaching", and some test waits for it.

  python3 tests/refusals_test.py [SOURCE_DIR]

A message is a literal of three words or more. Exit code 1 and a line for each that is not explained or not tested.
"""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
literal = r'"((?:[^"\\\n]|\\.)*)"'
least = 12  # characters of a part that stands for its message
shortest = 7  # what a message on the page may be: the words between its blanks
window = 18  # ... of a piece of a long one

# What is said of programs that are followed, and names of ours: no reasons.
no_reason = {
    "attnscope, looks at attention", "an accelerator of ggml's", "a ggml that tells no version", " is linked dynamically: ",
    "the library goes into it and into what it starts, ", "the library goes into it and into what it starts. ", ": its ggml is told to load the library as an accelerator",
    "process {} ({}): {} in {}, {}", "process {}: {}", "\\n{} {} {}", "process {}: {}, {} of {} layers", "a model without a file",
    "shared between processes",
}
# Pieces that stand in the middle of others, which are looked for.
pieces = {" was not found", " that can be found", "nothing of ", " is captured: ", ": nothing of it is captured (use a build"}
# What no test can bring about without breaking the system that it runs on; each is said in one place and read by eye.
untested = {
    "cannot make ": "a file system that takes no file", "cannot map ": "no address space for a ring that has its file",
    "cannot name ": "a rename that fails", "cannot open ": "a ring that is taken away between two looks",
    "its tensors' sources do not lie as expected": "a layout that the made ones of the fuzzer do not have",
    "a key is stored outside of its cache": "a cell that the engine would have crashed on",
    "no memory for what its graph is given": "an allocation that fails for ggml, too",
    "attnscope attach is gone": "the same as: nobody takes what is captured any more",
    "a message in the ring is longer": "a ring that somebody else writes to",
    "cannot read ": "a program that may be run and not read",
    "capturing failed: ": "exceptions; of lack of memory, the only one that is met, there is no memory to say so",
    "attnscope: %s; nothing is captured of a context": "the same",
    " could not be read by llama.cpp": "what llama.cpp would refuse is told before",
    "no folder in shared memory can be made": "a system without any folder that may be written to",
    "there is no pipe for what the program says: ": "no descriptor left before the program is started",
}


def code_of(path):
    text = re.sub(r"^\s*//.*|\s//\s.*", "", path.read_text(encoding="utf-8"), flags=re.M)
    return re.sub(r'"\s*"', "", text)


def is_one_of(message, beginnings):
    return any(message == b or (len(b) >= least and b in message) for b in beginnings)


def parts(message):
    """What of a message is always the same."""
    return [p for p in (p.strip() for p in re.split(r"\{[^}]*\}|%[a-z]+|\\n|…", message)) if len(p) >= least or p == message.strip()]


def covered(message, others):
    """Has one of the others a piece of it that is long enough to know it by?"""
    for part in parts(message):
        pieces_of = [part[i:i + window] for i in range(max(len(part) - window, 0) + 1)]
        if any(other in part or any(piece in other for piece in pieces_of) for other in others):
            return True
    return False


section = (root / "docs/errors.md").read_text(encoding="utf-8").split("## Attaching", 1)[1].split("\n## ", 1)[0]
page = (root / "docs/errors.md").read_text(encoding="utf-8")
rows = re.findall(r"^\| (.*?) \|", section, re.M) + re.findall(r"^\| (.*?) \|", page.split("## Models", 1)[1], re.M)
explained = [p.strip() for row in rows for m in re.findall(r"`([^`]+)`", row) for p in re.split("…", m) if len(p.strip()) >= shortest]
tests = [p for top in ("tests/attach", "python/tests") for p in (root / top).rglob("*") if p.suffix in (".cpp", ".h", ".py")]
waited_for = [m for p in tests for m in re.findall(literal, code_of(p)) if len(m) >= least and " " in m]
files = [p for p in sorted((root / "src/attach").rglob("*")) if p.suffix in (".cpp", ".h")]
assert len(files) > 50 and len(explained) > 40 and len(waited_for) > 100, "these are not the sources"
wrong, n = [], 0
for path in files:
    for message in re.findall(literal, code_of(path)):
        if message.count(" ") < 2 or is_one_of(message, no_reason) or is_one_of(message, pieces):
            continue
        n += 1
        where = f"{path.relative_to(root)}: \"{message}\""
        if not covered(message, explained):
            wrong.append(f"{where} is not in docs/errors.md")
        if not covered(message, waited_for) and not is_one_of(message, untested):
            wrong.append(f"{where} is not in any test")
print("\n".join(wrong) or f"{n} messages of src/attach/ are explained and tested")
sys.exit(1 if wrong else 0)
