"""Sentences on checkpoints that do not suit their data."""

import pytest

from lit_vision.errors import UserError
from lit_vision.tasks.checkpoint_facts import refuse_other_task, say_other_preparation


def test_a_few_classes_of_other_names_are_named() -> None:
    """As the 80 of COCO, six of which Darknet spells otherwise."""
    facts = {"task": "YOLODetector", "class_names": ["person", "motorbike", "car", "sofa"]}
    assert refuse_other_task(facts, "YOLODetector", ["person", "motorbike", "car", "sofa"]) is facts
    with pytest.raises(UserError, match=r"names 1 of its 4 classes otherwise than the data: sofa / couch; rename"):
        refuse_other_task(facts, "YOLODetector", ["person", "motorbike", "car", "couch"])
    with pytest.raises(UserError, match=r"knows 4 classes .* but the data has 4 \(person, car, sofa, motorbike\)"):
        refuse_other_task(facts, "YOLODetector", ["person", "car", "sofa", "motorbike"])
    with pytest.raises(UserError, match="is of a YOLODetector, but the model is a SemanticSegmenter"):
        refuse_other_task(facts, "SemanticSegmenter", facts["class_names"])


def test_pictures_prepared_otherwise_are_said(caplog: pytest.LogCaptureFixture) -> None:
    known = {"task": "detection", "image_size": [320, 320], "fit": "stretch", "in_channels": 3, "depth": "8bit"}
    with caplog.at_level("INFO"):
        say_other_preparation(known, dict(known))
        assert not caplog.records
        say_other_preparation(known, {**known, "fit": "letterbox", "image_size": [320, 416]})
    assert caplog.messages == [
        "data.image_size is 320 x 416 (320 x 320 in the checkpoint), data.fit is letterbox (stretch in the checkpoint)"
        ": the network sees other pictures than it was made with"
    ]
