//! As many threads as PyTorch has, and no more; a child of `fork` has its own.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::cell::OnceCell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Threads of one process. They are never let go of: a process has few numbers of threads, and threads that are
/// shared with a parent can't be joined in its child.
struct Pool {
    process: u32,
    threads: usize,
    pool: ThreadPool,
    next: *mut Pool,
}

/// A list that only grows, without a lock: one that another thread held at `fork` would stay shut in the child.
static POOLS: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    /// This thread as a pool of its own: work for one thread goes to no other.
    static ALONE: OnceCell<Option<ThreadPool>> = const { OnceCell::new() };
}

/// Computes with so many threads, the calling one among them if it is the only one.
pub fn with<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    if threads <= 1 {
        let alone = ALONE.with(|of| {
            let this = || {
                ThreadPoolBuilder::new()
                    .num_threads(1)
                    .use_current_thread()
                    .build()
                    .ok()
            };
            of.get_or_init(this).is_some()
        });
        if alone {
            return work();
        }
    }
    pool(threads.max(1)).install(work)
}

fn pool(threads: usize) -> &'static ThreadPool {
    let process = std::process::id();
    let first = POOLS.load(Ordering::Acquire);
    let mut at = first;
    // SAFETY: what was once in the list is never changed or freed.
    while let Some(of) = unsafe { at.as_ref() } {
        if (of.process, of.threads) == (process, threads) {
            return &of.pool;
        }
        at = of.next;
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("bam-attention-{index}"))
        .build()
        .expect("the system has threads");
    let made = Box::leak(Box::new(Pool {
        process,
        threads,
        pool,
        next: first,
    }));
    // Where two threads come first at once, there are two pools.
    while let Err(newer) =
        POOLS.compare_exchange(made.next, made, Ordering::AcqRel, Ordering::Acquire)
    {
        made.next = newer;
    }
    &made.pool
}
