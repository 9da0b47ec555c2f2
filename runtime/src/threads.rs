//! A session's threads: a pool that hands out the parts of one step at a time, and slices that parts share.
//!
//! # The pool
//!
//! [`Pool::run`] publishes a job, a function of part numbers, and takes parts itself. Workers that notice
//! enter it and take parts as well, until there are none left; then the caller closes the job and waits for
//! those who are inside. A worker that the system didn't schedule in time is not waited for: the caller has
//! done its share. So on a busy machine a job takes little longer than on one thread.
//!
//! One word holds the job's number, whether it is open, and how many workers are inside:
//!
//! ```text
//! bits 63…32: number of the job   bit 31: open   bits 30…0: workers inside
//! ```
//!
//! A worker enters by adding one to the word while it says "open", by compare-and-swap; the caller closes by
//! clearing the bit. Between the two nobody can enter without being counted.
//!
//! Workers look for the next job for [`SPIN`] and then park: steps follow each other in microseconds,
//! but a session that isn't run takes no time from others. Nothing is allocated once the pool has started.
//!
//! # Slices
//!
//! [`Disjoint`] and [`Shares`] lend parts of a slice to the parts of a job. Both keep a record of what is lent in a word, so
//! that no use of them, right or wrong, lends an element twice.

use core::any::Any;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::vec::Vec;

use crate::error::StepErrorKind;

/// Threads of a session at most, and parts of a step: bits of a word.
pub(crate) const MAX_THREADS: usize = 64;

/// How long a worker looks for the next job: longer than most steps that stay on one thread take, so that
/// the workers are awake when the next one comes that doesn't.
const SPIN: Duration = Duration::from_micros(60);

/// How long it does so without letting others have its core: the steps of a run follow each other.
const ALONE: Duration = Duration::from_micros(20);

/// Looks between two looks at the clock.
const LOOKS: u32 = 64;

/// Looks at workers that finish their last part before the caller lets other threads have its core.
const JOIN_LOOKS: u32 = 4096;

/// Shares of scratch begin at cache lines, so that no two threads write to one.
pub(crate) const SHARE_ALIGN: usize = 64;

const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const NUMBER: u64 = 1 << 32;

/// A bit for each of so many parts.
fn all(parts: usize) -> u64 {
    if parts < MAX_THREADS { (1 << parts) - 1 } else { u64::MAX }
}

/// What a job does: part number and thread number in, 0 is the caller's.
type Work<'w> = dyn Fn(usize, usize) + Sync + 'w;

/// A job, as workers see it while they are inside.
#[derive(Clone, Copy)]
struct Job {
    /// Where the caller's closure lies; its lifetime is forgotten.
    work: *const Work<'static>,
    parts: usize,
    threads: usize,
}

struct Shared {
    state: AtomicU64,
    /// Written by the caller while no job is open and nobody is inside.
    job: UnsafeCell<Option<Job>>,
    /// Bit per part: somebody has taken it.
    taken: AtomicU64,
    stop: AtomicBool,
    /// Workers that have started: a thread allocates for the last time before.
    started: AtomicUsize,
    /// What a worker panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Per worker, whether it is about to park or parked.
    asleep: [AtomicBool; MAX_THREADS],
}

// SAFETY: all fields but `job` are `Sync`. `job` is written only by `Pool::run`, which has the pool
// exclusively, when no job is open and nobody is inside; it is read only by workers that are inside (`enter`). The state's
// release and acquire orders the two.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure, and used only inside a job.
unsafe impl Send for Shared {}

impl Shared {
    /// Enters the job that is open, if it isn't the one numbered `seen`.
    fn enter(&self, seen: u64) -> Option<u64> {
        let mut state = self.state.load(Ordering::SeqCst);
        while state & OPEN != 0 && state / NUMBER != seen {
            match self.state.compare_exchange_weak(
                state,
                state + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(state / NUMBER),
                Err(now) => state = now,
            }
        }
        None
    }

