"""A program that is attached, left, and attached again: PROGRAM HOST_LIBRARY MODEL FOLDER. Prints what was generated, a line a text.

Into FOLDER-1: a text, which another begin in the middle does not disturb. Nowhere: a text. Into FOLDER-2: the second half of a text that was begun
before, and a text. FOLDER-N.said: what is said of each.
"""
import ctypes
import os
import subprocess
import sys
import threading
import time

program, library, model, folder = sys.argv[1:5]


def begin(to):
    said = open(to + ".said", "w")
    os.makedirs(to)
    recorder = subprocess.Popen([program, "attach", "--caller", "-o", to, "--", "again"], stdout=subprocess.PIPE, stderr=said, text=True)
    ours, inbox = (recorder.stdout.readline().rstrip("\n") for _ in range(2))
    os.environ["ATTNSCOPE_ATTACH"] = inbox
    loaded = ctypes.CDLL(ours, mode=ctypes.RTLD_GLOBAL)
    loaded.attnscope_attach_begin()
    return recorder, loaded


def end(recorder, loaded):
    loaded.attnscope_attach_end()
    recorder.terminate()
    recorder.wait()


def generate(first):
    arguments = [a.encode() for a in (library, model, "40", "1", *first.split())]
    assert host.main(len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)) == 0


os.environ["ATTACH_HOST_PAUSE"] = "10"
one = begin(folder + "-1")
host = ctypes.CDLL(library)
text = threading.Thread(target=generate, args=("11 27 3 91",))
text.start()
time.sleep(0.15)
one[1].attnscope_attach_begin()  # a second time: nothing changes
text.join()
end(*one)
generate("60 61 62")
text = threading.Thread(target=generate, args=("45 8 77",))
text.start()
time.sleep(0.15)
two = begin(folder + "-2")
two[1].attnscope_attach_begin()
text.join()
generate("5 6 7 8")
end(*two)
two[1].attnscope_attach_end()  # nor does it here
