"""The score thresholds that a detector's validation has found, for people to read."""

import json
import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class OperatingPointsFile(pl.Callback):
    """Writes <run folder>/thresholds.json after each validation of a detector: threshold and F1 of every class.

    `lit-vision validate` writes validate/thresholds.json. The checkpoint holds the same thresholds. Other tasks leave
    nothing.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what the validation that ends has found."""
        metrics: Any = getattr(pl_module, "metrics", {})
        points = getattr(metrics["val"], "points", None) if "val" in metrics else None
        quiet = trainer.sanity_checking or getattr(trainer, "fast_dev_run", False) or not trainer.is_global_zero
        if points is None or quiet:
            return
        names: list[str] = getattr(pl_module, "class_names", [])
        rows = {
            name: {"threshold": round(threshold, 6), "f1": None if math.isnan(f1) else round(f1, 6)}
            for name, threshold, f1 in zip(names, points.thresholds.tolist(), points.f1.tolist(), strict=True)
        }
        inside = "" if trainer.state.fn == "fit" else "validate"
        path = Path(trainer.default_root_dir) / inside / "thresholds.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"epoch": trainer.current_epoch, "classes": rows}, indent=1) + "\n")
