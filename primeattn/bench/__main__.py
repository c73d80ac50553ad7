"""``python -m primeattn.bench``."""

import sys

from primeattn.bench import main

sys.exit(main())
