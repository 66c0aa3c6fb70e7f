//! The NPU's library, driven through its interface: the stand-in, and faults that it plants.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod rknn_support;

use std::path::Path;
use std::sync::Arc;

use rknn_support::matmuls::{expected, integers, results, run, shape, tiles_of, write_activations};
use rknn_support::{stand_in, with_faults};
use tessera_formats::npu::Engine;
use tessera_runtime::rknn::{
    Arena, Core, Kind, Library, Matmul, Operand, Shape, Slice, open, versions,
};

fn library() -> Arc<Library> {
    Arc::new(Library::open(&stand_in()).unwrap())
}

#[test]
fn products_are_those_of_integers() {
    let library = library();
    assert_eq!(library.version().to_string(), "2.3.2");
    for engine in [Engine::I8, Engine::I4, Engine::F16] {
        for (m, k, n) in [(1, 32, 64), (1, 480, 128), (4, 96, 64), (8, 64, 192)] {
            for core in [Core::Any, Core::Number(0), Core::Number(1), Core::Number(2)] {
                let [found, expected] = run(&library, shape(engine, m, k, n), core).unwrap();
                assert_eq!(found, expected, "{engine:?} {m} {k} {n} {core:?}");
            }
        }
    }
}

#[test]
fn several_matmuls_share_an_arena() {
    let library = library();
    let (one, four) = (shape(Engine::I4, 1, 64, 64), shape(Engine::I4, 4, 64, 64));
    let weights = integers(64 * 64, 9, Engine::I4);
    let mut matmuls = [one, four].map(|shape| Matmul::new(&library, shape, Core::Any).unwrap());
    let tiles = tiles_of(&weights, one);
    let mut arena = Arena::new(&matmuls[0], tiles.len() as u64).unwrap();
    arena.bytes_mut().copy_from_slice(&tiles);
    let arena = arena.finish().unwrap();
    for matmul in &mut matmuls {
        let slice = Slice::new(&arena, matmul, 0, tiles.len() as u64).unwrap();
        matmul.set_weights(&Arc::new(slice)).unwrap();
        for seed in 20..23 {
            let rows = integers(matmul.shape().m as usize * 64, seed, Engine::I4);
            write_activations(matmul, &rows);
            matmul.run().unwrap();
            assert_eq!(results(matmul), expected(&rows, &weights, 64));
        }
    }
    assert_eq!(matmuls[0].versions().unwrap()[1], "0.9.8");
}

#[test]
fn mistakes_are_explained() {
    let library = library();
    let refused = |shape: Shape, core: Core| {
        let error = Matmul::new(&library, shape, core).unwrap_err().to_string();
        println!("{error}");
        error
    };
    for (m, k, n, words) in [
        (2, 64, 64, "M must be 1 or a multiple of 4"),
        (1, 40, 64, "K must be a multiple of 32"),
        (1, 64, 32, "N must be a multiple"),
        (0, 64, 64, "M must be"),
        (
            1,
            10336,
            64,
            "`rknn_matmul_create` returned -5 (wrong parameter) for a matmul I4 of M = 1, K = 10336",
        ),
    ] {
        assert!(refused(shape(Engine::I4, m, k, n), Core::Any).contains(words));
    }
    let far = Shape { domain: 99, ..shape(Engine::I8, 1, 64, 64) };
    assert!(refused(far, Core::Any).contains("in domain 99"));
    assert!(refused(shape(Engine::I8, 1, 64, 64), Core::Number(3)).contains("no such core"));
    let mut matmul = Matmul::new(&library, shape(Engine::I8, 1, 64, 64), Core::Any).unwrap();
    assert!(matmul.run().unwrap_err().to_string().contains("no weights"));
    // Weights of another size, and of another domain.
    let arena = |matmul: &Matmul| Arena::new(matmul, 8192).unwrap().finish().unwrap();
    let short = Slice::new(&arena(&matmul), &matmul, 0, 64).unwrap();
    let error = matmul.set_weights(&Arc::new(short)).unwrap_err().to_string();
    assert!(error.contains("another number of bytes"), "{error}");
    let elsewhere = Shape { domain: 1, ..matmul.shape() };
    let other = Matmul::new(&library, elsewhere, Core::Any).unwrap();
    let slice = Slice::new(&arena(&other), &other, 0, 4096).unwrap();
    let error = matmul.set_weights(&Arc::new(slice)).unwrap_err().to_string();
    assert!(error.contains("another domain"), "{error}");
    for (offset, bytes) in [(8192, 1), (0, 8193), (u64::MAX, 2), (4096, 4097)] {
        let error = Slice::new(&arena(&matmul), &matmul, offset, bytes).unwrap_err().to_string();
        assert!(error.contains("gave no memory"), "{error}");
    }
    assert_eq!(matmul.shape().bytes(Operand::C), 256);
}

