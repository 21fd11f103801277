"""Run benchmarks, print their tables, and keep the figures with a description of the machine.

python -m bench                    all of them, into bench/results.json
python -m bench verify --quick     one, small, nothing kept
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

from bench.machine import describe

BENCHMARKS = ("verify", "fsync", "query")
RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """Run what was named, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("names", metavar="NAME", nargs="*", default=BENCHMARKS, help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="small and imprecise; keeps nothing unless -o is given")
    parser.add_argument("-o", "--output", type=Path, help=f"where the figures go (default: {RESULTS.name})")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such benchmark; there are {', '.join(BENCHMARKS)}")
    output = args.output or (None if args.quick else RESULTS)
    kept = json.loads(output.read_text()) if output is not None and output.exists() else {}
    for name in args.names:
        benchmark = importlib.import_module(f"bench.{name}")
        began = time.monotonic()
        figures = benchmark.run(args.quick)
        print(f"{name} ({time.monotonic() - began:.0f} s)\n{benchmark.table(figures)}\n", flush=True)
        kept[name] = {"machine": describe(), "figures": figures}
        if output is not None:
            output.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
