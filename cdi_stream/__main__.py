"""``python -m cdi_stream``, and the command ``cdi-stream``."""

import sys

from cdi_stream.errors import missing_package


def main() -> None:
    """Run the command line; without the packages of the service, say how to install them."""
    try:
        from cdi_stream.cli import main as run
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: {missing_package(error.name)}\n")
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
