"""`python -m mynosql` is the command `mynosql`."""

import sys

from mynosql.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
