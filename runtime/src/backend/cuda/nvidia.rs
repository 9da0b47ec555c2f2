//! The CUDA driver and NVRTC behind [`Driver`], through cudarc's bindings, which load the libraries at first use.
//!
//! The bindings panic when a library or a function in it is missing. Libraries are looked for before anything is
//! called, and what is called has been in them since CUDA 11.4.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::Mutex;

use cudarc::driver::sys::{self, CUresult};
use cudarc::nvrtc::sys as nvrtc;

use super::compile::{self, Key};
use super::driver::{Command, Driver, Handle, Launch, Pinned, Properties};
use super::error::Error;
use super::kernels::{File, HEADERS, Kernel};
use crate::error::DeviceError;

/// Whether a call went well.
fn done(call: &'static str, result: CUresult) -> Result<(), DeviceError> {
    use CUresult as R;
    match result {
        R::CUDA_SUCCESS => Ok(()),
        R::CUDA_ERROR_DEVICE_UNAVAILABLE
        | R::CUDA_ERROR_ECC_UNCORRECTABLE
        | R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_LAUNCH_TIMEOUT
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_CONTEXT_IS_DESTROYED => Err(DeviceError::Lost),
        other => Err(DeviceError::Failed { call, code: other as u32 }),
    }
}

/// CUDA version that everything called here has been in.
const LEAST_VERSION: [u32; 2] = [11, 4];
const DRIVER: &str = "NVIDIA's driver for CUDA";
const COMPILER: &str = "NVRTC, the compiler of CUDA";

/// Names that a library is looked for by; those of 64 bits in the name are Windows'.
fn candidates(library: &str) -> Vec<String> {
    let mut names = cudarc::get_lib_name_candidates(library);
    names.retain(|name| cfg!(windows) || !name.contains(&format!("{library}64")));
    names
}

fn expect_version(name: &'static str, has: [u32; 2]) -> Result<(), Error> {
    match has >= LEAST_VERSION {
        true => Ok(()),
        false => Err(Error::Version { name, has, needs: LEAST_VERSION }),
    }
}

/// Checks that the driver's library is there and new enough, and starts it; the number of its version.
fn start() -> Result<i32, Error> {
    // SAFETY: loads a library and looks no further.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Library { name: DRIVER, tried: candidates("cuda") });
    }
    let mut version = 0;
    // SAFETY: the library is there; it writes one int.
    done("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    let number = version.unsigned_abs();
    expect_version(DRIVER, [number / 1000, number % 1000 / 10])?;
    // SAFETY: the library is there; 0 is the only flag there is.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_ERROR_NO_DEVICE => Err(Error::NoDevice { index: 0, present: 0 }),
        result => Ok(done("cuInit", result).map(|()| version)?),
    }
}

/// Checks that the compiler's library is there and new enough; its version.
fn expect_compiler() -> Result<[i32; 2], Error> {
    // SAFETY: loads a library and looks no further.
    if !unsafe { nvrtc::is_culib_present() } {
        return Err(Error::Library { name: COMPILER, tried: candidates("nvrtc") });
    }
    let mut version = [0; 2];
    let [major, minor] = &mut version;
    // SAFETY: the library is there; it writes two ints.
    unsafe { nvrtc::nvrtcVersion(major, minor) };
    expect_version(COMPILER, version.map(i32::unsigned_abs)).map(|()| version)
}

fn count() -> Result<usize, Error> {
    let mut count: c_int = 0;
    // SAFETY: `start` was called; the driver writes one int.
    done("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Every device, in the driver's order.
pub(super) fn devices() -> Result<Vec<Properties>, Error> {
    start()?;
    (0..count()?).map(|index| Ok(properties(handle_of(index)?)?)).collect()
}

fn handle_of(index: usize) -> Result<sys::CUdevice, Error> {
    let present = count()?;
    let number = c_int::try_from(index).ok().filter(|_| index < present);
    let number = number.ok_or(Error::NoDevice { index, present })?;
    let mut device: sys::CUdevice = 0;
    // SAFETY: the number is below the count; the driver writes one handle.
    done("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, number) })?;
    Ok(device)
}

fn properties(device: sys::CUdevice) -> Result<Properties, DeviceError> {
    use sys::CUdevice_attribute as A;
    let mut name = [0 as c_char; 256];
    // SAFETY: the driver writes at most 256 characters, the last one 0.
    done("cuDeviceGetName", unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 256, device) })?;
    name[255] = 0;
    // SAFETY: it ends with a 0, and lives on.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let attribute = |attribute: A| {
        let mut value: c_int = 0;
        // SAFETY: the driver writes one int.
        let result = unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) };
        done("cuDeviceGetAttribute", result).map(|()| u32::try_from(value).unwrap_or(0))
    };
    let mut memory_bytes = 0usize;
    // SAFETY: the driver writes one size.
    done("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut memory_bytes, device) })?;
    Ok(Properties {
        name,
        architecture: [
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ],
        memory_bytes: memory_bytes as u64,
        multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
    })
}

