"""Whatever happens to a file, it is an exception with a kind and a sentence."""

import multiprocessing
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest

import attnscope as at
from conftest import PROMPT, command


def test_kinds(tmp_path, smollm2):
    with pytest.raises(FileNotFoundError, match="does not exist") as e:
        at.open(tmp_path / "nothing.attn")
    assert e.value.kind == "not_found"
    text = tmp_path / "text.attn"
    text.write_text("no recording at all")
    with pytest.raises(at.NotARecording, match="is no recording") as e:
        at.open(text)
    assert e.value.kind == "not_ours" and isinstance(e.value, at.Error)
    with pytest.raises(at.NotARecording):
        at.open(tmp_path)
    with pytest.raises(at.InvalidArgument):
        at.open("")
    with pytest.raises(TypeError):
        at.open(3)


def test_a_newer_file(tmp_path, smollm2):
    path = tmp_path / "newer.attn"
    shutil.copy(smollm2, path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9999")
    db.close()
    with pytest.raises(at.TooNew):
        at.open(path)


def test_damage_is_an_exception_where_it_is_met(tmp_path, smollm2):
    path = tmp_path / "damaged.attn"
    shutil.copy(smollm2, path)
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, len(data), 4096):
        data[place + 1000] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(at.Error) as e:
        run = at.open(path)
        for token in range(run.n_tokens):
            run[token]
    assert e.value.kind in ("damaged", "not_ours")


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 0.5, 0.99])
def test_a_truncated_file(tmp_path, smollm2, keep):
    path = tmp_path / "short.attn"
    data = smollm2.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(at.Error):
        run = at.open(path)
        run[:]
        assert run.verify()


def test_a_cut_file_says_how_much_of_it_is_there(tmp_path, smollm2):
    path = tmp_path / "short.attn"
    data = smollm2.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(at.Damaged, match=f"was cut short: {len(data) // 2} bytes are there of {len(data)}. .* copy it again"):
        at.open(path)


def test_a_recording_that_is_deleted_while_open(tmp_path, smollm2, full):
    path = tmp_path / "gone.attn"
    shutil.copy(smollm2, path)
    run = at.open(path)
    first = run[0]
    path.unlink()
    for _ in range(3):
        try:
            assert np.array_equal(run[40], full[40, ..., :41])  # the open file lives on
            run[:]  # more threads need more readers, which cannot be opened
        except at.Error:
            pass
    assert np.array_equal(first, full[0, ..., :1])


def test_a_recording_that_is_replaced_while_open(tmp_path, smollm2):
    path = tmp_path / "cut.attn"
    shutil.copy(smollm2, path)
    run = at.open(path)
    os.truncate(path, 8192)
    with pytest.raises(at.Error):
        run[:]


def test_another_recording_takes_the_place_of_an_open_one(tmp_path, smollm2, full):
    path, other = tmp_path / "here.attn", tmp_path / "other.attn"
    shutil.copy(smollm2, path)
    command("capture", "-m", "smollm2", "--temp", "0", "-n", "24", "-p", PROMPT, "-o", other)
    run = at.open(path)
    os.replace(other, path)
    assert np.array_equal(run[40], full[40, ..., :41])  # the open file lives on
    with pytest.raises(at.Damaged, match="was replaced by another recording"):
        run.verify()


def test_the_working_directory_changes(tmp_path, smollm2, full, monkeypatch):
    shutil.copy(smollm2, tmp_path / "here.attn")
    monkeypatch.chdir(tmp_path)
    run = at.open("here.attn")
    monkeypatch.chdir("/")
    assert run.path == "here.attn" and np.array_equal(run[:], full) and run.verify() and run.sequences
    assert np.array_equal(pickle.loads(pickle.dumps(run))[40], full[40, ..., :41])


def test_closed(smollm2):
    with at.open(smollm2) as run:
        run[0]
    with pytest.raises(at.InvalidArgument, match="was closed"):
        run[0]


INTERRUPTED = """
import os, signal, sys, threading
import attnscope as at
at.set_threads(1)
run = at.open(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell is started without
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        {work}
except KeyboardInterrupt:
    print("interrupted", len(run[3, 0, 0]))
"""


@pytest.mark.parametrize("work", ["run[:]", "run.answer(reduce='mean')", "run.verify()", "run.pattern(2)", "run.map(tile=4)"])
def test_control_c_while_it_computes(smollm2, work):
    out = subprocess.run([sys.executable, "-c", INTERRUPTED.format(work=work), smollm2], capture_output=True, text=True, timeout=60)
    assert out.stdout == "interrupted 4\n", out.stderr


def test_many_threads_use_one_run(run, full):
    wrong = []

    def look(seed):
        rng = np.random.default_rng(seed)
        for _ in range(40):
            token = int(rng.integers(len(run)))
            layer = int(rng.integers(30))
            if not np.array_equal(run[token, layer], full[token, layer, :, : token + 1]):
                wrong.append(token)
            if seed % 4 == 0 and not np.array_equal(run.pattern(layer), full[:, layer].transpose(1, 0, 2)):
                wrong.append(layer)

    threads = [threading.Thread(target=look, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def _sum_of(run, token):
    return float(run[token].sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes(run, method):
    run[0]
    expected = [_sum_of(run, t) for t in range(8)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(_sum_of, [(run, t) for t in range(8)]) == expected
    assert _sum_of(run, 0) == expected[0]


def _child(run, queue):
    queue.put(_sum_of(run, 3))


def test_a_fork_inherits_an_open_run(run):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(run, queue))
    child.start()
    assert queue.get(timeout=30) == _sum_of(run, 3)
    child.join(30)
    assert child.exitcode == 0


def test_pickled_by_path(run):
    again = pickle.loads(pickle.dumps(run))
    assert np.array_equal(again[5], run[5])


def test_verify_reads_the_file_as_it_is_now(smollm2, tmp_path):
    path = tmp_path / "damaged.attn"
    shutil.copy(smollm2, path)
    run = at.open(path)
    assert run.verify() and run[-1].size
    data = bytearray(path.read_bytes())
    with open(path, "r+b") as file:  # the same file, and its header as it was
        file.seek(len(data) // 2)
        file.write(bytes(b ^ 0x5A for b in data[len(data) // 2 : len(data) // 2 + 30000]))
    try:
        assert not run.verify()
    except at.Error:
        pass


def test_a_copy_that_fails_leaves_what_was_there(smollm2, tmp_path):
    source, target = tmp_path / "source.attn", tmp_path / "target.attn"
    shutil.copy(smollm2, source)
    shutil.copy(smollm2, target)
    run = at.open(source)
    os.truncate(source, 3000)
    with pytest.raises(at.Error):
        run.save(target, overwrite=True)
    assert at.open(target).verify()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.attn", "target.attn"]
