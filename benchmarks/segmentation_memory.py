"""Memory of training a large encoder: peak of the whole process over training steps of SemanticSegmenter with AdamW.

    python benchmarks/segmentation_memory.py --decoder unet --encoder resnest269e [--grad_checkpointing]

On the CPU, in float32, with drawn pixels and weights. One process for each measurement: a peak never falls.
"""

import argparse
import resource
import time

import torch
from torch.optim import AdamW

from lit_vision.tasks.segmentation import SemanticSegmenter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", default="unet")
    parser.add_argument("--encoder", required=True, help="of timm")
    parser.add_argument("--grad_checkpointing", action="store_true")
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--steps", type=int, default=2, help="the optimizer's own values are there from the second on")
    options = parser.parse_args()
    names = [f"class {k}" for k in range(options.classes)]
    chosen = {"decoder": options.decoder, "encoder": options.encoder}
    task = SemanticSegmenter(names, grad_checkpointing=options.grad_checkpointing, **chosen).train()
    optimizer = AdamW(task.parameters(), lr=1e-4)
    shape = (options.batch_size, options.image_size, options.image_size)
    images = torch.randint(256, (shape[0], 3, *shape[1:]), dtype=torch.uint8)
    masks = torch.randint(options.classes, shape)
    for _ in range(options.steps):
        loss = task.loss(task(images).float(), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parameters = sum(one.numel() for one in task.parameters()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{parameters:.1f} million parameters, peak {peak:.2f} GiB, {time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
