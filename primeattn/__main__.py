"""``python -m primeattn``: the command line without the installed script."""

from primeattn.cli import script

script()
