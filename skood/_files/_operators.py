"""Operators that a stored network may consist of."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["NUMBERS", "check_arguments", "is_known", "operator_named"]

# Deterministic functions of tensors that check their arguments. Absent are operators that read
# files, draw random numbers, return memory without values, skip checks of bounds, or resize.
_FUNCTIONS = frozenset(
    """
    abs absolute acos acosh add addcdiv addcmul arctan2 asin asinh atan atan2 atanh bitwise_and
    bitwise_not bitwise_or bitwise_xor ceil clamp clamp_max clamp_min clip cos cosh deg2rad div
    divide eq erf erfc erfinv exp exp2 expm1 floor floor_divide fmax fmin fmod frac ge gt hypot
    isfinite isinf isnan le lerp log log10 log1p log2 logaddexp logical_and logical_not logical_or
    logical_xor logit lt masked_fill maximum minimum mul multiply nan_to_num ne neg negative pow
    rad2deg reciprocal remainder round rsqrt rsub sgn sigmoid sign sin sinc sinh sqrt square sub
    subtract tan tanh true_divide trunc where xlogy __and__ __or__ __xor__

    celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid log_softmax
    mish prelu relu relu6 selu silu softmax softplus softshrink threshold _softmax _log_softmax

    all amax amin aminmax any argmax argmin cosine_similarity count_nonzero cummax cummin cumprod
    cumsum linalg_norm linalg_vector_norm logcumsumexp logsumexp max mean median min nanmean nansum
    norm pairwise_distance prod std std_mean sum var var_mean

    addbmm addmm addmv baddbmm bilinear bmm cdist dot einsum inner kron linalg_cross
    linalg_matrix_norm linear matmul mm mv outer scaled_dot_product_attention tensordot vdot

    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator avg_pool1d avg_pool2d avg_pool3d
    channel_shuffle col2im constant_pad_nd conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d convolution grid_sampler grid_sampler_2d grid_sampler_3d im2col max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
    pad pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d _adaptive_avg_pool2d _adaptive_avg_pool3d

    batch_norm group_norm instance_norm layer_norm native_group_norm native_layer_norm rms_norm
    _native_batch_norm_legit_no_training _weight_norm _weight_norm_interface

    gru gru_cell lstm lstm_cell rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell

    alpha_dropout dropout embedding embedding_bag feature_alpha_dropout feature_dropout one_hot

    adjoint alias broadcast_tensors broadcast_to cat chunk clone concat concatenate contiguous copy
    detach diag diag_embed diagonal diagonal_scatter expand expand_as fill flatten flip fliplr
    flipud gather hstack index index_add index_copy index_fill index_put index_select lift_fresh
    lift_fresh_copy masked_scatter meshgrid moveaxis movedim narrow permute repeat
    repeat_interleave reshape reshape_as roll rot90 scatter scatter_add scatter_reduce select
    select_scatter slice slice_scatter split split_with_sizes squeeze stack swapaxes swapdims t
    take_along_dim tensor_split tile to transpose tril triu type_as unbind unflatten unfold
    unsafe_chunk unsafe_split unsqueeze view view_as vstack zero _to_copy _unsafe_view

    argsort bucketize kthvalue searchsorted sort topk

    arange eye full full_like linspace new_full new_ones new_zeros ones ones_like scalar_tensor
    sym_numel sym_size sym_stride tril_indices triu_indices zeros zeros_like

    complex conj fft_fft fft_fft2 fft_fftn fft_ifft fft_ifft2 fft_ifftn fft_irfft fft_irfft2
    fft_irfftn fft_rfft fft_rfft2 fft_rfftn imag polar real resolve_conj view_as_complex
    view_as_real
    """.split()
)

# Arithmetic with sizes, such as the number of items in a batch.
NUMBERS: dict[str, Callable[..., Any]] = {
    "abs": operator.abs,
    "add": operator.add,
    "eq": operator.eq,
    "floordiv": operator.floordiv,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
    "mod": operator.mod,
    "mul": operator.mul,
    "ne": operator.ne,
    "neg": operator.neg,
    "sub": operator.sub,
    "sym_float": torch.sym_float,
    "sym_int": torch.sym_int,
    "sym_ite": torch.sym_ite,
    "sym_max": torch.sym_max,
    "sym_min": torch.sym_min,
    "sym_not": torch.sym_not,
    "truediv": operator.truediv,
}

_NAME = re.compile(r"aten\.([a-z0-9_]+)\.([A-Za-z0-9_]+)")


def is_known(name: str) -> bool:
    """Whether ``aten.NAME.OVERLOAD`` is an operator that a file may name."""
    return _overload(name) is not None


def operator_named(name: str) -> Any:
    """Return the operator ``aten.NAME.OVERLOAD``.

    Raises
    ------
    ValueError
        If it is not on the list of operators that a file may name.
    """
    found = _overload(name)
    if found is None:
        raise ValueError(
            f"the operator {name!r} is not one that a file may name, or this version of torch, "
            f"{torch.__version__}, does not have it"
        )
    return found


def _overload(name: str) -> Any:
    matched = _NAME.fullmatch(name)
    if matched is None:
        return None
    base, overload = matched.groups()
    if base not in _FUNCTIONS and not (base.endswith("_") and base[:-1] in _FUNCTIONS):
        return None
    packet = getattr(torch.ops.aten, base, None)
    if packet is None or overload not in packet.overloads():
        return None
    found = getattr(packet, overload)
    return None if any(argument.is_out for argument in found._schema.arguments) else found


def check_arguments(name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Raise a ValueError if an operator does not take such arguments.

    Parameters
    ----------
    name : str
        ``aten.NAME.OVERLOAD``.
    args, kwargs : list, dict
        Values; references to other values of the graph are dicts.
    """
    schema = operator_named(name)._schema.arguments
    by_position = [argument for argument in schema if not argument.kwarg_only]
    known = {argument.name for argument in schema}
    given = {argument.name for argument in by_position[: len(args)]}
    missing = [
        argument.name
        for argument in schema
        if not argument.has_default_value() and argument.name not in given | kwargs.keys()
    ]
    if len(args) > len(by_position) or not kwargs.keys() <= known - given or missing:
        raise ValueError(
            f"the operator {name} is called with {len(args)} arguments and {sorted(kwargs)}; "
            f"expected {', '.join(argument.name for argument in schema)}"
        )
    if _draws_masks(schema, args, kwargs):
        raise ValueError(f"the operator {name} draws random masks")


def _draws_masks(schema: list[Any], args: list[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operator with dropout draws masks, as in training."""
    for position, argument in enumerate(schema):
        if argument.name in ("train", "dropout_p"):
            off = 0 if argument.name == "dropout_p" else False
            value = args[position] if position < len(args) else kwargs.get(argument.name, off)
            return value != off
    return False
