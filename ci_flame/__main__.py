"""Edge: `python -m ci_flame`, the command line of exactly this interpreter's ci_flame."""

from ci_flame.cli import main

main()
