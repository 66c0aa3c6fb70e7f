//! What a call allocates: how often, and how much at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static SPENT: Cell<Allocations> = const { Cell::new(Allocations { count: 0, largest: 0 }) };
}

/// Allocations of this thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocations {
    /// How many.
    pub count: usize,
    /// Bytes of the largest.
    pub largest: usize,
}

impl Allocations {
    /// Those of a call.
    pub fn of(call: impl FnOnce()) -> Self {
        SPENT.set(Allocations::default());
        call();
        SPENT.get()
    }
}

/// The system's allocator, counted.
struct Counting;

fn count(bytes: usize) {
    // A thread that ends has no counter any more.
    let _ = SPENT.try_with(|spent| {
        let Allocations { count, largest } = spent.get();
        spent.set(Allocations { count: count.saturating_add(1), largest: largest.max(bytes) });
    });
}

#[expect(unsafe_code, reason = "allocators are unsafe to write")]
// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: what the caller promises is what the system asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
