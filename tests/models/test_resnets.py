"""ResNet-12 and torchvision's ResNet-18."""

import pytest
import torch
import torchvision

from few_shot_nas.errors import InputError
from few_shot_nas.nn.cost import count_parameters
from few_shot_nas.models.resnet12 import ResNet12
from few_shot_nas.models.resnet_classifier import ResNetClassifier
from few_shot_nas.nn.norm import BatchNorm2d


def test_resnet12_has_the_published_number_of_parameters():
    assert count_parameters(ResNet12(64, 3, 84)) == 12_465_344


def test_resnet12_block_equals_its_equation():
    torch.manual_seed(0)
    block = ResNet12(5, 3, 16).body[0].double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.double)
    conv = [module for module in block.residual if isinstance(module, torch.nn.Conv2d)]
    bn = BatchNorm2d(64, affine=False)
    out = torch.nn.functional.leaky_relu(bn(conv[0](x)), 0.1)
    out = torch.nn.functional.leaky_relu(bn(conv[1](out)), 0.1)
    out = torch.nn.functional.leaky_relu(bn(conv[2](out)) + bn(block.shortcut[0](x)), 0.1)
    assert torch.allclose(block(x), torch.nn.functional.max_pool2d(out, 2), atol=1e-10)


def test_dropout_acts_in_train_mode_only_and_only_if_asked_for():
    torch.manual_seed(0)
    net, x = ResNet12(5, 1, 16, drop_rate=0.5), torch.randn(2, 1, 16, 16)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
    plain = ResNet12(5, 1, 16)
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain.train()(x), net.eval()(x))


def test_resnet12_refuses_small_images_and_impossible_drop_rates():
    with pytest.raises(InputError, match="image_size=15"):
        ResNet12(5, 1, 15)
    with pytest.raises(InputError, match="drop_rate=1.0"):
        ResNet12(5, 1, 28, drop_rate=1.0)


def test_resnet_classifier_equals_torchvision_resnet18_in_train_mode():
    torch.manual_seed(0)
    net = ResNetClassifier(5, 3, 42).eval()
    reference = torchvision.models.resnet18(num_classes=5).train()
    weights = {f"trunk.{name}": value for name, value in reference.state_dict().items() if "running" not in name}
    weights = {name.replace("trunk.fc", "head"): value for name, value in weights.items() if "num_batches" not in name}
    net.load_state_dict(weights)
    x = torch.randn(4, 3, 42, 42)
    assert torch.allclose(net(x), reference(x), atol=1e-4)


def test_resnet_classifier_has_only_stateless_normalisation():
    assert not list(ResNetClassifier(5, 1, 28).buffers())
