"""Instructions that multiply bytes, written in LLVM's language. Numba puts them into the loops of `kernels`.

Codes are unsigned bytes, and queries are signed bytes. Four neighbouring bytes of a token are a word. A vector holds
the words of several tokens, so no sum over a vector is needed. CPUs add the products of bytes in their own ways
(`KINDS`):

* AVX-512 VNNI and AVX-VNNI have one instruction that adds four products to a sum of 32 bits.
* AVX2 has an instruction that adds two products in 16 bits. Some such sums are added in 16 bits, too, and widened then.
  For codes of 8 bits, sums of two products do not fit, and products of 16 bits are used.
* On other CPUs, LLVM chooses the instructions for ordinary products of 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.extending import intrinsic

# The ways to multiply, by number.
PLAIN, AVX2, AVX_VNNI, AVX512_VNNI = range(4)
KINDS = {PLAIN: "plain", AVX2: "avx2", AVX_VNNI: "avx-vnni", AVX512_VNNI: "avx512-vnni"}
# For each: the words in a vector, the vectors of tokens and the query tokens that are multiplied at once. So many sums,
# with their operands, stand in the CPU's registers.
TILES = {PLAIN: (4, 2, 4), AVX2: (8, 2, 4), AVX_VNNI: (8, 2, 4), AVX512_VNNI: (16, 2, 6)}
# Number of tokens that are unpacked together. It is a multiple of the tokens of a tile.
CHUNK = 64
BYTES = 0x01010101
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


@lru_cache(maxsize=1)
def features() -> frozenset[str]:
    """Return the instructions for which Numba compiles, by their names in LLVM.

    These are the CPU's own, or those that the variable ``NUMBA_CPU_FEATURES`` names. If only ``NUMBA_CPU_NAME`` is set,
    the named CPU is taken to lack VNNI.
    """
    if config.CPU_FEATURES is not None:
        return frozenset(name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+"))
    found = {name for name, present in binding.get_host_cpu_features().items() if present}
    return frozenset(found if config.CPU_NAME is None else found - {"avx512vnni", "avxvnni"})


def available() -> list[int]:
    """Return the `KINDS` that this CPU can run. The last is the fastest. Equal CPUs always give the same answer."""
    found = [PLAIN]
    if "avx2" in features():
        found.append(AVX2)
    if "avxvnni" in features() or {"avx512vnni", "avx512vl"} <= features():
        found.append(AVX_VNNI)
    if {"avx512vnni", "avx512bw", "avx512vl"} <= features():
        found.append(AVX512_VNNI)
    return found


@intrinsic
def popcount(context: Any, word: Any) -> Any:
    """Return the number of set bits in a word, by the CPU's own instruction."""
    return types.uint32(types.uint32), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])


