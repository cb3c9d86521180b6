"""csp_n, csp_s and csp_m: backbones like any of timm's."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.backbone_stages import stages
from lit_vision.networks.backbones import backbone_names, create_classifier, create_features
from lit_vision.networks.csp_layers import ConvUnit, CSPBlock, PyramidPool


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_a_block_joins_the_half_beside_the_chain_with_every_link_of_it() -> None:
    block = CSPBlock(6, 8, depth=2).eval()
    x = torch.randn(1, 6, 5, 7)
    with torch.no_grad():
        beside, first = block.split(x).chunk(2, dim=1)
        second = first + block.blocks[0].spread(block.blocks[0].reduce(first))  # type: ignore[operator, union-attr]
        third = second + block.blocks[1].spread(block.blocks[1].reduce(second))  # type: ignore[operator, union-attr]
        expected = block.transition(torch.cat([beside, first, second, third], dim=1))
        torch.testing.assert_close(block(x), expected)
    assert block(x).shape == (1, 8, 5, 7)


def test_pyramid_pool_sees_5_9_and_13_cells() -> None:
    pool = PyramidPool(2, 4).eval()
    pool.reduce = nn.Conv2d(2, 1, 1, bias=False)  # type: ignore[assignment]
    nn.init.ones_(pool.reduce.weight)
    pool.join = nn.Identity()  # type: ignore[assignment]
    x = torch.zeros(1, 2, 15, 15)
    x[0, 0, 7, 7] = 1.0
    reach = [int(own.sum()) for own in pool(x)[0]]
    assert reach == [1, 25, 81, 169]


@pytest.mark.parametrize(
    ("name", "millions", "widths"),
    [
        ("csp_n", 1.058, [16, 32, 64, 128, 256]),
        ("csp_s", 4.22, [32, 64, 128, 256, 512]),
        ("csp_m", 9.018, [48, 96, 192, 384, 576]),
    ],
)
def test_sizes(name: str, millions: float, widths: list[int]) -> None:
    with torch.device("meta"):
        network = create_features(name, in_channels=5)
        features = network(torch.zeros(1, 5, 96, 64))
    assert [tuple(f.shape[1:]) for f in features] == [(w, 96 >> (k + 1), 64 >> (k + 1)) for k, w in enumerate(widths)]
    assert count(network) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_stages_are_the_five_halvings_from_the_head_to_the_image() -> None:
    for network in (create_features("csp_n"), create_classifier("csp_n", 4)):
        slices = stages(network)
        tops = [sorted({name.partition(".")[0] for name in names}) for names in slices]
        assert tops == [["stage4"], ["stage3"], ["stage2"], ["stage1"], ["stem"]]
        assert sum(len(names) for names in slices) == len(
            [n for n, _ in network.named_parameters() if not n.startswith("head.")]
        )
    assert len(stages(create_features("csp_n", out_indices=(1, 2)))) == 3  # without stages 3 and 4, which are not built


def test_a_classifiers_weights_serve_a_detectors_backbone(tmp_path: Path) -> None:
    classifier = create_classifier("csp_n", 4)
    for parameter in classifier.parameters():
        nn.init.normal_(parameter)
    torch.save(classifier.state_dict(), tmp_path / "w.pth")
    features = create_features("csp_n", weights=str(tmp_path / "w.pth"), out_indices=(2, 3, 4)).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(features(x)[-1], classifier.eval().forward_features(x))  # type: ignore[operator]


def test_names_are_known_and_have_nothing_to_download() -> None:
    assert backbone_names("csp_?") == ["csp_m", "csp_n", "csp_s"]
    with pytest.raises(UserError, match="csp_n has no pretrained weights to download; give weights"):
        create_classifier("csp_n", 2, pretrained=True)


def test_a_new_network_keeps_the_size_of_its_signals() -> None:
    torch.manual_seed(0)
    features = create_features("csp_n").train()(torch.randn(4, 3, 96, 96))
    assert all(0.2 < float(f.detach().std()) < 3 for f in features)
    unit = ConvUnit(3, 8, 3)
    assert unit(torch.randn(2, 3, 9, 9)).shape == (2, 8, 9, 9)
    classifier = create_classifier("csp_n", 0)
    assert classifier(torch.randn(2, 3, 64, 64)).shape == (2, 256)
    classifier.reset_classifier(7)  # type: ignore[operator]
    assert classifier.get_classifier().out_features == 7  # type: ignore[operator]
