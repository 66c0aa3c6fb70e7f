//! The vendor's library, loaded at run time.
#![expect(unsafe_code, reason = "a C library is loaded and called")]

use std::ffi::{CStr, c_int, c_void};
use std::path::{Path, PathBuf};

use super::abi::{self, Context};
use super::{LEAST_VERSION, RknnError, Version};
use tessera_formats::escape::escaped_path;

/// What the library's file is called.
pub const LIBRARY: &str = "librknnrt.so";

/// Folders where it is looked for whatever the loader's configuration says, in this order.
pub const FOLDERS: [&str; 6] = [
    "/usr/lib",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/lib",
    "/lib/aarch64-linux-gnu",
    "/usr/local/lib",
];

/// A librknnrt of version 2.0 or later.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    version: Version,
    calls: Functions,
    /// Holds the code that `calls` point to, unless it is linked into this program.
    _loaded: Option<libloading::Library>,
}

/// The functions of a library. Those that newer versions alone have are optional.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the vendor's header, after `rknn_`")]
pub struct Functions {
    pub matmul_create: abi::MatmulCreate,
    pub matmul_set_io_mem: abi::MatmulSetIoMem,
    pub matmul_set_core_mask: Option<abi::MatmulSetCoreMask>,
    pub matmul_run: abi::MatmulRun,
    pub matmul_destroy: abi::MatmulDestroy,
    pub create_mem: abi::CreateMem,
    pub create_mem_from_fd: abi::CreateMemFromFd,
    pub destroy_mem: abi::DestroyMem,
    pub mem_sync: abi::MemSync,
    pub query: abi::Query,
}

impl Library {
    /// Looks for the library in the folders given.
    ///
    /// # Errors
    ///
    /// [`RknnError::NotFound`] if none has it.
    pub fn find(folders: &[PathBuf]) -> Result<PathBuf, RknnError> {
        let found = folders.iter().map(|folder| folder.join(LIBRARY)).find(|path| path.exists());
        found.ok_or_else(|| {
            let shown = folders.iter().map(|folder| format!("`{}`", escaped_path(folder)));
            RknnError::NotFound { searched: shown.collect::<Vec<_>>().join(", ") }
        })
    }

    /// Loads a library. Its version is read from its file first: one that is too old is not loaded.
    ///
    /// # Errors
    ///
    /// If it is no librknnrt, too old, or lacks a function.
    pub fn open(path: &Path) -> Result<Self, RknnError> {
        let read = |source| RknnError::Read { path: path.to_owned(), source };
        let version = Version::of_file(path)
            .map_err(read)?
            .ok_or_else(|| RknnError::NoVersion { path: path.to_owned() })?;
        if version < LEAST_VERSION {
            return Err(RknnError::TooOld { path: path.to_owned(), found: version });
        }
        // SAFETY: the library says that it is a librknnrt, whose initializers ask for nothing.
        let loaded = unsafe { libloading::Library::new(path) }
            .map_err(|source| RknnError::Load { path: path.to_owned(), source })?;
        let calls = Functions::resolve(&loaded, path)?;
        Ok(Library { path: path.to_owned(), version, calls, _loaded: Some(loaded) })
    }

