//! The C interface of librknnrt for matmuls, version 2.0 and later: types, constants and signatures.
//!
//! Our own transcription; the vendor's header is not used. Sizes and offsets are asserted when this is
//! compiled, on every 64-bit machine, and `tests/rknn_abi.rs` compares them with a C compiler's.

use std::ffi::{c_char, c_int, c_void};

/// Dimensions that a tensor has at most.
pub const MAX_DIMS: usize = 16;

/// Bytes of a name, its end included.
pub const MAX_NAME: usize = 256;

/// A matmul's context.
pub type Context = u64;

/// What a call returns where nothing is wrong.
pub const SUCCESS: c_int = 0;

/// Types of A, B and C. The RK3588 takes these three and others that nobody needs.
pub mod matmul_type {
    use std::ffi::c_int;

    /// f16 × f16 → f32.
    pub const F16_F16_F32: c_int = 1;
    /// i8 × i8 → i32.
    pub const I8_I8_I32: c_int = 2;
    /// i4 × i4 → i16.
    pub const I4_I4_I16: c_int = 10;
}

/// How elements of a matrix stand in memory.
pub mod layout {
    /// Row after row.
    pub const NORMAL: i16 = 0;
    /// As the NPU reads and writes them.
    pub const NATIVE: i16 = 1;
}

/// Directions of [`MemSync`].
pub mod sync {
    use std::ffi::c_int;

    /// What the processor wrote becomes visible to the NPU.
    pub const TO_DEVICE: c_int = 1;
    /// What the NPU wrote becomes visible to the processor.
    pub const FROM_DEVICE: c_int = 2;
}

/// Masks of cores. A matmul's context runs on one; masks of several are refused.
pub mod core {
    use std::ffi::c_int;

    /// Whichever the driver picks.
    pub const AUTO: c_int = 0;
    /// The masks of the three cores.
    pub const EACH: [c_int; 3] = [1, 2, 4];
}

/// Subjects of [`Query`].
pub mod query {
    use std::ffi::c_int;

    /// Versions of the library and the driver, a [`SdkVersion`](super::SdkVersion).
    pub const SDK_VERSION: c_int = 5;
    /// Memory of a context, a [`MemSize`](super::MemSize).
    pub const MEM_SIZE: c_int = 6;
}

/// What a matmul is to be. All zeros but for what is said.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MatmulInfo {
    /// Rows of A.
    pub m: i32,
    /// Columns of A.
    pub k: i32,
    /// Columns of C.
    pub n: i32,
    /// One of [`matmul_type`].
    pub matmul_type: c_int,
    /// Of B, one of [`layout`].
    pub b_layout: i16,
    /// Scales of B; 0 for none of ours.
    pub b_quant_type: i16,
    /// Of A and C, one of [`layout`].
    pub ac_layout: i16,
    /// Scales of A and C; 0 for none of ours.
    pub ac_quant_type: i16,
    /// IOMMU domain of all its memory.
    pub iommu_domain_id: i32,
    /// Weights that share a scale; 0 for none of ours. Reserved in 2.0.
    pub group_size: i16,
    /// Zeros.
    pub reserved: [i8; 34],
}

/// A tensor of a matmul, as the library wants it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MatmulTensorAttr {
    /// `A`, `B` or `C`.
    pub name: [c_char; MAX_NAME],
    /// Dimensions that there are.
    pub n_dims: u32,
    /// Their sizes.
    pub dims: [u32; MAX_DIMS],
    /// Bytes.
    pub size: u32,
    /// Type of its elements.
    pub tensor_type: c_int,
}

/// The three tensors of a matmul.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MatmulIoAttr {
    /// Activations.
    pub a: MatmulTensorAttr,
    /// Weights.
    pub b: MatmulTensorAttr,
    /// Results.
    pub c: MatmulTensorAttr,
}

/// A shape among several.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MatmulShape {
    /// Rows of A.
    pub m: i32,
    /// Columns of A.
    pub k: i32,
    /// Columns of C.
    pub n: i32,
}

/// Scales and zero points that the library would apply; tessera applies its own.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QuantParams {
    /// `A`, `B` or `C`.
    pub name: [c_char; MAX_NAME],
    /// Scales.
    pub scale: *mut f32,
    /// How many.
    pub scale_len: i32,
    /// Zero points.
    pub zp: *mut i32,
    /// How many.
    pub zp_len: i32,
}

/// Memory that the NPU and the processor share.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TensorMem {
    /// Where the processor sees it.
    pub virt_addr: *mut c_void,
    /// Where the NPU sees it.
    pub phys_addr: u64,
    /// Its dma-buf.
    pub fd: i32,
    /// Where it begins within that.
    pub offset: i32,
    /// Bytes: fewer than 4 GiB.
    pub size: u32,
    /// How it came about.
    pub flags: u32,
    /// The library's own.
    pub priv_data: *mut c_void,
}

