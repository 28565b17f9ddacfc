"""python -m tools.demo [PROMPT]: starts a cloud on loopback, chats with it or asks it once, and stops it."""

import signal
import subprocess
import sys

from evaluation.processes import BIN, local_cloud


def main() -> None:
    prompt = " ".join(sys.argv[1:]).strip()
    sys.stderr.write("starting the cloud: the large model, on this machine\n")
    with local_cloud("--threads", "1") as address:
        sys.stderr.write(f"starting the edge: the small model, talking to {address}\n")
        options = ["--cloud", address, "--insecure", "--temperature", "0", "--seed", "0", "--threads", "1"]
        command = [str(BIN / "hedge"), *(("generate", "--prompt", prompt) if prompt else ("chat",)), *options]
        edge = subprocess.Popen(command)
        # Ctrl-C is the edge's: it ends an answer, and at the prompt the chat.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        status = edge.wait()
    sys.stderr.write("the cloud is stopped\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
