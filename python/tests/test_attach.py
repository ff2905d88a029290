"""attach(): the llama.cpp of this process, whichever it is. Each program runs in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import command

import attnscope as at

# A llama.cpp that Python loads by ctypes, as llama-cpp-python does: the library of the host that attach's own tests run.
HOST = os.environ.get("ATTNSCOPE_ATTACH_MODULE", "")
needs_host = pytest.mark.skipif(not HOST, reason="a build has a host for this: scripts/test-python.sh names it")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    command("models", "make", "--layers", 3, "-o", path)
    return path


def program(tmp_path, text: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(text))
    return subprocess.run([sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False, **options)


RUN = """
import ctypes, sys
import attnscope

def generate(library, model):
    arguments = [a.encode() for a in (library, model, "20", "1", "11", "27", "3", "91")]
    assert host.main(len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)) == 0

folder, library, model = sys.argv[1:4]
if sys.argv[4] == "late":
    host = ctypes.CDLL(library)
recorded = attnscope.attach(folder)
if sys.argv[4] != "late":
    host = ctypes.CDLL(library)
generate(library, model)
assert "attnscope._core" not in sys.modules
"""


@needs_host
@pytest.mark.parametrize("when", ["early", "late"])
def test_what_is_loaded_before_or_after_is_recorded(tmp_path, model, when):
    done = program(tmp_path, RUN + "recorded.close()\nprint(recorded.recordings)\nprint(recorded.messages)\n", tmp_path / "out", HOST, model, when)
    assert done.returncode == 0, done.stderr
    ids, paths, said = done.stdout.splitlines()
    (path,) = eval(paths)
    assert any("3 of 3 layers" in line for line in eval(said))
    assert [int(i) for i in ids.split()] == at.open(path).tokens.tolist()
    assert command("verify", "--all", path, check=False).returncode == 0
    assert at.open(path).complete


@needs_host
def test_a_process_that_only_ends_leaves_whole_recordings(tmp_path, model):
    done = program(tmp_path, RUN, tmp_path / "out", HOST, model, "early")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").glob("*.attn")
    assert at.open(path).complete


@needs_host
def test_one_at_a_time_and_again_after_close(tmp_path, model):
    more = """
    import os
    try:
        attnscope.attach(folder + "-2")
    except attnscope.InvalidArgument as e:
        print(e, file=sys.stderr)
    recorded.close()
    generate(library, model)
    print(len(recorded.recordings), file=sys.stderr)
    with attnscope.attach(folder + "-2") as again:
        generate(library, model)
        child = os.fork()
        if child == 0:
            try:
                attnscope.attach(folder + "-3")
            except attnscope.InvalidArgument as e:
                print(e, file=sys.stderr)
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(child, 0)
    generate(library, model)
    print(len(recorded.recordings), len(again.recordings), file=sys.stderr)
    """
    done = program(tmp_path, RUN + textwrap.dedent(more), tmp_path / "out", HOST, model, "early")
    assert done.returncode == 0, done.stderr
    refused, before, child, after = done.stderr.splitlines()
    assert "close that before the next" in refused and "a child of a process that was attached" in child
    assert before == "1" and after == "1 1"
    texts = [[int(i) for i in line.split()] for line in done.stdout.splitlines()]
    for folder in ("out", "out-2"):
        (path,) = (tmp_path / folder).glob("*.attn")
        assert at.open(path).complete and at.open(path).tokens.tolist() == texts[0]


@needs_host
def test_a_killed_process_loses_nothing(tmp_path, model):
    done = program(tmp_path, RUN + f"import os\nos.kill(os.getpid(), {int(signal.SIGKILL)})\n", tmp_path / "out", HOST, model, "early")
    assert done.returncode == -signal.SIGKILL
    # the recorder, a process of its own, still reads what was handed over
    for _ in range(300):
        paths = list((tmp_path / "out").glob("*.attn"))
        try:
            if paths and at.open(paths[0]).complete:
                break
        except at.NotARecording:  # just made, and empty yet
            pass
        time.sleep(0.1)
    (path,) = paths
    assert at.open(path).n_tokens == 24


@needs_host
def test_the_engine_does_not_come_beside_another(tmp_path, model):
    """Libraries of the same names: the linker would give ours the other's functions."""
    more = """
    import time
    for _ in range(300):  # another process writes it
        if recorded.recordings:
            break
        time.sleep(0.1)
    try:
        attnscope.open(recorded.recordings[0])
    except attnscope.Unsupported as e:
        print(e, file=sys.stderr)
    """
    done = program(tmp_path, RUN + textwrap.dedent(more), tmp_path / "out", HOST, model, "early")
    assert done.returncode == 0, done.stderr
    assert "another llama.cpp is loaded in this process" in done.stderr


def test_a_process_without_a_model_leaves_nothing(tmp_path):
    done = program(tmp_path, "import sys, attnscope\nwith attnscope.attach(sys.argv[1]) as a:\n    pass\nprint(a.recordings, a)\n", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[] ")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = program(tmp_path, "import sys, attnscope\nattnscope.attach(sys.argv[1])\n", tmp_path / "file" / "out")
    assert "NotFound" in done.stderr and str(tmp_path / "file") in done.stderr
    assert "error: " not in done.stderr, "an exception says by itself that it is one"


def test_the_package_loads_without_the_engine(tmp_path):
    text = """
    import json, sys, attnscope
    print(json.dumps([name for name in sys.modules if name.startswith("attnscope.") or name == "numpy"]))
    assert callable(attnscope.capture) and callable(attnscope.connect) and callable(attnscope.attach)
    import attnscope.capture, attnscope.connect, attnscope.attach
    assert callable(attnscope.capture) and callable(attnscope.connect) and callable(attnscope.attach)
    assert set(attnscope.__all__) <= set(dir(attnscope))
    for name in attnscope.__all__:
        getattr(attnscope, name)
    """
    done = program(tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"attnscope.errors", "attnscope.attach"}
