//! The kernels compiled for the host by a C++ compiler: the same sources, run by a driver without a device.
//!
//! Memory is the host's, with a guard behind each piece that is looked at when work is waited for.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use libloading::Library;

use super::driver::{Command, Driver, Handle, Launch, Pinned, Properties};
use super::error::Error;
use super::kernels::{FILES, File, HEADERS, Kernel};
use crate::error::DeviceError;

static HOST_H: File = File { name: "host.h", source: include_str!("kernels/host.h") };
static HOST_CPP: File = File { name: "host.cpp", source: include_str!("kernels/host.cpp") };

/// Contracting a product and a sum would round once where the kernels round twice.
const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O2",
    "-Wall",
    "-Wno-unused-function",
    "-Wno-unknown-pragmas",
    "-fPIC",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
    "-DWHIT_HOST",
];

/// What allocations are a multiple of, as on a device.
const ALIGN: usize = 256;
/// Behind each allocation.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xA5;
/// What memory holds that nobody wrote.
const FRESH_BYTE: u8 = 0xCD;

/// Runs a grid; see `host.cpp`.
type RunGrid = unsafe extern "C" fn(*const u8, *const u32, u32, i32, i32, *const u8) -> i32;

/// The error of a call with arguments that make no sense.
const INVALID: u32 = 1;

pub(crate) struct Emulation {
    properties: Properties,
    library: &'static Library,
    run_grid: RunGrid,
    /// Whether threads of a block run in descending order.
    backwards: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Bytes of each allocation by its address.
    memory: HashMap<u64, usize>,
    /// What is being recorded, by stream.
    captures: HashMap<Handle, Vec<Command>>,
    graphs: HashMap<Handle, Vec<Command>>,
    next: Handle,
}

impl State {
    fn release(&mut self, address: u64) {
        if let Some(layout) = self.memory.remove(&address).and_then(layout) {
            // SAFETY: `allocate` made it with this layout, and it was still listed.
            unsafe { dealloc(address as *mut u8, layout) };
        }
    }
}

impl Emulation {
    /// Compiles the kernels, once in a process.
    pub(crate) fn open() -> Result<Emulation, Error> {
        static LIBRARY: OnceLock<Result<Library, Error>> = OnceLock::new();
        let library = LIBRARY.get_or_init(load).as_ref().map_err(Clone::clone)?;
        // SAFETY: `host.cpp` has this function with this signature, and the library is never unloaded.
        let run_grid = unsafe { library.get::<RunGrid>(b"whit_run_grid\0") };
        let run_grid = *run_grid.map_err(|e| Error::compile(&HOST_CPP, e.to_string()))?;
        Ok(Emulation {
            properties: Properties {
                name: "kernels compiled for the host".to_owned(),
                architecture: [9, 0],
                memory_bytes: 1 << 30,
                multiprocessors: 4,
            },
            library,
            run_grid,
            backwards: false,
            state: Arc::default(),
        })
    }

