#!/usr/bin/env python3
"""Runs programs that nobody here wrote under `attnscope attach`, and holds what was recorded against what they answered.

    run.py --attnscope BIN --libraries FOLDER --model GGUF --work FOLDER [NAME ...]

The programs come from npm and PyPI, pinned by the lock files and hashes beside this file, into FOLDER. Of each: every recording is
verified whole, every token's verdict counted, the tokens recorded are the ones that the program says it decoded, and none is there
that it does not speak of. Where the engine is ours the frames are held against those of `attnscope capture`, bit for bit.
Prints a table; exits 1 where something is not as it should be.
"""

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROMPT = "The capital of France is"
N_PREDICT = 12
SDIST = ("llama-cpp-python==0.3.36", "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e")
DEBIAN = "llama.cpp-tools=1:0.7.0+dfsg-2"
SEQUENCE_SHIFT = 40  # of numbers of frames (docs/format.md)
WARM_UP = 2          # tokens that a server decodes before anybody asks


def shell(command, log, **options):
    with open(log, "ab") as out:
        return subprocess.run([str(c) for c in command], stdout=out, stderr=out, check=True, **options)


def npm(work, name):
    folder = work / name
    if not (folder / "node_modules").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name / file, folder)
        # Not "ci", which wants the packages of all systems to be in the lock; what is in it is held against its hash all the same.
        shell(["npm", "install", "--no-save", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"], work / "install.log", cwd=folder)
    return folder


def venv(work, name):
    folder = work / name
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        shell([sys.executable, "-m", "venv", folder], work / "install.log")
        shell([python, "-m", "pip", "install", "--require-hashes", "--only-binary=:all:", "-r",
               HERE / name / "requirements.txt"], work / "install.log")
        (folder / "installed").touch()
    return python


def llama_cpp_python(work):
    """Its Python files alone, out of its source package: nothing is built."""
    python = venv(work, "llama-cpp-python")
    package = work / "llama-cpp-python" / "package"
    if not package.exists():
        requirement = work / "sdist.txt"
        requirement.write_text(f"{SDIST[0]} --hash=sha256:{SDIST[1]}\n")
        shell([python, "-m", "pip", "install", "scikit-build-core"], work / "install.log")  # pip asks it for the package's name
        shell([python, "-m", "pip", "download", "--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes",
               "-r", requirement, "-d", work], work / "install.log")
        archive = next(work.glob("llama_cpp_python-*.tar.gz"))
        half = package.with_name("package.half")
        half.mkdir(exist_ok=True)
        shell(["tar", "xzf", archive, "-C", half, "--strip-components=1", "--wildcards", "*/llama_cpp/*"], work / "install.log")
        half.rename(package)
    return python, package


def one(options, name):
    """Programs that answer one prompt: a command for flash attention on, one for off."""
    def command(flash):
        tail = [options.model, N_PREDICT, flash, PROMPT]
        if name.startswith("node-llama-cpp"):
            return ["node", HERE / "llama_node.mjs", npm(options.work, name), *tail]
        if name == "fugood":
            return ["node", HERE / "fugood_node.mjs", npm(options.work, name), *tail]
        if name.startswith("xllamacpp"):
            return [venv(options.work, name), HERE / "xllamacpp_one.py", *tail]
        if name == "ik-llama":
            return [venv(options.work, name), HERE / "ik_llama.py", *tail]
        python, package = llama_cpp_python(options.work)
        return [python, HERE / "llama_cpp_python.py", package, options.libraries, *tail]
    return [(f"flash attention {'on' if flash else 'off'}", command(flash)) for flash in (1, 0)]


def inside(options, name):
    """node-llama-cpp that attaches itself: before it is loaded, behind that, and when the context is there."""
    folder = npm(options.work, name)
    return [(f"attached {words}", ["node", HERE / "inside_node.mjs", folder, options.model, N_PREDICT, when, PROMPT])
            for when, words in (("first", "first"), ("loaded", "when it is loaded"), ("context", "with its context there"))]


def server(options, name):
    """xllamacpp's llama-server, 4 slots, 16 requests at once."""
    python = venv(options.work, "xllamacpp-new")
    return [(f"{'unified' if unified else 'not unified'}, RAM cache {ram} MiB",
             [python, HERE / "xllamacpp_server.py", options.model, unified, ram])
            for unified in (0, 1) for ram in (0, 8192)]


def debian(work):
    """The root of Debian's stock llama-server, out of its archive, whose signatures apt checks."""
    root = work / "debian" / "root"
    if root.exists():
        return root
    base = work / "debian"
    for folder in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "state/lists/partial", "cache/archives/partial"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "state/status").touch()
    (base / "etc/apt/sources.list").write_text(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main\n")
    places = {"Dir": base, "Dir::Etc": base / "etc/apt", "Dir::State": base / "state", "Dir::Cache": base / "cache",
              "Dir::State::status": base / "state/status", "Acquire::Languages": "none"}
    apt = ["apt-get", *(f"-o{key}={value}" for key, value in places.items())]
    shell([*apt, "update"], work / "install.log")
    shell([*apt, "-y", "--no-install-recommends", "--download-only", "install", DEBIAN], work / "install.log")
    half = base / "half"
    for package in sorted((base / "cache/archives").glob("*.deb")):
        shell(["dpkg", "-x", package, half], work / "install.log")
    for name in ("lib", "lib64", "bin", "sbin"):
        if (half / "usr" / name).exists() and not (half / name).exists():
            (half / name).symlink_to("usr/" + name)
    for name in ("proc", "dev", "tmp"):
        (half / name).mkdir(exist_ok=True)
    half.rename(root)
    return root


def debian_server(options, name):
    """Debian's llama-server in a root of its own, which needs this to be root; 4 slots, 16 requests at once."""
    if os.geteuid() != 0:
        print(f"| {NAMES[name]} | - | needs root | - | - | - | - | not run |", flush=True)
        return []
    root = debian(options.work)
    library = options.attnscope.parent.parent / "lib"
    for folder in (library, options.model.parent):
        (root / folder.relative_to("/")).mkdir(parents=True, exist_ok=True)
    mounts = " && ".join(f"mount --bind {at} {root}{at}" for at in ("/dev", "/dev/shm", "/proc", library, options.model.parent))
    inside = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    return [(variant, [sys.executable, HERE / "llama_server.py", *inside, "chroot", root, "/usr/bin/llama-server", "-m",
                       options.model, "-c", "4096", "-t", "1", "-np", "4", *flags])
            for variant, flags in (("unified", ["-kvu"]), ("not unified", ["--no-kv-unified"]),
                                   ("not unified, no RAM cache", ["--no-kv-unified", "--cache-ram", "0"]))]


def stripped_server(options, name):
    """The llama-server of our own sources in one file, its table of names taken out."""
    built = options.libraries.parent
    objects = [path for part in ("src", "ggml", "common", "tools/mtmd", "tools/server", "tools/ui", "vendor")
               for path in sorted((built / part).rglob("*.o"))]
    if not any("tools/server" in str(path) for path in objects):
        print(f"| {NAMES[name]} | - | llama.cpp came without its objects | - | - | - | - | not run |", flush=True)
        return []
    folder = options.work / name
    folder.mkdir(parents=True, exist_ok=True)
    shell(["c++", "-s", "-o", folder / "llama-server", *objects, "-fopenmp", "-pthread", "-ldl"], folder / "log")
    # Of its options those about devices, and this one, have it look for back ends of others, which is our way in.
    return [(variant, [sys.executable, HERE / "llama_server.py", folder / "llama-server", "-m", options.model, "-c", "4096", "-t", "1",
                       "-np", "4", "-ot", "no such tensor=CPU", *flags])
            for variant, flags in (("unified", ["-kvu"]), ("not unified", ["--no-kv-unified"]),
                                   ("not unified, no RAM cache", ["--no-kv-unified", "--cache-ram", "0"]))]


PROGRAMS = {
    "node-llama-cpp-3.22.1": one, "node-llama-cpp-3.12.4": one, "node-llama-cpp-3.7.0": one, "fugood": one,
    "node-inside": inside,
    "xllamacpp-new": one, "xllamacpp-old": one, "ik-llama": one, "llama-cpp-python": one, "xllamacpp-server": server,
    "debian-server": debian_server, "stripped-server": stripped_server,
}
INSIDE = {"node-inside"}  # start `attnscope attach` themselves
OURS = {"llama-cpp-python"}  # run the very libraries of `attnscope capture`
NAMES = {"node-inside": "node-llama-cpp 3.22.1 from inside, koffi 3.3.4",
         "fugood": "@fugood/llama.node 1.7.15", "xllamacpp-new": "xllamacpp 2026.10.11549", "xllamacpp-old": "xllamacpp 0.2.5",
         "ik-llama": "ik-llama-cpp-python 0.1.5", "llama-cpp-python": "llama-cpp-python 0.3.36, our libraries",
         "debian-server": "llama-server of Debian sid (llama.cpp-tools), 4 slots, 16 requests",
         "stripped-server": "llama-server of our sources, static and stripped, 4 slots, 16 requests",
         "xllamacpp-server": "llama-server in xllamacpp 2026.10.11549, 4 slots, 16 requests"}


class Recording:
    def __init__(self, attnscope, path):
        self.path = path
        run = subprocess.run([attnscope, "verify", "--all", "--json", path], capture_output=True, text=True, check=False)
        self.good = run.returncode == 0
        self.frames = json.loads(run.stdout)["frames"] if run.stdout else []
        with contextlib.closing(sqlite3.connect(path)) as file:
            self.sequences = file.execute("SELECT id, parent, n_shared FROM sequence ORDER BY id").fetchall()
            self.rows = dict(file.execute("SELECT id, token FROM frame"))
            self.texts = {token: bytes(piece) for token, piece in file.execute("SELECT token, piece FROM token_text")}
            self.engine = dict(file.execute("SELECT key, value FROM meta")).get("engine", "?")

    def lines(self):
        """The tokens of every sequence, its parent's before its own."""
        whole = {}
        for number, parent, n_shared in self.sequences:
            tokens = whole[parent][:n_shared] if parent >= 0 else []
            while (number << SEQUENCE_SHIFT) + len(tokens) in self.rows:
                tokens = [*tokens, self.rows[(number << SEQUENCE_SHIFT) + len(tokens)]]
            whole[number] = tokens
        return list(whole.values())

    def text(self, tokens):
        return b"".join(self.texts.get(t, b"?") for t in tokens).decode(errors="replace")


def compare(output, recordings):
    """How many of the program's answers were recorded, of how many, and lines that it does not speak of."""
    decoded = [json.loads(line[8:]) for line in output.splitlines() if line.startswith("DECODED ")]
    texts = [json.loads(line[5:]) for line in output.splitlines() if line.startswith("TEXT ")]
    lines = [line for r in recordings for line in r.lines()]
    written = [r.text(line) for r in recordings for line in r.lines()]
    # Whoever stops after a token has not decoded it.
    found = sum(any(line[:len(d) - 1] == d[:-1] for line in lines) for d in decoded)
    found += sum(any(t.startswith(w) and len(w) > len(t) - 24 for w in written) for t in texts)
    strange = [line for line in lines if len(line) > WARM_UP and not any(d[:len(line)] == line for d in decoded)]
    if texts:
        strange = [w for w, line in zip(written, lines) if len(line) > WARM_UP and not any(t.startswith(w) for t in texts)]
    return found, len(decoded) + len(texts), strange


def same_as_ours(options, folder, flash, recording):
    """Bit for bit the frames of `attnscope capture`: queries, keys and what is visible."""
    ids = folder / "ids"
    ids.write_text(" ".join(str(t) for t in recording.lines()[0][:5]))
    ours = folder / "ours.capture"
    subprocess.run([options.attnscope, "capture", "-m", options.model, "--input-ids", ids, "-n", str(N_PREDICT), "--temp", "0",
                    "--ignore-eos", "-c", "512", "-t", "1", "-fa", "on" if flash else "off", "-o", ours],
                   capture_output=True, check=True)
    tables = []
    for path in (recording.path, ours):
        with contextlib.closing(sqlite3.connect(path)) as file:
            tables.append(file.execute("SELECT token, position, visible, q FROM frame ORDER BY id").fetchall())
    n = min(len(t) for t in tables)
    same = sum(a == b for a, b in zip(*tables))
    return n > 10 and same == n, f"{same} of {n}"


def run(options, name, variant, command):
    folder = options.work / "runs" / name / variant.replace(" ", "-").replace(",", "")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    attached = [*command, options.attnscope, folder] if name in INSIDE else [options.attnscope, "attach", "-o", folder, "--", *command]
    with open(folder / "said", "wb") as said:
        program = subprocess.run([*map(str, attached)], stdout=subprocess.PIPE, stderr=said, timeout=900, check=False)
    output = program.stdout.decode(errors="replace")
    recordings = [Recording(options.attnscope, path) for path in sorted(folder.glob("*.attn"))]
    frames = [frame for r in recordings for frame in r.frames]
    found, answers, strange = compare(output, recordings)
    n_ok = sum(frame["ok"] for frame in frames)
    worst = max((f["witness_error"] / f["witness_tolerance"] for f in frames if f["witness_tolerance"]), default=float("nan"))
    good = (program.returncode == 0 and recordings and all(r.good for r in recordings) and n_ok == len(frames)
            and answers > 0 and found == answers and not strange)
    ours = ""
    if name in OURS and recordings:
        same, ours = same_as_ours(options, folder, variant.endswith("on"), recordings[-1])
        good = good and same
    engine = recordings[0].engine if recordings else "?"
    print(f"| {NAMES.get(name, name.replace('cpp-3', 'cpp 3'))} | {engine} | {variant} | {n_ok} of {len(frames)} | "
          f"{found} of {answers} | {100 * worst:.0f}% | {ours or '-'} | {'good' if good else 'NOT GOOD: ' + str(folder)} |", flush=True)
    return bool(good)


def main():
    parser = argparse.ArgumentParser()
    for name in ("attnscope", "libraries", "model", "work"):
        parser.add_argument("--" + name, required=True, type=lambda path: Path(path).resolve())
    parser.add_argument("names", nargs="*", default=list(PROGRAMS))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["NODE_LLAMA_CPP_SKIP_DOWNLOAD"] = "true"
    print("| program | engine | run | tokens proven | answers recorded | worst error, of tolerance | frames as ours | |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    good = True
    for name in options.names:
        for variant, command in PROGRAMS[name](options, name):
            good = run(options, name, variant, command) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
