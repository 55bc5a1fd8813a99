"""``python -m cdi_stream``."""

from cdi_stream.cli import main

main()
