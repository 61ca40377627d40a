# SPDX-License-Identifier: Apache-2.0
"""Runs both sides of the sample shm_threads, and looks at what they say."""

import os
import subprocess
import sys

program = sys.argv[1]
name = f"test.{os.getpid()}"

early = subprocess.run([program, "ask", name], capture_output=True, text=True, timeout=60)
assert early.returncode == 1 and "unreachable" in early.stderr, early

with subprocess.Popen([program, "serve", name], stdout=subprocess.PIPE, text=True) as server:
    assert server.stdout.readline() == f"serving {name}\n"
    client = subprocess.run([program, "ask", name], capture_output=True, text=True, timeout=60)
    assert client.returncode == 0, client
    assert "records a second" in client.stdout, client
    last = server.stdout.read()
assert server.returncode == 0 and last.startswith("1000000 records read"), last
