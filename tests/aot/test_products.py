"""Multiply-adds of a TPU's kernels and of a GPU's library calls, as XLA writes them for absent chips."""

import math

import pytest

from rats_jax.aot.flops import dot_flops
from rats_jax.aot.products import call_flops, product_flops

WINDOW = "window={size=3x3 stride=2x2 pad=0_1x0_1}, dim_labels=b01f_o01i->b01f"
SMALL, LARGE, KERNEL = "f32[2,4,4,8]{3,2,1,0}", "f32[2,8,8,3]{3,2,1,0}", "f32[8,3,3,3]{3,2,1,0}"
# A kernel's last tap of the last output, on either axis, lies in the padding.
CONVOLUTION = 2.0 * 2 * 8 * 3 * (4 * 3 - 1) ** 2


def call(target, kind, types, attributes):
    line = f'%a, %b), {attributes}, custom_call_target="{target}", metadata={{}}'
    return call_flops("custom-call.1", f"({kind}, u8[0]{{0}})", types, line)


@pytest.mark.parametrize(
    ("target", "result", "operands"),
    [
        ("convForward", SMALL, [LARGE, KERNEL]),
        ("convBiasActivationForward", SMALL, [LARGE, KERNEL, "f32[8]{0}", SMALL]),
        ("convBackwardInput", LARGE, [SMALL, KERNEL]),
        ("convBackwardFilter", KERNEL, [LARGE, SMALL]),
    ],
)
def test_a_convolution_and_its_gradients_are_as_large(target, result, operands):
    assert call(f"__cudnn${target}", result, operands, WINDOW) == CONVOLUTION


@pytest.mark.parametrize("target", ["__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8"])
def test_a_product_of_cublas(target):
    config = '"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"]}'
    types = ["bf16[4,5,7]{2,1,0}", "bf16[4,7,6]{2,1,0}"]
    flops = call(
        target, "bf16[4,5,6]{2,1,0}", types, f'backend_config={{"gemm_backend_config":{{{config}}}}}'
    )
    assert flops == dot_flops((4, 5, 7), (4, 5, 6), [2]) == 2.0 * 4 * 5 * 6 * 7


@pytest.mark.parametrize(
    ("target", "products"),
    [
        ("__cudnn$fmhaSoftmax", 2),
        ("__cudnn$fmhaScaleBiasSoftmax", 2),
        ("__cudnn$fmhaSoftmaxBackward", 5),
    ],
)
def test_attention_of_cudnn(target, products):
    dimensions = (
        '"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "8", "512", "1024"]'
    )
    types = ["bf16[2,512,8,40]{3,2,1,0}", "bf16[2,1024,8,40]{3,2,1,0}"]
    flops = call(target, "bf16[2,8,512,40]{3,1,2,0}", types, f"backend_config={{{dimensions}}}}}")
    assert flops == products * 2.0 * math.prod((2, 8, 512, 1024)) * 40


def test_what_multiplies_nothing_and_what_does_not_say():
    assert call("__cudnn$norm", SMALL, [SMALL], "") == 0
    assert call("__cub$DeviceRadixSort", SMALL, [SMALL], "") == 0
    with pytest.raises(ValueError, match="'__cudnn[$]convReorderFilter' are out of sight"):
        call("__cudnn$convReorderFilter", SMALL, [SMALL], "")


def test_a_ragged_dot_is_not_counted():
    with pytest.raises(ValueError, match="^ragged-dot.3: the multiply-adds of a ragged dot depend on its d"):
        product_flops("ragged-dot.3", "ragged-dot", "f32[8,4]", ["f32[8,3]", "f32[2,3,4]", "s32[2]"], "%a)")


@pytest.mark.parametrize(("kernel", "products"), [("fwd", 2), ("dkv", 4), ("dq", 3)])
def test_a_flash_kernel_counts_with_and_without_an_axis_of_heads(kernel, products):
    masks = ["s8[1,2,2]{2,1,0}"] * 2
    for shape, heads in (("24,1,1536,128", 24), ("1,1536,128", 1)):
        types = [*masks, *[f"bf16[{shape}]{{2,1,0:T(8,128)(2,1)}}"] * 3]
        flops = call_flops(f"splash_mha_{kernel}_x.3", "", types, "")
        assert flops == products * 2 * heads * 1536 * 1536 * 128
