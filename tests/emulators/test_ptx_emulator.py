"""The PTX emulator: results and errors of kernels of a few lines."""

import os

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

from .ptx import Deadlock, EmulationError, Invalid, Race, Unknown
from .ptx.arithmetic import narrow, widen
from .ptx.launch import run
from .ptx.memory import Global

THREADS = 64
INT32 = 2**32


def execute(body: str, programs: int = 1, size: int = THREADS, seed: int = 0) -> list[int]:
    """Run `body` and return out[size], int32, which is initialized with -1.

    Registers: %r0 is the thread, %r1 its address in shared memory, %rd1 its address in out, %rd0
    the address of out, %rd2 that of a counter, and %p0 selects the first thread.
    """
    ptx = f"""
        .visible .entry kernel(.param .u64 kernel_param_0, .param .u64 kernel_param_1)
        .reqntid {THREADS}
        {{
        .reg .pred %p<9>; .reg .b16 %rs<9>;
        .reg .b32 %r<9>;
        .reg .b64 %rd<9>;
        ld.param.b64 %rd0, [kernel_param_0];
        ld.param.b64 %rd2, [kernel_param_1];
        mov.u32 %r0, %tid.x;
        mad.wide.u32 %rd1, %r0, 4, %rd0;
        mov.b32 %r8, global_smem;
        mad.lo.s32 %r1, %r0, 4, %r8;
        setp.eq.b32 %p0, %r0, 0; // only this thread counts
        {body}
        ret;
        }}
    """.replace("; .reg", ";\n.reg")
    out = torch.full((size,), -1, dtype=torch.int32)
    counter = torch.zeros(1, dtype=torch.int64)
    random = np.random.default_rng(seed)
    run(ptx, programs, (out, counter), 4 * THREADS, True, random)
    return [value % INT32 for value in out.tolist()]


