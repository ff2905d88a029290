"""Recordings for the tests, made once by the command of the installed package."""

import os
import re
import subprocess
import sys

# Threads of the engine that wait by spinning slow each other down where tests run beside others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

import attnscope as at  # noqa: E402

QUESTION = "Anna keeps bees in Oslo. Boris bakes bread in Lisbon. Chen repairs clocks in Kyoto. Who repairs clocks, and in which city?"
PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


def command(*args: object, check: bool = True) -> subprocess.CompletedProcess:
    """The command that the wheel installed."""
    program = os.path.join(os.path.dirname(sys.executable), "attnscope")
    return subprocess.run([program, *map(str, args)], check=check, capture_output=True, text=True, errors="replace")


def export(path: object, folder: object, *args: object) -> np.ndarray:
    out = os.path.join(folder, "rows.npy")
    command("export", path, "--to", "npy", "--force", "-o", out, *args)
    return np.load(out)


def known_model(name: str) -> str:
    try:
        return at.find_model(name)
    except at.Error as e:
        pytest.skip(f"{e}")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recordings")


@pytest.fixture(scope="session")
def smollm2(folder):
    """43 tokens of a real model: 37 of the prompt, decoded together, and 6 generated, whatever they are."""
    path = folder / "smollm2.attn"
    known_model("smollm2")
    command("capture", "-m", "smollm2", "--temp", "0", "-n", "6", "--ignore-eos", "-p", PROMPT, "-o", path)
    return path


@pytest.fixture(scope="session")
def full(smollm2, folder):
    """All rows of `smollm2` as the command exports them: (token, layer, head, column)."""
    return export(smollm2, folder, "--padded")


@pytest.fixture(scope="session")
def run(smollm2):
    return at.open(smollm2)


@pytest.fixture
def made_model(folder):
    """A function that makes a small model of an architecture, once."""

    def make(name: str, *args: str) -> str:
        path = folder / f"{name}.gguf"
        if not path.exists():
            made = command("models", "make", "-o", path, *args, check=False)
            assert made.returncode == 0, made.stderr
        return str(path)

    return make


@pytest.fixture(scope="session")
def start_server():
    """A function that starts `attnscope serve` on a free port, and returns its address."""
    pytest.importorskip("websockets")
    known_model("smollm2")
    program = os.path.join(os.path.dirname(sys.executable), "attnscope")
    running = []

    def start(*options: str) -> str:
        words = [program, "serve", "-m", "smollm2", "--port", "0", "-c", "512", *options]
        running.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        said = ""
        for line in running[-1].stdout:
            said += line
            if found := re.search(r"http://[\w.:]+", line):
                return found.group()
        pytest.fail(said)

    yield start
    for process in running:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def server(start_server):
    return at.connect(start_server())
