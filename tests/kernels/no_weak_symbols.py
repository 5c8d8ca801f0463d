"""Checks that object files define no weak symbols.

An inline function compiled for a newer instruction set is a weak symbol: the linker keeps one copy
for the whole program, which may be the one that older processors cannot run.

Usage: no_weak_symbols.py NM OBJECT...
"""

import subprocess
import sys


def main():
    nm, *objects = sys.argv[1:]
    weak = []
    for path in objects:
        listing = subprocess.run([nm, "-C", "--defined-only", path], check=True,
                                 stdout=subprocess.PIPE, text=True).stdout
        for line in listing.splitlines():
            kind, name = line.split(None, 2)[1:]
            if kind in "WVu" and not name.startswith("DW.ref."):
                weak.append(f"{path}: {name}")
    print("\n".join(weak) or f"{len(objects)} objects define no weak symbols")
    return 1 if weak or not objects else 0


if __name__ == "__main__":
    sys.exit(main())
