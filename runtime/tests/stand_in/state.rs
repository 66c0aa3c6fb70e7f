//! Contexts, memory, and the rules between them.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use tessera_runtime::rknn::abi::{MatmulInfo, TensorMem, layout, sync};

use super::arithmetic::{F16, I4, I8, Problem};

/// What a call that failed returns.
#[derive(Clone, Copy, Debug)]
pub struct Code(pub c_int);

impl Code {
    pub const FAILURE: Code = Code(-1);
    pub const TIMEOUT: Code = Code(-2);
    pub const PARAMETER: Code = Code(-5);
    pub const CONTEXT: Code = Code(-7);
    pub const INPUT: Code = Code(-8);
}

/// Domains of the driver.
const DOMAINS: i32 = 16;

/// K beyond this is refused.
const LONGEST: i32 = 10304;

/// Buffers of so many bytes take no memory before they are written.
const LARGE: usize = 64 << 20;

/// What is broken, by `RKNN_STAND_IN_FAULT`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Fault {
    #[default]
    None,
    /// Weights with the even column in the high nibble.
    Nibbles,
    /// Tiles in another order.
    TileOrder,
    /// Sums of 4 bits that wrap.
    Wrap,
    /// Syncs that do nothing.
    Stale,
    /// The second core gives zeros.
    Core,
    /// Runs that do not end.
    Run,
    /// Rows of A and C apart as if there were a multiple of 4, as in old versions.
    Stride,
    /// Weights of any length in one piece, as in old versions.
    OneBlock,
}

impl Fault {
    fn planted() -> Self {
        match std::env::var("RKNN_STAND_IN_FAULT").as_deref() {
            Ok("nibbles") => Fault::Nibbles,
            Ok("tile-order") => Fault::TileOrder,
            Ok("wrap") => Fault::Wrap,
            Ok("stale") => Fault::Stale,
            Ok("core") => Fault::Core,
            Ok("run") => Fault::Run,
            Ok("stride") => Fault::Stride,
            Ok("one-block") => Fault::OneBlock,
            _ => Fault::None,
        }
    }
}

/// A limit that a variable plants.
fn limit(name: &str) -> Option<u64> {
    std::env::var(format!("RKNN_STAND_IN_{name}")).ok()?.parse().ok()
}

/// A tensor as the library describes it.
pub struct Tensor {
    pub name: &'static str,
    pub dims: Vec<u32>,
    pub bytes: usize,
    pub kind: c_int,
}

struct Context {
    problem: Problem,
    domain: i32,
    mask: c_int,
    fault: Fault,
    /// Memory of A, B and C, by address.
    bound: [Option<usize>; 3],
}

/// A buffer, as the processor and as the NPU see it.
struct Buffer {
    processor: Lent<[u8]>,
    npu: Vec<u8>,
}

/// What is owned here and used by the caller through a pointer: no reference to it is made meanwhile.
struct Lent<T: ?Sized>(*mut T);

// SAFETY: it owns what it points to, as a box does.
unsafe impl<T: ?Sized + Send> Send for Lent<T> {}

impl<T: ?Sized> Lent<T> {
    fn new(value: Box<T>) -> Self {
        Lent(Box::into_raw(value))
    }
}

impl<T: ?Sized> Drop for Lent<T> {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and the caller has given the memory back.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl Lent<[u8]> {
    fn at(&self, offset: usize) -> *mut u8 {
        self.0.cast::<u8>().wrapping_add(offset)
    }
}

struct Memory {
    buffer: Arc<Mutex<Buffer>>,
    offset: usize,
    bytes: usize,
    domain: i32,
    _described: Lent<TensorMem>,
    descriptor: i32,
    /// Whether it is a buffer of its own.
    whole: bool,
}

#[derive(Default)]
pub struct State {
    contexts: HashMap<u64, Context>,
    /// By the address of what describes them.
    memory: HashMap<usize, Memory>,
    made: u64,
    descriptors: i32,
}

// SAFETY: the pointers in it are to memory that it owns.
unsafe impl Send for State {}

impl State {
    pub fn has(&self, context: u64) -> bool {
        self.contexts.contains_key(&context)
    }

