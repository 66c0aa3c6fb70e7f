//! Weight tiles against the conversion of the vendor's runtime, and against a layout written as
//! nested loops.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "bits are moved on purpose, and a test fails by panicking"
)]

use half::f16;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::{
    TileLayout, pack_row_f16, pack_row_i4, pack_row_i8, unpack_row_f16, unpack_row_i4,
    unpack_row_i8,
};

/// A weight as raw elements: f16 bit patterns, or integers as their low bits.
#[derive(Debug)]
struct Weight {
    engine: Engine,
    n: usize,
    k: usize,
    elements: Vec<u16>,
}

impl Weight {
    fn at(&self, n: usize, k: usize) -> u16 {
        self.elements[n * self.k + k]
    }

    fn layout(&self) -> TileLayout {
        TileLayout::new(self.engine, self.n, self.k).unwrap()
    }

    fn row_f16(&self, n: usize) -> Vec<f16> {
        (0..self.k).map(|k| f16::from_bits(self.at(n, k))).collect()
    }

    fn row_integers(&self, n: usize) -> Vec<i8> {
        let bits = self.engine.weight_bits();
        (0..self.k).map(|k| ((self.at(n, k) << (16 - bits)) as i16 >> (16 - bits)) as i8).collect()
    }

    /// By the functions under test.
    fn packed(&self) -> Vec<u8> {
        let layout = self.layout();
        let mut bytes = vec![0xa5; layout.bytes()];
        for (n, panel) in (0..self.n).map(|n| (n, n / self.engine.tile_n())) {
            let lane = n % self.engine.tile_n();
            let panel = &mut bytes[panel * layout.panel_bytes()..][..layout.panel_bytes()];
            match self.engine {
                Engine::F16 => pack_row_f16(&self.row_f16(n), lane, panel),
                Engine::I8 => pack_row_i8(&self.row_integers(n), lane, panel),
                Engine::I4 => pack_row_i4(&self.row_integers(n), lane, panel),
            }
        }
        bytes
    }

    /// By visiting the elements in the order of the native shape.
    fn packed_by_loops(&self) -> Vec<u8> {
        let mut elements = Vec::new();
        for outer_n in 0..self.n / self.engine.tile_n() {
            for outer_k in 0..self.k / 32 {
                for inner_n in 0..self.engine.tile_n() {
                    for inner_k in 0..32 {
                        let n = outer_n * self.engine.tile_n() + inner_n;
                        elements.push(self.at(n, outer_k * 32 + inner_k));
                    }
                }
            }
        }
        match self.engine {
            Engine::F16 => elements.iter().flat_map(|e| e.to_le_bytes()).collect(),
            Engine::I8 => elements.iter().map(|&e| e as u8).collect(),
            Engine::I4 => {
                elements.chunks(2).map(|pair| (pair[0] & 15) as u8 | (pair[1] as u8) << 4).collect()
            }
        }
    }

    /// By writing each element where the index formula says.
    fn packed_by_index(&self) -> Vec<u8> {
        let layout = self.layout();
        let mut bytes = vec![0; layout.bytes()];
        for n in 0..self.n {
            for k in 0..self.k {
                let (index, element) = (layout.element_index(n, k), self.at(n, k));
                match self.engine {
                    Engine::F16 => bytes[2 * index..][..2].copy_from_slice(&element.to_le_bytes()),
                    Engine::I8 => bytes[index] = element as u8,
                    Engine::I4 => bytes[index / 2] |= ((element & 15) as u8) << (index % 2 * 4),
                }
            }
        }
        bytes
    }
}