/// A device, by its primary context.
pub(super) struct Nvidia {
    properties: Properties,
    device: sys::CUdevice,
    context: sys::CUcontext,
    driver_version: i32,
    /// Version of NVRTC.
    compiler: [i32; 2],
    cache: Option<PathBuf>,
    /// By file name.
    modules: Mutex<HashMap<&'static str, sys::CUmodule>>,
}

// SAFETY: contexts and modules may be used from any thread, as the driver's documentation says; every call here
// makes the context the thread's own first.
unsafe impl Send for Nvidia {}
// SAFETY: as above; the driver synchronises calls.
unsafe impl Sync for Nvidia {}

impl Nvidia {
    pub(super) fn open(index: usize) -> Result<Nvidia, Error> {
        let driver_version = start()?;
        let device = handle_of(index)?;
        let properties = properties(device)?;
        let compiler = expect_compiler()?;
        let mut context = std::ptr::null_mut();
        // SAFETY: the device exists; `drop` gives the context back.
        done("cuDevicePrimaryCtxRetain", unsafe {
            sys::cuDevicePrimaryCtxRetain(&mut context, device)
        })?;
        Ok(Nvidia {
            properties,
            device,
            context,
            driver_version,
            compiler,
            cache: compile::folder(),
            modules: Mutex::default(),
        })
    }

    /// Makes the context the calling thread's.
    fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: retained by `open`, released by `drop`.
        done("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// The module of a file, compiled and loaded at first use.
    fn module(&self, file: &'static File) -> Result<sys::CUmodule, Error> {
        let mut modules = self.modules.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(module) = modules.get(file.name) {
            return Ok(*module);
        }
        let compiler = self.compiler;
        let options = options(self.properties.architecture, compiler);
        let key = Key { options: &options, compiler, driver: self.driver_version };
        let folder = self.cache.as_deref();
        let code = || compile::cached(folder, file, &key, || compile_file(file, &options));
        let module = match load(&code()?) {
            Ok(module) => module,
            Err(_) => {
                // Whole, but not what this driver takes.
                compile::forget(folder, file, &key);
                load(&code()?).map_err(|e| Error::compile(file, e.to_string()))?
            }
        };
        modules.insert(file.name, module);
        Ok(module)
    }

    fn launch(&self, stream: sys::CUstream, launch: &Launch) -> Result<(), DeviceError> {
        let mut bytes = launch.arguments.len();
        // CU_LAUNCH_PARAM_BUFFER_POINTER, the bytes, CU_LAUNCH_PARAM_BUFFER_SIZE, their number, the end.
        let mut extra = [
            std::ptr::without_provenance_mut::<c_void>(1),
            launch.arguments.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw mut bytes).cast(),
            std::ptr::null_mut(),
        ];
        let [x, y, z] = launch.grid;
        // SAFETY: the function is of a module that lives as long as this driver; the driver copies the arguments,
        // whose struct the table's test holds against the kernel's, before it returns. Addresses in them are the
        // device's: a wrong one is a fault of the device, not of the host.
        let result = unsafe {
            sys::cuLaunchKernel(
                launch.function as sys::CUfunction,
                x,
                y,
                z,
                launch.kernel.threads,
                1,
                1,
                0,
                stream,
                std::ptr::null_mut(),
                extra.as_mut_ptr(),
            )
        };
        done("cuLaunchKernel", result)
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        let entered = self.enter().is_ok();
        let modules = self.modules.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (_, module) in modules.drain().filter(|_| entered) {
            // SAFETY: loaded by `module`, whose functions only sessions have, and they keep this driver alive.
            unsafe { sys::cuModuleUnload(module) };
        }
        // SAFETY: retained once by `open`.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// What NVRTC is told. No product and sum is contracted: kernels say where they want that. A device newer than the
/// compiler runs the newest code that it has of the same generation.
fn options(architecture: [u32; 2], compiler: [i32; 2]) -> Vec<String> {
    let [major, minor] = architecture;
    let mut architecture = format!("sm_{major}{minor}");
    // SAFETY: asks for a number, then for as many ints.
    let supported = unsafe {
        let mut count = 0;
        let counted = nvrtc::nvrtcGetNumSupportedArchs(&mut count);
        let mut all = vec![0 as c_int; usize::try_from(count).unwrap_or(0)];
        let listed = nvrtc::nvrtcGetSupportedArchs(all.as_mut_ptr());
        let ok = nvrtc::nvrtcResult::NVRTC_SUCCESS;
        if counted == ok && listed == ok { all } else { Vec::new() }
    };
    let own = (major * 10 + minor) as c_int;
    if !supported.is_empty() && !supported.contains(&own) {
        let older =
            supported.iter().filter(|arch| **arch < own && **arch / 10 == major as c_int).max();
        if let Some(older) = older {
            architecture = format!("sm_{older}");
        }
    }
    let mut options = vec![format!("--gpu-architecture={architecture}"), "--fmad=false".to_owned()];
    // From 12 on it is what NVRTC takes by itself.
    if compiler[0] < 12 {
        options.push("--std=c++17".to_owned());
    }
    options
}

fn compiled(file: &File, result: nvrtc::nvrtcResult) -> Result<(), Error> {
    match result {
        nvrtc::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        other => Err(Error::compile(file, format!("NVRTC fails with error {}", other as u32))),
    }
}

/// A program of NVRTC, destroyed when dropped.
struct Program(nvrtc::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by `compile_file`, and destroyed once.
        unsafe { nvrtc::nvrtcDestroyProgram(&mut self.0) };
    }
}

/// Machine code of a file.
fn compile_file(file: &File, options: &[String]) -> Result<Vec<u8>, Error> {
    let text = |text: &str| CString::new(text).map_err(|e| Error::compile(file, e.to_string()));
    let (source, name) = (text(file.source)?, text(file.name)?);
    let texts = |of: fn(&File) -> &'static str| {
        HEADERS.iter().map(|header| text(of(header))).collect::<Result<Vec<_>, _>>()
    };
    let (headers, names) = (texts(|header| header.source)?, texts(|header| header.name)?);
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
    let (header_texts, header_names) = (pointers(&headers), pointers(&names));
    let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut program = std::ptr::null_mut();
    // SAFETY: all texts end with a 0 and live on; there are as many headers as names.
    compiled(file, unsafe {
        nvrtc::nvrtcCreateProgram(
            &mut program,
            source.as_ptr(),
            name.as_ptr(),
            header_texts.len() as c_int,
            header_texts.as_ptr(),
            header_names.as_ptr(),
        )
    })?;
    let program = Program(program);
    // SAFETY: the program was just created; the options live on.
    let result =
        unsafe { nvrtc::nvrtcCompileProgram(program.0, options.len() as c_int, options.as_ptr()) };
    if result != nvrtc::nvrtcResult::NVRTC_SUCCESS {
        let mut bytes = 0usize;
        // SAFETY: NVRTC writes a size, then so many bytes.
        let log = unsafe {
            nvrtc::nvrtcGetProgramLogSize(program.0, &mut bytes);
            let mut log = vec![0u8; bytes];
            nvrtc::nvrtcGetProgramLog(program.0, log.as_mut_ptr().cast());
            log
        };
        let log = String::from_utf8_lossy(&log);
        return Err(Error::compile(file, log.trim_end_matches('\0')));
    }
    let mut bytes = 0usize;
    // SAFETY: NVRTC writes a size.
    compiled(file, unsafe { nvrtc::nvrtcGetCUBINSize(program.0, &mut bytes) })?;
    let mut code = vec![0u8; bytes];
    // SAFETY: NVRTC writes as many bytes as it said.
    compiled(file, unsafe { nvrtc::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()) })?;
    Ok(code)
}