    /// Takes parts until there are none left: a thread's own first, which are the same ones in every run, so
    /// that its cache has their weights and what it wrote before; then those of threads that are late.
    fn take_parts(&self, job: Job, thread: usize) {
        // SAFETY: the closure lives until `Pool::run` returns, which is after the job was closed and
        // everyone left: both callers of this function are inside it, or are `run` itself.
        let work = unsafe { &*job.work };
        let first = (thread * job.parts / job.threads) as u32;
        loop {
            let free = !self.taken.load(Ordering::Relaxed) & all(job.parts);
            if free == 0 {
                return;
            }
            let part = (free.rotate_right(first).trailing_zeros() + first) % u64::BITS;
            if self.taken.fetch_or(1 << part, Ordering::Relaxed) & (1 << part) == 0 {
                work(part as usize, thread);
            }
        }
    }

    fn worker(&self, thread: usize) {
        self.started.fetch_add(1, Ordering::Release);
        let (mut seen, mut awake) = (0, true);
        loop {
            if let Some(number) = self.enter(seen) {
                seen = number;
                // SAFETY: between `enter` and leaving below, nobody writes the job: see `Sync`.
                let job = unsafe { *self.job.get() };
                if let Some(job) = job {
                    let work = AssertUnwindSafe(|| self.take_parts(job, thread));
                    if let Err(payload) = catch_unwind(work) {
                        // No part is left to take, so that everyone finishes soon.
                        self.taken.store(u64::MAX, Ordering::Relaxed);
                        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
                    }
                }
                self.state.fetch_sub(1, Ordering::Release);
            } else if self.stop.load(Ordering::SeqCst) {
                return;
            } else if awake && self.look(seen) {
                continue;
            } else {
                // Woken for a job that is over by now, it goes back to sleep without looking around.
                self.sleep(thread, seen);
                awake = false;
                continue;
            }
            awake = true;
        }
    }

    fn has_news(&self, seen: u64) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        state & OPEN != 0 && state / NUMBER != seen || self.stop.load(Ordering::SeqCst)
    }

    /// Looks for a job for a while; false when none came.
    fn look(&self, seen: u64) -> bool {
        let begin = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if self.has_news(seen) {
                    return true;
                }
                core::hint::spin_loop();
            }
            if begin.elapsed() >= SPIN {
                return false;
            }
            if begin.elapsed() >= ALONE {
                // Perhaps the caller, or somebody else, waits for this core.
                std::thread::yield_now();
            }
        }
    }

    /// Parks until there is a job. The flag is set before the last look, the caller looks at it after it
    /// opened the job: one of the two sees the other.
    fn sleep(&self, thread: usize, seen: u64) {
        let asleep = &self.asleep[thread];
        asleep.store(true, Ordering::SeqCst);
        while asleep.load(Ordering::SeqCst) {
            if self.has_news(seen) {
                asleep.store(false, Ordering::SeqCst);
                return;
            }
            std::thread::park();
        }
    }
}

/// Closes the job and waits for those inside, also when the caller's part panics.
struct Close<'s>(&'s Shared);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        // No more parts, if the caller panics.
        self.0.taken.store(u64::MAX, Ordering::Relaxed);
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0u32;
        while self.0.state.load(Ordering::Acquire) & INSIDE != 0 {
            looks = looks.saturating_add(1);
            if looks < JOIN_LOOKS {
                core::hint::spin_loop();
            } else {
                // Whoever is inside was interrupted: it may want this core.
                std::thread::yield_now();
            }
        }
    }
}

