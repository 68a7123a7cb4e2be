"""The loop of `instructions.screen_bytes`, in x86 assembly (AVX2).

The sixteen registers hold exactly what is needed. Written with LLVM's vectors, the same products are taken in another order,
half of them through memory, and nothing is gained over widening after every second product (82 ms for 4,096 x 4,096 x 512 on
one core of a Zen 3; so 64).
"""

CONSTRAINTS = ",".join(["=&r,=&r,=&r,0,1,2,r", *(f"~{{ymm{i}}}" for i in range(16)), "~{memory},~{dirflag},~{fpsr},~{flags}"])
"""Of the call (rows, encoders, blocks, sums). The first three are counted on, and come back: LLVM numbers them 0 to 2 as results
and 3 to 5 as operands, so that the sums are 6."""


def byte_products(n_rows: int, n_vectors: int, together: int) -> str:
    """Σ u v of `n_rows` rows' unsigned bytes and `n_vectors` vectors of encoders' signed ones, eight features each, into memory:
    int32 [row, vector, 8], by 32 bytes aligned.

    Rows lie as [quad, row] and encoders as [quad, vector, 8], quads of four bytes, `together` quads a block. The products of a
    block are added in 16 bits. `n_rows` times `n_vectors` sums, the vectors and two more must fit sixteen registers."""
    n_sums = n_rows * n_vectors
    assert n_sums + n_vectors + 2 <= 16, "more than there are registers"
    spread, product = f"%ymm{n_sums + n_vectors}", f"%ymm{n_sums + n_vectors + 1}"
    lines = ["vpxor %ymm0, %ymm0, %ymm0"]
    lines += [f"vmovdqa %ymm0, {32 * i}($6)" for i in range(n_sums)]
    lines += [".p2align 5", "1:"]
    for quad in range(together):
        lines += [f"vmovdqa {32 * (quad * n_vectors + i)}($1), %ymm{n_sums + i}" for i in range(n_vectors)]
        for row in range(n_rows):
            lines.append(f"vpbroadcastd {4 * (quad * n_rows + row)}($0), {spread}")
            for i in range(n_vectors):
                total = f"%ymm{row * n_vectors + i}"
                if quad == 0:
                    lines.append(f"vpmaddubsw %ymm{n_sums + i}, {spread}, {total}")
                else:
                    lines.append(f"vpmaddubsw %ymm{n_sums + i}, {spread}, {product}")
                    lines.append(f"vpaddw {product}, {total}, {total}")
    lines += [f"vpcmpeqd {spread}, {spread}, {spread}", f"vpsrlw $$15, {spread}, {spread}"]  # ones
    for i in range(n_sums):
        lines += [f"vpmaddwd {spread}, %ymm{i}, %ymm{i}", f"vpaddd {32 * i}($6), %ymm{i}, %ymm{i}"]
        lines.append(f"vmovdqa %ymm{i}, {32 * i}($6)")
    lines += [f"addq $${4 * together * n_rows}, $0", f"addq $${32 * together * n_vectors}, $1", "decq $2", "jnz 1b"]
    return "\n".join(lines)
