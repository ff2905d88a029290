"""Any llama-server: COMMAND ARGS... is given --port; asked everything at once; ended by SIGTERM."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from requests16 import ask_all

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = subprocess.Popen([*sys.argv[1:], "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL)
try:
    for _ in range(300):
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    ask_all(f"http://127.0.0.1:{port}")
finally:
    server.terminate()
    server.wait()
