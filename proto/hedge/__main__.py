"""python -m hedge: the program on the device."""

from edge_client.cli.main import main

main()
