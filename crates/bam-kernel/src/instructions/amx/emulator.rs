//! AMX on a processor without it, for tests: its instructions trap, and the handler of the trap does
//! what the manual says they do.

use super::permission::{EMULATED, granted};
use super::tiles::SIDE;
use std::cell::UnsafeCell;
use std::sync::Once;
use std::sync::atomic::Ordering;

/// Makes AMX usable: the processor's own where it has it, else this.
pub(super) fn provide() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if granted() {
            return;
        }
        // SAFETY: the handler has the signature that SA_SIGINFO asks for and lives forever.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_illegal_instruction as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(
                libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()),
                0
            );
        }
        EMULATED.store(true, Ordering::Release);
    });
}

/// 16 rows of 16 numbers of 32 bits.
type Tile = [[u32; SIDE]; SIDE];

#[derive(Clone, Copy)]
struct State {
    configured: bool,
    tiles: [Tile; 8],
    count: Count,
}

/// Instructions that were emulated on a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub loads: usize,
    pub products: usize,
    pub stores: usize,
}

thread_local! {
    static STATE: UnsafeCell<State> = const {
        UnsafeCell::new(State {
            configured: false,
            tiles: [[[0; SIDE]; SIDE]; 8],
            count: Count { loads: 0, products: 0, stores: 0 },
        })
    };
}

/// The instructions that `run` takes on this thread; `None` where they are the processor's own.
pub(super) fn counted(run: impl FnOnce()) -> Option<Count> {
    // SAFETY: no reference to the state outlives an emulated instruction, and none is emulated here.
    let count = || STATE.with(|state| unsafe { (*state.get()).count });
    let before = count();
    run();
    let after = count();
    EMULATED.load(Ordering::Acquire).then(|| Count {
        loads: after.loads - before.loads,
        products: after.products - before.products,
        stores: after.stores - before.stores,
    })
}

/// An instruction of the family `VEX.128.pp.0F38.W0`, its registers and where its memory is.
struct Decoded {
    prefix: u8,
    opcode: u8,
    reg: usize,
    rm: usize,
    vvvv: usize,
    /// Base and displacement, and the index register, if it has a memory operand.
    memory: Option<(usize, usize)>,
    length: usize,
}

extern "C" fn on_illegal_instruction(
    _: libc::c_int,
    _: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes the interrupted thread's context; the bytes at its instruction pointer
    // are code, so they can be read.
    let done = unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let registers = &mut context.uc_mcontext.gregs;
        let code = registers[libc::REG_RIP as usize] as *const u8;
        decode(code, registers).is_some_and(|decoded| {
            registers[libc::REG_RIP as usize] += decoded.length as i64;
            STATE.with(|state| execute(&mut *state.get(), &decoded))
        })
    };
    if !done {
        // Not ours: the instruction traps again, and the process ends as it would have.
        // SAFETY: the default action has no conditions.
        unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
    }
}