/// Threads that wait for jobs. Dropping it ends them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads - 1` workers, at most [`MAX_THREADS`] threads.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub(crate) fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            taken: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            started: AtomicUsize::new(0),
            panic: Mutex::new(None),
            asleep: [const { AtomicBool::new(false) }; MAX_THREADS],
        });
        let mut pool = Pool { shared, workers: Vec::with_capacity(threads.saturating_sub(1)) };
        for thread in 1..threads.min(MAX_THREADS) {
            let shared = Arc::clone(&pool.shared);
            let named = std::thread::Builder::new().name(std::format!("whit {thread}"));
            // When one doesn't start, dropping the pool ends those before.
            pool.workers.push(named.spawn(move || shared.worker(thread))?);
        }
        while pool.shared.started.load(Ordering::Acquire) < pool.workers.len() {
            std::thread::yield_now();
        }
        Ok(pool)
    }

    /// Threads that take parts: the workers and the caller.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work(part, thread)` once for every part below `parts`, at most [`MAX_THREADS`], on whichever threads have time, and returns when all
    /// are done. Workers that sleep are left asleep unless `wakes`. Thread numbers are below [`Pool::threads`]; no two parts run on one at a time.
    ///
    /// # Panics
    /// When `work` does, on whichever thread. Parts that nobody had begun by then are left out.
    pub(crate) fn run(&mut self, parts: usize, wakes: bool, work: &Work<'_>) {
        let shared = &*self.shared;
        let work: *const Work<'_> = work;
        // SAFETY: the same pointer with another lifetime. It is used between here and the end of `close`,
        // and the closure is borrowed until this function returns.
        let work = unsafe { core::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        let job = Job { work, parts: parts.min(MAX_THREADS), threads: self.threads() };
        let state = shared.state.load(Ordering::Acquire);
        debug_assert_eq!(state & (OPEN | INSIDE), 0);
        // SAFETY: no job is open and nobody is inside, as the last `run` left it, and `&mut self` keeps
        // other callers away.
        unsafe { *shared.job.get() = Some(job) };
        shared.taken.store(0, Ordering::Relaxed);
        // The number wraps after 2³² jobs; a worker that slept through all of them misses one.
        let number = (state / NUMBER).wrapping_add(1) as u32;
        shared.state.store((u64::from(number.max(1)) * NUMBER) | OPEN, Ordering::SeqCst);
        let close = Close(shared);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep[1..]).take(if wakes {
            parts.saturating_sub(1)
        } else {
            0
        }) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.take_parts(job, 0);
        drop(close);
        let payload = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (worker, asleep) in self.workers.drain(..).zip(&self.shared.asleep[1..]) {
            asleep.store(false, Ordering::SeqCst);
            worker.thread().unpark();
            // Workers catch the panics of parts; one of the loop itself would be a bug and ends the thread.
            let _ = worker.join();
        }
    }
}

/// `units` of work cut into `parts` stretches of even length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    units: usize,
    /// At least one, and no more than units if there are any.
    pub(crate) parts: usize,
    /// What is cut, of which a unit has `unit` elements, and the last one what is left.
    len: usize,
    unit: usize,
}

impl Cut {
    /// Of units that are all alike, in `parts` at most.
    pub(crate) fn new(units: usize, parts: usize) -> Cut {
        Cut::of_len(units, parts, 1, units)
    }

    /// Of `len` elements, of which a unit has `unit`, and the last one what is left, more or less.
    pub(crate) fn of_len(units: usize, parts: usize, unit: usize, len: usize) -> Cut {
        Cut { units, parts: parts.min(units).max(1), len, unit: unit.max(1) }
    }

    /// The units of a part, at least one if there are any; parts follow one another, the last ends with the last unit.
    pub(crate) fn range(&self, part: usize) -> Range<usize> {
        let at = |part: usize| {
            if part >= self.parts {
                return self.units;
            }
            // Whole units that come nearest to the part's share, in 64 bits, as products with 64 parts may be large.
            let share = (part as u64).saturating_mul(self.len as u64);
            let part_of_unit = (self.parts as u64).saturating_mul(self.unit as u64);
            let nearest = share.saturating_add((part_of_unit - 1) / 2) / part_of_unit;
            (nearest as usize).clamp(part, self.units.saturating_sub(self.parts - part))
        };
        at(part)..at(part.saturating_add(1))
    }

    /// As [`Cut::range`], of `len` elements of which a unit has `unit`; the last part has what is left.
    pub(crate) fn elements(&self, part: usize, unit: usize, len: usize) -> Range<usize> {
        let Range { start, end } = self.range(part);
        let start = start.saturating_mul(unit).min(len);
        let end = if part + 1 >= self.parts { len } else { end.saturating_mul(unit).min(len) };
        start..end.max(start)
    }
}

