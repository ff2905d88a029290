"""Recordings of several sequences: each is a Run of its own."""

import os
import pickle
import subprocess

import numpy as np
import pytest
from conftest import command, export

import attnscope as at


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Seven sequences of random queries and keys that share beginnings: tests/recording/tree.cpp."""
    maker = os.environ.get("ATTNSCOPE_MADE_RECORDING", "")
    if not os.path.exists(maker):
        pytest.skip("needs bin/made_recording of a build with tests; scripts/test-python.sh names it")
    path = tmp_path_factory.mktemp("tree") / "tree.attn"
    subprocess.run([maker, "tree", path], check=True)
    return path


def test_which_there_are(tree):
    with at.open(tree) as run:
        assert run.sequence == 0
        assert [s["n_tokens"] for s in run.sequences] == [100, 107, 80, 90, 25, 64, 128]
        assert [(s["parent"], s["n_shared"]) for s in run.sequences[:3]] == [(-1, 0), (0, 37), (1, 50)]
        assert run.sequences[0]["label"] == "slot 0" and run.sequences[1]["label"] == ""
        assert len(run) == 100
    with pytest.raises(at.InvalidArgument, match="closed"):
        run.sequences


@pytest.mark.parametrize("sequence", range(7))
def test_rows_are_those_of_the_command(tree, tmp_path, sequence):
    run = at.open(tree, sequence=sequence)
    assert len(run) == run.sequences[sequence]["n_tokens"]
    tokens = [t for t in range(len(run)) if has_queries(run, t)]  # the maker leaves some without
    assert len(tokens) > len(run) // 2
    for token in tokens[:: max(1, len(tokens) // 6)]:
        theirs = export(tree, tmp_path, "--sequence", sequence, "--token", token)
        assert np.array_equal(run[token], theirs)


def test_the_viewer_shows_the_one_that_the_run_is(tree):
    pytest.importorskip("anywidget")
    run = at.open(tree, sequence=2)
    assert at.show(run, view="heads").state == "view=heads&sequence=2"
    assert at.show(at.open(tree)).state == ""
    assert at.show(run, sequence=6, token=127).state == "sequence=6&token=127"
    assert at.show([at.open(tree), run]).state == "other_sequence=2"
    with pytest.raises(at.Unsupported, match="sequence 0 first"):
        at.show([tree, tree, run])
    with pytest.raises(at.InvalidArgument, match="sequence must be from 0"):
        at.show(run, sequence=-1)
    status, body = at.show(run)._answers.answer("row", "r=0&s=2&t=70&layer=1&head=2")
    assert status == 200 and np.array_equal(np.frombuffer(body, np.float32), run[70, 1, 2, :71])


def has_queries(run, token):
    try:
        run[token, 0, 0]
    except at.NotFound:
        return False
    return True


def test_a_child_begins_with_its_parent(tree):
    parent, child = at.open(tree), at.open(tree, sequence=1)
    assert list(child.tokens[:37]) == list(parent.tokens[:37]) and child.tokens[37:60].tolist() != parent.tokens[37:60].tolist()
    shared = [t for t in range(37) if has_queries(parent, t)]
    assert np.array_equal(child[shared], parent[shared])


def test_goes_to_another_process_as_what_it_is(tree):
    run = at.open(tree, sequence=2)
    again = pickle.loads(pickle.dumps(run))
    assert again.sequence == 2 and len(again) == 80


def test_one_that_is_not_there(tree, smollm2):
    for path, said in ((tree, "sequences 0 to 6, not 7"), (smollm2, "one sequence, 0, and not 7")):
        with pytest.raises(at.NotFound, match=said):
            at.open(path, sequence=7)
    for wrong in (-1, 2**70):
        with pytest.raises(at.InvalidArgument):
            at.open(tree, sequence=wrong)
    with pytest.raises(at.WrongType):
        at.open(tree, sequence="1")


def test_the_command_agrees_on_which_there_are(tree):
    shown = command("info", tree).stdout
    assert "7 sequences" in shown or "slot 0" in shown


def test_a_copy_is_open_at_the_same_sequence(tree, tmp_path):
    copy = at.open(tree, sequence=3).save(tmp_path / "copy.attn")
    assert (copy.sequence, len(copy), len(copy.sequences)) == (3, 90, 7)


def test_what_knows_the_first_sequence_alone_says_so(tree):
    run = at.open(tree, sequence=3)
    with pytest.raises(at.Unsupported, match="sequence 3"):
        run.diagnose()