/// `None` if these bytes are no instruction of the family.
unsafe fn decode(code: *const u8, registers: &[libc::greg_t; 23]) -> Option<Decoded> {
    /// The registers in the order in which instructions number them.
    const NUMBERED: [libc::c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    let register = |number: usize| registers[NUMBERED[number] as usize] as usize;
    // SAFETY: the caller's promise; longer instructions are read only as far as they go.
    let byte = |at: usize| unsafe { *code.add(at) };
    let (first, second, third) = (byte(0), byte(1), byte(2));
    // Map 0F38, no W, 128 bits.
    if first != 0xC4 || second & 0x1F != 2 || third & 0x84 != 0 {
        return None;
    }
    let (extend_index, extend_base) = (second & 0x40 == 0, second & 0x20 == 0);
    let modrm = byte(4);
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let number = |low: u8, extended: bool| usize::from(low) + if extended { 8 } else { 0 };
    let mut length = 5;
    let memory = if mode == 3 {
        None
    } else {
        let (base, index) = if rm == 4 {
            let sib = byte(5);
            length += 1;
            // Index 4 without extension is none.
            let index = match number(sib >> 3 & 7, extend_index) {
                4 => 0,
                index => register(index) << (sib >> 6),
            };
            (number(sib & 7, extend_base), index)
        } else {
            (number(rm, extend_base), 0)
        };
        // Without displacement, base 5 would be an address of another kind.
        if mode == 0 && base & 7 == 5 {
            return None;
        }
        let displacement = match mode {
            0 => 0,
            1 => isize::from(byte(length) as i8),
            _ => i32::from_le_bytes(std::array::from_fn(|at| byte(length + at))) as isize,
        };
        length += [0, 1, 4][usize::from(mode)];
        Some((register(base).wrapping_add_signed(displacement), index))
    };
    Some(Decoded {
        prefix: third & 3,
        opcode: byte(3),
        reg: usize::from(reg),
        rm: usize::from(rm),
        vvvv: usize::from(!third >> 3 & 7),
        memory,
        length,
    })
}

/// Whether it was an instruction of AMX that we use, and its tiles were configured.
unsafe fn execute(state: &mut State, of: &Decoded) -> bool {
    const NONE: u8 = 0;
    const F3: u8 = 2;
    const F2: u8 = 3;
    // SAFETY (all of these): the program addresses its own memory, as it would on a processor that
    // has the instruction.
    let row = |at: usize, stride: usize, row: usize| (at + row * stride) as *mut [u32; SIDE];
    match (of.opcode, of.prefix, of.memory) {
        // ldtilecfg; only eight whole tiles are known here.
        (0x49, NONE, Some((at, _))) => {
            // SAFETY: as above.
            let bytes = unsafe { std::ptr::read_unaligned(at as *const [u8; 64]) };
            let whole = |tile: usize| {
                bytes[16 + 2 * tile..][..2] == [64, 0] && bytes[48 + tile] == SIDE as u8
            };
            state.configured = bytes[0] == 1 && (0..8).all(whole);
            state.tiles = [[[0; SIDE]; SIDE]; 8];
            return state.configured;
        }
        // tilerelease
        (0x49, NONE, None) => state.configured = false,
        _ if !state.configured => return false,
        // tilezero
        (0x49, F2, None) => state.tiles[of.reg] = [[0; SIDE]; SIDE],
        // tileloadd
        (0x4B, F2, Some((at, stride))) => {
            state.count.loads += 1;
            for (r, to) in state.tiles[of.reg].iter_mut().enumerate() {
                // SAFETY: as above.
                *to = unsafe { std::ptr::read_unaligned(row(at, stride, r)) };
            }
        }
        // tilestored
        (0x4B, F3, Some((at, stride))) => {
            state.count.stores += 1;
            for (r, from) in state.tiles[of.reg].iter().enumerate() {
                // SAFETY: as above.
                unsafe { std::ptr::write_unaligned(row(at, stride, r), *from) };
            }
        }
        // tdpbf16ps
        (0x5C, F3, None) => {
            state.count.products += 1;
            let (left, right) = (state.tiles[of.rm], state.tiles[of.vvvv]);
            for (sums, left) in state.tiles[of.reg].iter_mut().zip(&left) {
                add_products(sums, left, &right);
            }
        }
        _ => return false,
    }
    true
}

/// Even and odd products are summed apart, then added; subnormal numbers are zero.
fn add_products(sums: &mut [u32; SIDE], left: &[u32; SIDE], right: &Tile) {
    let flushed = |x: f32| if x.is_subnormal() { 0.0 } else { x };
    let low = |pair: u32| flushed(f32::from_bits(pair << 16));
    let high = |pair: u32| flushed(f32::from_bits(pair & 0xFFFF_0000));
    for (column, sum) in sums.iter_mut().enumerate() {
        let (mut even, mut odd) = (0.0f32, 0.0f32);
        for (left, right) in left.iter().zip(right) {
            even = flushed(low(*left).mul_add(low(right[column]), even));
            odd = flushed(high(*left).mul_add(high(right[column]), odd));
        }
        *sum = flushed(flushed(f32::from_bits(*sum)) + flushed(even + odd)).to_bits();
    }
}
