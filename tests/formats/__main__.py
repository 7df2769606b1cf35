"""python -m tests.formats: writes a folder in the formats of this code beside the older ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.formats.frozen import HERE, write

if __name__ == "__main__":
    number = 1 + max((int(path.name) for path in HERE.iterdir() if path.name.isdigit()), default=0)
    with tempfile.TemporaryDirectory() as work:
        write(HERE / str(number), Path(work))
    print(f"written: {HERE / str(number)}; commit it, and never change it")
