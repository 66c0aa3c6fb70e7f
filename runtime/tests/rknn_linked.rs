//! The NPU's interface with the stand-in linked in: what Miri can run, to see that no pointer is used wrongly.

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(unsafe_code, reason = "a library of C functions")]

mod rknn_support;
#[path = "stand_in/lib.rs"]
mod stand_in;

use std::path::Path;
use std::sync::Arc;

use rknn_support::matmuls::{expected, integers, results, run, shape, tiles_of, write_activations};
use tessera_formats::npu::Engine;
use tessera_runtime::rknn::{
    Arena, Core, Functions, LEAST_VERSION, Library, Matmul, Npu, Slice, versions,
};

fn library() -> Arc<Library> {
    let functions = Functions {
        matmul_create: stand_in::rknn_matmul_create,
        matmul_set_io_mem: stand_in::rknn_matmul_set_io_mem,
        matmul_set_core_mask: Some(stand_in::rknn_matmul_set_core_mask),
        matmul_run: stand_in::rknn_matmul_run,
        matmul_destroy: stand_in::rknn_matmul_destroy,
        create_mem: stand_in::rknn_create_mem,
        create_mem_from_fd: stand_in::rknn_create_mem_from_fd,
        destroy_mem: stand_in::rknn_destroy_mem,
        mem_sync: stand_in::rknn_mem_sync,
        query: stand_in::rknn_query,
    };
    // SAFETY: the stand-in does what a librknnrt does.
    Arc::new(unsafe { Library::linked(Path::new("stand-in"), LEAST_VERSION, functions) })
}

#[test]
fn products_are_those_of_integers() {
    let library = library();
    assert_eq!(versions(&library).unwrap()[1], "0.9.8");
    for engine in [Engine::I8, Engine::I4, Engine::F16] {
        for (m, core) in [(1, Core::Any), (4, Core::Number(2))] {
            let [found, expected] = run(&library, shape(engine, m, 32, 64), core).unwrap();
            assert_eq!(found, expected, "{engine:?} {m} {core:?}");
        }
    }
}

#[test]
fn memory_outlives_whoever_made_it() {
    let library = library();
    let shape = shape(Engine::I8, 1, 32, 64);
    let (rows, weights) = (integers(32, 3, Engine::I8), integers(32 * 64, 4, Engine::I8));
    let tiles = tiles_of(&weights, shape);
    let length = tiles.len() as u64;
    let first = Matmul::new(&library, shape, Core::Any).unwrap();
    let mut arena = Arena::new(&first, 3 * length).unwrap();
    arena.bytes_mut()[tiles.len()..2 * tiles.len()].copy_from_slice(&tiles);
    let arena = arena.finish().unwrap();
    let mut second = Matmul::new(&library, shape, Core::Any).unwrap();
    let slice = Arc::new(Slice::new(&arena, &second, length, length).unwrap());
    let unused = Slice::new(&arena, &first, 0, length).unwrap();
    // The matmul whose the arena is goes first, then the arena's own handle, then the slice's.
    drop((first, arena));
    second.set_weights(&slice).unwrap();
    drop((slice, unused));
    drop(library);
    for _ in 0..2 {
        write_activations(&mut second, &rows);
        second.run().unwrap();
        assert_eq!(results(&second), expected(&rows, &weights, 32));
    }
}

#[test]
fn what_is_refused_leaves_nothing_to_go_wrong() {
    let library = library();
    let shape = shape(Engine::I4, 1, 32, 64);
    assert!(Matmul::new(&library, shape, Core::Number(3)).is_err());
    let mut matmul = Matmul::new(&library, shape, Core::Any).unwrap();
    assert!(matmul.run().is_err());
    let arena = Arena::new(&matmul, 2048).unwrap().finish().unwrap();
    for (offset, bytes) in [(2048, 1), (0, 2049), (u64::MAX, 2), (1024, 1025)] {
        assert!(Slice::new(&arena, &matmul, offset, bytes).is_err());
    }
    let short = Slice::new(&arena, &matmul, 0, 64).unwrap();
    assert!(matmul.set_weights(&Arc::new(short)).is_err());
    assert!(Arena::new(&matmul, 1 << 33).is_err());
}

#[test]
fn cores_start_and_stop() {
    let npu = Npu::start(library(), None, 3).unwrap();
    assert_eq!(npu.cores(), 3);
    let mut arena = npu.arena(2, 4096).unwrap();
    arena.bytes_mut().fill(7);
    let arena = arena.finish().unwrap();
    let slice = npu.slice(2, &arena, 1024, 1024).unwrap();
    drop((npu, arena, slice));
}
