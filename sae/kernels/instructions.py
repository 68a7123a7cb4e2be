"""Instructions that numba has no words for, written in LLVM's: prefetching, the lowest bit, and products of bytes (x86, AVX2).

`no_type_check` as in `native_rows`.
"""

from typing import Any, no_type_check

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

GROUP_ROWS, PANEL = 5, 16
"""Rows and features of `screen_bytes`: ten sums of eight in registers. Other shapes measured alike, within 5 %."""

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_BYTES, _SHORTS, _INTS = ir.VectorType(_I8, 32), ir.VectorType(_I16, 16), ir.VectorType(_I32, 8)
_FLOATS = ir.VectorType(ir.FloatType(), 8)
_VECTORS = PANEL // 8
_FUSED = {"flags": ("contract",)}


@intrinsic
@no_type_check
def prefetch_line(typing, array, row, column):
    """Ask for the cache line of `array[row, column]`, contiguous; nothing happens where it lies outside."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        base = context.make_array(signature.args[0])(context, builder, values[0])
        width = builder.extract_value(base.shape, 1)
        place = builder.gep(base.data, [builder.add(builder.mul(values[1], width), values[2])])
        address = builder.bitcast(place, _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, _I32, _I32, _I32])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (address.type,), kind)
        builder.call(prefetch, [address, *(ir.Constant(_I32, value) for value in (0, 3, 1))])  # to read, to keep, data
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


@intrinsic
@no_type_check
def lowest_bit(typing, mask):
    """The position of the lowest bit that is set in a uint64, of which one must be."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
