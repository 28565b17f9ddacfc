"""python -m tools.demo [--slm S] [--llm L] [PROMPT]: a cloud on loopback for a chat, or for one
question.
"""

import argparse
import signal
import subprocess
import sys

from hedge.common.model import BUNDLED
from hedge.evaluation.processes import BIN, run_cloud


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slm", default="")
    parser.add_argument("--llm", default="")
    parser.add_argument("prompt", nargs="*")
    args = parser.parse_args()
    prompt = " ".join(args.prompt).strip()
    sys.stderr.write("starting the cloud: the large model, on this machine\n")
    with run_cloud("--threads", "1", "--llm", args.llm or BUNDLED) as address:
        sys.stderr.write(f"starting the edge: the small model, talking to {address}\n")
        options = [
            "--cloud",
            address,
            "--insecure",
            "--temperature",
            "0",
            "--seed",
            "0",
            "--threads",
            "1",
        ]
        options += ["--slm", args.slm or BUNDLED]
        command = [
            str(BIN / "hedge"),
            *(("generate", "--prompt", prompt) if prompt else ("chat",)),
            *options,
        ]
        edge = subprocess.Popen(command)
        # Ctrl-C is the edge's: it ends an answer, and at the prompt the chat.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            status = edge.wait()
        finally:
            edge.terminate()
            edge.wait()
    sys.stderr.write("the cloud is stopped\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
