"""COCO's precision at each IoU, recall, class and size, by faster-coco-eval."""

from typing import Any

import numpy as np
import numpy.typing as npt

from lit_vision.metrics.per_image import Arrays

SIZES = ("all", "small", "medium", "large")  # COCO's: the last three divide at areas of 32 x 32 and 96 x 96 pixels
ABSENT = -1.0  # COCO's mark for a mean over nothing


def coco_precision(arrays: Arrays, num_classes: int, max_detections: int) -> npt.NDArray[np.float64]:
    """Precision (10 IoUs, 101 recalls, K classes, 4 sizes), ABSENT where a class has no object of a size.

    Args:
        arrays: image (N,); predicted_* and truth_*, with the image of each prediction and object, in original pixels.
        num_classes: K.
        max_detections: of an image and class, the best so many count.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if not len(arrays["truth_image"]):
        return np.full((10, 101, num_classes, len(SIZES)), ABSENT)
    known = _as_coco(arrays, num_classes)
    truth = COCO(known)
    results = [
        {**common, "score": score}
        for common, score in zip(
            _annotations(arrays, "predicted"), arrays["predicted_scores"].astype(float).tolist(), strict=True
        )
    ]
    # Before faster-coco-eval 1.8, loadRes fails where nothing was found.
    found = truth.loadRes(results) if results else COCO({**known, "annotations": []})
    evaluation = COCOeval_faster(truth, found, iouType="bbox")
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: npt.NDArray[np.float64] = np.asarray(evaluation.eval["precision"], np.float64)
    return precision[..., 0]


def _as_coco(arrays: Arrays, num_classes: int) -> dict[str, Any]:
    own = zip(arrays["truth_crowd"].astype(int).tolist(), arrays["truth_area"].astype(float).tolist(), strict=True)
    annotations = [
        {**common, "id": number, "iscrowd": crowd, "area": area}
        for number, (common, (crowd, area)) in enumerate(zip(_annotations(arrays, "truth"), own, strict=True), start=1)
    ]
    return {
        "images": [{"id": int(image)} for image in arrays["image"]],
        "annotations": annotations,
        "categories": [{"id": k, "name": str(k)} for k in range(num_classes)],
    }


def _annotations(arrays: Arrays, kind: str) -> list[dict[str, Any]]:
    """What objects and predictions have in common, with COCO's x, y, width, height."""
    boxes = arrays[f"{kind}_boxes"].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    columns = (arrays[f"{kind}_image"].tolist(), arrays[f"{kind}_labels"].tolist(), boxes.tolist())
    return [{"image_id": i, "category_id": k, "bbox": box} for i, k, box in zip(*columns, strict=True)]


def mean_precision(precision: npt.NDArray[np.float64]) -> float:
    """Over all that is there; ABSENT where nothing is."""
    known = precision[precision > ABSENT]
    return float(known.mean()) if known.size else ABSENT
