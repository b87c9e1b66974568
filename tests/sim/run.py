"""`python -m tests.sim.run --seed N`: replays one history exactly, and says what went wrong in it."""

import argparse
import os
import sys
import time
from pathlib import Path


def fixed_hashes() -> None:
    """Sets of strings have one order in every run, or a seed would not decide everything."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        arguments = [sys.executable, "-m", "tests.sim.run", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONHASHSEED": "0"})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=1, help="so many, from --seed on")
    parser.add_argument("--trace", action="store_true", help="print every event")
    options = parser.parse_args()
    fixed_hashes()
    from tests.sim.world import World

    failed = 0
    for seed in range(options.seed, options.seed + options.seeds):
        began = time.process_time()
        world = World(seed).run()
        h = world.clients.history
        if options.trace or world.failures:
            Path(f"/tmp/sim-{seed}.trace").write_text("\n".join(world.trace.lines))
        if options.trace:
            print("\n".join(world.trace.lines))
        print(
            f"seed {seed}: {time.process_time() - began:.2f} CPU s, {world.virtual_s:.0f} s, {world.trace.digest}, "
            f"{h.writes} writes, {h.strong_reads}+{h.lease_reads} reads, failovers {world.checks.failovers}, "
            f"packets {world.fabric.packets}, faults {dict(world.trace.faults)}"
        )
        for failure in world.failures[:4]:
            print("   ", failure)
        failed += bool(world.failures)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
