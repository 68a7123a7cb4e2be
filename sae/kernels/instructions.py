"""Instructions that numba has no words for, written in LLVM's: prefetching, the lowest bit, and products of bytes (x86, AVX2),
of rows in full (`screen_bytes`) and of rows as lists of what is not zero in them (`screen_list`).

Where there is `vpdpbusd` (AVX-512 VNNI, AVX-VNNI), which adds four products of bytes to a sum of 32 bits at once, `screen_bytes`
uses it: one instruction for what takes two and a half otherwise, and nothing that could overflow 16 bits.

`no_type_check` as in `native_rows`.
"""

import platform
from typing import Any, no_type_check

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from sae.kernels.assembly import CONSTRAINTS, byte_products
from sae.processor import can

GROUP_ROWS, PANEL = 6, 16
"""Rows and features of `screen_bytes`: twelve sums in registers. Other shapes measured alike, within 5 %."""
TOGETHER = 8
"""Quads whose products `screen_bytes` adds in 16 bits before it widens them. Cycles for 64 products, Zen 3: 2 quads 1.9, 4 1.6, 8
1.45, 16 1.4; without any widening 1.25, where its two multiplying ports allow 1."""

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_BYTES, _SHORTS, _INTS = ir.VectorType(_I8, 32), ir.VectorType(_I16, 16), ir.VectorType(_I32, 8)
_FLOATS = ir.VectorType(ir.FloatType(), 8)
COLUMN, GROUP = 48, 6
"""Features of `screen_list`, and pairs of a row's entries whose products are added in 16 bits. 48 features fit the registers
and the first cache (24 kB at d_mlp 512): 66 ms where 64 took 70 and 32 took 73."""
_VECTORS = PANEL // 8
_FUSED = {"flags": ("contract",)}
_SIXTEEN = ir.Constant(_INTS, [16] * 8)

if platform.machine() in ("x86_64", "AMD64"):
    binding.initialize_native_asmparser()  # for `assembly`; numba alone does not


def dot_product_bits() -> int:
    """The width of `vpdpbusd`, 512 or 256, or 0 where compiled code may not use it."""
    if can("avx512f") and can("avx512vnni"):
        return 512
    return 256 if can("avxvnni") else 0


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
    `rows` (uint32 [group, quad, row], four unsigned bytes each), v the feature's in `panels` (uint32 [panel, quad, feature],
    four signed bytes), a multiple of `TOGETHER` quads; `of_rows` is float32 [group, row, (scale, low, norm, lost)],
    `of_panels` float32 [panel, (scale, sum, lost, norm, threshold), feature]. The products of bytes 0 and 1, and of bytes 2
    and 3, of `TOGETHER` quads are added in 16 bits: there the Euclidean norms of a row's and of an encoder's levels may multiply
    to 32,767, no more. With `dot_product_bits` they may be any."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        emit = _Emit(context, builder, signature, values)
        (x, n_quads), (w, _) = emit.item(0, values[1]), emit.item(2, values[3])
        (of_x, _), (of_w, _) = emit.item(4, values[1]), emit.item(5, values[3])
        bits = dot_product_bits()
        products = emit.dot_products(x, w, n_quads, bits) if bits else emit.products(x, w, n_quads)
        out = emit.array(6)
        width = builder.extract_value(out.shape, 1)
        for row in range(GROUP_ROWS):
            here = builder.gep(of_x, [_number(16 * row)])
            mask = emit.mask(products[row * _VECTORS : (row + 1) * _VECTORS], here, of_w)
            place = builder.add(builder.mul(builder.add(values[7], _number(row)), width), values[3])
            builder.store(builder.trunc(mask, _I16), builder.gep(out.data, [place]))
        return context.get_dummy_value()

    return types.void(rows, types.intp, panels, types.intp, of_rows, of_panels, masks, types.intp), generate


