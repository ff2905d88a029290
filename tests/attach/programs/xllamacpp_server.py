"""xllamacpp's llama-server with 4 slots: MODEL UNIFIED(0|1) RAM_CACHE_MIB."""

import os
import sys

import xllamacpp
from requests16 import ask_all

model, unified, ram = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.n_ctx = 4096
params.n_parallel = 4
params.warmup = False
params.cpuparams.n_threads = 1  # threads of its own wait for each other by turning
params.kv_unified = unified == "1"
params.cache_ram_mib = int(ram)
server = xllamacpp.Server(params)
ask_all(server.listening_address)
os._exit(0)  # its threads do not end
