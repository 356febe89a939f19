"""What the loss's Triton programs take of an H100: compiled for it and read from the binary, on any machine.

    python benchmarks/kernel.py [--rows 8192] [--width 64 128 256]

Registers of a thread (255 at most), spilled registers, bytes of shared memory (232448 at most), matrix instructions.
"""

import argparse

import triton
from kernel_binary import SHARED_LIMIT, binaries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--width", type=int, nargs="+", default=[64, 128, 256])
    options = parser.parse_args()
    print(f"Triton {triton.__version__}, compute capability 9.0, shared memory of at most {SHARED_LIMIT} bytes")
    print("| d | program | registers | spills | wgmma | shared bytes |\n|---|---|---|---|---|---|")
    for width in options.width:
        for name, binary in binaries(options.rows, width).items():
            numbers = (binary.registers, binary.spills, binary.wgmma, binary.shared)
            print(f"| {width} | {name} | {' | '.join(map(str, numbers))} |", flush=True)


if __name__ == "__main__":
    main()