#[test]
fn files_that_are_no_library_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("librknnrt.so");
    let original = std::fs::read(stand_in()).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = Library::open(&path).unwrap_err().to_string();
        println!("{error}");
        error
    };
    let mark = b"librknnrt version: 2.3.2";
    let at = original.windows(mark.len()).position(|window| window == mark).unwrap();
    let mut old = original.clone();
    old[at + 19..at + 24].copy_from_slice(b"1.6.0");
    assert!(refused(&old).contains("has version 1.6.0, and 2.0.0 is the least"));
    old[at] = b'L';
    assert!(refused(&old).contains("does not say its version"));
    assert!(refused(mark).contains("cannot be loaded"));
    let mut without = original.clone();
    let name = b"rknn_mem_sync";
    for at in 0..without.len() - name.len() {
        if &without[at..at + name.len()] == name {
            without[at] = b'x';
        }
    }
    assert!(refused(&without).contains("has no `rknn_mem_sync`"));
    let missing = Library::open(Path::new("/nonexistent/librknnrt.so")).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/librknnrt.so"));
    let folders = [folder.path().to_owned()];
    assert_eq!(Library::find(&folders).unwrap(), path);
    std::fs::remove_file(&path).unwrap();
    let error = Library::find(&folders).unwrap_err().to_string();
    assert!(error.contains("install the vendor's runtime"), "{error}");
}

#[test]
fn a_library_is_opened_for_what_it_drives() {
    let (library, lock) = open(Kind::StandIn, Some(&stand_in())).unwrap();
    assert!(lock.is_none());
    let said = versions(&library).unwrap();
    assert_eq!(said, ["2.3.2 (stand-in@2026-11-21)", "0.9.8"]);
    let error = open(Kind::Board, Some(&stand_in())).unwrap_err().to_string();
    assert!(error.contains("for `--device stand-in`, not for `--device rknn`"), "{error}");
    // What says that it is the vendor's, and is no library.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("librknnrt.so");
    std::fs::write(&path, "librknnrt version: 2.3.2 (429f97ae6b@2025-04-09T09:09:27)").unwrap();
    let error = open(Kind::StandIn, Some(&path)).unwrap_err().to_string();
    assert!(error.contains("is the vendor's library"), "{error}");
}

#[test]
#[ignore = "run by others, with faults planted"]
fn faulty() {
    let library = library();
    let mut said = Vec::new();
    for (core, engine) in [(0, Engine::I4), (1, Engine::I4), (0, Engine::I8)] {
        let shape = shape(engine, 4, 1024, 128);
        said.push(match run(&library, shape, Core::Number(core)) {
            Ok([found, expected]) if found == expected => "right".to_owned(),
            Ok(_) => "wrong".to_owned(),
            Err(error) => error.to_string(),
        });
    }
    println!("said: {}", said.join(" | "));
}

/// What a planted fault does is seen, and those that return codes are explained.
#[test]
fn planted_faults_are_seen() {
    for (variables, words) in [
        (&[][..], "said: right | right | right"),
        (&[("RKNN_STAND_IN_FAULT", "nibbles")], "said: wrong | wrong | right"),
        (&[("RKNN_STAND_IN_FAULT", "tile-order")], "said: wrong | wrong | wrong"),
        (&[("RKNN_STAND_IN_FAULT", "stale")], "said: wrong | wrong | wrong"),
        (&[("RKNN_STAND_IN_FAULT", "core")], "said: right | wrong | right"),
        (&[("RKNN_STAND_IN_FAULT", "run")], "`rknn_matmul_run` returned -2 (timeout)"),
        (&[("RKNN_STAND_IN_DOMAIN_BYTES", "4096")], "gave no memory"),
        (&[("RKNN_STAND_IN_DESCRIPTORS", "2")], "no file descriptors left"),
    ] {
        let said = with_faults("faulty", variables);
        assert!(said.contains(words), "{variables:?}: {said}");
    }
}

/// All −8 times all −8 reaches 32768 at K = 512: the stand-in saturates, or wraps if told to.
#[test]
#[ignore = "run by others, with faults planted"]
fn extreme() {
    let library = library();
    let shape = shape(Engine::I4, 1, 512, 64);
    let mut matmul = Matmul::new(&library, shape, Core::Any).unwrap();
    let mut arena = Arena::new(&matmul, shape.bytes(Operand::B)).unwrap();
    arena.bytes_mut().fill(0x88);
    let slice = Slice::new(&arena.finish().unwrap(), &matmul, 0, shape.bytes(Operand::B)).unwrap();
    matmul.set_weights(&Arc::new(slice)).unwrap();
    matmul.activations().fill(0x88);
    matmul.run().unwrap();
    println!("said: {:?}", results(&matmul)[0]);
}

#[test]
fn sums_saturate_or_wrap() {
    for (fault, words) in [("", "said: 32767"), ("wrap", "said: -32768")] {
        let said = with_faults("extreme", &[("RKNN_STAND_IN_FAULT", fault)]);
        assert!(said.contains(words), "{fault}: {said}");
    }
}