    /// With the threads of a block in the other order, which no kernel may depend on.
    #[cfg(test)]
    pub(crate) fn backwards(mut self) -> Emulation {
        self.backwards = true;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn run(&self, command: &Command) -> Result<(), DeviceError> {
        match command {
            Command::Launch(launch) => self.launch(launch),
            Command::Upload { to, from, bytes }
            | Command::Download { to, from, bytes }
            | Command::Copy { to, from, bytes } => {
                self.expect_inside(*to, *bytes)?;
                self.expect_inside(*from, *bytes)?;
                // SAFETY: both ranges lie in allocations of this driver, which live: they were just looked up.
                // Overlapping ones are copied right.
                unsafe { std::ptr::copy(*from as *const u8, *to as *mut u8, *bytes) };
                Ok(())
            }
            Command::Clear { address, bytes } => {
                self.expect_inside(*address, *bytes)?;
                // SAFETY: as above.
                unsafe { std::ptr::write_bytes(*address as *mut u8, 0, *bytes) };
                Ok(())
            }
        }
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let Launch { kernel, function, grid, arguments, .. } = launch;
        // The struct holds words of 8 bytes.
        let mut aligned = vec![0u64; arguments.len().div_ceil(8)];
        for (to, from) in aligned.iter_mut().zip(arguments.chunks(8)) {
            let mut word = [0; 8];
            word[..from.len()].copy_from_slice(from);
            *to = u64::from_le_bytes(word);
        }
        // SAFETY: `function` is the kernel's entry in the library; the table's test holds its arguments against the
        // C++ struct. That the addresses in them are right is what these tests are for.
        let status = unsafe {
            (self.run_grid)(
                *function as *const u8,
                grid.as_ptr(),
                kernel.threads,
                kernel.waits.into(),
                self.backwards.into(),
                aligned.as_ptr().cast(),
            )
        };
        match status {
            0 => Ok(()),
            _ => Err(DeviceError::Failed { call: "a kernel whose threads wait for ever", code: 0 }),
        }
    }

    /// Whether a range lies in an allocation.
    fn expect_inside(&self, address: u64, bytes: usize) -> Result<(), DeviceError> {
        let end = address.checked_add(bytes as u64);
        let inside = |(start, len): (&u64, &usize)| {
            *start <= address && end.is_some_and(|end| end <= start + *len as u64)
        };
        match self.state().memory.iter().any(inside) {
            true => Ok(()),
            false => {
                Err(DeviceError::Failed { call: "a copy beyond an allocation", code: INVALID })
            }
        }
    }

    /// Whether every guard is whole.
    fn expect_guards(&self) -> Result<(), DeviceError> {
        let state = self.state();
        for (address, bytes) in &state.memory {
            // SAFETY: `allocate` made GUARD initialised bytes behind it, and it is alive while it is listed.
            let guard =
                unsafe { std::slice::from_raw_parts((*address as *const u8).add(*bytes), GUARD) };
            if guard.iter().any(|byte| *byte != GUARD_BYTE) {
                return Err(DeviceError::Failed {
                    call: "a kernel that writes behind memory",
                    code: INVALID,
                });
            }
        }
        Ok(())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.checked_add(GUARD)?, ALIGN).ok()
}

/// Memory of the host as a device sees it: an allocation like the others.
struct HostMemory {
    address: u64,
    bytes: usize,
    state: Arc<Mutex<State>>,
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        lock(&self.state).release(self.address);
    }
}

impl Pinned for HostMemory {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `pinned` made it of so many initialised bytes, and only `drop` releases it. Commands write to it
        // only inside calls of the driver.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut u8, self.bytes) }
    }

    fn address(&self) -> u64 {
        self.address
    }
}