@no_type_check
def screen_bytes(typing, rows, group, panels, panel, of_rows, of_panels, masks, first_row):
    """Which entries of a group of rows and a panel of features may be active: bit i of `masks[first_row + r, panel]` (uint16) is
    the panel's feature i on the group's row r.

    Those with scale_r scale_j Σ u v + low_r sum_j + norm_r lost_j + lost_r norm_j > threshold_j, where u are the row's bytes in
    `rows` (uint32 [group, quad, row], four unsigned bytes each), v the feature's in `panels` (uint32 [panel, quad, feature], four
    signed bytes), an even number of quads; `of_rows` is float32 [group, row, (scale, low, norm, lost)], `of_panels` float32
    [panel, (scale, sum, lost, norm, threshold), feature]. In each row the bytes 0 and 1, and 2 and 3, of quads 2i and 2i + 1 may
    add up to 258, no more: their products with v, at most 127, are added in 16 bits."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        emit = _Emit(context, builder, signature, values)
        (x, n_quads), (w, _) = emit.item(0, values[1]), emit.item(2, values[3])
        (of_x, _), (of_w, _) = emit.item(4, values[1]), emit.item(5, values[3])
        found = emit.masks(emit.products(x, w, n_quads), of_x, of_w)
        out = emit.array(6)
        width = builder.extract_value(out.shape, 1)
        for row, mask in enumerate(found):
            place = builder.add(builder.mul(builder.add(values[7], _number(row)), width), values[3])
            builder.store(mask, builder.gep(out.data, [place]))
        return context.get_dummy_value()

    return types.void(rows, types.intp, panels, types.intp, of_rows, of_panels, masks, types.intp), generate


def _number(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


class _Emit:
    """Writes the parts of `screen_bytes`."""

    def __init__(self, context: Any, builder: ir.IRBuilder, signature: Any, values: Any):
        self.context, self.builder, self.signature, self.values = context, builder, signature, values

    def array(self, which: int) -> Any:
        return self.context.make_array(self.signature.args[which])(self.context, self.builder, self.values[which])

    def item(self, which: int, index: Any) -> tuple[Any, Any]:
        """The address of `argument[index]` of a contiguous array with three axes, and the length of the second."""
        build, of = self.builder, self.array(which)
        shape = [build.extract_value(of.shape, axis) for axis in (1, 2)]
        place = build.gep(of.data, [build.mul(index, build.mul(*shape))])
        return build.bitcast(place, _I8.as_pointer()), shape[0]

    def load(self, base: Any, offset: Any, kind: Any) -> Any:
        build = self.builder
        return build.load(build.bitcast(build.gep(base, [offset]), kind.as_pointer()), align=4)

    def spread(self, base: Any, offset: Any, kind: Any) -> Any:
        """One number in all places of a vector."""
        undefined = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(undefined, self.load(base, offset, kind.element), ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(_INTS, [0] * 8))

    def instruction(self, name: str, result: Any, operand: Any) -> Any:
        kind = ir.FunctionType(result, [operand, operand])
        return self.builder.module.declare_intrinsic(f"llvm.x86.avx2.{name}", (), kind)

    def products(self, x: Any, w: Any, n_quads: Any) -> list[Any]:
        """Σ u v by row and half of the panel, eight int32 each: a loop over pairs of quads."""
        build, ones = self.builder, ir.Constant(_SHORTS, [1] * 16)
        multiply, widen = self.instruction("pmadd.ub.sw", _SHORTS, _BYTES), self.instruction("pmadd.wd", _INTS, _SHORTS)
        before, loop, after = build.block, build.append_basic_block("quads"), build.append_basic_block("products")
        build.branch(loop)
        build.position_at_end(loop)
        quad, sums = build.phi(_I64), [build.phi(_INTS) for _ in range(GROUP_ROWS * _VECTORS)]
        at_x, at_w = build.mul(quad, _number(4 * GROUP_ROWS)), build.mul(quad, _number(4 * PANEL))
        weights = [self.load(w, build.add(at_w, _number(32 * i)), _BYTES) for i in range(2 * _VECTORS)]
        results = []
        for row in range(GROUP_ROWS):
            pair = [self.spread(x, build.add(at_x, _number(4 * (row + GROUP_ROWS * i))), _INTS) for i in range(2)]
            for column in range(_VECTORS):
                halves = [build.call(multiply, [build.bitcast(pair[i], _BYTES), weights[i * _VECTORS + column]]) for i in (0, 1)]
                results.append(build.add(sums[row * _VECTORS + column], build.call(widen, [build.add(*halves), ones])))
        following = build.add(quad, _number(2))
        for phi, start, result in zip(
            [quad, *sums], [_number(0), *[ir.Constant(_INTS, [0] * 8)] * len(sums)], [following, *results], strict=True
        ):
            phi.add_incoming(start, before)
            phi.add_incoming(result, loop)
        build.cbranch(build.icmp_signed("<", following, n_quads), loop, after)
        build.position_at_end(after)
        return results

    def masks(self, products: list[Any], of_x: Any, of_w: Any) -> list[Any]:
        """Of each row a bit a feature: above the threshold or not."""
        build = self.builder
        found = [ir.Constant(_I16, 0)] * GROUP_ROWS
        for column in range(_VECTORS):
            scale, *others, threshold = (self.load(of_w, _number(4 * (PANEL * i + 8 * column)), _FLOATS) for i in range(5))
            for row in range(GROUP_ROWS):
                scale_r, *others_r = (self.spread(of_x, _number(4 * (4 * row + i)), _FLOATS) for i in range(4))
                levels = build.fmul(scale, build.sitofp(products[row * _VECTORS + column], _FLOATS), **_FUSED)
                margin = build.fsub(build.fmul(scale_r, levels, **_FUSED), threshold, **_FUSED)
                for of_row, of_feature in zip(others_r, others, strict=True):
                    margin = build.fadd(margin, build.fmul(of_row, of_feature, **_FUSED), **_FUSED)
                above = build.fcmp_ordered(">", margin, ir.Constant(_FLOATS, [0.0] * 8))
                bits = build.zext(build.bitcast(above, _I8), _I16)
                found[row] = build.or_(found[row], build.shl(bits, ir.Constant(_I16, 8 * column)))
        return found
