"""How long `lit-vision` takes to answer without training, against `python -c "import torch"`: medians, interleaved.

    python benchmarks/startup.py [--repeats 7] [--limit 0.3]

Ends with exit code 1 if an answer of the first stage takes more than `limit` of torch's import.
"""

import argparse
import statistics
import subprocess
import sys
import time

TORCH = [sys.executable, "-c", "import torch"]
FIRST_STAGE = {
    "--help": ["--help"],
    "version": ["version"],
    "fit --help": ["fit", "--help"],
    "completion bash": ["completion", "bash"],
    "typo (fti)": ["fti"],
    "missing config": ["fit", "-c", "nowhere.yaml"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def measure(commands: dict[str, list[str]], repeats: int) -> dict[str, float]:
    """Median seconds of each; rounds are interleaved, so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            times[name].append(seconds(command))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--limit", type=float, default=0.3)
    options = parser.parse_args()
    commands = {name: [sys.executable, "-m", "lit_vision", *words] for name, words in FIRST_STAGE.items()}
    medians = measure({"import torch": TORCH, **commands}, options.repeats)
    torch = medians.pop("import torch")
    print(f"{'command':<18}{'median s':>9}{'x import torch':>16}")
    print(f"{'import torch':<18}{torch:>9.3f}{1:>16.2f}")
    for name, median in medians.items():
        print(f"{name:<18}{median:>9.3f}{median / torch:>16.2f}")
    return int(max(medians.values()) > options.limit * torch)


if __name__ == "__main__":
    sys.exit(main())
