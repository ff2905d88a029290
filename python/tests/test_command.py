"""The command that the wheel brings along, and what it needs beside it."""

import ast
import os
import shutil
import subprocess
import sys

from conftest import command

import attnscope as at


def test_the_command_is_the_package_s_version():
    assert at.__version__ in command("--version").stdout


def test_the_package_is_typed():
    package = os.path.dirname(at.__file__)
    assert os.path.exists(os.path.join(package, "py.typed"))
    with open(os.path.join(package, "_core.pyi")) as stubs:
        classes = {node.name for node in ast.parse(stubs.read()).body if isinstance(node, ast.ClassDef)}
    assert {"Recording", "LayerInfo", "Frame", "PositionScores", "Session"} <= classes


def test_attach_finds_the_library_that_it_puts_into_programs(tmp_path):
    said = command("attach", "--check", sys.executable, check=False)
    assert said.returncode == 0 and said.stdout.startswith("yes:"), said
    ran = command("attach", "-o", tmp_path / "recorded", "--", sys.executable, "-c", "print(7 * 6)", check=False)
    # The library was in the program and reports that it met no model: it does not say that it is not there.
    assert "42" in ran.stdout and "nothing was captured" in ran.stderr, ran


def test_without_that_library_it_says_what_to_do(tmp_path):
    package = os.path.dirname(at.__file__)
    (tmp_path / "bin").mkdir()
    alone = shutil.copy(os.path.join(package, "bin", "attnscope"), tmp_path / "bin")
    # the engine's libraries without it
    shutil.copytree(os.path.join(package, "lib"), tmp_path / "lib", ignore=shutil.ignore_patterns("*attach*"))
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{tmp_path}/lib:{package}.libs"}
    said = subprocess.run([alone, "attach", "-o", tmp_path / "out", "--", "true"], env=environment, capture_output=True, text=True)
    assert said.returncode == 2 and "libattnscope_attach.so is not beside" in said.stderr and "ATTNSCOPE_ATTACH_LIBRARY" in said.stderr
