//! Memory that the NPU and the processor both see: arenas of weights, and buffers of matmuls.
#![expect(unsafe_code, reason = "memory that a C library made is read and written")]

use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use super::abi::{self, Context, sync};
use super::{Library, RknnError};

/// A context of the library, destroyed with the last of those who hold it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) library: Arc<Library>,
    pub(super) context: Context,
    /// Its IOMMU domain.
    pub(super) domain: i32,
    /// What it is, for errors.
    pub(super) what: String,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nothing is left to do about a context that cannot be destroyed.
        let _ = self.library.matmul_destroy(self.context);
    }
}

/// Memory that a context made: a buffer of its own, or a part of another's.
#[derive(Debug)]
pub(super) struct Memory {
    handle: Arc<Handle>,
    memory: NonNull<abi::TensorMem>,
    bytes: usize,
}

// SAFETY: the library allows calls for a memory from any thread, one at a time; what needs the memory for itself
// (writing, runs, destroying) takes it exclusively here.
unsafe impl Send for Memory {}
// SAFETY: shared, it is only read, and named in calls that do not change it.
unsafe impl Sync for Memory {}

impl Memory {
    /// A buffer of so many bytes in the context's domain.
    pub(super) fn new(handle: &Arc<Handle>, bytes: u64) -> Result<Self, RknnError> {
        let call = "rknn_create_mem";
        let what = || format!("{bytes} bytes in domain {} ({})", handle.domain, handle.what);
        // The library counts in 32 bits.
        let wanted =
            u32::try_from(bytes).map_err(|_| RknnError::NoMemory { call, what: what() })?;
        let made = handle.library.create_mem(handle.context, wanted);
        Self::of(handle, made, wanted).ok_or_else(|| RknnError::NoMemory { call, what: what() })
    }

    /// A part of another's, in a context of the same domain.
    fn part(
        handle: &Arc<Handle>,
        whole: &Memory,
        offset: u64,
        bytes: u64,
    ) -> Result<Self, RknnError> {
        let call = "rknn_create_mem_from_fd";
        let refused = || RknnError::NoMemory {
            call,
            what: format!(
                "{bytes} bytes from byte {offset} of {} in domain {} ({})",
                whole.bytes, handle.domain, handle.what
            ),
        };
        let end = offset.checked_add(bytes).and_then(|end| usize::try_from(end).ok());
        let fits = end.is_some_and(|end| end <= whole.bytes);
        let (Ok(start), Ok(wanted), true) = (i32::try_from(offset), u32::try_from(bytes), fits)
        else {
            return Err(refused());
        };
        // SAFETY: the structure is the library's, which it keeps until the memory is destroyed.
        let described = unsafe { whole.memory.as_ref() };
        let made = handle.library.create_mem_from_fd(handle.context, described, wanted, start);
        Self::of(handle, made, wanted).ok_or_else(refused)
    }

    /// What the library made, if it is as long as was asked and can be reached.
    fn of(handle: &Arc<Handle>, made: *mut abi::TensorMem, bytes: u32) -> Option<Self> {
        let memory = NonNull::new(made)?;
        // SAFETY: the library gives a structure that it keeps until the memory is destroyed.
        let described = unsafe { memory.as_ref() };
        let usable = !described.virt_addr.is_null() && described.size >= bytes;
        let bytes = usize::try_from(bytes).ok()?;
        // Destroyed right away where it is of no use.
        let memory = Memory { handle: Arc::clone(handle), memory, bytes };
        usable.then_some(memory)
    }

    pub(super) fn pointer(&self) -> *mut abi::TensorMem {
        self.memory.as_ptr()
    }

    pub(super) fn domain(&self) -> i32 {
        self.handle.domain
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    fn address(&self) -> *mut u8 {
        // SAFETY: the structure is the library's, which it keeps until the memory is destroyed.
        unsafe { self.memory.as_ref() }.virt_addr.cast()
    }

    /// Its bytes, as the processor sees them.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the library maps at least so many bytes there until the memory is destroyed; the NPU writes
        // them only in runs, which take them exclusively; bytes have no alignment.
        unsafe { slice::from_raw_parts(self.address(), self.bytes) }
    }

    /// The same, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and it is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.address(), self.bytes) }
    }

    /// Makes what the processor wrote visible to the NPU.
    pub(super) fn hand_over(&self) -> Result<(), RknnError> {
        self.sync(sync::TO_DEVICE)
    }

    /// Makes what the NPU wrote visible to the processor.
    pub(super) fn take_back(&mut self) -> Result<(), RknnError> {
        self.sync(sync::FROM_DEVICE)
    }

    fn sync(&self, mode: std::ffi::c_int) -> Result<(), RknnError> {
        let handle = &self.handle;
        handle.library.mem_sync(handle.context, self.pointer(), mode, &handle.what)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Nothing is left to do about memory that cannot be destroyed.
        let _ = self.handle.library.destroy_mem(self.handle.context, self.memory.as_ptr());
    }
}

/// Memory for the weights of many linears, in one buffer: one file descriptor, not thousands.
#[derive(Debug)]
pub struct Arena {
    memory: Memory,
}

impl Arena {
    /// Of so many bytes, in the domain of a matmul.
    ///
    /// # Errors
    ///
    /// If the domain does not have them.
    pub fn new(matmul: &super::Matmul, bytes: u64) -> Result<Self, RknnError> {
        Ok(Arena { memory: Memory::new(matmul.handle(), bytes)? })
    }

    /// Its bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    /// Hands what was filled in to the NPU. Nothing is written from here on.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn finish(self) -> Result<Arc<Self>, RknnError> {
        self.memory.hand_over()?;
        Ok(Arc::new(self))
    }
}

/// A part of an arena: the tiles of a segment, for one matmul.
#[derive(Debug)]
pub struct Slice {
    pub(super) memory: Memory,
    /// Outlives the part.
    _arena: Arc<Arena>,
}

impl Slice {
    /// `bytes` from byte `offset` of an arena, for a matmul of its domain.
    ///
    /// # Errors
    ///
    /// If the arena ends before, or the library fails.
    pub fn new(
        arena: &Arc<Arena>,
        matmul: &super::Matmul,
        offset: u64,
        bytes: u64,
    ) -> Result<Self, RknnError> {
        let memory = Memory::part(matmul.handle(), &arena.memory, offset, bytes)?;
        Ok(Slice { memory, _arena: Arc::clone(arena) })
    }
}