    /// A library that is linked into this program; `path` is what errors call it.
    ///
    /// # Safety
    ///
    /// The functions must do what those of a librknnrt of that version do.
    pub unsafe fn linked(path: &Path, version: Version, functions: Functions) -> Self {
        Library { path: path.to_owned(), version, calls: functions, _loaded: None }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// `rknn_matmul_create`; `what` says in an error what the matmul is.
    pub(super) fn matmul_create(
        &self,
        info: &mut abi::MatmulInfo,
        what: &str,
    ) -> Result<(Context, abi::MatmulIoAttr), RknnError> {
        let mut context = 0;
        let mut attributes = zeroed_attributes();
        // SAFETY: all three point to memory of the types that the library expects, which is that of this
        // version or later, and live through the call.
        let code =
            unsafe { (self.calls.matmul_create)(&raw mut context, info, &raw mut attributes) };
        check("rknn_matmul_create", code, what)?;
        Ok((context, attributes))
    }

    /// `rknn_matmul_set_core_mask`; whether the library has it.
    pub(super) fn matmul_set_core_mask(
        &self,
        context: Context,
        mask: c_int,
        what: &str,
    ) -> Result<bool, RknnError> {
        let Some(set) = self.calls.matmul_set_core_mask else { return Ok(false) };
        // SAFETY: the context is one that this library made and has not destroyed.
        let code = unsafe { set(context, mask) };
        check("rknn_matmul_set_core_mask", code, what)?;
        Ok(true)
    }

    /// `rknn_matmul_set_io_mem`.
    pub(super) fn matmul_set_io_mem(
        &self,
        context: Context,
        memory: *mut abi::TensorMem,
        attributes: &mut abi::MatmulTensorAttr,
        what: &str,
    ) -> Result<(), RknnError> {
        // SAFETY: the context and the memory are ones that this library made and has not destroyed, and
        // the memory is as long as the tensor, which the caller checked.
        let code = unsafe { (self.calls.matmul_set_io_mem)(context, memory, attributes) };
        check("rknn_matmul_set_io_mem", code, what)
    }

    /// `rknn_matmul_run`.
    pub(super) fn matmul_run(&self, context: Context, what: &str) -> Result<(), RknnError> {
        // SAFETY: the context is one that this library made and has not destroyed, and its three tensors
        // have memory.
        let code = unsafe { (self.calls.matmul_run)(context) };
        check("rknn_matmul_run", code, what)
    }

    /// `rknn_matmul_destroy`.
    pub(super) fn matmul_destroy(&self, context: Context) -> c_int {
        // SAFETY: the context is one that this library made, and is not used again.
        unsafe { (self.calls.matmul_destroy)(context) }
    }

    /// `rknn_create_mem`.
    pub(super) fn create_mem(&self, context: Context, bytes: u32) -> *mut abi::TensorMem {
        // SAFETY: the context is one that this library made and has not destroyed.
        unsafe { (self.calls.create_mem)(context, bytes) }
    }

    /// `rknn_create_mem_from_fd`: a part of memory that the library made before.
    pub(super) fn create_mem_from_fd(
        &self,
        context: Context,
        whole: &abi::TensorMem,
        bytes: u32,
        offset: i32,
    ) -> *mut abi::TensorMem {
        // SAFETY: the context is one that this library made and has not destroyed, and the descriptor and the
        // address are those of memory that it made and that has not been destroyed either.
        unsafe {
            (self.calls.create_mem_from_fd)(context, whole.fd, whole.virt_addr, bytes, offset)
        }
    }

    /// `rknn_destroy_mem`.
    pub(super) fn destroy_mem(&self, context: Context, memory: *mut abi::TensorMem) -> c_int {
        // SAFETY: the memory is what this library made, and is not used again.
        unsafe { (self.calls.destroy_mem)(context, memory) }
    }

    /// `rknn_mem_sync`.
    pub(super) fn mem_sync(
        &self,
        context: Context,
        memory: *mut abi::TensorMem,
        mode: c_int,
        what: &str,
    ) -> Result<(), RknnError> {
        // SAFETY: the context and the memory are ones that this library made and has not destroyed.
        let code = unsafe { (self.calls.mem_sync)(context, memory, mode) };
        check("rknn_mem_sync", code, what)
    }

    /// Versions of the library and the driver, as the library says them.
    pub(super) fn sdk_version(&self, context: Context) -> Result<[String; 2], RknnError> {
        let mut versions =
            abi::SdkVersion { api_version: [0; abi::MAX_NAME], drv_version: [0; abi::MAX_NAME] };
        let subject = (&raw mut versions).cast::<c_void>();
        let bytes = u32::try_from(size_of::<abi::SdkVersion>()).unwrap_or_default();
        // SAFETY: the context is one that this library made and has not destroyed; the subject is a
        // structure of that many bytes.
        let code = unsafe { (self.calls.query)(context, abi::query::SDK_VERSION, subject, bytes) };
        check("rknn_query", code, "the versions")?;
        Ok([text(&versions.api_version), text(&versions.drv_version)])
    }
}

/// A C text, up to its end or that of the array.
fn text(bytes: &[std::ffi::c_char; abi::MAX_NAME]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|byte| byte.to_ne_bytes()[0]).chain([0]).collect();
    CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into_owned()
}

fn zeroed_attributes() -> abi::MatmulIoAttr {
    let tensor = abi::MatmulTensorAttr {
        name: [0; abi::MAX_NAME],
        n_dims: 0,
        dims: [0; abi::MAX_DIMS],
        size: 0,
        tensor_type: 0,
    };
    abi::MatmulIoAttr { a: tensor, b: tensor, c: tensor }
}

fn check(call: &'static str, code: c_int, what: &str) -> Result<(), RknnError> {
    if code == abi::SUCCESS {
        return Ok(());
    }
    Err(RknnError::Call { call, code, what: what.to_owned() })
}

impl Functions {
    fn resolve(loaded: &libloading::Library, path: &Path) -> Result<Self, RknnError> {
        /// Looks up a function by its name.
        fn get<T: Copy>(
            loaded: &libloading::Library,
            path: &Path,
            name: &'static str,
        ) -> Result<T, RknnError> {
            // SAFETY: the function of that name has that signature in every version from 2.0 on.
            let found = unsafe { loaded.get::<T>(name) };
            found
                .map(|symbol| *symbol)
                .map_err(|_| RknnError::Symbol { path: path.to_owned(), name })
        }
        Ok(Functions {
            matmul_create: get(loaded, path, "rknn_matmul_create")?,
            matmul_set_io_mem: get(loaded, path, "rknn_matmul_set_io_mem")?,
            matmul_set_core_mask: get(loaded, path, "rknn_matmul_set_core_mask").ok(),
            matmul_run: get(loaded, path, "rknn_matmul_run")?,
            matmul_destroy: get(loaded, path, "rknn_matmul_destroy")?,
            create_mem: get(loaded, path, "rknn_create_mem")?,
            create_mem_from_fd: get(loaded, path, "rknn_create_mem_from_fd")?,
            destroy_mem: get(loaded, path, "rknn_destroy_mem")?,
            mem_sync: get(loaded, path, "rknn_mem_sync")?,
            query: get(loaded, path, "rknn_query")?,
        })
    }
}
