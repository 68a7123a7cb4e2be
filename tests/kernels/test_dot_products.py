"""`vpdpbusd`: that the step's code for it is what LLVM makes of it on processors that have it, and that its sums are right.

Few machines of the tests have the instruction. So its code is compiled for processors that do, and looked at; and it runs here
with the instruction replaced by a function in plain words, bit for bit beside whole numbers.
"""

import ctypes

import numpy as np
import pytest
from llvmlite import binding, ir

from sae.kernels import instructions
from sae.kernels.byte_screens import multiplies_bytes
from sae.kernels.instructions import GROUP_ROWS, PANEL, dot_product_bits
from sae.kernels.native_bytes import aligned_zeros

TRIPLE = "x86_64-unknown-linux-gnu"
BYTE, WORD, LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
needs_x86 = pytest.mark.skipif(not multiplies_bytes(), reason="runs x86 code with AVX2")


def module_of(bits):
    """`void sums(rows, encoders, n_quads, out)`, with one group of rows, one panel of features, by `vpdpbusd` of `bits`."""
    module = ir.Module()
    kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), BYTE.as_pointer(), LONG, BYTE.as_pointer()])
    function = ir.Function(module, kind, "sums")
    builder = ir.IRBuilder(function.append_basic_block())
    x, w, n_quads, out = function.args
    emit = instructions._Emit(None, builder, None, None)
    for i, eight in enumerate(emit.dot_products(x, w, n_quads, bits)):
        place = builder.gep(out, [ir.Constant(LONG, 32 * i)])
        builder.store(eight, builder.bitcast(place, eight.type.as_pointer()), align=4)
    builder.ret_void()
    return module


def in_plain_words(bits):
    """A module with the instruction's meaning, as Intel's manual has it: each sum of 32 bits and four products of an unsigned
    and a signed byte, not saturated."""
    module, n = ir.Module(), bits // 8
    sums, wide = ir.VectorType(WORD, n // 4), ir.VectorType(WORD, n)
    function = ir.Function(module, ir.FunctionType(sums, [sums] * 3), "plain")
    builder = ir.IRBuilder(function.append_basic_block())
    total, unsigned, signed = function.args
    unsigned = builder.zext(builder.bitcast(unsigned, ir.VectorType(BYTE, n)), wide)
    products = builder.mul(unsigned, builder.sext(builder.bitcast(signed, ir.VectorType(BYTE, n)), wide))
    for k in range(4):
        places = ir.Constant(ir.VectorType(WORD, n // 4), list(range(k, n, 4)))
        total = builder.add(total, builder.shuffle_vector(products, products, places))
    builder.ret(total)
    return module


def compute(text, rows, encoders, n_quads):
    """Run `sums` of a module on this processor: int32 [row, feature]."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten()
    )
    module = binding.parse_assembly(text)
    module.verify()
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    pointer = ctypes.c_void_p
    call = ctypes.CFUNCTYPE(None, pointer, pointer, ctypes.c_int64, pointer)(engine.get_function_address("sums"))
    out = np.empty((GROUP_ROWS, PANEL), np.int32)
    call(rows.ctypes.data, encoders.ctypes.data, n_quads, out.ctypes.data)
    return out


def bytes_and_sums(n_quads):
    """Bytes as they lie for `screen_bytes`, the greatest of both signs among them, and their sums in whole numbers."""
    chance = np.random.default_rng(n_quads)
    rows = chance.integers(0, 256, (n_quads, GROUP_ROWS, 4)).astype(np.uint8)
    encoders = aligned_zeros((n_quads, PANEL, 4), np.int8)
    encoders[:] = chance.integers(-127, 128, encoders.shape)
    rows[:, 0] = 255
    encoders[:, 0] = 127
    encoders[:, 1] = -127
    return rows, encoders, np.einsum("qrk,qfk->rf", rows.astype(np.int64), encoders.astype(np.int64))


@pytest.mark.parametrize(("bits", "processor"), [(512, "znver4"), (512, "sapphirerapids"), (256, "alderlake"), (256, "znver5")])
def test_processors_that_have_it_are_given_it(bits, processor):
    """Twelve in a turn of the loop, no product of bytes by another instruction, and no sum that goes through memory."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(TRIPLE).create_target_machine(cpu=processor, opt=3)
    module = module_of(bits)
    module.triple = TRIPLE
    lines = machine.emit_assembly(binding.parse_assembly(str(module))).splitlines()
    found = [line for line in lines if "vpdpbusd" in line]
    assert len(found) == GROUP_ROWS * PANEL // 8
    assert all(("zmm" if bits == 512 else "ymm") in line for line in found)
    assert not any("pmaddubsw" in line or "call" in line or "rsp" in line for line in lines)


@needs_x86
@pytest.mark.parametrize("bits", [256, 512])
@pytest.mark.parametrize("n_quads", [2, 128])
def test_its_sums_are_whole_numbers(bits, n_quads):
    """With the instruction in plain words, on any x86."""
    name = f'@"llvm.x86.avx512.vpdpbusd.{bits}"'
    lines = str(module_of(bits)).splitlines()
    text = "\n".join(line for line in lines if not (line.startswith("declare") and name in line)).replace(name, '@"plain"')
    function = str(in_plain_words(bits)).split("\n", 3)[3]
    rows, encoders, wanted = bytes_and_sums(n_quads)
    assert (compute(text + "\n" + function, rows, encoders, n_quads) == wanted).all()


@needs_x86
@pytest.mark.skipif(not dot_product_bits(), reason="this processor, or numba's target, has no vpdpbusd")
def test_the_instruction_itself():
    rows, encoders, wanted = bytes_and_sums(128)
    assert (compute(str(module_of(dot_product_bits())), rows, encoders, 128) == wanted).all()


@pytest.mark.parametrize(
    ("can", "bits"),
    [
        ("avx2 avx512f avx512vnni", 512),
        ("avx2 avx512f avx512vnni avxvnni", 512),
        ("avx2 avx512vnni", 0),
        ("avx2 avx512f", 0),
        ("avx2 avxvnni", 256),
        ("avx2", 0),
        ("", 0),
    ],
)
def test_the_width_is_what_compiled_code_may_use(can, bits, monkeypatch):
    """`sae.processor` answers for processor, torch and numba together."""
    monkeypatch.setattr(instructions, "can", can.split().__contains__)
    assert dot_product_bits() == bits