impl Driver for Emulation {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        let out_of_memory = DeviceError::OutOfMemory { bytes: bytes as u64 };
        let whole = layout(bytes).ok_or(out_of_memory)?;
        // SAFETY: the layout has at least GUARD bytes.
        let start = unsafe { alloc(whole) };
        if start.is_null() {
            return Err(out_of_memory);
        }
        // SAFETY: `alloc` gave bytes + GUARD bytes at `start`.
        unsafe {
            std::ptr::write_bytes(start, FRESH_BYTE, bytes);
            std::ptr::write_bytes(start.add(bytes), GUARD_BYTE, GUARD);
        }
        self.state().memory.insert(start as u64, bytes);
        Ok(start as u64)
    }

    fn release(&self, address: u64) {
        self.state().release(address);
    }

    fn pinned(&self, bytes: usize) -> Result<Box<dyn Pinned>, DeviceError> {
        let state = Arc::clone(&self.state);
        Ok(Box::new(HostMemory { address: self.allocate(bytes)?, bytes, state }))
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.expect_inside(to, bytes.len())?;
        // SAFETY: inside an allocation, and `bytes` is none of them.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.expect_inside(from, bytes.len())?;
        // SAFETY: as in `write`; `allocate` initialised it.
        unsafe {
            std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len())
        };
        Ok(())
    }

    fn function(&self, kernel: &'static Kernel) -> Result<Handle, Error> {
        // SAFETY: every kernel of the table has this signature; see KERNEL in `host.h`.
        let entry =
            unsafe { self.library.get::<unsafe extern "C" fn(*const u8)>(kernel.name.as_bytes()) };
        let entry = entry.map_err(|e| Error::compile(kernel.file, e.to_string()))?;
        Ok(*entry as usize as Handle)
    }

    fn stream(&self) -> Result<Handle, DeviceError> {
        let mut state = self.state();
        state.next += 1;
        Ok(state.next)
    }

    fn release_stream(&self, _: Handle) {}

    fn enqueue(&self, stream: Handle, command: &Command) -> Result<(), DeviceError> {
        if let Some(recorded) = self.state().captures.get_mut(&stream) {
            recorded.push(command.clone());
            return Ok(());
        }
        self.run(command)
    }

    fn begin_capture(&self, stream: Handle) -> Result<(), DeviceError> {
        self.state().captures.insert(stream, Vec::new());
        Ok(())
    }

    fn end_capture(&self, stream: Handle) -> Result<Handle, DeviceError> {
        let mut state = self.state();
        let none =
            DeviceError::Failed { call: "the end of a capture that never began", code: INVALID };
        let recorded = state.captures.remove(&stream).ok_or(none)?;
        state.next += 1;
        let graph = state.next;
        state.graphs.insert(graph, recorded);
        Ok(graph)
    }

    fn replay(&self, _: Handle, graph: Handle) -> Result<(), DeviceError> {
        let none = DeviceError::Failed { call: "a graph that isn't there", code: INVALID };
        let commands = self.state().graphs.get(&graph).cloned().ok_or(none)?;
        commands.iter().try_for_each(|command| self.run(command))
    }

    fn release_graph(&self, graph: Handle) {
        self.state().graphs.remove(&graph);
    }

    fn synchronize(&self, _: Handle) -> Result<(), DeviceError> {
        self.expect_guards()
    }
}

/// The kernels as a library: one that an earlier run made, or a new one.
fn load() -> Result<Library, Error> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let sources = || FILES.iter().copied().chain(&HEADERS).chain([&HOST_H, &HOST_CPP]);
    let mut hasher = DefaultHasher::new();
    (&compiler, FLAGS).hash(&mut hasher);
    sources().for_each(|file| (file.name, file.source).hash(&mut hasher));
    let folder = std::env::temp_dir().join(format!("whit-cuda-host-{:016x}", hasher.finish()));
    let library = folder.join("kernels.so");
    if !library.exists() {
        build(&compiler, &library, sources())
            .map_err(|e| Error::compile(&HOST_CPP, format!("{compiler}: {e}")))?;
    }
    // SAFETY: compiled from this crate's sources; loading it runs nothing but C++'s own start.
    unsafe { Library::new(&library) }.map_err(|e| Error::compile(&HOST_CPP, e.to_string()))
}

/// Compiles the sources; other processes see the library when it is whole.
fn build(
    compiler: &str,
    library: &Path,
    sources: impl Iterator<Item = &'static File>,
) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    let folder: PathBuf = library.with_file_name(format!("build-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(io)?;
    let mut command = Process::new(compiler);
    command.current_dir(&folder).args(FLAGS).args(["-shared", "-o", "kernels.so", "-x", "c++"]);
    for file in sources {
        std::fs::write(folder.join(file.name), file.source).map_err(io)?;
        if !file.name.ends_with(".h") {
            command.arg(file.name);
        }
    }
    let output = command.output().map_err(io)?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() || log.contains("warning:") {
        return Err(log);
    }
    std::fs::rename(folder.join("kernels.so"), library).map_err(io)?;
    std::fs::remove_dir_all(&folder).map_err(io)
}
