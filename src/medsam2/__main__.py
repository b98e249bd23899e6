"""`python -m medsam2` is the command `medsam2`."""

from medsam2.cli.main import main

main()
