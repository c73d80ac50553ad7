"""The interpreter of PTX does what the PTX ISA says, and stops where the hardware would not answer."""

import random

import numpy as np
import ptx_machine
import ptx_text
import pytest
from emulator import Memory
from ptx_memory import Fault

KERNEL = """
.version 9.0
.target sm_90a
.address_size 64

.visible .entry kernel(
	.param .u64 kernel_param_0,
	.param .u64 kernel_param_1
)
.maxntid 128, 1, 1
{
	.reg .pred 	%p<9>;
	.reg .b16 	%rs<9>;
	.reg .b32 	%r<40>;
	.reg .f32 	%f<40>;
	.reg .b64 	%rd<40>;
	.reg .f64 	%fd<9>;
	.shared .align 4 .b8 shared[4096];

	ld.param.u64 	%rd1, [kernel_param_0];
	ld.param.u64 	%rd2, [kernel_param_1];
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd3, %r1, 8;
	add.s64 	%rd4, %rd1, %rd3;
	mul.wide.u32 	%rd5, %r1, 32;
	add.s64 	%rd6, %rd2, %rd5;
CODE
	ret;

}
"""


def run(code, inputs=(), threads=32):
    """uint64 of each thread that ``code`` writes to [%rd4]; its inputs are at [%rd6], 8 bytes each."""
    memory = Memory()
    out = memory.add(np.full(threads, 7, np.uint64))
    given = memory.add(np.zeros((threads, 4), np.uint64))
    for i, values in enumerate(inputs):
        values = np.broadcast_to(values, threads)
        given.view(values.dtype)[:, i * 8 // values.itemsize] = values
    program = ptx_text.read(KERNEL.replace("CODE", code))
    ptx_machine.run(program, (1, 1), threads, [out.ctypes.data, given.ctypes.data], memory, random.Random(0))
    return out


F32, F64, S32, U32, S64, U64 = np.float32, np.float64, np.int32, np.uint32, np.int64, np.uint64
NAN, INF = np.nan, np.inf
ONE = {  # instruction: [(inputs..., expected)]
    "add.s32": [(S32(5), S32(-7), S32(-2)), (S32(2**31 - 1), S32(1), S32(-(2**31)))],
    "sub.s64": [(S64(5), S64(7), S64(-2))],
    "add.f32": [(F32(1), F32(2**-24), F32(1)), (F32(INF), F32(-INF), F32(NAN))],
    "mul.lo.s32": [(S32(-70000), S32(70000), S32(-605032704))],
    "mul.lo.s64": [(S64(-3), S64(2**40), S64(-3 * 2**40))],
    "mul.f32": [(F32(3), F32(-0.5), F32(-1.5))],
    "div.s64": [(S64(-7), S64(2), S64(-3)), (S64(7), S64(-2), S64(-3)), (S64(-6), S64(-3), S64(2))],
    "rem.s64": [(S64(-7), S64(2), S64(-1)), (S64(7), S64(-2), S64(1))],
    "div.u32": [(U32(2**32 - 1), U32(2), U32(2**31 - 1))],
    "max.f32": [(F32(NAN), F32(1), F32(1)), (F32(-3), F32(-4), F32(-3))],
    "min.s32": [(S32(-1), S32(0), S32(-1))],
    "min.u32": [(U32(2**32 - 1), U32(0), U32(0))],
    "fma.rn.f32": [(F32(1 + 2**-23), F32(1 - 2**-23), F32(-1), F32(-(2.0**-46)))],
    "fma.rn.f64": [(F64(1 + 2**-30), F64(1 - 2**-30), F64(-1), F64(-(2.0**-60)))],
    "abs.f32": [(F32(-0.5), F32(0.5))],
    "neg.s64": [(S64(-5), S64(5))],
    "not.b32": [(U32(0xF0), U32(0xFFFFFF0F))],
    "and.b64": [(U64(0xFF00FF), U64(0x0FF0F0), U64(0x0F00F0))],
    "xor.b32": [(U32(6), U32(3), U32(5))],
    "ex2.approx.ftz.f32": [
        (F32(-1), F32(0.5)),
        (F32(-127), F32(0)),
        (F32(-INF), F32(0)),
        (F32(200), F32(INF)),
    ],
    "rcp.rn.f32": [(F32(4), F32(0.25))],
    "selp.f32": [(F32(1), F32(2), True, F32(1)), (F32(1), F32(2), False, F32(2))],
    "shl.b32": [(U32(3), U32(4), U32(48)), (U32(1), U32(40), U32(0))],
    "shr.u32": [(U32(0x80000000), U32(31), U32(1)), (U32(5), U32(32), U32(0))],
    "shr.s32": [(S32(-8), U32(1), S32(-4)), (S32(-8), U32(50), S32(-1)), (S32(8), U32(50), S32(0))],
    "shf.r.wrap.b32": [(U32(0x10), U32(0x3), U32(4), U32(0x30000001)), (U32(9), U32(1), U32(32), U32(9))],
    "cvt.s64.s32": [(S32(-1), S64(-1))],
    "cvt.u64.u32": [(U32(2**32 - 1), U64(2**32 - 1))],
    "cvt.u32.u64": [(U64(2**33 + 5), U32(5))],
    "cvt.rn.f32.s32": [(S32(-3), F32(-3))],
    "cvt.rn.bf16x2.f32": [(F32(1), F32(-2), U32(0x3F80C000)), (F32(1 + 2**-8), F32(NAN), U32(0x3F807FFF))],
    "cvt.rn.f16x2.f32": [(F32(1), F32(-2), U32(0x3C00C000))],
    "mad.lo.s32": [(S32(3), S32(-4), S32(5), S32(-7))],
}


def register(value, number):
    letter, wide = "f" if value.dtype.kind == "f" else "r", "d" if value.itemsize == 8 else ""
    return f"%{letter}{wide}{number if letter + wide == 'fd' else 20 + number}"


@pytest.mark.parametrize("opcode", ONE)
def test_arithmetic(opcode):
    """Each instruction on what distinguishes it from its neighbours."""
    for *inputs, expected in ONE[opcode]:
        code, operands, given = "", [], []
        for i, value in enumerate(inputs):
            if isinstance(value, bool):
                code += f"setp.eq.s32 %p{i}, {int(value)}, 1;\n"
                operands.append(f"%p{i}")
            else:
                operands.append(register(value, i))
                code += f"ld.global.b{8 * value.itemsize} {operands[-1]}, [%rd6+{8 * len(given)}];\n"
                given.append(value)
        target = register(expected, 8)
        code += (
            f"{opcode} {target}, {', '.join(operands)};\nst.global.b{8 * expected.itemsize} [%rd4], {target};"
        )
        got = run(code, given).view(expected.dtype)[:: 8 // expected.itemsize]
        np.testing.assert_array_equal(got, np.full(32, expected))


@pytest.mark.parametrize(
    ("relation", "a", "b", "expected"),
    [
        ("lt.s32", S32(-1), S32(0), 1), ("lt.u32", U32(2**32 - 1), U32(0), 0), ("ne.s32", S32(3), S32(3), 0),
        ("lt.f32", F32(NAN), F32(1), 0), ("ne.f32", F32(NAN), F32(1), 0), ("geu.f32", F32(NAN), F32(1), 1),
        ("geu.f32", F32(0), F32(1), 0), ("eq.f32", F32(-0.0), F32(0), 1), ("gt.f32", F32(2), F32(1), 1),
    ],
)  # fmt: skip
def test_comparisons(relation, a, b, expected):
    """What is no number is in no relation, unless it is an unordered one."""
    kind, letter = relation[-3:], "f" if relation[-3] == "f" else "r"
    code = f"""
    ld.global.{kind} %{letter}20, [%rd6]; ld.global.{kind} %{letter}21, [%rd6+8];
    setp.{relation} %p1, %{letter}20, %{letter}21;
    selp.u64 %rd30, 1, 0, %p1; st.global.u64 [%rd4], %rd30;"""
    np.testing.assert_array_equal(run(code, [a, b]), expected)


def test_lanes_that_disagree_go_their_own_ways_and_meet_again():
    """Lane t counts to t, odd ones by twos; then all shuffle together."""
    code = """
    mov.u32 %r2, 0; mov.u32 %r3, 0; and.b32 %r4, %r1, 1; setp.eq.s32 %p1, %r4, 0;
$again:
    setp.ge.s32 %p2, %r2, %r1;
    @%p2 bra $done;
    @%p1 bra $even;
    add.s32 %r2, %r2, 2; bra.uni $counted;
$even:
    add.s32 %r2, %r2, 1;
$counted:
    add.s32 %r3, %r3, 1; bra $again;
$done:
    mov.b32 %r5, 1; mov.b32 %r6, 31; mov.b32 %r7, -1;
    shfl.sync.bfly.b32 %r8|%p3, %r3, %r5, %r6, %r7;
    cvt.u64.u32 %rd30, %r8; st.global.u64 [%rd4], %rd30;"""
    steps = np.array([t if t % 2 == 0 else (t + 1) // 2 for t in range(32)])
    np.testing.assert_array_equal(run(code), steps[np.arange(32) ^ 1])


def test_names_in_braces_are_their_own():
    code = """
    mov.b64 %rd7, 5; { .reg .b32 l, h; mov.b64 {l, h}, %rd7; add.s32 %r2, l, 1; }
    { .reg .b32 l; mov.b32 l, 9; add.s32 %r3, l, %r2; } mov.b64 %rd8, {%r3, %r2};
    st.global.u64 [%rd4], %rd8;"""
    np.testing.assert_array_equal(run(code), 15 + (6 << 32))


def fragments(rng, storage):
    """A, B, C, and the registers of 32 lanes that hold them, as the PTX ISA's tables say."""
    a, b = (rng.integers(-8, 8, size).astype(np.float32) for size in ((16, 16), (16, 8)))
    c = rng.standard_normal((16, 8)).astype(np.float32)

    def bits(number):
        if storage == "f16":
            return int(np.float16(number).view(np.uint16))
        return int(np.float32(number).view(np.uint32)) >> 16

    lanes = []
    for lane in range(32):
        g, t = divmod(lane, 4)
        rows, columns = (g, g + 8, g, g + 8), (2 * t, 2 * t, 2 * t + 8, 2 * t + 8)
        words = [bits(a[r, col]) | bits(a[r, col + 1]) << 16 for r, col in zip(rows, columns, strict=True)]
        words += [bits(b[r, g]) | bits(b[r + 1, g]) << 16 for r in (2 * t, 2 * t + 8)]
        lanes.append((words, [c[g, 2 * t], c[g, 2 * t + 1], c[g + 8, 2 * t], c[g + 8, 2 * t + 1]]))
    return a @ b + c, lanes


@pytest.mark.parametrize("storage", ["f16", "bf16"])
def test_products_of_matrices(storage, rng):
    expected, lanes = fragments(rng, storage)
    words = np.array([words for words, _ in lanes], np.uint64)
    c = np.array([c for _, c in lanes], np.float32).view(np.uint32).astype(np.uint64)
    given = [words[:, i] | words[:, i + 1] << np.uint64(32) for i in (0, 2, 4)]
    for e in range(4):
        sums = ",".join("%f1" if i == e else "%f2" for i in range(4))
        code = f"""
        ld.global.v4.u32 {{%r10,%r11,%r12,%r13}}, [%rd6]; ld.global.u64 %rd7, [%rd6+16];
        mov.b64 {{%r14,%r15}}, %rd7;
        ld.global.f32 %f1, [%rd6+24]; mov.f32 %f2, 0f00000000;
        mma.sync.aligned.m16n8k16.row.col.f32.{storage}.{storage}.f32
        {{%f4,%f5,%f6,%f7}}, {{%r10,%r11,%r12,%r13}}, {{%r14,%r15}}, {{{sums}}};
        st.global.f32 [%rd4], %f{4 + e};"""
        got = run(code, [*given, c[:, e]]).view(np.float32)[::2]
        wanted = [expected[lane // 4 + 8 * (e // 2), 2 * (lane % 4) + e % 2] for lane in range(32)]
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_of_shared_memory(transposed):
    """Thread t writes row t: of matrix t // 8 row t % 8; element e of it is 8 t + e."""
    row = np.arange(32 * 8, dtype=np.uint16).reshape(32, 8).view(np.uint64).reshape(32, 2)
    given = [row[:, 0], row[:, 1]]
    for m in range(4):
        code = f"""
        mov.u64 %rd7, shared; add.s64 %rd7, %rd7, 15; and.b64 %rd7, %rd7, -16; cvt.u32.u64 %r2, %rd7;
        shl.b32 %r3, %r1, 4; add.s32 %r2, %r2, %r3;
        ld.global.v4.u32 {{%r10,%r11,%r12,%r13}}, [%rd6]; st.shared.v4.u32 [%r2], {{%r10,%r11,%r12,%r13}};
        bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4{".trans" * transposed}.shared.b16 {{%r20,%r21,%r22,%r23}}, [%r2];
        cvt.u64.u32 %rd8, %r{20 + m}; st.global.u64 [%rd4], %rd8;"""
        got = run(code, given)
        for lane in range(32):
            g, c = divmod(lane, 4)
            pairs = [(2 * c, g), (2 * c + 1, g)] if transposed else [(g, 2 * c), (g, 2 * c + 1)]
            low, high = (8 * (8 * m + r) + e for r, e in pairs)
            assert got[lane] == low | high << 16


SHARED = "mov.u64 %rd7, shared; cvt.u32.u64 %r2, %rd7; shl.b32 %r3, %r1, 2; add.s32 %r4, %r2, %r3;"
NEIGHBOUR = SHARED + "xor.b32 %r5, %r3, 4; add.s32 %r6, %r2, %r5;"
COPY = """mov.u64 %rd7, shared; add.s64 %rd7, %rd7, 15; and.b64 %rd7, %rd7, -16; add.s64 %rd7, %rd7, %rd5;
cvt.u32.u64 %r4, %rd7; cp.async.cg.shared.global [%r4], [%rd6], 16;"""
FAULTS = {
    "outside of any buffer": "st.global.u64 [%rd4+8192], %rd3;",
    "outside of any buffer: ld": "ld.global.u64 %rd30, [%rd4+-8];",
    "4 bytes of global memory that is not aligned": "ld.global.u32 %r9, [%rd4+2];",
    "two threads of a launch write the same memory": "st.global.u64 [%rd1], %rd3;",
    "another thread of this launch has written": "st.global.u64 [%rd4], %rd3; ld.global.u64 %rd30, [%rd1];",
    "reads what this launch has written": "st.global.u64 [%rd4], %rd3; ld.global.nc.u64 %rd30, [%rd4];",
    "outside of shared memory": SHARED + "st.shared.u32 [%r4+4096], %r1;",
    "shared memory that is not aligned": SHARED + "st.shared.u32 [%r4+2], %r1;",
    "read that another thread wrote": NEIGHBOUR + "st.shared.u32 [%r4], %r1; ld.shared.u32 %r9, [%r6];",
    "written that another thread read": NEIGHBOUR + "ld.shared.u32 %r9, [%r6]; st.shared.u32 [%r4], %r1;",
    "two threads write the same shared memory": SHARED + "st.shared.u32 [%r2], %r1;",
    "before a copy to it has been waited for": COPY + "bar.sync 0; ld.shared.u32 %r9, [%r4];",
    "written while a copy to it is under way": COPY + "st.shared.u32 [%r4], %r1;",
    "a block ended before its copies arrived": COPY,
    "wait for each other at": "setp.lt.s32 %p1, %r1, 9; @%p1 bra $out; bar.sync 0;\n$out:",
    "wait for each other at shfl": """
    setp.lt.s32 %p1, %r1, 9; @%p1 bra $out;
    shfl.sync.bfly.b32 %r8|%p3, %r3, 1, 31, -1;\n$out:""",
    "shuffles that the mask does not name": "shfl.sync.bfly.b32 %r8|%p3, %r3, 1, 31, 65535;",
    "name different masks": "shfl.sync.bfly.b32 %r8|%p3, %r3, 1, 31, %r1;",
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_faults(message):
    message, _, instruction = message.partition(": ")
    with pytest.raises(Fault, match=message) as caught:
        run(FAULTS[message if not instruction else f"{message}: {instruction}"], threads=64)
    assert instruction in str(caught.value)


def test_what_faults_is_right_with_a_barrier_or_a_wait():
    code = (
        NEIGHBOUR
        + """
    st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r9, [%r6];
    cvt.u64.u32 %rd30, %r9; st.global.u64 [%rd4], %rd30;"""
    )
    np.testing.assert_array_equal(run(code, threads=64), np.arange(64) ^ 1)
    code = (
        COPY
        + """
    cp.async.wait_all; bar.sync 0; mov.u64 %rd8, shared; add.s64 %rd8, %rd8, 15; and.b64 %rd8, %rd8, -16;
    xor.b64 %rd9, %rd5, 32; add.s64 %rd8, %rd8, %rd9; cvt.u32.u64 %r6, %rd8; ld.shared.u32 %r9, [%r6];
    cvt.u64.u32 %rd30, %r9; st.global.u64 [%rd4], %rd30;"""
    )
    np.testing.assert_array_equal(run(code, [np.arange(64, dtype=np.uint64)], threads=64), np.arange(64) ^ 1)


def test_more_threads_than_the_kernel_was_compiled_for_are_a_fault():
    with pytest.raises(Fault, match="160 threads are launched"):
        run("", threads=160)


@pytest.mark.parametrize(
    "code", ["sqrt.rn.f32 %f1, %f2;", "add.sat.s32 %r2, %r1, 1;", "cvt.rzi.s32.f32 %r2, %f1;",
             "red.global.add.f32 [%rd4], %f1;", "@%p1 add.s32 %r2, %r1, 1;", "st.local.u32 [%r1], %r1;"],
)  # fmt: skip
def test_unknown_instructions_stop_with_their_text(code):
    text = " ".join(code.rstrip(";").split())
    with pytest.raises(NotImplementedError, match="unknown instruction") as caught:
        run(code)
    assert text in str(caught.value)


def test_only_one_kernel_without_functions_is_read():
    with pytest.raises(ValueError, match="got 0 kernels"):
        ptx_text.read(".version 9.0")
    with pytest.raises(NotImplementedError, match="unknown directive"):
        ptx_text.read(KERNEL.replace("CODE", ".local .align 8 .b8 depot[16];"))