/// A crew for one step: the pool, and the number of parts that was decided for it.
pub(crate) struct Crew<'c> {
    pool: &'c mut Pool,
    pub(crate) parts: usize,
    wakes: bool,
}

impl<'c> Crew<'c> {
    /// `None` for less than two parts. `wakes` says whether workers that sleep are woken.
    pub(crate) fn new(pool: &'c mut Pool, parts: usize, wakes: bool) -> Option<Crew<'c>> {
        let parts = parts.min(MAX_THREADS);
        (parts > 1).then_some(Crew { pool, parts, wakes })
    }

    /// Threads that may take parts at the same time.
    pub(crate) fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The parts of `units`, at most as many as there are units.
    pub(crate) fn cut(&self, units: usize) -> Cut {
        Cut::new(units, self.parts)
    }

    /// [`Pool::run`] of work that can fail.
    ///
    /// # Errors
    /// That of one of the parts that failed.
    pub(crate) fn run(
        &mut self,
        parts: usize,
        work: impl Fn(usize, usize) -> Result<(), StepErrorKind> + Sync,
    ) -> Result<(), StepErrorKind> {
        let failed = Mutex::new(None);
        self.pool.run(parts.clamp(1, MAX_THREADS), self.wakes, &|part, thread| {
            if let Err(kind) = work(part, thread) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(kind);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// A slice whose elements are lent to the parts of a job, each part's once.
pub(crate) struct Disjoint<'a, T> {
    start: NonNull<T>,
    /// Where parts begin: ascending, at most the slice's length.
    bounds: [usize; MAX_THREADS + 1],
    parts: usize,
    /// Bit per part: lent.
    lent: AtomicU64,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: sharing it only gives out exclusive borrows of parts that don't overlap, so what is needed
// is that elements may be sent to other threads.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Cut as [`Cut::elements`] says.
    pub(crate) fn new(slice: &'a mut [T], cut: Cut, unit: usize) -> Disjoint<'a, T> {
        let len = slice.len();
        Disjoint::at(slice, cut.parts, |part| cut.elements(part, unit, len).start)
    }

    /// Cut where `bound` says that parts begin; the last part ends with the slice.
    pub(crate) fn at(
        slice: &'a mut [T],
        parts: usize,
        bound: impl Fn(usize) -> usize,
    ) -> Disjoint<'a, T> {
        let (len, parts) = (slice.len(), parts.min(MAX_THREADS));
        let mut bounds = [len; MAX_THREADS + 1];
        let mut least = 0;
        for (part, to) in bounds[..parts].iter_mut().enumerate() {
            least = if part == 0 { 0 } else { bound(part).clamp(least, len) };
            *to = least;
        }
        let start = NonNull::from(slice).cast();
        Disjoint { start, bounds, parts, lent: AtomicU64::new(0), _borrow: PhantomData }
    }

    /// The elements of a part; `None` when they were lent before, or there is no such part.
    pub(crate) fn take(&self, part: usize) -> Option<&'a mut [T]> {
        if part >= self.parts || self.lent.fetch_or(1 << part, Ordering::Relaxed) & (1 << part) != 0
        {
            return None;
        }
        let (start, end) = (self.bounds[part], self.bounds[part + 1]);
        // SAFETY: `at` made bounds that ascend and end at the slice's length, so that this part is inside and apart from the
        // others; the bit shows that it is lent once. The slice is borrowed exclusively for 'a.
        Some(unsafe {
            core::slice::from_raw_parts_mut(self.start.add(start).as_ptr(), end - start)
        })
    }
}

/// Columns of a matrix, lent to the parts of a job, each part's once.
pub(crate) struct Columns<'a, T> {
    start: NonNull<T>,
    rows: usize,
    /// Elements from one row to the next.
    stride: usize,
    cut: Cut,
    /// Columns of a unit.
    unit: usize,
    /// Bit per part: lent.
    lent: AtomicU64,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: as `Disjoint`.
unsafe impl<T: Send> Sync for Columns<'_, T> {}

impl<'a, T> Columns<'a, T> {
    /// Of a matrix that is `columns` wide and has as many whole rows as there are.
    pub(crate) fn new(
        matrix: &'a mut [T],
        columns: usize,
        cut: Cut,
        unit: usize,
    ) -> Columns<'a, T> {
        let rows = matrix.len().checked_div(columns).unwrap_or(0);
        Columns {
            start: NonNull::from(matrix).cast(),
            rows,
            stride: columns,
            cut,
            unit,
            lent: AtomicU64::new(0),
            _borrow: PhantomData,
        }
    }

    /// Rows of the columns of a part, one after the other; `None` when they were lent before, or there is no such part.
    pub(crate) fn take(&self, part: usize) -> Option<impl Iterator<Item = &'a mut [T]>> {
        if part >= self.cut.parts.min(MAX_THREADS)
            || self.lent.fetch_or(1 << part, Ordering::Relaxed) & (1 << part) != 0
        {
            return None;
        }
        let range = self.cut.elements(part, self.unit, self.stride);
        let (start, stride) = (self.start, self.stride);
        Some((0..self.rows).map(move |row| {
            // SAFETY: start <= end <= stride and row < rows, so that the elements are inside the matrix, and apart from those of other
            // rows; those of other parts are apart as in `Disjoint`, and the bit shows that this part's are lent once.
            unsafe {
                core::slice::from_raw_parts_mut(
                    start.add(row * stride + range.start).as_ptr(),
                    range.len(),
                )
            }
        }))
    }
}

/// Memory of which every thread of a job uses a share of its own.
pub(crate) struct Shares<'a, T> {
    start: NonNull<T>,
    /// Elements of a share: whole cache lines.
    share: usize,
    shares: usize,
    /// Bit per share: in use.
    used: AtomicU64,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: as `Disjoint`.
unsafe impl<T: Send> Sync for Shares<'_, T> {}

impl<'a, T> Shares<'a, T> {
    /// One share for each of `threads` threads.
    pub(crate) fn new(memory: &'a mut [T], threads: usize) -> Shares<'a, T> {
        let shares = threads.clamp(1, MAX_THREADS);
        let line = SHARE_ALIGN / size_of::<T>().clamp(1, SHARE_ALIGN);
        let share = memory.len() / shares / line * line;
        let start = NonNull::from(memory).cast();
        Shares { start, share, shares, used: AtomicU64::new(0), _borrow: PhantomData }
    }

    /// Lends share number `thread` to `work`.
    ///
    /// # Errors
    /// [`StepErrorKind::TooLarge`] when there is no such share, or it is in use.
    pub(crate) fn with<R>(
        &self,
        thread: usize,
        work: impl FnOnce(&mut [T]) -> R,
    ) -> Result<R, StepErrorKind> {
        if thread >= self.shares {
            return Err(StepErrorKind::TooLarge);
        }
        let bit = 1u64 << thread;
        if self.used.fetch_or(bit, Ordering::Acquire) & bit != 0 {
            return Err(StepErrorKind::TooLarge);
        }
        // SAFETY: thread < shares, and shares * share <= the memory's length, which is borrowed exclusively for 'a. The bit was
        // clear, so nobody uses this share, and it is cleared after the borrow has ended; shares don't overlap.
        let share = unsafe {
            core::slice::from_raw_parts_mut(
                self.start.add(thread * self.share).as_ptr(),
                self.share,
            )
        };
        let result = work(share);
        self.used.fetch_and(!bit, Ordering::Release);
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;
    use std::panic::AssertUnwindSafe;
    use std::sync::mpsc;

    /// Rounds of a test; an interpreter, which looks for races in each, gets by with few.
    const fn rounds(many: usize, few: usize) -> usize {
        if cfg!(miri) { few } else { many }
    }

    /// Runs `work` elsewhere, and panics if it takes longer than anything here may.
    fn in_time(work: impl FnOnce() + Send + 'static) {
        let (done, wait) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            work();
            let _ = done.send(());
        });
        match wait.recv_timeout(Duration::from_secs(rounds(120, 100_000) as u64)) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
            _ => thread.join().unwrap(),
        }
    }

