"""`python -m patchcl` is the program `patchcl`."""

from patchcl.cli import main

main()
