"""`python -m bench.power`: record, compare, report; see the package's docstring."""

import sys

from bench.power.command import main

sys.exit(main())
