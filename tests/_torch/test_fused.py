"""Pointwise functions with gradients of their own, compared with autograd."""

import pytest
import torch
import torch.nn.functional as F

from skood._torch.fused import add_gated, concat_elu, crop


def images(*shape, dtype=torch.float64, memory_format=torch.channels_last):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=memory_format)


def plain_concat_elu(x):
    return F.elu(torch.cat([x, -x], 1))


def plain_add_gated(x, gated):
    a, b = gated[:, :, : x.shape[2], : x.shape[3]].chunk(2, 1)
    return x + a * torch.sigmoid(b)


FUNCTIONS = {
    "concat_elu": (concat_elu, plain_concat_elu, [(2, 3, 4, 5)]),
    "add_gated": (add_gated, plain_add_gated, [(2, 3, 4, 5), (2, 6, 4, 5)]),
    "add_gated, cropped": (add_gated, plain_add_gated, [(2, 3, 4, 5), (2, 6, 5, 7)]),
    "crop": (lambda x: crop(x, 2, 4), lambda x: x[:, :, :2, :4], [(2, 3, 4, 5)]),
}


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("function", "plain", "shapes"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_values_and_gradients_equal_autograd(function, plain, shapes, memory_format):
    inputs = [images(*s, memory_format=memory_format).requires_grad_() for s in shapes]
    out, expected = function(*inputs), plain(*inputs)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-14)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    gradients = torch.autograd.grad((weights * out).sum(), inputs)
    torch.testing.assert_close(gradients, torch.autograd.grad((weights * expected).sum(), inputs))


@pytest.mark.parametrize(("function", "_", "shapes"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_gradients_stay_channels_last(function, _, shapes):
    inputs = [images(*s, dtype=torch.float32).requires_grad_() for s in shapes]
    function(*inputs).square().sum().backward()
    for x in inputs:
        assert x.grad.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_rounds_the_output_alone():
    x = images(2, 3, 4, 5, dtype=torch.bfloat16)
    out = concat_elu(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, plain_concat_elu(x.double()).bfloat16(), rtol=0, atol=0)


def test_extremes_stay_finite_in_value_and_gradient():
    x = torch.tensor([0.0, 1e-30, -1e-30, 3e38, -3e38, 89.0, -89.0])[None, :, None, None]
    out = concat_elu(x.requires_grad_())
    torch.testing.assert_close(out, plain_concat_elu(x))
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad(plain_concat_elu(x).sum(), x)[0])
