//! A driver that records what it is asked, hands out addresses of no memory, and fails on demand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::driver::{Command, Driver, Handle, Pinned, Properties};
use super::error::Error;
use super::kernels::Kernel;
use crate::error::DeviceError;

/// Calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Allocate,
    Pinned,
    Write,
    Read,
    Function,
    Stream,
    Enqueue,
    BeginCapture,
    EndCapture,
    Replay,
    Synchronize,
}

#[derive(Default)]
pub(crate) struct Record {
    /// Enqueued outside of captures.
    pub(crate) direct: Vec<Command>,
    pub(crate) graphs: HashMap<Handle, Vec<Command>>,
    pub(crate) replays: Vec<Handle>,
    /// Bytes by address.
    pub(crate) memory: HashMap<u64, usize>,
    pub(crate) streams: usize,
    /// The call that fails, how many like it go well before, and how it fails.
    pub(crate) fails: Option<(Call, usize, DeviceError)>,
    pub(crate) functions: Vec<&'static str>,
    captures: HashMap<Handle, Vec<Command>>,
    next: u64,
}

pub(crate) struct Recorder {
    properties: Properties,
    record: Mutex<Record>,
}

impl Recorder {
    pub(crate) fn new(architecture: [u32; 2]) -> Arc<Recorder> {
        let properties = Properties {
            name: "a recorder".to_owned(),
            architecture,
            memory_bytes: 1 << 30,
            multiprocessors: 1,
        };
        Arc::new(Recorder { properties, record: Mutex::default() })
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    fn may_fail(&self, call: Call) -> Result<(), DeviceError> {
        let mut record = self.record();
        match &mut record.fails {
            Some((failing, 0, error)) if *failing == call => Err(*error),
            Some((failing, left, _)) if *failing == call => {
                *left -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn next(&self) -> u64 {
        let mut record = self.record();
        record.next += 1;
        record.next
    }
}

struct Staging {
    bytes: Vec<u8>,
    address: u64,
}

impl Pinned for Staging {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn address(&self) -> u64 {
        self.address
    }
}

impl Driver for Recorder {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.may_fail(Call::Allocate)?;
        // Far apart, so that an address tells its allocation.
        let address = self.next() << 32;
        self.record().memory.insert(address, bytes);
        Ok(address)
    }

    fn release(&self, address: u64) {
        assert!(self.record().memory.remove(&address).is_some(), "released twice");
    }

    fn pinned(&self, bytes: usize) -> Result<Box<dyn Pinned>, DeviceError> {
        self.may_fail(Call::Pinned)?;
        Ok(Box::new(Staging { bytes: vec![0; bytes], address: self.next() << 32 }))
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        self.may_fail(Call::Write)
    }

    fn read(&self, _: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        bytes.fill(0);
        self.may_fail(Call::Read)
    }

    fn function(&self, kernel: &'static Kernel) -> Result<Handle, Error> {
        self.may_fail(Call::Function).map_err(|_| Error::compile(kernel.file, "on demand"))?;
        self.record().functions.push(kernel.name);
        Ok(self.next())
    }

    fn stream(&self) -> Result<Handle, DeviceError> {
        self.may_fail(Call::Stream)?;
        self.record().streams += 1;
        Ok(self.next())
    }

    fn release_stream(&self, _: Handle) {
        self.record().streams -= 1;
    }

    fn enqueue(&self, stream: Handle, command: &Command) -> Result<(), DeviceError> {
        self.may_fail(Call::Enqueue)?;
        let mut record = self.record();
        let Record { captures, direct, .. } = &mut *record;
        captures.get_mut(&stream).unwrap_or(direct).push(command.clone());
        Ok(())
    }

    fn begin_capture(&self, stream: Handle) -> Result<(), DeviceError> {
        self.may_fail(Call::BeginCapture)?;
        let before = self.record().captures.insert(stream, vec![]);
        assert!(before.is_none(), "a capture begins in another");
        Ok(())
    }

    fn end_capture(&self, stream: Handle) -> Result<Handle, DeviceError> {
        let commands = self.record().captures.remove(&stream).expect("a capture");
        self.may_fail(Call::EndCapture)?;
        let graph = self.next();
        self.record().graphs.insert(graph, commands);
        Ok(graph)
    }

    fn replay(&self, _: Handle, graph: Handle) -> Result<(), DeviceError> {
        self.may_fail(Call::Replay)?;
        assert!(self.record().graphs.contains_key(&graph), "a graph that was released");
        self.record().replays.push(graph);
        Ok(())
    }

    fn release_graph(&self, graph: Handle) {
        assert!(self.record().graphs.remove(&graph).is_some(), "released twice");
    }

    fn synchronize(&self, _: Handle) -> Result<(), DeviceError> {
        self.may_fail(Call::Synchronize)
    }
}
