"""Bytes that kernels move, of programs written by hand as XLA writes those of a GPU."""

import textwrap

import pytest

from rats_jax.aot.traffic import count_traffic

PROGRAM = """
%fused_slice (param_0: bf16[6,32,64], param_1: s32[]) -> bf16[32,64] {
  %param_0 = bf16[6,32,64]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = bf16[1,32,64]{2,1,0} dynamic-slice(%param_0, %param_1, %zero, %zero), dynamic_slice_sizes={1,32,64}
  ROOT %flat = bf16[32,64]{1,0} bitcast(%slice)
}

%fused_update (param_0: f32[6,8], param_1: f32[8], param_2: s32[]) -> f32[6,8] {
  %param_0 = f32[6,8]{1,0} parameter(0)
  %param_1 = f32[8]{0} parameter(1)
  %row = f32[1,8]{1,0} bitcast(%param_1)
  %param_2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %update = f32[6,8]{1,0} dynamic-update-slice(%param_0, %row, %param_2, %zero)
}

%body (state: (s32[], bf16[6,32,64], f32[6,8], f32[8])) -> (s32[], bf16[6,32,64], f32[6,8], f32[8]) {
  %state = (s32[], bf16[6,32,64]{2,1,0}, f32[6,8]{1,0}, f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %stack = bf16[6,32,64]{2,1,0} get-tuple-element(%state), index=1
  %rows = f32[6,8]{1,0} get-tuple-element(%state), index=2
  %row = f32[8]{0} get-tuple-element(%state), index=3
  %loop_slice_fusion.3 = bf16[32,64]{1,0} fusion(%stack, %i), kind=kLoop, calls=%fused_slice
  %custom-call.7 = (bf16[32,32]{1,0}, s8[1024]{0}) custom-call(%loop_slice_fusion.3, %loop_slice_fusion.3), \
custom_call_target="__cublas$lt$matmul"
  %loop_update_fusion = f32[6,8]{1,0} fusion(%rows, %row, %i), kind=kLoop, calls=%fused_update
  ROOT %next = (s32[], bf16[6,32,64]{2,1,0}, f32[6,8]{1,0}, f32[8]{0}) \
tuple(%i, %stack, %loop_update_fusion, %row)
}

ENTRY %main (x: bf16[6,32,64], y: f32[6,8], z: f32[8]) -> f32[6,8] {
  %x = bf16[6,32,64]{2,1,0} parameter(0)
  %y = f32[6,8]{1,0} parameter(1)
  %z = f32[8]{0} parameter(2)
  %start = s32[] constant(0)
  %copy.1 = f32[6,8]{1,0} copy(%y)
  %init = (s32[], bf16[6,32,64]{2,1,0}, f32[6,8]{1,0}, f32[8]{0}) tuple(%start, %x, %copy.1, %z)
  %while = (s32[], bf16[6,32,64]{2,1,0}, f32[6,8]{1,0}, f32[8]{0}) while(%init), \
condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  ROOT %out = f32[6,8]{1,0} get-tuple-element(%while), index=2
}
"""
LAYER = 2 * 32 * 64


def test_a_layer_is_read_from_its_stack_and_a_row_written_in_its_place():
    moved = count_traffic(textwrap.dedent(PROGRAM).lstrip())
    assert moved == {
        "loop_slice_fusion": 6 * (2 * LAYER + 4),  # the layer, its copy, and the counter
        "__cublas$lt$matmul": 6 * (2 * LAYER + 2 * 32 * 32),  # not what it computes in
        "loop_update_fusion": 6 * (2 * 4 * 8 + 4),  # the row and where it goes, not the other rows
        "copy": 2 * 4 * 6 * 8,
    }
    assert list(moved)[0] == "__cublas$lt$matmul"


def test_a_kernel_that_runs_beside_others_counts_once():
    start = "((bf16[6,32,64]{2,1,0}, s32[]), bf16[32,64]{1,0}, u32[]) fusion-start("
    text = PROGRAM.replace("%loop_slice_fusion.3 = bf16[32,64]{1,0} fusion(", f"%fusion-start.3 = {start}")
    done = "  %loop_slice_fusion.3 = bf16[32,64]{1,0} fusion-done(%fusion-start.3)\n  %custom-call.7"
    moved = count_traffic(text.replace("  %custom-call.7", done))
    assert moved["fusion-start"] == 6 * (2 * LAYER + 4) and "loop_slice_fusion" not in moved


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="^while: the trip count of the loop is not in the text"):
        count_traffic(PROGRAM.replace("known_trip_count", "unknown"))