@intrinsic
@no_type_check
def screen_list(typing, places, levels, row, n_groups, columns, column, of_rows, of_columns):
    """Which features of a column may be active on a row: a uint64, bit i for the column's feature i. The condition is that of
    `screen_bytes`.

    The row is a list of pairs of neurons, of which one at least is not zero: `places` int32 [row, pair] (byte offsets within a
    column) and `levels` uint32 [row, pair] (the two unsigned bytes, twice), of which the first `n_groups` times `GROUP` are
    read, at least one group; the levels of a group may add up to 258, no more. `columns` are the encoders' bytes, int8 [column,
    pair of neurons, 2 · COLUMN]: for each feature two, by sixteens of features in the order 0, 8, 1, 9, ... 15, so that taking
    even and odd sums apart puts them in order. `of_rows` is float32 [row, 1, 4], `of_columns` float32 [column, 5, COLUMN]."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        emit = _Emit(context, builder, signature, values)
        w, of_x, of_w = emit.item(4, values[5])[0], emit.item(6, values[2])[0], emit.item(7, values[5])[0]
        products = emit.listed(emit.line(0, values[2]), emit.line(1, values[2]), values[3], w)
        return emit.mask(products, of_x, of_w)

    return types.uint64(places, levels, types.intp, types.intp, columns, types.intp, of_rows, of_columns), generate


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

    def line(self, which: int, index: Any) -> Any:
        """The address of `argument[index]` of a contiguous array with two axes."""
        build, of = self.builder, self.array(which)
        return build.bitcast(build.gep(of.data, [build.mul(index, build.extract_value(of.shape, 1))]), _I8.as_pointer())

    def load(self, base: Any, offset: Any, kind: Any, align: int = 4) -> Any:
        build = self.builder
        return build.load(build.bitcast(build.gep(base, [offset]), kind.as_pointer()), align=align)

    def spread(self, base: Any, offset: Any, kind: Any) -> Any:
        """One number in all places of a vector."""
        undefined = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(undefined, self.load(base, offset, kind.element), ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count))

    def instruction(self, name: str, result: Any, operand: Any) -> Any:
        kind = ir.FunctionType(result, [operand, operand])
        return self.builder.module.declare_intrinsic(f"llvm.x86.avx2.{name}", (), kind)

    def products(self, x: Any, w: Any, n_quads: Any) -> list[Any]:
        """Σ u v by row and half of the panel, eight int32 each, by `assembly.byte_products`."""
        build, n_sums = self.builder, GROUP_ROWS * _VECTORS
        with build.goto_entry_block():  # a place of the function's, not one more at each turn of a loop around this
            sums = build.alloca(_INTS, n_sums)
        sums.align = 32
        address, blocks = _I8.as_pointer(), build.udiv(n_quads, _number(TOGETHER))
        kind = ir.FunctionType(ir.LiteralStructType([address, address, _I64]), [address, address, _I64, address])
        text = ir.InlineAsm(kind, byte_products(GROUP_ROWS, _VECTORS, TOGETHER), CONSTRAINTS, side_effect=True)
        build.call(text, [x, w, blocks, build.bitcast(sums, address)])
        return [self.load(build.bitcast(sums, address), _number(32 * i), _INTS, align=32) for i in range(n_sums)]

    def dot_products(self, x: Any, w: Any, n_quads: Any, bits: int) -> list[Any]:
        """As `products`, by `vpdpbusd` on vectors of so many bits. There are twelve sums, so that an addition need not wait for
        the one before: with vectors of 512 bits even and odd quads have sums of their own."""
        build, kind = self.builder, ir.VectorType(_I32, bits // 32)
        n_vectors, n_chains = 32 * PANEL // bits, bits // 256
        function = ir.FunctionType(kind, [kind] * 3)
        multiply = build.module.declare_intrinsic(f"llvm.x86.avx512.vpdpbusd.{bits}", (), function)
        before, loop, after = build.block, build.append_basic_block("quads"), build.append_basic_block("products")
        build.branch(loop)
        build.position_at_end(loop)
        quad, n_sums = build.phi(_I64), GROUP_ROWS * n_vectors
        sums = [build.phi(kind) for _ in range(n_chains * n_sums)]
        results: list[Any] = []
        for chain in range(n_chains):
            at = build.add(quad, _number(chain))
            at_x, at_w = build.mul(at, _number(4 * GROUP_ROWS)), build.mul(at, _number(4 * PANEL))
            weights = [self.load(w, build.add(at_w, _number(bits // 8 * i)), kind) for i in range(n_vectors)]
            spread = [self.spread(x, build.add(at_x, _number(4 * row)), kind) for row in range(GROUP_ROWS)]
            pairs = [(levels, encoders) for levels in spread for encoders in weights]
            results += [build.call(multiply, [sums[chain * n_sums + i], *pair]) for i, pair in enumerate(pairs)]
        following = build.add(quad, _number(n_chains))
        starts = [_number(0), *[ir.Constant(kind, [0] * kind.count)] * len(sums)]
        for phi, start, end in zip([quad, *sums], starts, [following, *results], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(end, loop)
        build.cbranch(build.icmp_signed("<", following, n_quads), loop, after)
        build.position_at_end(after)
        whole = results if n_chains == 1 else [build.add(*both) for both in zip(results[:n_sums], results[n_sums:], strict=True)]
        return [self.eight(each, first) for each in whole for first in range(0, kind.count, 8)]

    def eight(self, vector: Any, first: int) -> Any:
        """Eight of a vector's numbers, from `first` on."""
        places = ir.Constant(ir.VectorType(_I32, 8), list(range(first, first + 8)))
        return self.builder.shuffle_vector(vector, vector, places)

    def listed(self, places: Any, levels: Any, n_groups: Any, w: Any) -> list[Any]:
        """Σ u v of one row by eight features of the column, int32: a loop over groups of entries.

        Sums of eight products lie side by side in 16 bits, an even and an odd one in 32. The odd one is taken out by a shift, and
        both are added up as they lie, the even one made positive first so that it borrows nothing from the odd one."""
        build = self.builder
        before, loop, after = build.block, build.append_basic_block("groups"), build.append_basic_block("listed")
        build.branch(loop)
        build.position_at_end(loop)
        group, n_sums = build.phi(_I64), COLUMN // 16
        whole, odd = ([build.phi(_INTS) for _ in range(n_sums)] for _ in range(2))
        shorts = self.group(places, levels, build.mul(group, _number(GROUP)), w)
        raised = [build.xor(build.bitcast(short, _INTS), ir.Constant(_INTS, [0x8000] * 8)) for short in shorts]
        following = build.add(group, _number(1))
        whole_after = [build.add(*pair) for pair in zip(whole, raised, strict=True)]
        odd_after = [build.add(phi, build.ashr(value, _SIXTEEN)) for phi, value in zip(odd, raised, strict=True)]
        phis, starts = [group, *whole, *odd], [_number(0), *[ir.Constant(_INTS, [0] * 8)] * (2 * n_sums)]
        for phi, start, result in zip(phis, starts, [following, *whole_after, *odd_after], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(result, loop)
        build.cbranch(build.icmp_signed("<", following, n_groups), loop, after)
        build.position_at_end(after)
        added = build.insert_element(ir.Constant(_INTS, ir.Undefined), build.trunc(n_groups, _I32), ir.Constant(_I32, 0))
        added = build.shl(build.shuffle_vector(added, added, ir.Constant(_INTS, [0] * 8)), ir.Constant(_INTS, [15] * 8))
        evens = [build.sub(build.sub(a, build.shl(b, _SIXTEEN)), added) for a, b in zip(whole_after, odd_after, strict=True)]
        return [each for pair in zip(evens, odd_after, strict=True) for each in pair]

    def group(self, places: Any, levels: Any, first: Any, w: Any) -> list[Any]:
        """Sums of a group's products in 16 bits, a vector for 16 features."""
        build, multiply = self.builder, self.instruction("pmadd.ub.sw", _SHORTS, _BYTES)
        sums: list[Any] = []
        for pair in range(GROUP):
            at = build.mul(build.add(first, _number(pair)), _number(4))
            weights = build.gep(w, [build.zext(self.load(places, at, _I32), _I64)])
            x = build.bitcast(self.spread(levels, at, _INTS), _BYTES)
            products = [
                build.call(multiply, [x, self.load(weights, _number(32 * i), _BYTES, align=32)]) for i in range(COLUMN // 16)
            ]
            sums = [build.add(*both) for both in zip(sums, products, strict=True)] if sums else products
        return sums

    def mask(self, products: list[Any], of_x: Any, of_w: Any) -> Any:
        """Of one row, a bit a feature (int64): above the threshold or not. Eight features for each of `products`."""
        build, width = self.builder, 8 * len(products)
        found: Any = ir.Constant(_I64, 0)
        scale_r, *others_r = (self.spread(of_x, _number(4 * i), _FLOATS) for i in range(4))
        for column, sums in enumerate(products):
            scale, *others, threshold = (self.load(of_w, _number(4 * (width * i + 8 * column)), _FLOATS) for i in range(5))
            levels = build.fmul(scale, build.sitofp(sums, _FLOATS), **_FUSED)
            margin = build.fsub(build.fmul(scale_r, levels, **_FUSED), threshold, **_FUSED)
            for of_row, of_feature in zip(others_r, others, strict=True):
                margin = build.fadd(margin, build.fmul(of_row, of_feature, **_FUSED), **_FUSED)
            above = build.fcmp_ordered(">", margin, ir.Constant(_FLOATS, [0.0] * 8))
            bits = build.zext(build.bitcast(above, _I8), _I64)
            found = build.or_(found, build.shl(bits, ir.Constant(_I64, 8 * column)))
        return found