RESULT = "st.global.b32 [%rd1], %r2;"


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ("shl.b32 %r2, 3, %r0;", lambda t: (3 << t) % INT32),
        ("shr.u32 %r2, -1, %r0;", lambda t: (INT32 - 1) >> t),
        ("shr.s32 %r2, -100, %r0;", lambda t: -100 >> t),
        (
            "sub.s32 %r3, %r0, 7;\nadd.s32 %r4, %r0, 1;\ndiv.s32 %r2, %r3, 4;",
            lambda t: int((t - 7) / 4),
        ),
        ("bfe.u32 %r2, %r0, 1, 3;", lambda t: t >> 1 & 7),
        ("bfe.s32 %r2, %r0, 1, 1;", lambda t: -(t >> 1 & 1)),
        ("prmt.b32 %r2, %r0, 0x44332211, 0x0765U;", lambda t: (t << 24) + 0x443322),
        ("prmt.b32 %r2, 0x7F80FF01, %r0, 0xBA98;", lambda t: 0x00FFFF00),
        ("mul.hi.u32 %r2, %r0, 0x80000001;", lambda t: t * 0x80000001 >> 32),
        ("mul.wide.s32 %rd3, %r0, -5;\ncvt.u32.u64 %r2, %rd3;", lambda t: -5 * t),
        ("shfl.sync.bfly.b32 %r2, %r0, 5, 31, -1;", lambda t: t ^ 5),
        ("shfl.sync.idx.b32 %r2, %r0, 2, 31, -1;", lambda t: t // 32 * 32 + 2),
        ("mov.b32 %r2, 9;\n@!%p0 mov.b32 %r2, 8;", lambda t: 9 if t == 0 else 8),
        ("setp.lt.s32 %p1, %r0, -1;\nselp.b32 %r2, 1, 2, %p1;", lambda t: 2),
        ("setp.lt.u32 %p1, %r0, -1;\nselp.b32 %r2, 1, 2, %p1;", lambda t: 1),
        ("mov.b32 {%rs1, %rs2}, %r0;\nmov.b32 %r2, {%rs2, %rs1};", lambda t: t << 16),
        ("setp.neu.f32 %p1, 0f7FC00000, 0f7FC00000;\nselp.b32 %r2, 1, 2, %p1;", lambda t: 1),
        ("setp.ne.f32 %p1, 0f7FC00000, 0f7FC00000;\nselp.b32 %r2, 1, 2, %p1;", lambda t: 2),
        ("fma.rn.f32 %r2, 0f40000000, 0f40400000, 0fBF800000;", lambda t: 0x40A00000),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arithmetic(instructions: str, expected) -> None:
    assert execute(instructions + RESULT) == [expected(t) % INT32 for t in range(THREADS)]


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_rounding_to_half_precision_matches_torch(kind: str, dtype: torch.dtype) -> None:
    """For random bits, which include ties."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (100_000,), generator=generator).int()
    bits[::2] &= ~0x1FFF  # ties
    values = bits.view(torch.float32)
    with np.errstate(over="ignore"):
        rounded = torch.from_numpy(widen(narrow(values.numpy(), kind), kind))
    torch.testing.assert_close(rounded, values.to(dtype).float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("at", range(4))
def test_a_thread_can_read_bytes_of_a_word_it_wrote(at: int) -> None:
    write = "mul.lo.s32 %r3, %r0, 0x01020304;\nst.global.b32 [%rd1], %r3;"
    read = f"ld.global.b8 {{ %rs1 }}, [%rd1+{at}];\ncvt.u32.u16 %r2, %rs1;"
    bytes_of = [(t * 0x01020304 % INT32).to_bytes(4, "little") for t in range(THREADS)]
    assert execute(f"{write}\n{read}\n{RESULT}") == [word[at] for word in bytes_of]


def test_threads_can_write_different_bytes_of_a_word() -> None:
    """As stores to a boolean mask do. Two threads that write the same byte race."""
    own = "cvt.u16.u32 %rs1, %r0;\nst.shared.b8 [{}], %rs1;\nbar.sync 0;"
    read = "ld.shared.b8 %rs2, [%r3];\ncvt.u32.u16 %r2, %rs2;"
    apart = "add.s32 %r3, %r8, %r0;"
    assert execute(f"{apart}\n{own.format('%r3')}\n{read}\n{RESULT}") == list(range(THREADS))
    shared = "shr.u32 %r4, %r0, 1;\nadd.s32 %r3, %r8, %r4;"
    with pytest.raises(Race, match="different values"):
        execute(f"{shared}\n{own.format('%r3')}\n{read}\n{RESULT}")


def test_bounds_are_exact_to_the_byte() -> None:
    tensor = torch.zeros(5, dtype=torch.uint8)
    memory = Global([tensor], 1)
    byte = memory.address(tensor) + np.arange(6)
    assert memory.offsets(byte[:5], 1, "").shape == (5, 1)
    for beyond in (byte[:1] - 1, byte[5:]):
        with pytest.raises(Invalid, match="out of bounds"):
            memory.offsets(beyond, 1, "")


NEIGHBOUR = "xor.b32 %r3, %r1, {};\nld.shared.b32 %r2, [%r3];"


@pytest.mark.parametrize("distance", [1, 32])
def test_shared_memory(distance: int) -> None:
    """A barrier orders accesses; without one a thread can read only its own writes."""
    write = "st.shared.b32 [%r1], %r0;"
    read = NEIGHBOUR.format(4 * distance)
    expected = [t ^ distance for t in range(THREADS)]
    assert execute(f"{write}\nbar.sync 0;\n{read}\n{RESULT}") == expected
    with pytest.raises(Race, match="earlier write"):
        execute(f"{write}\n{read}\n{RESULT}")
    with pytest.raises(Race, match="earlier read"):
        execute(f"{write}\nbar.sync 0;\n{read}\n{write}")
    warps = f"{write}\nbar.warp.sync -1;\n{read}\n{RESULT}"
    if distance < 32:
        assert execute(warps) == expected
    else:
        with pytest.raises(Race):
            execute(warps)


def test_uninitialized_shared_memory_is_nan() -> None:
    values = np.array(execute(f"ld.shared.b32 %r2, [%r1];\n{RESULT}"), np.uint32)
    assert np.isnan(values.view(np.float32)).all()


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("st.global.b32 [%rd1+4], %r0;", Invalid, "out of bounds"),
        ("ld.global.b32 %r2, [%rd1+-4];", Invalid, "out of bounds"),
        ("st.shared.b32 [%r1+4], %r0;", Invalid, "out of bounds"),
        ("ld.global.b8 %rs1, [%rd1+4];", Invalid, "out of bounds"),
        ("ld.global.b32 %r2, [%rd1+2];", Invalid, "misaligned"),
        ("st.global.b32 [%rd0], %r0;", Race, "different values"),
        ("add.s32 %r2, %r3, 1;\nmov.b32 %r3, 1;", Invalid, "%r3 is read before"),
        ("@%p0 bra $there;\n$there:", Invalid, "threads diverge"),
        ("$here:\nbra $here;", Deadlock, "infinite loop"),
        ("popc.b32 %r2, %r0;", Unknown, "popc"),
        ("add.sat.s32 %r2, %r0, 1;", Unknown, "add.sat"),
        ("ld.global.nc.b32 %r2, [%rd1];", Unknown, "ld.global.nc"),
        ("@%p0 bar.sync 0;", Invalid, "all threads must be active"),
    ],
)
def test_errors(body: str, error: type[EmulationError], message: str) -> None:
    with pytest.raises(error, match=message):
        execute(body)


# Program 0 writes and increments the counter; program 1 waits for it and reads.
SEND = """
    mov.u32 %r5, %ctaid.x;
    setp.ne.b32 %p1, %r5, 0;
    setp.eq.b32 %p2, %r5, 0;
    and.pred %p3, %p2, %p0;
    @%p2 st.global.b32 [%rd1], %r0;
    bar.sync 0;
    mov.b64 %rd4, 1;
    @%p3 {};
"""
COUNTS = {
    "atom": SEND.format("atom.global.gpu.release.add.u64 %rd3, [%rd2], %rd4"),
    "red": SEND.format("red.global.gpu.release.add.u64 [%rd2], %rd4"),
}
RECEIVE = """
    $wait:
    mov.b64 %rd5, 0;
    @%p0 ld.global.gpu.acquire.b64 %rd5, [%rd2];
    bar.sync 0;
    @%p0 st.shared.b64 [global_smem], %rd5;
    bar.sync 0;
    ld.shared.b64 %rd6, [global_smem];
    setp.eq.b64 %p4, %rd6, 0;
    @%p4 bra $wait;
"""
REVERSED = """
    xor.b32 %r6, %r0, 63;
    mad.wide.u32 %rd7, %r6, 4, %rd0;
    @%p1 ld.global.b32 %r2, [%rd7];
    @%p1 st.global.b32 [%rd1+256], %r2;
"""


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", COUNTS)
def test_a_release_and_an_acquire_order_programs(count: str, seed: int) -> None:
    values = execute(COUNTS[count] + RECEIVE + REVERSED, 2, 2 * THREADS, seed)
    assert values == [*range(THREADS), *reversed(range(THREADS))]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (".release", "", Race),
        (".gpu.release", ".cta.release", Race),
        ("bar.sync 0;\n    mov", "mov", Race),  # the other threads' writes are not released
        (".gpu.acquire", "", Race),
        ("@%p4 bra $wait;", "", Race),  # does not wait
        ("mov.b64 %rd4, 1", "mov.b64 %rd4, 0", Deadlock),
    ],
)
def test_incomplete_synchronization_is_reported(
    old: str, new: str, error: type[EmulationError], count: str
) -> None:
    """In at least one interleaving, and always with the same error."""
    body = COUNTS[count] + RECEIVE + REVERSED
    assert old in body
    found = []
    for seed in range(10):
        try:
            execute(body.replace(old, new), 2, 2 * THREADS, seed)
        except EmulationError as problem:
            found.append(type(problem))
    assert set(found) == {error}
