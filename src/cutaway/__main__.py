"""`python -m cutaway` is the command line."""

import sys

from cutaway.cli import main

sys.exit(main())
