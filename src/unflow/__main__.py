"""`python -m unflow` is `unflow`."""

import sys

from unflow.cli import main

sys.exit(main())