    pub fn create(&mut self, info: &MatmulInfo) -> Result<(u64, [Tensor; 3]), Code> {
        let [m, k, n] = [info.m, info.k, info.n].map(usize::try_from);
        let (Ok(m), Ok(k), Ok(n)) = (m, k, n) else { return Err(Code::PARAMETER) };
        let native = info.ac_layout == layout::NATIVE;
        let problem = Problem { kind: info.matmul_type, m, k, n, native };
        let known = matches!(info.matmul_type, F16 | I8 | I4);
        let aligned = k.is_multiple_of(32) && n.is_multiple_of(problem.channels());
        let some = m > 0 && k > 0 && n > 0 && info.k <= LONGEST;
        let domain = info.iommu_domain_id;
        // Weights row after row are refused for 4 bits; nothing here asks for it with others.
        let laid_out = info.b_layout == layout::NATIVE;
        if !(known && aligned && some && laid_out && (0..DOMAINS).contains(&domain)) {
            return Err(Code::PARAMETER);
        }
        if info.reserved.iter().any(|byte| *byte != 0) {
            return Err(Code::PARAMETER);
        }
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let cube = |elements: usize, columns: usize| match native {
            true => vec![number(columns / elements), number(m), number(elements)],
            false => vec![number(m), number(columns)],
        };
        let rows = problem.channels();
        let (of_inputs, of_results) = match info.matmul_type {
            F16 => (1, 0),
            I8 => (2, 6),
            _ => (10, 4),
        };
        let tensors = [
            Tensor {
                name: "A",
                dims: cube(128 / problem.bits(), k),
                bytes: m * k * problem.bits() / 8,
                kind: of_inputs,
            },
            Tensor {
                name: "B",
                dims: vec![number(n / rows), number(k / 32), number(rows), 32],
                bytes: k * n * problem.bits() / 8,
                kind: of_inputs,
            },
            Tensor {
                name: "C",
                dims: cube(16 / problem.result(), n),
                bytes: m * n * problem.result(),
                kind: of_results,
            },
        ];
        self.made += 1;
        let context =
            Context { problem, domain, mask: 0, fault: Fault::planted(), bound: [None; 3] };
        self.contexts.insert(self.made, context);
        Ok((self.made, tensors))
    }

    pub fn set_core(&mut self, context: u64, mask: c_int) -> Result<(), Code> {
        let context = self.contexts.get_mut(&context).ok_or(Code::CONTEXT)?;
        if !matches!(mask, 0 | 1 | 2 | 4) {
            return Err(Code::FAILURE);
        }
        context.mask = mask;
        Ok(())
    }

    pub fn allocate(&mut self, context: u64, bytes: u32) -> Option<*mut TensorMem> {
        let domain = self.contexts.get(&context)?.domain;
        let own = |memory: &&Memory| memory.whole && memory.domain == domain;
        let filled: usize = self.memory.values().filter(own).map(|memory| memory.bytes).sum();
        let wanted = usize::try_from(bytes).ok()?;
        let most = limit("DOMAIN_BYTES").unwrap_or(0x7fff_ffff);
        let open = self.memory.values().filter(|memory| memory.whole).count();
        if (filled + wanted) as u64 > most
            || limit("DESCRIPTORS").is_some_and(|most| open as u64 >= most)
        {
            return None;
        }
        // What was there before is nobody's to rely on.
        let [processor, npu] = if wanted < LARGE { [0xa5, 0x5a] } else { [0, 0] };
        // A driver's memory has its pages from the beginning, as this has if it is wanted.
        let processor = if limit("RESIDENT").is_some() { 0xa5 } else { processor };
        let lent = Lent::new(vec![processor; wanted].into_boxed_slice());
        let buffer = Buffer { processor: lent, npu: vec![npu; wanted] };
        self.descriptors += 1;
        let descriptor = self.descriptors;
        Some(self.insert(Arc::new(Mutex::new(buffer)), (0, wanted), (domain, descriptor), true))
    }

    pub fn part(
        &mut self,
        context: u64,
        descriptor: i32,
        address: *mut c_void,
        bytes: u32,
        offset: i32,
    ) -> Option<*mut TensorMem> {
        let domain = self.contexts.get(&context)?.domain;
        let of_descriptor = |memory: &&Memory| memory.whole && memory.descriptor == descriptor;
        let whole = self.memory.values().find(of_descriptor)?;
        let (start, bytes) = (usize::try_from(offset).ok()?, usize::try_from(bytes).ok()?);
        let inside = start.checked_add(bytes)? <= whole.bytes;
        let buffer = Arc::clone(&whole.buffer);
        let begins = buffer.lock().unwrap_or_else(PoisonError::into_inner).processor.at(0);
        if !inside || whole.domain != domain || begins.cast() != address {
            return None;
        }
        Some(self.insert(buffer, (start, bytes), (domain, descriptor), false))
    }

