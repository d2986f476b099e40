"""`python -m unflow` is `unflow`."""

import sys

from unflow.commands.cli import main

sys.exit(main())
