"""Starts `distributed.py` twice, as the two processes of one training on a CPU.

python launch.py SCENARIO FOLDER
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

LIMIT = 500
"""Seconds: a process that waits for the other for ever is killed."""


def main() -> int:
    """Wait for both, and return their exit status; show what a process has said that failed."""
    scenario, folder = sys.argv[1], Path(sys.argv[2])
    program = Path(__file__).with_name("distributed.py")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        with (folder / f"output-{rank}").open("w") as output:
            command = [sys.executable, str(program), scenario, str(folder)]
            environment = {**os.environ, **place, **meeting}
            started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(LIMIT) for process in started]
    finally:
        for process in started:
            process.kill()
    for rank, code in enumerate(codes):
        if code:
            print((folder / f"output-{rank}").read_text()[-3000:])
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