    #[test]
    fn every_part_runs_once() {
        in_time(|| {
            for threads in [1, 2, 3, rounds(16, 4), rounds(1000, 5)] {
                let mut pool = Pool::new(threads).unwrap();
                assert_eq!(pool.threads(), threads.min(MAX_THREADS));
                for parts in [0, 1, 2, 3, 7, rounds(63, 8), rounds(64, 9)] {
                    let counts: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
                    let most = pool.threads();
                    let busy: Vec<AtomicBool> = (0..most).map(|_| AtomicBool::new(false)).collect();
                    pool.run(parts, true, &|part, thread| {
                        assert!(!busy[thread].swap(true, Ordering::SeqCst));
                        counts[part].fetch_add(1, Ordering::SeqCst);
                        busy[thread].store(false, Ordering::SeqCst);
                    });
                    assert!(counts.iter().all(|count| count.load(Ordering::SeqCst) == 1));
                }
            }
        });
    }

    #[test]
    fn jobs_follow_each_other_and_pauses() {
        in_time(|| {
            let mut pool = Pool::new(3).unwrap();
            let sum = AtomicUsize::new(0);
            let jobs = rounds(10_000, 100);
            for job in 0..jobs {
                pool.run(4, true, &|part, _| {
                    sum.fetch_add(part + 1, Ordering::Relaxed);
                });
                // Longer than workers look, so that they park.
                if job % (jobs / 10) == 0 {
                    std::thread::sleep(SPIN * 3);
                }
            }
            assert_eq!(sum.into_inner(), jobs * 10);
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        in_time(|| {
            let mut pool = Pool::new(4).unwrap();
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| ()));
            for round in 0..rounds(50, 4) {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(8, true, &|part, _| assert!(part != round % 8, "part {part}"));
                }));
                let payload = result.unwrap_err();
                let text = payload.downcast_ref::<std::string::String>().unwrap();
                assert_eq!(*text, std::format!("part {}", round % 8));
                let sum = AtomicUsize::new(0);
                pool.run(8, true, &|part, _| {
                    sum.fetch_add(part, Ordering::Relaxed);
                });
                assert_eq!(sum.into_inner(), 28);
            }
            std::panic::set_hook(before);
        });
    }

    #[test]
    fn pools_end_asleep_and_awake() {
        in_time(|| {
            for pause in [0, 1, 50, 200, 1000].into_iter().take(rounds(5, 3)) {
                for jobs in 0..3 {
                    let mut pool = Pool::new(5).unwrap();
                    (0..jobs).for_each(|_| pool.run(5, true, &|_, _| ()));
                    std::thread::sleep(Duration::from_micros(pause));
                }
            }
        });
    }

    #[test]
    fn errors_come_back() {
        let mut pool = Pool::new(2).unwrap();
        let mut crew = Crew::new(&mut pool, 5, true).unwrap();
        let result =
            crew.run(5, |part, _| if part == 3 { Err(StepErrorKind::TooLarge) } else { Ok(()) });
        assert_eq!(result, Err(StepErrorKind::TooLarge));
        assert_eq!(crew.run(5, |_, _| Ok(())), Ok(()));
        assert!(Crew::new(&mut pool, 1, true).is_none());
    }

    #[test]
    fn cuts_cover_everything_once() {
        for units in [0, 1, 2, 5, 63, 64, 65, 1000].into_iter().take(rounds(8, 5)) {
            for parts in [1, 2, 3, 5, 16, 64] {
                for (unit, beyond) in [(1, 0), (24, 0), (24, 23)] {
                    let cut = Cut::new(units, parts);
                    let parts = cut.parts;
                    let mut elements: Vec<u32> = std::vec![0; units * unit + beyond];
                    let len = elements.len();
                    let disjoint = Disjoint::new(&mut elements, cut, unit);
                    for part in (0..parts).rev() {
                        let own = disjoint.take(part).unwrap();
                        assert_eq!(own.len(), cut.elements(part, unit, len).len());
                        own.iter_mut().for_each(|x| *x += 1);
                        assert!(disjoint.take(part).is_none(), "lent twice");
                    }
                    assert!(disjoint.take(parts).is_none());
                    assert!(elements.iter().all(|x| *x == 1), "{units} {parts} {unit}");
                    let lens = (0..parts).map(|part| cut.range(part).len());
                    let (least, most) = (lens.clone().min().unwrap(), lens.max().unwrap());
                    assert!(most - least <= 1, "{units} in {parts}");
                }
            }
        }
        // Units of 12 and a last one of what is left, which no part has alone if that is less than its share.
        for (units, len, lens) in [
            (9, 125, &[60, 65][..]),
            (9, 125, &[36, 24, 36, 29]),
            (5, 64, &[36, 28]),
            (2, 60, &[12, 48]),
            (3, 25, &[12, 13]),
            (1, 40, &[40]),
        ] {
            let cut = Cut::of_len(units, lens.len(), 12, len);
            let own = (0..cut.parts).map(|part| cut.elements(part, 12, len).len());
            assert!(own.eq(lens.iter().copied()), "{units} of {len}");
        }
        // Whatever the bounds say, nothing is lent twice.
        let mut elements = [0u8; 10];
        let disjoint = Disjoint::at(&mut elements, 4, |part| [5, 9, 2, 100][part]);
        (0..4).for_each(|part| disjoint.take(part).unwrap().iter_mut().for_each(|x| *x += 1));
        assert_eq!(elements, [1; 10]);
    }

    #[test]
    fn columns_and_shares() {
        let mut matrix = [0u8; 3 * 70];
        let cut = Cut::of_len(3, 2, 32, 70);
        let columns = Columns::new(&mut matrix, 70, cut, 32);
        for part in [1, 0] {
            let rows = columns.take(part).unwrap();
            assert!(columns.take(part).is_none());
            rows.for_each(|row| row.fill(part as u8 + 1));
        }
        let bound = cut.elements(0, 32, 70).end;
        for row in matrix.chunks(70) {
            assert!(row[..bound].iter().all(|x| *x == 1) && row[bound..].iter().all(|x| *x == 2));
        }
        let mut memory = [0u8; 1000];
        let shares = Shares::new(&mut memory, 3);
        let inner = shares.with(2, |own| {
            own.fill(1);
            assert_eq!(own.len(), 320);
            shares.with(2, |_| ()).is_err() && shares.with(1, |other| other.fill(2)).is_ok()
        });
        assert_eq!(inner, Ok(true));
        assert_eq!(shares.with(2, |own| own[0]), Ok(1));
        assert!(shares.with(3, |_| ()).is_err());
        assert_eq!((memory[319], memory[320], memory[639], memory[640]), (0, 2, 2, 1));
    }

    /// Prints the time of an empty job, workers awake and asleep. `--ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn what_a_job_costs() {
        let mut pool = Pool::new(2).unwrap();
        for (pause, rounds) in [(Duration::ZERO, 20_000), (SPIN * 4, 2_000)] {
            let mut times: Vec<u128> = (0..rounds)
                .map(|_| {
                    std::thread::sleep(pause);
                    let begin = Instant::now();
                    let here = AtomicUsize::new(0);
                    // Neither part ends before both threads have one.
                    pool.run(2, true, &|_, thread| {
                        here.fetch_or(1 << thread, Ordering::SeqCst);
                        while here.load(Ordering::SeqCst) != 3 {
                            core::hint::spin_loop();
                        }
                    });
                    begin.elapsed().as_nanos()
                })
                .collect();
            times.sort_unstable();
            std::println!(
                "pause {pause:?}: least {} ns, median {} ns, 90 % {} ns",
                times[0],
                times[rounds / 2],
                times[rounds * 9 / 10]
            );
        }
    }
}
