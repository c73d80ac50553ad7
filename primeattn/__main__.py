"""``python -m primeattn``: the command line without the installed script."""

import sys

from primeattn.cli import main

sys.exit(main())
