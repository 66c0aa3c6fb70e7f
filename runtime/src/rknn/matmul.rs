//! Matmuls on one core of the NPU: C = A·Bᵀ of integers or halves, weights in the tiles of packs.

use std::ffi::c_int;
use std::fmt;
use std::sync::Arc;

use tessera_formats::npu::Engine;

use super::abi::{self, layout, matmul_type};
use super::memory::{Handle, Memory};
use super::{Library, RknnError, Slice};

/// How the rows of A and C stand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Row after row.
    Normal,
    /// In pieces of 16 bytes: the first of each row, the second of each row, and so on.
    Native,
}

impl Layout {
    /// That of packs' matmuls: with [`Layout::Normal`] the library multiplies 4 bits a row at a time.
    pub const fn of(engine: Engine) -> Self {
        match engine {
            Engine::I4 => Layout::Native,
            Engine::I8 | Engine::F16 => Layout::Normal,
        }
    }
}

/// M, K and N of a matmul, its engine, the layout of A and C, and the IOMMU domain of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows of activations: 1, or a multiple of 4.
    pub m: u32,
    /// Columns, a multiple of 32.
    pub k: u32,
    /// Output channels, a multiple of the engine's rows of a tile.
    pub n: u32,
    /// What executes it.
    pub engine: Engine,
    /// Rows of A and C.
    pub layout: Layout,
    /// Domain.
    pub domain: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { m, k, n, engine, layout, domain } = self;
        let rows =
            if *layout == Layout::of(*engine) { "" } else { " with rows laid out otherwise" };
        write!(f, "a matmul {engine:?} of M = {m}, K = {k}, N = {n}{rows} in domain {domain}")
    }
}

/// A core of the NPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// Whichever the driver picks.
    Any,
    /// That of the number, from 0.
    Number(usize),
}

/// A tensor of a matmul.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Activations.
    A,
    /// Weights.
    B,
    /// Results.
    C,
}

impl Shape {
    /// Bytes of a tensor: of A and B without padding; C has i32, i16 or f32.
    pub fn bytes(&self, operand: Operand) -> u64 {
        let [m, k, n] = [self.m, self.k, self.n].map(u64::from);
        let bits = u64::try_from(self.engine.weight_bits()).unwrap_or_default();
        let product =
            |one: u64, other: u64, bits: u64| one.saturating_mul(other).saturating_mul(bits) / 8;
        match operand {
            Operand::A => product(m, k, bits),
            Operand::B => product(k, n, bits),
            Operand::C => product(m, n, if self.engine == Engine::I4 { 16 } else { 32 }),
        }
    }

    /// Elements of A and of C that stand together: 16 bytes of them in [`Layout::Native`], where element
    /// `[m, k]` of A is number `((k / a)·M + m)·a + k % a`, and so is C's by n. None where they are row after
    /// row.
    pub fn cube(&self) -> Option<(u32, u32)> {
        let of_a = match self.engine {
            Engine::F16 => 8,
            Engine::I8 => 16,
            Engine::I4 => 32,
        };
        let of_c = if self.engine == Engine::I4 { 8 } else { 4 };
        (self.layout == Layout::Native).then_some((of_a, of_c))
    }

    fn check_rows(&self) -> Result<(), RknnError> {
        if self.m == 0 || (self.m > 1 && !self.m.is_multiple_of(4)) {
            // Between, older libraries write beyond the end of C.
            let why = "M must be 1 or a multiple of 4";
            return Err(RknnError::Shape { what: self.to_string(), why });
        }
        Ok(())
    }

    fn check(&self) -> Result<(), RknnError> {
        let wrong = |why| Err(RknnError::Shape { what: self.to_string(), why });
        if self.k == 0 || !self.k.is_multiple_of(32) {
            return wrong("K must be a multiple of 32");
        }
        let rows = u32::try_from(self.engine.tile_n()).unwrap_or(u32::MAX);
        if self.n == 0 || !self.n.is_multiple_of(rows) {
            return wrong("N must be a multiple of the rows of a tile");
        }
        Ok(())
    }

    fn info(&self) -> Result<abi::MatmulInfo, RknnError> {
        self.check()?;
        let too_large = || RknnError::Shape { what: self.to_string(), why: "it is beyond 31 bits" };
        let number = |value: u32| i32::try_from(value).map_err(|_| too_large());
        Ok(abi::MatmulInfo {
            m: number(self.m)?,
            k: number(self.k)?,
            n: number(self.n)?,
            matmul_type: match self.engine {
                Engine::F16 => matmul_type::F16_F16_F32,
                Engine::I8 => matmul_type::I8_I8_I32,
                Engine::I4 => matmul_type::I4_I4_I16,
            },
            b_layout: layout::NATIVE,
            b_quant_type: 0,
            ac_layout: match self.layout {
                Layout::Normal => layout::NORMAL,
                Layout::Native => layout::NATIVE,
            },
            ac_quant_type: 0,
            iommu_domain_id: number(self.domain)?,
            group_size: 0,
            reserved: [0; 34],
        })
    }
}

