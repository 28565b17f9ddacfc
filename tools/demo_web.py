"""python -m tools.demo_web [HOST:PORT]: a cloud, a link that can be cut and slowed, and the
device's web page.
"""

import subprocess
import sys

from hedge.evaluation.processes import BIN, free_port, run_cloud, run_program


def main() -> None:
    where = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8080"
    sys.stderr.write("starting the cloud: the large model, on this machine\n")
    control = f"127.0.0.1:{free_port()}"
    with (
        run_cloud("--threads", "1") as cloud,
        run_program(
            "hedge", "link", "--listen", "127.0.0.1:0", "--to", cloud, "--control", control
        ) as relay,
    ):
        sys.stderr.write(f"starting the device: its page is http://{where}/ ; Ctrl-C ends all\n")
        command = [
            str(BIN / "hedge"),
            "serve",
            "--insecure",
            "--cloud",
            relay,
            "--http",
            where,
            "--link-control",
            control,
            "--on-disconnect",
            "continue",
            "--threads",
            "1",
        ]
        try:
            status = subprocess.run(command, check=False).returncode
        except KeyboardInterrupt:
            status = 0
    sys.exit(status)


if __name__ == "__main__":
    main()
