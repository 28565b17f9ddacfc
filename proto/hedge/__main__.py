"""python -m hedge: the program on the device."""

from hedge.edge_client.cli.main import main

main()
