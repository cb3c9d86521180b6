"""What `--help` shows: written by hand to fit a screen, held to the code by a test."""

MAIN = """\
lit-vision: train, test and use networks that classify, segment, separate and detect.

  lit-vision fit      -c FILE [--key value ...]                    train
  lit-vision fit      --resume FOLDER | -c FILE --resume auto      go on with a run that was stopped or killed
  lit-vision validate -c FILE [--ckpt_path best|last|FILE]         metrics on the validation split
  lit-vision test     -c FILE [--ckpt_path best|last|FILE]         metrics on the test split
  lit-vision predict  -c FILE [--ckpt_path best|last|FILE]         predictions on the data module's test pictures
  lit-vision predict  --ckpt_path FILE --images FILE|FOLDER|GLOB --output DIR
  lit-vision advise   -c FILE                                      which layers to train on your data, and why
  lit-vision compare  RUN RUN ... [--metric NAME]                  is a run better than another, or was it luck?
  lit-vision rehearse -c FILE                                      your run on two processes, killed and resumed
  lit-vision convert  SOURCE --to coco|voc|yolo --output DIR       one data format into another
  lit-vision import-darknet --cfg yolov3 --weights FILE --names FILE --output x.ckpt   a checkpoint from Darknet's files
  lit-vision export-darknet --ckpt_path FILE --output x.weights    Darknet's files from a checkpoint
  lit-vision quickstart [--output DIR]                             all four tasks on drawn pictures, in minutes
  lit-vision completion bash|zsh|fish                              a script for your shell
  lit-vision version

`lit-vision COMMAND --help` explains one; --debug shows the traceback behind an error.
"""

ADVISE = """\
lit-vision advise: which layers to train, at which rates, for how long - measured on your data before training

  lit-vision advise -c experiments/<task>/<name>.yaml [--key value ...]

Counts your pictures, and runs a sample of them through the experiment's own backbone with its own weights, and through
the same network with random weights. What each stage's features tell of the labels says how like the pretraining data
yours are, and how deep the pretrained features are still good. Then it writes an experiment that `fit` runs as it is.

  --output FILE                   the experiment to write; default: <name>_advised.yaml here; an older one becomes .old
  --images 400                    pictures of the sample (more where there are many classes)
  --minutes 3                     about so long the networks may run; the sample gets smaller where they would need more
  --data.root DIR                 and every other option of fit

Example:
  lit-vision advise -c experiments/classification/flowers5.yaml
"""

REHEARSE = """\
lit-vision rehearse: a few steps of your experiment on two CPU processes, killed and resumed, before you pay for more

  lit-vision rehearse -c experiments/<task>/<name>.yaml [--key value ...]

It runs 3 epochs of 4 steps once without a break, and once with a kill -9 and a SIGTERM at random steps, resumed each
time. Openings of ProgressiveUnfreezing come as much earlier as the run is shorter. Nothing is sent anywhere.

Looked at: one run folder and one W&B id, equal weights on both ranks, losses and weights equal to the last bit with and
without the breaks, what trains at each step, parameters without a gradient, batches per rank, checkpoint size, memory.
Exit code 0 only if all of it holds.

  --seed 7                        draws the same steps again (the report says which seed it was)
  --folder DIR                    keep runs and logs there; default: a temporary folder, kept where a check fails
  --data.batch_size 2             and every other option of fit, for a network too large for this machine

Example:
  lit-vision rehearse -c experiments/quickstart/classification.yaml --data.root runs/quickstart/shapes/classification
"""

FIT = """\
lit-vision {command}: {purpose}

  lit-vision {command} -c experiments/<task>/<name>.yaml [--key value ...]

An experiment is one YAML with three parts; every key can be set on the command line too, after -c.

model: what is trained                         data: what it is trained on
  TransferClassifier  one or several labels      ClassificationDataModule  folders, CSV
  SemanticSegmenter   a class per pixel          SegmentationDataModule    masks, COCO
  InstanceSegmenter   touching objects           InstanceDataModule        label maps, masks per object, COCO
  YOLODetector        boxes                      DetectionDataModule       COCO, VOC, YOLO
  SlidingWindowDetector  boxes by a trained classifier; nothing to fit

Most used:
  -c FILE                         an experiment; several are merged, the last wins
  --model NAME, --data NAME       one of the above, or the full path of your own class
  --model.backbone NAME           any timm network: resnet18, convnext_tiny, efficientnet_b5 ...
  --model.optimizer AdamW         any class of torch.optim; --model.optimizer.lr 0.001
  --model.scheduler NAME          any class of torch.optim.lr_scheduler; default: warm-up and cosine
  --model.freeze backbone         what does not train
  --data.root DIR                 the data set; ~ and $VARIABLES are expanded
  --data.image_size 224           side, or [height, width], of the network's input
  --data.batch_size 16            pictures per step and process
  --data.val_fraction 0.2         where the data set has no validation split
  --trainer.max_epochs 30         length of the run
  --trainer.precision bf16-mixed  default: where the processor gains and accuracy is equal, else 32-true
  --trainer.devices 2             processes, one per device
  --trainer.callbacks+=NAME       one more callback, such as EarlyStopping; --trainer.callbacks.monitor val/loss
  --seed_everything 0             same seed, same run
  --resume auto|FOLDER            fit goes on with the newest run of the experiment, or with this run
  --folds 5                       fit trains five folds in turn; mean and interval: docs/comparing.md
  --ckpt_path best|last|FILE      of the newest run of the experiment; validate and test read it
  --wandb off|offline|online      default: online where there is an API key, else offline
  --runs DIR, --experiment NAME   where the run folder lies: runs/<experiment>/<time>-<id>/
  --print_config                  the complete experiment, ready for -c, and nothing else

  lit-vision {command} --help-all          every option
  lit-vision {command} --model.help NAME   the options of one task (--data.help for data)

Examples:
  lit-vision fit -c experiments/classification/flowers.yaml --data.root ~/flowers
  lit-vision fit -c experiments/classification/flowers.yaml --resume auto --trainer.max_epochs 60
  lit-vision test -c experiments/classification/flowers.yaml --ckpt_path best
"""

PURPOSES = {
    "fit": "train",
    "validate": "metrics on the validation split, from a checkpoint (default: best of the newest run)",
    "test": "metrics on the test split, from a checkpoint (default: best of the newest run)",
    "predict": "predictions on the test split, from a checkpoint; or on any pictures:\n\n"
    "  lit-vision predict --ckpt_path FILE --images FILE|FOLDER|GLOB --output DIR",
}


def training_screen(command: str) -> str:
    """The help of fit, validate, test or predict."""
    return FIT.format(command=command, purpose=PURPOSES[command])