class _Vectors:
    """Writes vector instructions of LLVM. ``lanes`` is the number of words (numbers of 32 bits) in a vector."""

    def __init__(self, builder: Any, lanes: int, kind: int = PLAIN, bits: int = 1) -> None:
        self.builder = builder
        self.kind = kind
        self.bits = bits
        self.words = ir.VectorType(_I32, lanes)
        self.halves = ir.VectorType(_I16, 2 * lanes)
        self.bytes = ir.VectorType(_I8, 4 * lanes)
        # Whether sums of products are kept in 16 bits for a while. Two products with codes of 8 bits do not fit.
        self.narrow = kind in (PLAIN, AVX2) and bits < 8

    def at(self, address: Any, offset: int, kind: Any) -> Any:
        """Return a pointer to ``kind``, ``offset`` bytes after an address."""
        moved = self.builder.add(address, ir.Constant(_I64, offset))
        return self.builder.inttoptr(moved, kind.as_pointer())

    def load(self, address: Any, offset: int = 0, kind: Any = None) -> Any:
        """Return a vector of words, or one ``kind``, from an address that may be odd."""
        return self.builder.load(self.at(address, offset, kind or self.words), align=1)

    def everywhere(self, word: Any) -> Any:
        """Return a vector with ``word`` in each place."""
        nothing = ir.Constant(self.words, ir.Undefined)
        first = self.builder.insert_element(nothing, word, ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(self.words, [0] * self.words.count))

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(result, [argument.type for argument in arguments]), name
        )
        return self.builder.call(function, arguments)

    def with_number(self, operation: str, vector: Any, number: int) -> Any:
        """Return ``operation`` of each number of a vector and one ``number``."""
        return getattr(self.builder, operation)(vector, ir.Constant(vector.type, [number] * vector.type.count))

    def loop(self, steps: Any, start: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """Call ``body`` with the numbers from 0 to ``steps`` and what it returned before. There is at least one step.

        At first, it gets ``start``. Return what it returned last.
        """
        builder = self.builder
        before, block, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(block)
        builder.position_at_end(block)
        step, *values = (builder.phi(value.type) for value in (steps, *start))
        results = [builder.add(step, ir.Constant(_I64, 1)), *body(step, values)]
        for phi, first, following in zip((step, *values), (ir.Constant(_I64, 0), *start), results, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(following, block)
        builder.cbranch(builder.icmp_signed("<", results[0], steps), block, after)
        builder.position_at_end(after)
        return results[1:]

    def add_products(self, sums: Any, codes: Any, query: Any) -> Any:
        """Add to ``sums`` the products of unsigned codes with signed bytes of a query.

        Each sum of 32 bits gets four products. If `narrow`, each sum of 16 bits gets two.
        """
        if self.kind in (AVX_VNNI, AVX512_VNNI):
            return self.call(f"llvm.x86.avx512.vpdpbusd.{32 * self.words.count}", self.words, sums, codes, query)
        if self.kind == AVX2 and self.narrow:
            codes, query = (self.builder.bitcast(vector, self.bytes) for vector in (codes, query))
            return self.builder.add(sums, self.call("llvm.x86.avx2.pmadd.ub.sw", self.halves, codes, query))
        codes, query = (self.builder.bitcast(vector, self.halves) for vector in (codes, query))
        pairs = (
            (self.with_number("and_", codes, 255), self.with_number("ashr", self.with_number("shl", query, 8), 8)),
            (self.with_number("lshr", codes, 8), self.with_number("ashr", query, 8)),
        )
        for left, right in pairs:
            if self.kind == AVX2:
                product = self.call("llvm.x86.avx2.pmadd.wd", self.words, left, right)
            else:
                product = self.builder.mul(left, right)  # of one code, so it fits into 16 bits
                product = product if self.narrow else self.widened(product)
            sums = self.builder.add(sums, product)
        return sums

    def widened(self, halves: Any) -> Any:
        """Return the sums of two neighbouring numbers of 16 bits, in 32 bits."""
        halves = self.builder.bitcast(halves, self.words)
        lower = self.with_number("ashr", self.with_number("shl", halves, 16), 16)
        return self.builder.add(lower, self.with_number("ashr", halves, 16))

    def zeros(self) -> Any:
        """Return sums to begin with."""
        return ir.Constant(self.halves if self.narrow else self.words, None)


@intrinsic(prefer_literal=True)
def multiply(context: Any, kind: Any, bits: Any, codes: Any, queries: Any, words: Any, sums: Any) -> Any:
    """Add to ``sums`` (rows, CHUNK) the products of a tile: some unpacked tokens and some query tokens.

    ``codes`` (words, CHUNK) and ``queries`` (words, rows) are addresses of words of four bytes. ``kind`` is one of
    `KINDS`. If the sums of 16 bits are kept, they must fit.
    """
    lanes, vectors, rows = TILES[kind.literal_value]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, queries, words, sums = arguments[2:]
        write = _Vectors(builder, lanes, kind.literal_value, bits.literal_value)

        def step(word: Any, sums: list[Any]) -> list[Any]:
            tokens = builder.add(codes, builder.mul(word, ir.Constant(_I64, 4 * CHUNK)))
            row = builder.add(queries, builder.mul(word, ir.Constant(_I64, 4 * rows)))
            parts = [write.load(tokens, 4 * lanes * vector) for vector in range(vectors)]
            queries_of_row = [write.everywhere(write.load(row, 4 * i, _I32)) for i in range(rows)]
            pairs = ((part, query) for query in queries_of_row for part in parts)
            return [write.add_products(sum, *pair) for sum, pair in zip(sums, pairs, strict=True)]

        for i, sum in enumerate(write.loop(words, [write.zeros()] * (rows * vectors), step)):
            place = write.at(sums, 4 * (i // vectors * CHUNK + i % vectors * lanes), write.words)
            more = write.widened(sum) if write.narrow else sum
            builder.store(builder.add(builder.load(place, align=4), more), place, align=4)
        return context.get_dummy_value()

    return types.void(kind, bits, types.intp, types.intp, types.intp, types.intp), code


@intrinsic(prefer_literal=True)
def multiply_row(context: Any, kind: Any, bits: Any, codes: Any, query: Any, width: Any, steps: Any) -> Any:
    """Return the product of one token's packed codes with a query, for the first ``32 * steps`` bytes of the codes.

    ``codes`` (width) and ``query`` (codes of a byte, width) are addresses of bytes.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, query, width, steps = arguments[2:]
        lanes = 8
        write = _Vectors(builder, lanes, min(kind.literal_value, AVX_VNNI), bits.literal_value)

        def step(number: Any, sums: list[Any]) -> list[Any]:
            place = builder.mul(number, ir.Constant(_I64, 4 * lanes))
            packed, sum = write.load(builder.add(codes, place)), sums[0]
            for plane in range(8 // write.bits):
                unpacked = write.with_number("lshr", packed, plane * write.bits)
                unpacked = write.with_number("and_", unpacked, ((1 << write.bits) - 1) * BYTES)
                part = builder.add(place, builder.mul(width, ir.Constant(_I64, plane)))
                products = write.add_products(
                    write.zeros() if write.narrow else sum, unpacked, write.load(builder.add(query, part))
                )
                sum = builder.add(sum, write.widened(products)) if write.narrow else products
            return [sum]

        (sums,) = write.loop(steps, [ir.Constant(write.words, None)], step)
        return write.call(f"llvm.vector.reduce.add.v{lanes}i32", _I32, sums)

    return types.int32(kind, bits, types.intp, types.intp, types.intp, types.intp), code


@intrinsic
def transpose(context: Any, rows: Any, stride: Any, columns: Any) -> Any:
    """Transpose 8 x 8 words: from ``rows``, which are ``stride`` bytes apart, to ``columns`` of CHUNK words."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, stride, columns = arguments
        write = _Vectors(builder, 8)
        found = []
        for row in range(8):
            address = builder.add(rows, builder.mul(stride, ir.Constant(_I64, row)))
            found.append(write.load(address))
        # In three steps, rows exchange parts of 4, 2 and 1 words with the rows that are 4, 2 and 1 further.
        for distance in (4, 2, 1):
            for row in (row for row in range(8) if not row & distance):
                upper, lower = found[row], found[row + distance]
                places = [i if not i & distance else 8 + i - distance for i in range(8)]
                others = [i + distance if not i & distance else 8 + i for i in range(8)]
                found[row] = builder.shuffle_vector(upper, lower, ir.Constant(write.words, places))
                found[row + distance] = builder.shuffle_vector(upper, lower, ir.Constant(write.words, others))
        for row, column in enumerate(found):
            builder.store(column, write.at(columns, 4 * CHUNK * row, write.words), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), code
