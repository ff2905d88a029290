"""ik-llama-cpp-python, a fork of llama.cpp: MODEL N_PREDICT FLASH(0|1) PROMPT. Prints what it decoded."""

import json
import sys

from ik_llama_cpp.llama import IkLlama

model, n_predict, flash, prompt = sys.argv[1:]
llama = IkLlama(model, n_ctx=512, n_threads=1, n_gpu_layers=0, flash_attn=flash == "1", verbose=False)
tokens = llama.tokenize(prompt, add_bos=True)
print("DECODED " + json.dumps(list(tokens) + list(llama.generate(tokens, max_tokens=int(n_predict)))))
