"""ik-llama-cpp-python, a fork of llama.cpp: MODEL N_PREDICT FLASH(0|1) PROMPT. Prints what it decoded, and the
seconds from its first token to its last, on the clock and of processors."""

import json
import sys
import time

from ik_llama_cpp.llama import IkLlama

model, n_predict, flash, prompt = sys.argv[1:]
llama = IkLlama(model, n_ctx=512, n_threads=1, n_gpu_layers=0, flash_attn=flash == "1", verbose=False)
tokens = llama.tokenize(prompt, add_bos=True)
decoded = list(tokens)
begin, before = time.perf_counter(), time.process_time()
for token in llama.generate(tokens, max_tokens=int(n_predict)):
    decoded.append(token)
print("DECODED " + json.dumps(decoded))
print(f"SECONDS {time.perf_counter() - begin} {time.process_time() - before}")
