"""A head trained on features that were computed once is the head trained on pictures, whatever happens on the way."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from caching import BATCH, EPOCHS, fit, sources
from resuming import left
from tiny import outputs_of

from lit_vision.cli.vision_cli import VisionCLI
from lit_vision.data import feature_store
from lit_vision.data.shapes import draw_shapes
from lit_vision.errors import UserError
from lit_vision.tasks.checkpoints import load_task

TESTS = Path(__file__).parents[1]
STEPS = 20 // BATCH * EPOCHS  # 18
BY_STEP = {"class_path": "ProgressiveUnfreezing", "init_args": {"at": [8], "unit": "step", "measure": False}}
EVERY_STEP = {"class_path": "RunCheckpoints", "init_args": {"every_n_train_steps": 1}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures to train on, 12 to validate."""
    return draw_shapes(tmp_path_factory.mktemp("pictures") / "set", train=10, val=6, test=2, size=64)


@pytest.fixture
def said(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sentences of rank 0."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, Listener()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    return lines


def equal(one: VisionCLI, other: VisionCLI) -> bool:
    """Weights, optimizer, every logged number, and every probability of every validation, to the last bit."""
    first, second = outputs_of(one).given, outputs_of(other).given
    same = [torch.equal(a["probabilities"], b["probabilities"]) for a, b in zip(first, second, strict=True)]
    return left(one.folder.path) == left(other.folder.path) and len(same) >= 12 * EPOCHS and all(same)


# --- the same result --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("network", ["test_resnet", "test_vit", "test_efficientnet"])
def test_without_augmentation_nothing_differs(network: str, root: Path, workspace: Path) -> None:
    model = {"backbone": network}
    plain, kept = (fit(root, workspace / f"runs{cached}", cached, model) for cached in (False, True))
    assert equal(plain, kept)
    assert sources(kept).kept == [True] * STEPS
    assert sources(plain).kept == [False] * STEPS


def test_with_as_many_views_as_epochs_nothing_differs(root: Path, workspace: Path) -> None:
    data = {"augmentation": "default", "num_workers": 1}
    plain, kept = (fit(root, workspace / f"runs{cached}", cached, data=data) for cached in (False, True))
    assert equal(plain, kept)
    assert sources(kept).kept == [True] * STEPS


def test_views_take_turns(root: Path, workspace: Path) -> None:
    data = {"augmentation": "default"}
    several, one = (fit(root, workspace / f"runs{n}", data=data, model={"cache_views": n}) for n in (2, 1))
    assert sources(several).files == [[], ["train-0", "val-0"], ["train-0", "train-1", "val-0"]]
    assert sources(one).files == [[], ["train-0", "val-0"], ["train-0", "val-0"]]
    assert not equal(several, one)  # the control of the test before: a view is not any view


def test_several_labels_bf16_and_a_weighted_average(root: Path, workspace: Path) -> None:
    names = sorted(path.name for path in (root / "classification/train").iterdir())
    rows = ["path,label,split"]
    for split in ("train", "val"):
        for k, path in enumerate(sorted((root / "classification" / split).glob("*/*.jpg"))):
            more = f"|{names[k % len(names)]}" if names[k % len(names)] != path.parent.name else ""
            rows.append(f"{path},{path.parent.name}{more},{split}")
    (workspace / "labels.csv").write_text("\n".join(rows))
    average = {"class_path": "pytorch_lightning.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.7}}
    options: dict[str, Any] = {"precision": "bf16-mixed", "callbacks": [average]}
    data = {"root": str(workspace / "labels.csv")}
    plain, kept = (fit(root, workspace / f"runs{c}", c, data=data, **options) for c in (False, True))
    assert plain.model.multi_label
    assert equal(plain, kept)
    assert sources(kept).kept == [True] * STEPS


# --- openings ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("augmentation", ["none", "default"])
def test_a_stage_opens_in_the_middle_of_an_epoch(augmentation: str, root: Path, workspace: Path) -> None:
    model, data = {"freeze": None}, {"augmentation": augmentation}
    plain, kept = (
        fit(root, workspace / f"runs{c}", c, model, data, callbacks=[BY_STEP, EVERY_STEP]) for c in (False, True)
    )
    assert equal(plain, kept)
    assert sources(kept).kept == [True] * 8 + [False] * (STEPS - 8)
    assert not (kept.folder.path / "features").exists()  # gone as soon as nobody needs it


def test_whatever_opens_a_parameter_ends_the_features(root: Path, workspace: Path, said: list[str]) -> None:
    callback = {"class_path": "caching.Open", "init_args": {"step": 8}}
    kept = fit(root, workspace / "runs", callbacks=[callback])
    assert sources(kept).kept == [True] * 8 + [False] * (STEPS - 8)
    assert said.count("a stage of the backbone is open: training goes on from pictures") == 1


def test_a_backbone_that_is_closed_again_has_new_features(root: Path, workspace: Path, said: list[str]) -> None:
    callback = {"class_path": "caching.Open", "init_args": {"step": 2, "until": 5}}
    plain, kept = (fit(root, workspace / f"runs{cached}", cached, callbacks=[callback]) for cached in (False, True))
    assert equal(plain, kept)
    assert sources(kept).kept == [True] * 2 + [False] * 4 + [True] * 12  # from the next epoch on
    assert said.count("features of 20 pictures of the train split computed, view 0") == 2


def test_what_is_left_is_a_checkpoint_like_any_other(root: Path, workspace: Path) -> None:
    done = fit(root, workspace / "runs")
    task = load_task(done.folder.path / "checkpoints/last.ckpt")
    batch = next(iter(done.datamodule.val_dataloader()))
    given = [one["probabilities"] for one in outputs_of(done).given[-12:]]
    with torch.no_grad():
        found = [one["probabilities"] for one in task.predict_step(batch, 0)]
    assert len(found) == BATCH
    assert all(torch.equal(one, other) for one, other in zip(found, given[:BATCH], strict=True))


# --- what is done once ------------------------------------------------------------------------------------------
def test_every_picture_is_read_once(root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_vision.data import dataset

    read: list[Path] = []
    decode = dataset.read_image
    monkeypatch.setattr(dataset, "read_image", lambda path, *rest: read.append(path) or decode(path, *rest))
    shown = {"class_path": "Pictures", "init_args": {"images": 1, "every_n_epochs": 9}}
    options: dict[str, Any] = {"callbacks": [shown], "num_sanity_val_steps": 0}
    fit(root, workspace / "runs", **options)
    # 20 + 12 and one that fills up the last batch; the proof's three, two in first_batch.jpg, and in the pictures of
    # the first and the last epoch one with the truth and one with the prediction
    assert len(read) == 20 + 12 + 1 + BATCH + 2 + 4
    assert len(set(read)) == 32


def test_pictures_of_the_run_are_those_of_a_run_without_features(root: Path, workspace: Path) -> None:
    plain, kept = (fit(root, workspace / f"runs{cached}", cached) for cached in (False, True))
    for name in ("first_batch.jpg", "val_epoch_000.jpg", "val_epoch_002.jpg"):
        one, other = (cv2.imread(str(done.folder.path / "pictures" / name)) for done in (plain, kept))
        assert (one == other).all()
        assert one.std() > 20  # something is drawn


def test_short_epochs_compute_only_what_they_show(root: Path, workspace: Path, said: list[str]) -> None:
    fit(root, workspace / "runs", limit_train_batches=2, limit_val_batches=1, max_epochs=1)
    assert "features of 6 pictures of the train split computed, view 0" in said
    assert "features of 3 pictures of the val split computed, view 0" in said


# --- kills and restarts -----------------------------------------------------------------------------------------
def program(root: Path, runs: Path, given: dict[str, Any], *environment: dict[str, str]) -> subprocess.Popen[str]:
    paths = {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "caching.py"), str(root), str(runs), json.dumps(given)]
    every = {**os.environ, **paths}
    for more in environment:
        every |= more
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=every, text=True, **pipes)


@pytest.mark.parametrize("row", [7, 25], ids=["in the training split", "in the validation split"])
def test_a_kill_while_features_are_computed(row: int, root: Path, workspace: Path, said: list[str]) -> None:
    plain = fit(root, workspace / "plain", cached=False, callbacks=[EVERY_STEP])
    dying = program(root, workspace / "runs", {"die_at_row": row, "callbacks": [EVERY_STEP]})
    output, _ = dying.communicate(timeout=120)
    assert dying.returncode == -9, output
    (folder,) = (workspace / "runs/runs").iterdir()
    again = fit(root, workspace / "runs", callbacks=[EVERY_STEP], options=("--resume", str(folder)))
    assert left(again.folder.path) == left(plain.folder.path)
    # what was whole is not computed again
    split, whole, count = ("train", row - 1, 20) if row < 20 else ("val", (row - 20) // BATCH * BATCH, 12)
    assert f"features of {count - whole} pictures of the {split} split computed, view 0" in said
    assert not any("other contents" in line for line in said)


@pytest.mark.slow
def test_two_processes_share_the_features(root: Path, workspace: Path) -> None:
    on_two: dict[str, Any] = {"devices": 2, "strategy": "ddp", "data": {"augmentation": "default", "batch_size": 2}}
    cases: dict[str, dict[str, Any]] = {
        "closed": {"callbacks": [EVERY_STEP]},
        "opened": {"callbacks": [BY_STEP, EVERY_STEP], "model": {"freeze": None}},
    }
    for name, case in cases.items():
        found = {}
        for cached in (False, True):
            running = program(root, workspace / f"{name}{cached}", {**on_two, **case, "cached": cached})
            output, _ = running.communicate(timeout=400)
            assert running.returncode == 0, output
            (folder,) = (workspace / f"{name}{cached}" / f"{name}{cached}").iterdir()
            found[cached] = left(folder)
            kept = json.loads((workspace / f"{name}{cached}.json").read_text())
            assert kept == [cached and (name == "closed" or k < 8) for k in range(15)]
            assert not (folder / "features").exists()
        assert found[True] == found[False]


@pytest.mark.slow
def test_a_kill_of_two_processes_that_compute(root: Path, workspace: Path) -> None:
    on_two = {"devices": 2, "strategy": "ddp", "data": {"batch_size": 2}, "callbacks": [EVERY_STEP]}
    whole = program(root, workspace / "whole", {**on_two, "cached": False})
    assert whole.wait(timeout=400) == 0
    dying = program(root, workspace / "runs", {**on_two, "die_at_row": 7})
    output, _ = dying.communicate(timeout=400)
    assert dying.returncode != 0, output
    (folder,) = (workspace / "runs/runs").iterdir()
    again = program(root, workspace / "runs", {**on_two, "options": ["--resume", str(folder)]})
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, output
    # six rows of each process were whole
    assert "features of 8 pictures of the train split computed, view 0" in output
    (plain,) = (workspace / "whole/whole").iterdir()
    assert left(folder) == left(plain)


def test_a_kill_in_the_middle_of_an_epoch_of_features(root: Path, workspace: Path, said: list[str]) -> None:
    data = {"augmentation": "default"}
    plain = fit(root, workspace / "plain", cached=False, data=data, callbacks=[EVERY_STEP])
    kill = {"class_path": "resuming.Send", "init_args": {"number": 9, "hook": "on_train_batch_start", "step": 9}}
    dying = program(root, workspace / "runs", {"data": data, "callbacks": [EVERY_STEP, kill]})
    output, _ = dying.communicate(timeout=120)
    assert dying.returncode == -9, output
    (folder,) = (workspace / "runs/runs").iterdir()
    again = fit(root, workspace / "runs", data=data, callbacks=[EVERY_STEP], options=("--resume", str(folder)))
    assert left(again.folder.path) == left(plain.folder.path)
    assert sources(again).kept == [True] * 9
    assert [line for line in said if line.startswith("features of") and "view 1" in line] == []  # all were there
    assert "features of 20 pictures of the train split computed, view 2" in said


# --- pictures that have changed ---------------------------------------------------------------------------------
def cut_run(root: Path, workspace: Path) -> Path:
    """Folder of a run that was killed in its second epoch."""
    kill = {"class_path": "resuming.Send", "init_args": {"number": 9, "hook": "on_train_batch_start", "step": 9}}
    dying = program(root, workspace / "runs", {"callbacks": [EVERY_STEP, kill]})
    dying.communicate(timeout=120)
    (folder,) = (workspace / "runs/runs").iterdir()
    return folder


def repaint(root: Path) -> None:
    """Turns two training pictures upside down, under their names."""
    for path in sorted((root / "classification/train").glob("*/*.jpg"))[:2]:
        cv2.imwrite(str(path), cv2.imread(str(path))[::-1])


def test_changed_pictures_are_computed_anew(root: Path, workspace: Path, said: list[str]) -> None:
    copy = shutil.copytree(root, workspace / "pictures")
    folder = cut_run(copy, workspace)
    before = shutil.copytree(folder, workspace / "runs/runs/again")
    repaint(copy)
    options = ("--resume", str(folder))
    kept = fit(copy, workspace / "runs", callbacks=[EVERY_STEP], options=options)
    assert (
        "features of 2 pictures of the train split computed, view 0; 2 had features of other contents of their files"
        in said
    )
    (before / "features").rename(workspace / "aside")  # the control: the same from here without any features
    again = fit(copy, workspace / "runs", callbacks=[EVERY_STEP], options=("--resume", str(before)))
    assert left(kept.folder.path) == left(again.folder.path)


def test_a_tag_that_ignored_the_file_would_reuse_them(
    root: Path, workspace: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(root, workspace / "pictures")
    for module in ("lit_vision.data.feature_store", "lit_vision.data.feature_batches"):
        monkeypatch.setattr(f"{module}.content_hash", lambda path: 1)
    cut = {"class_path": "resuming.Cut", "init_args": {"step": 9}}
    with pytest.raises(Exception):  # noqa: B017, PT011  CutOffError, as whatever Lightning makes of it
        fit(copy, workspace / "runs", callbacks=[EVERY_STEP, cut])
    (folder,) = (workspace / "runs/runs").iterdir()
    repaint(copy)
    fit(copy, workspace / "runs", callbacks=[EVERY_STEP], options=("--resume", str(folder)))
    assert sum(line.startswith("features of") for line in said) == 2  # those of the first part, none of the second


# --- no space ---------------------------------------------------------------------------------------------------
def test_a_full_disk_costs_the_features_and_nothing_else(root: Path, workspace: Path, said: list[str]) -> None:
    plain = fit(root, workspace / "plain", cached=False)
    small = workspace / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        run = workspace / "runs" / "one"
        run.mkdir(parents=True)
        (run / "features").symlink_to(small)
        kept = fit(root, workspace / "runs", options=("--run_dir", str(run)))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert left(kept.folder.path) == left(plain.folder.path)
    assert sources(kept).kept == [False] * STEPS
    (sentence,) = [line for line in said if "cache of features" in line]
    assert "MiB are free in" in sentence
    assert "No space left on device" in sentence
    assert sentence.endswith(": training goes on from pictures")


def test_a_disk_that_fills_up_on_the_way(
    root: Path, workspace: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fit(root, workspace / "plain", cached=False, data={"augmentation": "default"})
    write, count = os.pwrite, 0

    def full(file: int, data: bytes, offset: int) -> int:
        nonlocal count
        count += 1
        if count > 2 * 40:  # 20 pictures of the first view, 12 of validation; in the middle of the second view
            raise OSError(28, "No space left on device")
        return write(file, data, offset)

    monkeypatch.setattr(feature_store.os, "pwrite", full)
    kept = fit(root, workspace / "runs", data={"augmentation": "default"})
    assert left(kept.folder.path) == left(plain.folder.path)
    assert sources(kept).kept == [True] * 6 + [False] * 12
    assert not (kept.folder.path / "features").exists()
    assert sum("training goes on from pictures" in line for line in said) == 1


# --- what is refused --------------------------------------------------------------------------------------------
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing closed": ({"freeze": None}, "needs a backbone that does not train: set model.freeze: backbone"),
    "part closed": ({"freeze": 1}, "needs a backbone that does not train"),
    "mixup": ({"mixup": 0.2}, "cannot mix pictures"),
    "compile": ({"compile": True}, "model.cache_features and model.compile exclude each other"),
    "views": ({"cache_views": 0}, "model.cache_views is 0"),
    "drop path": ({"backbone": "test_vit", "backbone_args": {"drop_path_rate": 0.1}}, "draws random numbers"),
    "dropout inside": ({"backbone": "test_vit", "backbone_args": {"proj_drop_rate": 0.1}}, "draws random numbers"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_would_differ_in_silence_is_refused(case: str, root: Path, workspace: Path) -> None:
    model, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence) as error:
        fit(root, workspace / "runs", model=model)
    assert "\n" not in str(error.value)


def test_other_tasks_do_not_know_the_key(drawn: Path, workspace: Path) -> None:
    from tiny import command, write_experiment

    path = write_experiment(workspace / "other.yaml", "segmentation", drawn, {"cache_features": True})
    with pytest.raises(UserError, match="cache_features"):
        command("fit", path)
