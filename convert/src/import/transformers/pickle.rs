//! The pickles inside PyTorch's checkpoints: dictionaries of tensors, read without running anything.
//!
//! A pickle is a program for a small stack machine. Only the operations that `torch.save` uses for state dictionaries are known
//! here, and instead of importing what a pickle names, it is compared with a short list. Values lie in lists of the reader and
//! refer to each other by index, so that nothing nests in memory however deep a pickle nests.

use std::collections::HashMap;

/// A tensor: elements of a storage, by strides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strided {
    /// Type of the elements, as PyTorch names storages: `FloatStorage`.
    pub(super) storage: String,
    /// The name of the entry that holds the storage.
    pub(super) key: String,
    /// Elements of the storage.
    pub(super) elements: usize,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A value, in one of the reader's lists if it has parts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    /// Nothing that matters: None, numbers that aren't whole, attributes.
    Opaque,
    Int(i64),
    Text(usize),
    Tuple(usize),
    List,
    Dict(usize),
    Global(Global),
    /// A persistent id: storage type, key, elements.
    Storage(usize),
    Tensor(usize),
}

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// Index of the type's name.
    Storage(usize),
}

#[derive(Default)]
struct Reader<'p> {
    bytes: &'p [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    texts: Vec<&'p str>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    tensors: Vec<Strided>,
}

/// Parts of a tuple that describes a tensor at most, and axes: a short pickle could refer to a long one again and again.
const MAX_PARTS: usize = 16;
/// Bytes of a name at most, for the same reason.
const MAX_NAME_BYTES: usize = 1024;

/// What is wrong with a pickle.
type Read<T> = Result<T, String>;

fn broken<T>(what: &str) -> Read<T> {
    Err(format!("its pickle is broken: {what}"))
}

/// The tensors of a state dictionary by name; of a checkpoint that has one under `state_dict`, those.
pub(super) fn tensors(bytes: &[u8]) -> Read<HashMap<String, Strided>> {
    let mut reader = Reader { bytes, ..Reader::default() };
    let Value::Dict(root) = reader.run()? else {
        return Err("it holds no dictionary of tensors".to_owned());
    };
    let inner = reader.dicts[root].iter().find_map(|(key, value)| match (key, value) {
        (Value::Text(key), Value::Dict(inner)) if reader.texts[*key] == "state_dict" => {
            Some(*inner)
        }
        _ => None,
    });
    let entries = &reader.dicts[inner.unwrap_or(root)];
    let tensors = entries.iter().filter_map(|(key, value)| match (key, value) {
        (Value::Text(key), Value::Tensor(tensor)) => {
            Some((reader.texts[*key].to_owned(), reader.tensors[*tensor].clone()))
        }
        _ => None,
    });
    Ok(tensors.collect())
}

