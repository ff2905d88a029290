"""xllamacpp's llama-server, until it is told to end: MODEL SLOTS UNIFIED(0|1) RAM_CACHE_MIB --port PORT."""

import os
import signal
import sys

import xllamacpp

model, slots, unified, ram, _, port = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.n_ctx = 8192
params.n_parallel = int(slots)
params.cpuparams.n_threads = 1  # threads of its own wait for each other by turning
params.kv_unified = unified == "1"
params.cache_ram_mib = int(ram)
params.port = int(port)
server = xllamacpp.Server(params)
print("serving at", server.listening_address, flush=True)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # its threads do not end
while True:
    signal.pause()
