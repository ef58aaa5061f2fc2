"""`python -m patchcl` is the program `patchcl`."""

from patchcl.cli import main

if __name__ == "__main__":
    main()