fn swap_nibbles(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte = byte.rotate_left(4));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of the native weight that librknnrt 1.6.0 makes of a K × N buffer whose byte i is
/// 13·i + 5. That version has the even i4 of a pair in the high nibble, in and out; the order used
/// today is the other one, so nibbles are swapped on both sides here.
#[test]
fn tiles_match_the_vendor_runtime() {
    #[rustfmt::skip]
    let vectors = [
        (Engine::F16, 96, 48, "1f3aa0ba418b4d11036235c7a6ec558ff896b9c50691777e35dfe167ae148998"),
        (Engine::F16, 64, 64, "ec48e2efe6b3c8a71295dfc9e6ec3f8cc7eb86af6ac393b1bd24f4d38e061df1"),
        (Engine::I8, 96, 96, "5fb255a0ea33f4ba63a36d28f6fb9414172bd1024a46f99a6bf8af25489d2659"),
        (Engine::I8, 256, 128, "664916cc012a9c9f1e0dceddd511b64dd9fda643f73828aff532b07cee0bf6c0"),
        (Engine::I4, 96, 128, "ecb33345e73bd69eabd7e9d71b78c25b3f75767cbffe1c3de7c4bdff7309fc34"),
        (Engine::I4, 256, 192, "ff7c13239e1c6feac4f3477aa41060ae6ef1c647355a2fa34bd00d8d5320f584"),
        (Engine::I4, 64, 64, "1caf13f2f6c14f4719fd36957ef835a7d661dc4c41db188a113385a0ef3ab27a"),
    ];
    for (engine, k, n, hash) in vectors {
        let mut buffer: Vec<u8> =
            (0..k * n * engine.weight_bits() / 8).map(|i| (13 * i + 5) as u8).collect();
        if engine == Engine::I4 {
            swap_nibbles(&mut buffer);
        }
        let normal = |index: usize| match engine {
            Engine::F16 => u16::from_le_bytes([buffer[2 * index], buffer[2 * index + 1]]),
            Engine::I8 => buffer[index].into(),
            Engine::I4 => (buffer[index / 2] >> (index % 2 * 4) & 15).into(),
        };
        let elements = (0..n * k).map(|i| normal(i % k * n + i / k)).collect();
        let mut packed = Weight { engine, n, k, elements }.packed();
        if engine == Engine::I4 {
            swap_nibbles(&mut packed);
        }
        assert_eq!(hex(&Sha256::digest(&packed)), hash, "{engine:?} K={k} N={n}");
    }
}

fn weights() -> impl Strategy<Value = Weight> {
    let engine = prop_oneof![Just(Engine::F16), Just(Engine::I8), Just(Engine::I4)];
    (engine, 1..4usize, 1..5usize).prop_flat_map(|(engine, panels, tiles_k)| {
        let (n, k) = (panels * engine.tile_n(), tiles_k * 32);
        prop::collection::vec(any::<u16>(), n * k).prop_map(move |elements| Weight {
            engine,
            n,
            k,
            elements,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn packing_matches_the_loops_and_the_index(weight in weights()) {
        let packed = weight.packed();
        prop_assert_eq!(&packed, &weight.packed_by_loops());
        prop_assert_eq!(&packed, &weight.packed_by_index());
    }

    #[test]
    fn unpacking_returns_the_rows(weight in weights()) {
        let (layout, packed) = (weight.layout(), weight.packed());
        for n in 0..weight.n {
            let panel = n / weight.engine.tile_n() * layout.panel_bytes();
            let panel = &packed[panel..][..layout.panel_bytes()];
            let lane = n % weight.engine.tile_n();
            let (mut floats, mut integers) = (vec![f16::ZERO; weight.k], vec![0; weight.k]);
            match weight.engine {
                Engine::F16 => unpack_row_f16(panel, lane, &mut floats),
                Engine::I8 => unpack_row_i8(panel, lane, &mut integers),
                Engine::I4 => unpack_row_i4(panel, lane, &mut integers),
            }
            if weight.engine == Engine::F16 {
                let bits = |row: &[f16]| row.iter().map(|e| e.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&floats), bits(&weight.row_f16(n)));
            } else {
                prop_assert_eq!(integers, weight.row_integers(n));
            }
        }
    }
}
