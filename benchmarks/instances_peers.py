"""StarDist or Cellpose from scratch on the nuclei of DSB 2018, for benchmarks/instances_accuracy.py to measure.

Run it with the Python of an environment that has the peer; it imports nothing of lit_vision:

    /tmp/peers/bin/python benchmarks/instances_peers.py stardist --seconds 600 --output /tmp/stardist0 --seed 0
    python benchmarks/instances_accuracy.py --output dsb.jsonl --label_maps /tmp/stardist0 --seeds 0

It trains for the CPU seconds given, at the peer's own learning rate and schedule, on the same training pictures.
StarDist is stopped when they are over; its best weights are those of a fourth of the validation pictures. Of Cellpose,
whose schedule needs its end, a short run, which counts, tells how many epochs fit. StarDist's thresholds are found with
its own `optimize_thresholds`, Cellpose's `cellprob_threshold` by its own average precision: on one half of the
validation pictures, the other half being predicted, and the other way round.
Writes a 16-bit label map for each validation picture, and facts.json.
"""

import argparse
import json
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from skimage.io import imread, imsave

ENDLESS = 10_000  # epochs


def pictures(root: Path, split: str) -> tuple[list[str], list[Any], list[Any]]:
    """Stems, grey pictures scaled to 0..1 by their 1st and 99.8th percentile, and label maps."""
    files = sorted((root / "images" / split).glob("*.png"))
    images = []
    for file in files:
        values = imread(file).astype(np.float32)
        grey = values if values.ndim == 2 else values[..., :3].mean(-1)
        low, high = np.percentile(grey, (1, 99.8))
        images.append((grey - low) / max(high - low, 1e-6))
    labels = [imread(root / "labels" / split / file.name).astype(np.int32) for file in files]
    return [file.stem for file in files], images, labels


def turned(rng: np.random.Generator, image: Any, labels: Any) -> tuple[Any, Any]:
    """Mirrored and turned by quarters at random."""
    k, mirrored = rng.integers(4), rng.integers(2)
    pair = [np.rot90(one, k) for one in (image, labels)]
    image, labels = (one[:, ::-1] if mirrored else one for one in pair)
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def epochs_within(seconds: float, spent: float, each: float) -> int:
    """How many epochs the rest of the CPU seconds allows."""
    return max(int((seconds - spent) / each), 1)


def by_stardist(options: argparse.Namespace, train: Any, val: Any) -> tuple[list[Any], float]:
    import tensorflow as tf
    from stardist.models import Config2D, StarDist2D

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    size: dict[str, Any] = {"train_patch_size": (128, 128), "train_batch_size": 8, "train_steps_per_epoch": 30}
    config = Config2D(n_channel_in=1, grid=(options.grid, options.grid), **size)
    config.train_tensorboard = False
    large = [k for k, image in enumerate(train[1]) if min(image.shape) >= 128]
    images, labels = ([one[k] for k in large] for one in train[1:])
    started = time.process_time()

    class Stop(tf.keras.callbacks.Callback):  # type: ignore[misc]
        """Its schedule follows the validation loss and knows no end, so that the time may be that of the budget."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if time.process_time() - started > options.seconds:
                self.model.stop_training = True

    tf.random.set_seed(options.seed)
    model = StarDist2D(config, name="peer", basedir=str(options.output / "model"))
    model.prepare_for_training()
    model.callbacks.append(Stop())
    augmenter = partial(turned, np.random.default_rng(options.seed))
    some = [one[::4] for one in val[1:]]  # choose its best weights
    model.train(images, labels, validation_data=tuple(some), augmenter=augmenter, epochs=ENDLESS)
    spent = time.process_time() - started
    found: list[Any] = [None] * len(val[1])
    for first in (0, 1):
        model.optimize_thresholds(val[1][first::2], val[2][first::2])
        for k in range(1 - first, len(found), 2):
            found[k] = model.predict_instances(val[1][k])[0]
    return found, spent


def by_cellpose(options: argparse.Namespace, train: Any, val: Any) -> tuple[list[Any], float]:
    import torch
    from cellpose import dynamics, metrics, models
    from cellpose import train as training

    torch.set_num_threads(1)
    started = time.process_time()
    flows = dynamics.labels_to_flows(list(train[2]), device=torch.device("cpu"))

    def trained(epochs: int) -> Any:
        torch.manual_seed(options.seed)
        model = models.CellposeModel(gpu=False, pretrained_model="")
        model.diam_mean = model.net.diam_mean.data[:] = 17.0  # its own for nuclei
        # One call: its learning rate warms up from 0 over the first ten epochs.
        training.train_seg(
            model.net, list(train[1]), flows, channels=[0, 0], n_epochs=epochs, nimg_per_epoch=64,
            save_path=str(options.output), model_name="peer", min_train_masks=1, SGD=False, learning_rate=1e-3,
        )  # fmt: skip
        return model

    before = time.process_time()
    trained(2)
    now = time.process_time()
    model = trained(epochs_within(options.seconds, now - started, (now - before) / 2))
    spent = time.process_time() - started
    found: list[Any] = [None] * len(val[1])
    for first in (0, 1):
        tried = {}
        for threshold in (-2.0, -1.0, 0.0, 1.0):
            masks = model.eval(val[1][first::2], channels=[0, 0], cellprob_threshold=threshold)[0]
            tried[threshold] = float(metrics.average_precision(val[2][first::2], masks)[0].mean())
        best = max(tried, key=lambda threshold: tried[threshold])
        for k in range(1 - first, len(found), 2):
            found[k] = model.eval(val[1][k], channels=[0, 0], cellprob_threshold=best)[0]
    return found, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["stardist", "cellpose"])
    parser.add_argument("--data", type=Path, required=True, help="inst_dsb2018")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--grid", type=int, default=2, help="StarDist's: 2 as in its models of nuclei, 1 its default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    np.random.seed(options.seed)  # noqa: NPY002  the peers draw from it
    options.output.mkdir(parents=True, exist_ok=True)
    train, val = pictures(options.data, "train"), pictures(options.data, "val")
    found, spent = {"stardist": by_stardist, "cellpose": by_cellpose}[options.peer](options, train, val)
    for stem, labels in zip(val[0], found, strict=True):
        imsave(options.output / f"{stem}.png", labels.astype(np.uint16), check_contrast=False)
    way = f"stardist, grid {options.grid}" if options.peer == "stardist" else options.peer
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    facts = {"way": way, "cpu_seconds": round(spent, 1), "steps": None, "gib": round(peak, 2)}
    (options.output / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