    fn insert(
        &mut self,
        buffer: Arc<Mutex<Buffer>>,
        (offset, bytes): (usize, usize),
        (domain, descriptor): (i32, i32),
        whole: bool,
    ) -> *mut TensorMem {
        let begins = buffer.lock().unwrap_or_else(PoisonError::into_inner).processor.at(offset);
        let described = Lent::new(Box::new(TensorMem {
            virt_addr: begins.cast(),
            phys_addr: 0,
            fd: descriptor,
            offset: i32::try_from(offset).unwrap_or(0),
            size: u32::try_from(bytes).unwrap_or(0),
            flags: if whole { 1 } else { 2 },
            priv_data: ptr::null_mut(),
        }));
        let pointer = described.0;
        let memory =
            Memory { buffer, offset, bytes, domain, _described: described, descriptor, whole };
        self.memory.insert(pointer as usize, memory);
        pointer
    }

    pub fn bind(&mut self, context: u64, memory: *mut TensorMem, name: u8) -> Result<(), Code> {
        let context = self.contexts.get_mut(&context).ok_or(Code::CONTEXT)?;
        let bound = self.memory.get(&(memory as usize)).ok_or(Code::PARAMETER)?;
        let Problem { m, k, n, .. } = context.problem;
        let bits = context.problem.bits();
        let (index, bytes) = match name {
            b'A' => (0, m * k * bits / 8),
            b'B' => (1, k * n * bits / 8),
            b'C' => (2, m * n * context.problem.result()),
            _ => return Err(Code::PARAMETER),
        };
        if bound.bytes < bytes || bound.domain != context.domain {
            return Err(Code::PARAMETER);
        }
        context.bound[index] = Some(memory as usize);
        Ok(())
    }

    pub fn sync(&mut self, context: u64, memory: *mut TensorMem, mode: c_int) -> Result<(), Code> {
        let fault = self.contexts.get(&context).ok_or(Code::CONTEXT)?.fault;
        let memory = self.memory.get(&(memory as usize)).ok_or(Code::PARAMETER)?;
        let range = memory.offset..memory.offset + memory.bytes;
        let mut buffer = memory.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let Buffer { processor, npu } = &mut *buffer;
        match mode {
            _ if fault == Fault::Stale => {}
            // SAFETY: the range is within the buffer, and the caller does not write it during the call.
            sync::TO_DEVICE => unsafe {
                let to = npu[range.clone()].as_mut_ptr();
                ptr::copy_nonoverlapping(processor.at(range.start), to, range.len());
            },
            // SAFETY: as above, and the caller does not read it either.
            sync::FROM_DEVICE => unsafe {
                let from = npu[range.clone()].as_ptr();
                ptr::copy_nonoverlapping(from, processor.at(range.start), range.len());
            },
            _ => return Err(Code::PARAMETER),
        }
        Ok(())
    }

    pub fn run(&mut self, context: u64) -> Result<(), Code> {
        let context = self.contexts.get(&context).ok_or(Code::CONTEXT)?;
        if context.fault == Fault::Run {
            return Err(Code::TIMEOUT);
        }
        let memory = |index: usize| {
            let address = context.bound[index].ok_or(Code::INPUT)?;
            self.memory.get(&address).ok_or(Code::INPUT)
        };
        let view = |index: usize| {
            let memory = memory(index)?;
            let buffer = memory.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(buffer.npu[memory.offset..memory.offset + memory.bytes].to_vec())
        };
        let (a, b, mut c) = (view(0)?, view(1)?, view(2)?);
        if context.fault == Fault::Core && context.mask == 2 {
            c.fill(0);
        } else {
            context.problem.multiply(&a, &b, &mut c, context.fault);
        }
        let memory = memory(2)?;
        let mut buffer = memory.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.npu[memory.offset..memory.offset + memory.bytes].copy_from_slice(&c);
        Ok(())
    }

    pub fn free(&mut self, context: u64, memory: *mut TensorMem) -> Result<(), Code> {
        if !self.has(context) {
            return Err(Code::CONTEXT);
        }
        self.memory.remove(&(memory as usize)).map(drop).ok_or(Code::PARAMETER)
    }

    pub fn destroy(&mut self, context: u64) -> Result<(), Code> {
        self.contexts.remove(&context).map(drop).ok_or(Code::CONTEXT)
    }
}