/// A tensor of a network. Matmuls do without it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TensorAttr {
    /// Number of the input or output.
    pub index: u32,
    /// Dimensions that there are.
    pub n_dims: u32,
    /// Their sizes.
    pub dims: [u32; MAX_DIMS],
    /// Name.
    pub name: [c_char; MAX_NAME],
    /// Elements.
    pub n_elems: u32,
    /// Bytes.
    pub size: u32,
    /// Format.
    pub fmt: c_int,
    /// Type of its elements.
    pub tensor_type: c_int,
    /// Quantization.
    pub qnt_type: c_int,
    /// Fraction bits.
    pub fl: i8,
    /// Zero point.
    pub zp: i32,
    /// Scale.
    pub scale: f32,
    /// Elements from a row to the next.
    pub w_stride: u32,
    /// Bytes with strides.
    pub size_with_stride: u32,
    /// Whether nothing is converted.
    pub pass_through: u8,
    /// Rows from an image to the next.
    pub h_stride: u32,
}

/// Memory of a context.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MemSize {
    /// Bytes of weights.
    pub total_weight_size: u32,
    /// Bytes between layers.
    pub total_internal_size: u32,
    /// Bytes of dma-bufs.
    pub total_dma_allocated_size: u64,
    /// Bytes of the NPU's own memory.
    pub total_sram_size: u32,
    /// Those of it that are free.
    pub free_sram_size: u32,
    /// Zeros.
    pub reserved: [u32; 10],
}

/// Versions, as text.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SdkVersion {
    /// Of the library.
    pub api_version: [c_char; MAX_NAME],
    /// Of the driver.
    pub drv_version: [c_char; MAX_NAME],
}

/// How long a run took.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PerfRun {
    /// Microseconds.
    pub run_duration: i64,
}

/// `rknn_matmul_create`.
pub type MatmulCreate =
    unsafe extern "C" fn(*mut Context, *mut MatmulInfo, *mut MatmulIoAttr) -> c_int;
/// `rknn_matmul_set_io_mem`.
pub type MatmulSetIoMem =
    unsafe extern "C" fn(Context, *mut TensorMem, *mut MatmulTensorAttr) -> c_int;
/// `rknn_matmul_set_core_mask`.
pub type MatmulSetCoreMask = unsafe extern "C" fn(Context, c_int) -> c_int;
/// `rknn_matmul_run`.
pub type MatmulRun = unsafe extern "C" fn(Context) -> c_int;
/// `rknn_matmul_destroy`.
pub type MatmulDestroy = unsafe extern "C" fn(Context) -> c_int;
/// `rknn_create_mem`.
pub type CreateMem = unsafe extern "C" fn(Context, u32) -> *mut TensorMem;
/// `rknn_create_mem2`, since 2.0.
pub type CreateMem2 = unsafe extern "C" fn(Context, u64, u64) -> *mut TensorMem;
/// `rknn_create_mem_from_fd`.
pub type CreateMemFromFd =
    unsafe extern "C" fn(Context, i32, *mut c_void, u32, i32) -> *mut TensorMem;
/// `rknn_destroy_mem`.
pub type DestroyMem = unsafe extern "C" fn(Context, *mut TensorMem) -> c_int;
/// `rknn_mem_sync`.
pub type MemSync = unsafe extern "C" fn(Context, *mut TensorMem, c_int) -> c_int;
/// `rknn_query`.
pub type Query = unsafe extern "C" fn(Context, c_int, *mut c_void, u32) -> c_int;

/// Asserts the size of a type and the offsets of its fields.
macro_rules! layout {
    ($($type:ident $size:literal { $($field:ident $offset:literal),* $(,)? })*) => {
        #[cfg(target_pointer_width = "64")]
        const _: () = {
            use std::mem::offset_of;
            $(
                assert!(size_of::<$type>() == $size);
                $(assert!(offset_of!($type, $field) == $offset);)*
            )*
        };

        /// Name, size, and names and offsets of fields of every structure.
        pub const LAYOUTS: &[(&str, usize, &[(&str, usize)])] = &[$(
            (stringify!($type), size_of::<$type>(), &[$(
                (stringify!($field), std::mem::offset_of!($type, $field))
            ),*])
        ),*];
    };
}

layout! {
    MatmulInfo 64 {
        m 0, k 4, n 8, matmul_type 12, b_layout 16, b_quant_type 18, ac_layout 20, ac_quant_type 22,
        iommu_domain_id 24, group_size 28, reserved 30,
    }
    MatmulTensorAttr 332 { name 0, n_dims 256, dims 260, size 324, tensor_type 328 }
    MatmulIoAttr 996 { a 0, b 332, c 664 }
    MatmulShape 12 { m 0, k 4, n 8 }
    QuantParams 288 { name 0, scale 256, scale_len 264, zp 272, zp_len 280 }
    TensorMem 40 {
        virt_addr 0, phys_addr 8, fd 16, offset 20, size 24, flags 28, priv_data 32,
    }
    TensorAttr 376 {
        index 0, n_dims 4, dims 8, name 72, n_elems 328, size 332, fmt 336, tensor_type 340,
        qnt_type 344, fl 348, zp 352, scale 356, w_stride 360, size_with_stride 364,
        pass_through 368, h_stride 372,
    }
    MemSize 64 {
        total_weight_size 0, total_internal_size 4, total_dma_allocated_size 8, total_sram_size 16,
        free_sram_size 20, reserved 24,
    }
    SdkVersion 512 { api_version 0, drv_version 256 }
    PerfRun 8 { run_duration 0 }
}
