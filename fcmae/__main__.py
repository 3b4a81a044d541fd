"""`python -m fcmae`: the command line, where the script `fcmae` is not in PATH."""

import sys

from fcmae.launch.cli.main import main

sys.exit(main())
