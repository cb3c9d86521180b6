"""Sentences on checkpoints that do not suit their data."""

import pytest

from lit_vision.errors import UserError
from lit_vision.tasks.checkpoint_facts import refuse_other_task, say_other_computation, say_other_preparation


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


def test_settings_of_the_same_meaning_are_not_said(caplog: pytest.LogCaptureFixture) -> None:
    known = {"backbone": "csp_n", "backbone_args": {"slope": 0.1}, "head_args": None, "mean": [0.5], "strides": [8]}
    same = {**known, "head_args": {"scale_x_y": 1.0}, "mean": (0.5,), "strides": [8, 16], "bn_eps": 0.1}
    with caplog.at_level("INFO"):
        say_other_computation(known, same)
        say_other_computation({"backbone": None, "bn_eps": 1e-5}, {"backbone": None, "bn_eps": None})  # of a .cfg
        assert not caplog.records
        say_other_computation(known, {**known, "backbone_args": {}, "mean": [0.4]}, "a.ckpt")
    assert caplog.messages == [
        "model.backbone_args is null ({'slope': 0.1} in a.ckpt), model.mean is 0.4 (0.5 in a.ckpt): "
        "the network computes otherwise than the one that learnt these weights"
    ]


def test_encoders_are_compared_dropout_and_pixels_that_the_weights_decide_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = {"encoder": "resnet34", "encoder_args": {"drop_path_rate": 0.1}, "mean": None, "border_mean": [0.5]}
    with caplog.at_level("INFO"):
        say_other_computation(known, {**known, "encoder_args": None, "mean": [0.4]})
        assert not caplog.records
        say_other_computation(known, {**known, "encoder": "resnet26", "border_mean": [0.4]})
    assert caplog.messages == [
        "model.encoder is resnet26 (resnet34 in the checkpoint), model.border_mean is 0.4 (0.5 in the checkpoint): "
        "the network computes otherwise than the one that learnt these weights"
    ]
