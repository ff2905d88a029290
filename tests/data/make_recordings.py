#!/usr/bin/python3
"""Makes one small recording of every kind with a given program, and what that program said of them.

usage: make_recordings.py build/bin/attnscope tests/data/vN.zip

Run once for each version of the format, with the last program that wrote it, and again while a version grows; the archives stay for ever, and
tests/recording/old_versions_test.cpp opens, verifies and compares what is in them. expected.json holds, for each
recording, its counts and a fingerprint of the rows of each token (sum over all rows of sum_j row[j] * weight(j), weight()
as in src/attention/fingerprint.h; null: no queries kept), from the program's own export.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import zipfile

import numpy

SMALL = ["--layers", "2", "--heads", "4", "--kv-heads", "2", "--head-dim", "32", "--ff", "64"]
RUN = ["-p", "Keys, rows.", "--temp", "0", "--seed", "1", "-n", "4", "-c", "256"]
# name: (flags of `models make`, flags of `capture`)
KINDS = {
    "f16": ([], []),
    "f32": ([], ["-ctk", "f32", "-fa", "off"]),
    "bf16": ([], ["-ctk", "bf16"]),
    "q8_0": ([], ["-ctk", "q8_0"]),
    "q4_0": ([], ["-ctk", "q4_0"]),
    "window": (["--arch", "gemma3", "--layers", "3", "--window", "8", "--window-pattern", "3"], ["-n", "24"]),
    "sinks": (["--arch", "gpt-oss", "--window", "8"], []),
    "alibi": (["--arch", "bloom", "--kv-heads", "4"], []),
    "softcap": (["--arch", "gemma2", "--window", "8"], []),
    "post_scale": (["--arch", "grok"], []),
    "latent": (["--arch", "deepseek2"], []),
    "absent": (["--arch", "lfm2", "--layers", "4"], []),
    "sampled": ([], ["--temp", "0.9", "--top-k", "20", "--seed", "7"]),
    "last_row": ([], ["--prompt-rows", "last:1"]),
    "no_prompt_rows": ([], ["--prompt-rows", "none"]),
    "prompt_only": ([], ["-n", "0"]),
    "long": ([], ["-n", "70", "--prompt-rows", "none"]),  # more than one chunk of keys
    "flash_attention_off": ([], ["-fa", "off"]),
    "batches": ([], ["-ub", "4"]),
    "callback": ([], ["--entry", "callback"]),
    # of version 2 alone
    "float32_queries": ([], ["-p", "Prompts of this length are multiplied by another kernel, which keeps queries as they are.", "-fa", "on"]),
    "encoder": (["--arch", "bert", "--kv-heads", "4"], ["-n", "0"]),
    "encoder_and_decoder": (["--arch", "t5", "--kv-heads", "4"], []),
    "sparse": (["--arch", "deepseek32"], []),
}


def merged(defaults, flags):
    """Later flags replace earlier ones."""
    pairs = dict(zip(defaults[::2], defaults[1::2])) | dict(zip(flags[::2], flags[1::2]))
    return [word for pair in pairs.items() for word in pair]


def weights(n):
    z = (numpy.arange(n, dtype=numpy.uint64) + numpy.uint64(0x9E3779B97F4A7C15))
    z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    z ^= z >> numpy.uint64(31)
    return 0.5 + (z >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53


def rows_of(program, recording, n, folder):
    out = []
    for token in range(n):
        npy = folder / f"{recording.stem}-{token}.npy"
        got = subprocess.run([program, "export", recording, "--to", "npy", "--token", str(token), "-o", npy], capture_output=True)
        if got.returncode == 0:
            rows = numpy.load(npy).astype(numpy.float64)
            out.append(float((rows * weights(rows.shape[-1])).sum()))
        else:
            out.append(None)
    return out


def kill_while_writing(program, model, recording):
    """Ends the program without warning once it has said that tokens are safe."""
    command = [program, "capture", "--ignore-eos", "-m", model, *merged(RUN, ["-n", "4000", "-c", "4096"]), "--commits", "-o", recording]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as writing:
        for line in writing.stderr:
            if line.startswith(b"recorded ") and int(line.split()[1]) > 8:
                break
        writing.send_signal(signal.SIGKILL)


def main():
    program, archive = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    expected = {}
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        folder = pathlib.Path(name)
        files = []
        for kind, (make, capture) in KINDS.items():
            model, recording = folder / f"{kind}.gguf", folder / f"{kind}.attn"
            subprocess.run([program, "models", "make", "-o", model, *merged(SMALL, make)], check=True, capture_output=True)
            done = subprocess.run([program, "capture", "--ignore-eos", "-m", model, *merged(RUN, capture), "-o", recording],
                                  capture_output=True)
            if done.returncode not in (0, 1) or not recording.exists():
                sys.exit(f"{kind}: {done.stderr.decode()}")
            files.append(recording)
        model, recording = folder / "unfinished.gguf", folder / "unfinished.attn"  # large, so that it is slow
        subprocess.run([program, "models", "make", "-o", model, *merged(SMALL, ["--embd", "2048", "--ff", "16384"])],
                       check=True, capture_output=True)
        kill_while_writing(program, model, recording)
        files += [recording, recording.with_name(recording.name + "-wal")]
        for file in files:  # before anything opens them
            out.write(file, file.name)
        for file in files:
            if file.suffix != ".attn":
                continue
            info = json.loads(subprocess.run([program, "info", file, "--json"], check=True, capture_output=True).stdout)
            verdict = json.loads(subprocess.run([program, "verify", file, "--json"], capture_output=True).stdout)
            expected[file.stem] = {
                "n_frames": len(verdict["frames"]), "n_ok": sum(f["ok"] for f in verdict["frames"]),
                "complete": verdict["complete"], "settings": info["settings"],
                "rows": rows_of(program, file, len(verdict["frames"]), folder),
            }
        out.writestr("expected.json", json.dumps(expected, indent=1))
    print(f"{archive}: {len(expected)} recordings, {os.path.getsize(archive)} bytes")


main()
