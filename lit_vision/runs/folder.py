"""One folder per run: runs/<experiment>/<YYYYmmdd-HHMMSS>-<id>/ with config.yaml, checkpoints/, metrics.csv, wandb/ ...

Needs no torch. Nothing is created before something is written, so a run that fails at once leaves no empty folder.
"""

import errno
import os
import platform
import secrets
import string
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lit_vision.cli.names import nearest
from lit_vision.errors import UserError

if sys.platform != "win32":
    import fcntl

RUN_DIR = "LIT_VISION_RUN_DIR"  # how processes that rank 0 launches learn its folder
ALPHABET = string.ascii_lowercase + string.digits


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one run lies.

    Args:
        path: the folder; it may not exist yet.
        experiment: name of the experiment, the stem of its YAML.
        id: eight letters and digits, also the W&B id; one per run, however often it is resumed or tested.
    """

    path: Path
    experiment: str
    id: str

    @property
    def checkpoints(self) -> Path:
        """Folder of best.ckpt and last.ckpt."""
        return self.path / "checkpoints"

    def create(self) -> None:
        """Makes the folder and keeps the id in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "id").exists():
            (self.path / "id").write_text(self.id + "\n")

    def announce(self) -> None:
        """Lets the processes launched from this one use the same folder."""
        os.environ[RUN_DIR] = str(self.path.resolve())


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keeps a run folder from being trained in twice at a time; the claim ends with the process, even by SIGKILL.

    Args:
        path: the run folder.

    Raises:
        UserError: another process has claimed it.
    """
    if sys.platform == "win32":
        yield
        return
    path.mkdir(parents=True, exist_ok=True)
    with (path / "lock").open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # any other: this file system has no locks
                file.seek(0)
                raise UserError(
                    f"{path} is in use by {file.read() or 'another process'}; wait until it ends"
                ) from error
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            yield
        finally:
            (path / "lock").unlink(missing_ok=True)
            with suppress(OSError):
                path.rmdir()  # only where nothing was written


def new(runs: Path, experiment: str) -> RunFolder:
    """A folder name that no other run has."""
    name = "".join(secrets.choice(ALPHABET) for _ in range(8))
    return RunFolder(runs / experiment / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}", experiment, name)


def existing(path: Path, experiment: str = "") -> RunFolder:
    """A run folder as it was left; a folder without an id gets one when it is created."""
    file = path / "id"
    if file.is_file():
        name = file.read_text().strip()
    else:
        name = path.name.rpartition("-")[2] if _is_run_name(path.name) else new(path.parent, "").id
    return RunFolder(path, experiment or path.absolute().parent.name, name)


def of_checkpoint(checkpoint: Path) -> RunFolder | None:
    """The run that wrote a checkpoint; None for a file that lies elsewhere."""
    if checkpoint.parent.name != "checkpoints":
        checkpoint = checkpoint.resolve()  # named from inside its folder, or through a link
    folder = checkpoint.parent.parent
    inside = checkpoint.parent.name == "checkpoints" and (folder / "id").is_file()
    return existing(folder) if inside else None


def inherited() -> RunFolder | None:
    """Rank 0's folder, in a process that rank 0 launched; None elsewhere."""
    path = os.environ.get(RUN_DIR)
    # The variable outlives its run in rank 0's own process, where it says nothing about the next run.
    return existing(Path(path)) if path and rank() > 0 else None


def rank() -> int:
    """This process's number among all, as far as a launcher has said it."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def find_checkpoint(which: str, runs: Path, experiment: str, run_dir: Path | None = None) -> Path:
    """The file that `--ckpt_path` means.

    Args:
        which: "best" or "last" of the newest run that has come to a checkpoint, or a file.
        runs: root of all run folders.
        experiment: name of the experiment.
        run_dir: the one run to look in, instead of the newest.

    Raises:
        UserError: there is no such run or file.
    """
    if which not in ("best", "last"):
        if not Path(which).is_file():
            hint = nearest(which, ("best", "last"))
            raise UserError(f"checkpoint not found: {which} (--ckpt_path takes best, last or a file){hint}")
        return Path(which)
    for folder in [run_dir] if run_dir else newest_first(runs / experiment):
        file = folder / "checkpoints" / f"{which}.ckpt"
        if file.is_file():
            return file
        others = sorted(path.name for path in file.parent.glob("*.ckpt"))
        if others:  # an older run's would be taken for this one's
            raise UserError(f"--ckpt_path {which}: the newest run, {folder}, has only checkpoints/{others[0]}")
    place = run_dir or runs / experiment
    raise UserError(f"--ckpt_path {which}: there is no checkpoint in {place}; run `lit-vision fit` first")


def best_of(place: str) -> Path:
    """The checkpoint that a file, a run folder, or the folder of an experiment's runs means: best.ckpt, the newest.

    Raises:
        UserError: it is a folder, and no run in it has come to a checkpoint.
    """
    path = Path(os.path.expandvars(place)).expanduser()
    if not path.is_dir():
        return path
    own = path if (path / "checkpoints").is_dir() else None
    return find_checkpoint("best", path.parent, path.name, own)


def newest_first(folder: Path) -> Iterator[Path]:
    """Run folders of an experiment, the newest first."""
    if folder.is_dir():
        yield from sorted((path for path in folder.iterdir() if _is_run_name(path.name)), reverse=True)


def _is_run_name(name: str) -> bool:
    day, _, rest = name.partition("-")
    return len(day) == 8 and day.isdigit() and rest[:6].isdigit() and rest[6:7] == "-"
