"""xllamacpp, one completion through its Python functions: MODEL N_PREDICT FLASH(0|1) PROMPT."""

import json
import os
import sys

import xllamacpp

model, n_predict, flash, prompt = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.n_ctx = 512
params.n_parallel = 1
params.warmup = False
params.cpuparams.n_threads = 1
types = xllamacpp.llama_flash_attn_type
params.flash_attn_type = (types.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash == "1"
                          else types.LLAMA_FLASH_ATTN_TYPE_DISABLED)
server = xllamacpp.Server(params)
answer = server.handle_completions({"prompt": prompt, "max_tokens": int(n_predict), "temperature": 0})
answer = answer if isinstance(answer, dict) else json.loads(answer)
print("TEXT " + json.dumps(prompt + answer["choices"][0]["text"]), flush=True)
os._exit(0)
