"""`lit-vision import-darknet` and `export-darknet`, as far as they can be answered without importing torch."""

import argparse
from pathlib import Path

from lit_vision.cli.arguments import Arguments
from lit_vision.errors import UserError

IMPORT = """\
A network that Darknet has trained becomes a checkpoint, for predict, test and export-darknet:
  lit-vision import-darknet --cfg yolov3 --weights yolov3.weights --names coco.names --output yolov3.ckpt
  lit-vision predict --ckpt_path yolov3.ckpt --images photos --output found

To train on from the weights, no checkpoint is needed: set model.architecture and model.weights (docs/detection.md).
"""


def import_darknet(words: list[str]) -> int:
    """`lit-vision import-darknet`; gives the exit code."""
    parser = Arguments(
        "lit-vision import-darknet",
        allow_abbrev=False,
        description="A checkpoint from Darknet's files.",
        epilog=IMPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cfg", required=True, help="yolov3, yolov3-tiny, yolov3-spp or a .cfg file")
    parser.add_argument("--weights", required=True, type=Path, help="the whole .weights file")
    parser.add_argument("--names", required=True, type=Path, help="text file with a class name a line")
    parser.add_argument("--output", required=True, type=Path, help="checkpoint to write, .ckpt")
    parser.add_argument(
        "--image_size", type=int, nargs="+", metavar="N", help="side, or height width; default: of the cfg"
    )
    parser.add_argument(
        "--fit", choices=("stretch", "letterbox"), help="default: stretch, or as letter_box in the cfg says"
    )
    parser.add_argument("--bn_eps", type=float, default=1e-5, help="of batch normalisation; default: 1e-5")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is there")
    options = parser.parse_args(words)
    for option in ("weights", "names"):
        if not getattr(options, option).is_file():
            raise UserError(f"lit-vision import-darknet: --{option}: there is no file {getattr(options, option)}")
    size = options.image_size
    if size is not None and (len(size) > 2 or min(size) < 1):
        raise UserError("lit-vision import-darknet: --image_size takes a side, or height and width, above 0")
    from lit_vision.cli.trainer_defaults import quiet
    from lit_vision.darknet import import_darknet as run

    quiet()
    run(
        options.cfg,
        options.weights,
        options.names,
        options.output,
        image_size=None if size is None else (size[0], size[-1]),
        fit=options.fit,
        overwrite=options.overwrite,
        bn_eps=options.bn_eps,
    )
    return 0


def export_darknet(words: list[str]) -> int:
    """`lit-vision export-darknet`; gives the exit code."""
    parser = Arguments(
        "lit-vision export-darknet",
        allow_abbrev=False,
        description="Darknet's files (.weights, .cfg, .names) from a checkpoint of YOLODetector with an architecture.",
    )
    parser.add_argument("--ckpt_path", required=True, type=Path, help="checkpoint file")
    parser.add_argument(
        "--output", required=True, type=Path, help=".weights file; .cfg and .names are written beside it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    options = parser.parse_args(words)
    if not options.ckpt_path.is_file():
        raise UserError(f"lit-vision export-darknet: --ckpt_path: there is no file {options.ckpt_path}")
    from lit_vision.darknet import export_darknet as run

    run(options.ckpt_path, options.output, overwrite=options.overwrite)
    return 0
