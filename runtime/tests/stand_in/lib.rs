//! A librknnrt for tests: the same symbols, the rules of the real one, and matmuls from the NPU's own
//! layouts by plain arithmetic that is nobody else's here.
//!
//! What the processor writes and what the NPU sees are two copies, which only `rknn_mem_sync` makes one: who
//! forgets it computes with what was there before. Environment variables that begin with `RKNN_STAND_IN_` plant
//! faults; they are read when a context is made.
#![allow(unsafe_code, reason = "a C interface")]
#![allow(
    missing_docs,
    clippy::missing_safety_doc,
    reason = "called by `rknn` alone, as its interface says"
)]

mod arithmetic;
mod state;

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tessera_runtime::rknn::abi::{
    self, MatmulInfo, MatmulIoAttr, MatmulTensorAttr, SdkVersion, TensorMem,
};

use self::state::{Code, State, Tensor};

/// Found in the file before it is loaded.
#[used]
static VERSION: [u8; 47] = *b"librknnrt version: 2.3.2 (stand-in@2026-11-21)\0";

static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn code(result: Result<(), Code>) -> c_int {
    result.map_or_else(|code| code.0, |()| 0)
}

fn text(to: &mut [c_char; abi::MAX_NAME], from: &str) {
    for (to, from) in to.iter_mut().zip(from.bytes().chain([0])) {
        *to = c_char::from_ne_bytes([from]);
    }
}

fn describe(attributes: &mut MatmulTensorAttr, tensor: &Tensor) {
    text(&mut attributes.name, tensor.name);
    attributes.n_dims = u32::try_from(tensor.dims.len()).unwrap_or(0);
    attributes.dims = [0; abi::MAX_DIMS];
    for (to, from) in attributes.dims.iter_mut().zip(&tensor.dims) {
        *to = *from;
    }
    attributes.size = u32::try_from(tensor.bytes).unwrap_or(u32::MAX);
    attributes.tensor_type = tensor.kind;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_matmul_create(
    context: *mut u64,
    info: *mut MatmulInfo,
    attributes: *mut MatmulIoAttr,
) -> c_int {
    // SAFETY: the caller's pointers are to structures of these types, or null.
    let (Some(context), Some(info), Some(attributes)) =
        (unsafe { (context.as_mut(), info.as_ref(), attributes.as_mut()) })
    else {
        return Code::PARAMETER.0;
    };
    code(state().create(info).map(|(number, [a, b, c])| {
        *context = number;
        describe(&mut attributes.a, &a);
        describe(&mut attributes.b, &b);
        describe(&mut attributes.c, &c);
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_matmul_set_core_mask(context: u64, mask: c_int) -> c_int {
    code(state().set_core(context, mask))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_matmul_set_io_mem(
    context: u64,
    memory: *mut TensorMem,
    attributes: *mut MatmulTensorAttr,
) -> c_int {
    // SAFETY: the caller's pointer is to a structure of this type, or null.
    let Some(attributes) = (unsafe { attributes.as_ref() }) else { return Code::PARAMETER.0 };
    let name = attributes.name[0].to_ne_bytes()[0];
    code(state().bind(context, memory, name))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_matmul_run(context: u64) -> c_int {
    code(state().run(context))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_matmul_destroy(context: u64) -> c_int {
    code(state().destroy(context))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_create_mem(context: u64, bytes: u32) -> *mut TensorMem {
    state().allocate(context, bytes).unwrap_or(ptr::null_mut())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_create_mem_from_fd(
    context: u64,
    descriptor: i32,
    address: *mut c_void,
    bytes: u32,
    offset: i32,
) -> *mut TensorMem {
    state().part(context, descriptor, address, bytes, offset).unwrap_or(ptr::null_mut())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_destroy_mem(context: u64, memory: *mut TensorMem) -> c_int {
    code(state().free(context, memory))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_mem_sync(context: u64, memory: *mut TensorMem, mode: c_int) -> c_int {
    code(state().sync(context, memory, mode))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_query(
    context: u64,
    subject: c_int,
    answer: *mut c_void,
    bytes: u32,
) -> c_int {
    let expected = u32::try_from(size_of::<SdkVersion>()).unwrap_or(0);
    if !state().has(context) {
        return Code::CONTEXT.0;
    }
    if subject != abi::query::SDK_VERSION || bytes != expected {
        return Code::PARAMETER.0;
    }
    // SAFETY: the caller's pointer is to a structure of that many bytes, or null.
    let Some(answer) = (unsafe { answer.cast::<SdkVersion>().as_mut() }) else {
        return Code::PARAMETER.0;
    };
    text(&mut answer.api_version, "2.3.2 (stand-in@2026-11-21)");
    text(&mut answer.drv_version, "0.9.8");
    0
}