impl<'p> Reader<'p> {
    fn take(&mut self, count: usize) -> Read<&'p [u8]> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count));
        self.at += taken.map_or(0, <[u8]>::len);
        taken.map_or_else(|| broken("it ends early"), Ok)
    }

    fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    /// A number of up to eight bytes, the least first.
    fn number(&mut self, bytes: usize) -> Read<u64> {
        let taken = self.take(bytes)?;
        Ok(taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn text(&mut self, bytes: u64) -> Read<Value> {
        let bytes = self.take(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        if bytes.len() > MAX_NAME_BYTES {
            // Nothing that is looked at.
            return Ok(Value::Opaque);
        }
        let Ok(text) = std::str::from_utf8(bytes) else { return broken("a text isn't UTF-8") };
        self.texts.push(text);
        Ok(Value::Text(self.texts.len() - 1))
    }

    fn line(&mut self) -> Read<&'p str> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            return broken("it ends early");
        };
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).or_else(|_| broken("a name isn't UTF-8"))
    }

    fn pop(&mut self) -> Read<Value> {
        // What is below a mark belongs to it.
        match self.stack.len() > self.marks.last().copied().unwrap_or(0) {
            true => Ok(self.stack.pop().unwrap_or(Value::Opaque)),
            false => broken("a value is missing"),
        }
    }

    fn top(&self) -> Read<Value> {
        self.stack.last().map_or_else(|| broken("a value is missing"), |top| Ok(*top))
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Read<Vec<Value>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => broken("a mark is missing"),
        }
    }

    fn tuple(&mut self, parts: Vec<Value>) -> Value {
        self.tuples.push(parts);
        Value::Tuple(self.tuples.len() - 1)
    }

    fn few(&mut self, count: usize) -> Read<Value> {
        let mut parts: Vec<Value> = (0..count).map(|_| self.pop()).collect::<Read<_>>()?;
        parts.reverse();
        Ok(self.tuple(parts))
    }

    fn dict(&mut self) -> Value {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }

    /// Puts pairs into the dictionary on top; into anything else they get lost.
    fn set(&mut self, pairs: &[Value]) -> Read<()> {
        if !pairs.len().is_multiple_of(2) {
            return broken("a dictionary has a key without a value");
        }
        if let Value::Dict(dict) = self.top()? {
            self.dicts[dict].extend(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        Ok(())
    }

    fn run(&mut self) -> Read<Value> {
        loop {
            // Letters as in Python's pickletools.
            let value = match self.byte()? {
                0x80 => match self.byte()? {
                    2..=5 => continue,
                    other => {
                        return Err(format!("its pickle has protocol {other}; 2 to 5 are read"));
                    }
                },
                // Frames only tell how much to read at once.
                0x95 => {
                    self.number(8)?;
                    continue;
                }
                b'.' => return self.pop(),
                b'(' => {
                    self.marks.push(self.stack.len());
                    continue;
                }
                b'N' | 0x88 | 0x89 => Value::Opaque,
                b'J' => Value::Int(i64::from(self.number(4)? as u32 as i32)),
                b'K' => Value::Int(self.number(1)? as i64),
                b'M' => Value::Int(self.number(2)? as i64),
                0x8a => match self.byte()? {
                    length @ 0..=8 => {
                        let unsigned = self.number(usize::from(length))?;
                        let unused = 64 - 8 * u32::from(length);
                        Value::Int(if unused == 64 {
                            0
                        } else {
                            (unsigned << unused) as i64 >> unused
                        })
                    }
                    length => {
                        self.take(usize::from(length))?;
                        Value::Opaque
                    }
                },
                b'G' => {
                    self.take(8)?;
                    Value::Opaque
                }
                b'X' => {
                    let bytes = self.number(4)?;
                    self.text(bytes)?
                }
                0x8c => {
                    let bytes = self.number(1)?;
                    self.text(bytes)?
                }
                b'q' | b'r' | 0x94 => {
                    let letter = self.bytes[self.at - 1];
                    let place = match letter {
                        b'q' => self.number(1)? as u32,
                        b'r' => self.number(4)? as u32,
                        _ => self.memo.len() as u32,
                    };
                    let top = self.top()?;
                    self.memo.insert(place, top);
                    continue;
                }
                letter @ (b'h' | b'j') => {
                    let place = self.number(if letter == b'h' { 1 } else { 4 })? as u32;
                    match self.memo.get(&place) {
                        Some(value) => *value,
                        None => return broken("it refers to a value that wasn't kept"),
                    }
                }
                b'0' => {
                    self.pop()?;
                    continue;
                }
                b')' => self.tuple(Vec::new()),
                0x85 => self.few(1)?,
                0x86 => self.few(2)?,
                0x87 => self.few(3)?,
                b't' => {
                    let parts = self.marked()?;
                    self.tuple(parts)
                }
                b']' => Value::List,
                b'a' => {
                    self.pop()?;
                    continue;
                }
                b'e' => {
                    self.marked()?;
                    continue;
                }
                b'}' => self.dict(),
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set(&[key, value])?;
                    continue;
                }
                b'u' => {
                    let pairs = self.marked()?;
                    self.set(&pairs)?;
                    continue;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (module, name) else {
                        return broken("a global has no name");
                    };
                    self.global(self.texts[module], self.texts[name])?
                }
                b'Q' => {
                    let id = self.pop()?;
                    match id {
                        Value::Tuple(id) => Value::Storage(id),
                        _ => return broken("a storage has no description"),
                    }
                }
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.call(function, arguments)?
                }
                // Attributes of a dictionary: versions of modules.
                b'b' => {
                    self.pop()?;
                    continue;
                }
                other => {
                    return Err(format!(
                        "its pickle has the operation {other:#04x}, which state dictionaries don't have; save the model as \
                         safetensors with save_pretrained"
                    ));
                }
            };
            self.stack.push(value);
        }
    }

    fn global(&mut self, module: &'p str, name: &'p str) -> Read<Value> {
        Ok(Value::Global(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", storage) if storage.ends_with("Storage") => {
                self.texts.push(storage);
                Global::Storage(self.texts.len() - 1)
            }
            _ => {
                return Err(format!(
                    "its pickle names `{module}.{name}`; only tensors and dictionaries of them are read, and nothing is run. \
                     Save the model as safetensors with save_pretrained"
                ));
            }
        }))
    }

    fn call(&mut self, function: Value, arguments: Value) -> Read<Value> {
        let Value::Tuple(arguments) = arguments else { return broken("a call has no arguments") };
        let short = |tuple: usize| match self.tuples[tuple].len() <= MAX_PARTS {
            true => Ok(self.tuples[tuple].clone()),
            false => broken("a tensor's description is too long"),
        };
        let arguments = short(arguments)?;
        match (function, &arguments[..]) {
            (Value::Global(Global::OrderedDict), []) => Ok(self.dict()),
            (Value::Global(Global::RebuildParameter), [tensor @ Value::Tensor(_), ..]) => {
                Ok(*tensor)
            }
            (
                Value::Global(Global::RebuildTensor),
                [
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    ..,
                ],
            ) => {
                let storage = short(*storage)?;
                // The last but one is the device.
                let [
                    Value::Text(kind),
                    Value::Global(Global::Storage(of)),
                    Value::Text(key),
                    _,
                    Value::Int(elements),
                ] = storage[..]
                else {
                    return broken("a storage isn't described as one");
                };
                if self.texts[kind] != "storage" {
                    return broken("a storage isn't described as one");
                }
                let whole = |value: &Value| match value {
                    Value::Int(number) => usize::try_from(*number).ok(),
                    _ => None,
                };
                let (shape, strides) = (short(*shape)?, short(*strides)?);
                let list = |sizes: &[Value]| sizes.iter().map(whole).collect::<Option<Vec<_>>>();
                let tensor = (
                    whole(&Value::Int(*offset)),
                    whole(&Value::Int(elements)),
                    list(&shape),
                    list(&strides),
                );
                let (Some(offset), Some(elements), Some(shape), Some(strides)) = tensor else {
                    return broken("a tensor has sizes that aren't numbers from 0 on");
                };
                let (storage, key) = (self.texts[of].to_owned(), self.texts[key].to_owned());
                self.tensors.push(Strided { storage, key, elements, offset, shape, strides });
                Ok(Value::Tensor(self.tensors.len() - 1))
            }
            _ => broken("a call isn't one that makes a tensor or a dictionary"),
        }
    }
}