/// A matmul with memory for its activations and results, on one core.
#[derive(Debug)]
pub struct Matmul {
    shape: Shape,
    attributes: abi::MatmulIoAttr,
    // Fields are dropped in this order: memory before the context that it is bound to.
    a: Memory,
    c: Memory,
    b: Option<Arc<Slice>>,
    handle: Arc<Handle>,
}

impl Matmul {
    /// Of a shape, without weights yet.
    ///
    /// # Errors
    ///
    /// If the shape is none that the NPU has, the library fails, or it wants tensors of other sizes than packs
    /// have.
    pub fn new(library: &Arc<Library>, shape: Shape, core: Core) -> Result<Self, RknnError> {
        shape.check_rows()?;
        Self::guarded(library, shape, core, 0)
    }

    /// The same for any M, with `guard` bytes behind C: to find out what a library does with an M that is not 1
    /// and no multiple of 4.
    ///
    /// # Errors
    ///
    /// As [`Matmul::new`].
    pub fn guarded(
        library: &Arc<Library>,
        shape: Shape,
        core: Core,
        guard: u64,
    ) -> Result<Self, RknnError> {
        let mut info = shape.info()?;
        let what = shape.to_string();
        let (context, mut attributes) = library.matmul_create(&mut info, &what)?;
        let (library, domain) = (Arc::clone(library), info.iommu_domain_id);
        let handle = Arc::new(Handle { library, context, domain, what });
        for (operand, name, found) in [
            (Operand::A, "A", attributes.a.size),
            (Operand::B, "B", attributes.b.size),
            (Operand::C, "C", attributes.c.size),
        ] {
            let (expected, found) = (shape.bytes(operand), u64::from(found));
            if expected != found {
                let what = handle.what.clone();
                return Err(RknnError::Size { tensor: name, what, expected, found });
            }
        }
        let mask: c_int = match core {
            Core::Any => abi::core::AUTO,
            Core::Number(number) => abi::core::EACH.get(number).copied().ok_or_else(|| {
                RknnError::Shape { what: handle.what.clone(), why: "there is no such core" }
            })?,
        };
        if mask != abi::core::AUTO {
            handle.library.matmul_set_core_mask(context, mask, &handle.what)?;
        }
        let a = Memory::new(&handle, shape.bytes(Operand::A))?;
        let c = Memory::new(&handle, shape.bytes(Operand::C).saturating_add(guard))?;
        let bind = |memory: &Memory, tensor: &mut abi::MatmulTensorAttr| {
            handle.library.matmul_set_io_mem(context, memory.pointer(), tensor, &handle.what)
        };
        bind(&a, &mut attributes.a)?;
        bind(&c, &mut attributes.c)?;
        Ok(Matmul { shape, attributes, a, c, b: None, handle })
    }

    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Versions of the library and of the driver, as the library says them.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn versions(&self) -> Result<[String; 2], RknnError> {
        self.handle.library.sdk_version(self.handle.context)
    }

    /// Gives it weights, which are read where they are; those that it had go.
    ///
    /// # Errors
    ///
    /// If they are of another domain or fewer than the shape has, or the library fails.
    pub fn set_weights(&mut self, weights: &Arc<Slice>) -> Result<(), RknnError> {
        let wrong = |why| Err(RknnError::Shape { what: self.handle.what.clone(), why });
        if weights.memory.domain() != self.handle.domain {
            return wrong("its weights are in another domain");
        }
        if self.b.as_ref().is_some_and(|bound| Arc::ptr_eq(bound, weights)) {
            return Ok(());
        }
        let expected = usize::try_from(self.shape.bytes(Operand::B)).unwrap_or(usize::MAX);
        if weights.memory.len() != expected {
            return wrong("its weights have another number of bytes");
        }
        let Handle { library, context, what, .. } = &*self.handle;
        let pointer = weights.memory.pointer();
        library.matmul_set_io_mem(*context, pointer, &mut self.attributes.b, what)?;
        self.b = Some(Arc::clone(weights));
        Ok(())
    }

    /// Activations, in the layout of [`Shape::cube`]: to be written.
    pub fn activations(&mut self) -> &mut [u8] {
        self.a.bytes_mut()
    }

    /// Results of the last run, in the layout of [`Shape::cube`], and what is behind them.
    pub fn results(&self) -> &[u8] {
        self.c.bytes()
    }

    /// Fills the results with a byte, on both sides.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn fill_results(&mut self, byte: u8) -> Result<(), RknnError> {
        self.c.bytes_mut().fill(byte);
        self.c.hand_over()
    }

    /// Multiplies; returns when the results are there.
    ///
    /// # Errors
    ///
    /// If it has no weights, or the library or the NPU fails.
    pub fn run(&mut self) -> Result<(), RknnError> {
        if self.b.is_none() {
            let what = self.handle.what.clone();
            return Err(RknnError::Shape { what, why: "it has no weights" });
        }
        self.a.hand_over()?;
        self.handle.library.matmul_run(self.handle.context, &self.handle.what)?;
        self.c.take_back()
    }
}
