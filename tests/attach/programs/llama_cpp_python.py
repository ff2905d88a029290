"""llama-cpp-python's Python code over a libllama of ours: PACKAGE LIBRARIES MODEL N_PREDICT FLASH(0|1) PROMPT [LATE_LIBRARY].

Its source package would build a llama.cpp of its own for half an hour; its code takes another one by LLAMA_CPP_LIB_PATH. Functions
that are newer than ours, which generating does not call, are answered for.
"""

import ctypes
import json
import os
import sys
import time

package, libraries, model, n_predict, flash, prompt = sys.argv[1:7]
sys.path.insert(0, package)
os.environ["LLAMA_CPP_LIB_PATH"] = libraries
found = ctypes.CDLL.__getattr__


def find(library, name):
    try:
        return found(library, name)
    except AttributeError:
        if name.startswith("__"):
            raise
        return found(library, "llama_max_devices")  # never called


ctypes.CDLL.__getattr__ = find
import llama_cpp  # noqa: E402

llama = llama_cpp.Llama(model_path=model, n_ctx=512, n_threads=1, verbose=False, flash_attn=flash == "1")


def say(text):
    tokens = llama.tokenize(text.encode(), add_bos=True)
    decoded = list(tokens)
    begin = before = None
    for token in llama.generate(tokens, temp=0):
        before = before or time.process_time()
        begin = begin or time.perf_counter()
        decoded.append(token)
        if len(decoded) >= len(tokens) + int(n_predict):
            break
    print("DECODED " + json.dumps(decoded), flush=True)
    print(f"SECONDS {time.perf_counter() - begin} {time.process_time() - before}", flush=True)


say(prompt)