/// Loads machine code; the context is the thread's.
fn load(code: &[u8]) -> Result<sys::CUmodule, DeviceError> {
    let mut module = std::ptr::null_mut();
    // SAFETY: the code is a whole cubin: NVRTC's, or with the checksum of one.
    done("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut module, code.as_ptr().cast()) })?;
    Ok(module)
}

/// Page-locked memory, given back when dropped.
struct PinnedMemory {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory, tied to no thread.
unsafe impl Send for PinnedMemory {}
// SAFETY: shared borrows only read it.
unsafe impl Sync for PinnedMemory {}

impl Pinned for PinnedMemory {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `pinned` got and cleared so many bytes. The device writes them only between the start and the end of
        // a run, during which the session is borrowed exclusively.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }

    fn address(&self) -> u64 {
        self.start as u64
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: from `cuMemAllocHost`, freed once.
        unsafe { sys::cuMemFreeHost(self.start.cast()) };
    }
}

impl Driver for Nvidia {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: the driver writes one address; `release` frees it.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(DeviceError::OutOfMemory { bytes: bytes as u64 })
            }
            result => done("cuMemAlloc", result).map(|()| address),
        }
    }

    fn release(&self, address: u64) {
        if self.enter().is_ok() {
            // SAFETY: from `allocate`, released once. The driver waits for work that uses it.
            unsafe { sys::cuMemFree_v2(address) };
        }
    }

    fn pinned(&self, bytes: usize) -> Result<Box<dyn Pinned>, DeviceError> {
        self.enter()?;
        let mut start = std::ptr::null_mut();
        let bytes = bytes.max(1);
        // SAFETY: the driver writes one pointer to so many bytes.
        match unsafe { sys::cuMemAllocHost_v2(&mut start, bytes) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                return Err(DeviceError::OutOfMemory { bytes: bytes as u64 });
            }
            result => done("cuMemAllocHost", result)?,
        }
        // SAFETY: so many bytes were given.
        unsafe { std::ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        Ok(Box::new(PinnedMemory { start: start.cast(), bytes }))
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: reads a slice; the address is the device's.
        done("cuMemcpyHtoD", unsafe {
            sys::cuMemcpyHtoD_v2(to, bytes.as_ptr().cast(), bytes.len())
        })?;
        // Of memory that isn't page-locked, the last piece may still be under way; sessions' streams don't wait for it.
        // SAFETY: the stream of calls without one.
        done("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(std::ptr::null_mut()) })
    }

    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: writes a slice, before it returns; the address is the device's.
        done("cuMemcpyDtoH", unsafe {
            sys::cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), from, bytes.len())
        })
    }

    fn function(&self, kernel: &'static Kernel) -> Result<Handle, Error> {
        self.enter()?;
        let module = self.module(kernel.file)?;
        let name =
            CString::new(kernel.name).map_err(|e| Error::compile(kernel.file, e.to_string()))?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded and stays so; the name ends with a 0.
        done("cuModuleGetFunction", unsafe {
            sys::cuModuleGetFunction(&mut function, module, name.as_ptr())
        })?;
        Ok(function as Handle)
    }

    fn stream(&self) -> Result<Handle, DeviceError> {
        self.enter()?;
        let mut stream = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the driver writes one handle; `release_stream` destroys it.
        done("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut stream, flags) })?;
        Ok(stream as Handle)
    }

    fn release_stream(&self, stream: Handle) {
        if self.enter().is_ok() {
            // SAFETY: from `stream`, destroyed once.
            unsafe { sys::cuStreamDestroy_v2(stream as sys::CUstream) };
        }
    }

    fn enqueue(&self, stream: Handle, command: &Command) -> Result<(), DeviceError> {
        self.enter()?;
        let stream = stream as sys::CUstream;
        match command {
            Command::Launch(launch) => self.launch(stream, launch),
            // SAFETY: `from` is in pinned memory that the session owns beside this command; so is `to` below. The
            // session waits for the stream before anybody looks at it or frees it.
            Command::Upload { to, from, bytes } => done("cuMemcpyHtoDAsync", unsafe {
                sys::cuMemcpyHtoDAsync_v2(*to, *from as *const c_void, *bytes, stream)
            }),
            // SAFETY: as above.
            Command::Download { to, from, bytes } => done("cuMemcpyDtoHAsync", unsafe {
                sys::cuMemcpyDtoHAsync_v2(*to as *mut c_void, *from, *bytes, stream)
            }),
            // SAFETY: addresses of the device.
            Command::Copy { to, from, bytes } => done("cuMemcpyDtoDAsync", unsafe {
                sys::cuMemcpyDtoDAsync_v2(*to, *from, *bytes, stream)
            }),
            // SAFETY: an address of the device.
            Command::Clear { address, bytes } => done("cuMemsetD8Async", unsafe {
                sys::cuMemsetD8Async(*address, 0, *bytes, stream)
            }),
        }
    }

    fn begin_capture(&self, stream: Handle) -> Result<(), DeviceError> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream of this driver.
        done("cuStreamBeginCapture", unsafe {
            sys::cuStreamBeginCapture_v2(stream as sys::CUstream, mode)
        })
    }

    fn end_capture(&self, stream: Handle) -> Result<Handle, DeviceError> {
        self.enter()?;
        let mut graph = std::ptr::null_mut();
        // SAFETY: a stream of this driver; the driver writes one handle.
        done("cuStreamEndCapture", unsafe {
            sys::cuStreamEndCapture(stream as sys::CUstream, &mut graph)
        })?;
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph was just made; the executable one doesn't need it further.
        let result = unsafe {
            let result = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            sys::cuGraphDestroy(graph);
            result
        };
        done("cuGraphInstantiate", result).map(|()| executable as Handle)
    }

    fn replay(&self, stream: Handle, graph: Handle) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: from `end_capture`, released only by `release_graph`. The memory that it names is the session's,
        // which owns the graph.
        done("cuGraphLaunch", unsafe {
            sys::cuGraphLaunch(graph as sys::CUgraphExec, stream as sys::CUstream)
        })
    }

    fn release_graph(&self, graph: Handle) {
        if self.enter().is_ok() {
            // SAFETY: from `end_capture`, released once.
            unsafe { sys::cuGraphExecDestroy(graph as sys::CUgraphExec) };
        }
    }

    fn synchronize(&self, stream: Handle) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: a stream of this driver.
        done("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(stream as sys::CUstream) })
    }
}
