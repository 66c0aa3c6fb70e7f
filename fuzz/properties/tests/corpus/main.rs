//! Every property, on the inputs of the repository and on changes of them that are the same every time.

mod allocations;
mod changes;

use std::fs;
use std::path::{Path, PathBuf};

use tessera_fuzz_properties::{PROPERTIES, Property};

use self::allocations::Allocations;
use self::changes::Changes;

/// Changed inputs that each property is called with.
const CHANGED: usize = 1000;

/// Most bytes of one allocation, and most allocations, of one call. Nothing in the corpus takes a tenth.
const LARGEST_ALLOCATION: usize = 64 << 20;
const MOST_ALLOCATIONS: usize = 5_000_000;

/// Inputs of a target, by name.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|_| panic!("no {}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("an input");
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

fn check(property: Property, input: &[u8], what: &dyn Fn() -> String) {
    let spent = Allocations::of(|| property(input));
    assert!(spent.largest <= LARGEST_ALLOCATION, "{}: {spent:?}", what());
    assert!(spent.count <= MOST_ALLOCATIONS, "{}: {spent:?}", what());
}

/// What fails is printed as a file that the target can be run with.
struct Failing<'a>(&'a str, &'a [u8]);

impl Drop for Failing<'_> {
    #[expect(clippy::print_stderr, reason = "with the panic that it belongs to")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = std::env::temp_dir().join(format!("tessera-{}-failing", self.0));
            let written = fs::write(&path, self.1).is_ok();
            eprintln!("the input, {} bytes, is in {}: {written}", self.1.len(), path.display());
        }
    }
}

fn replay(target: &str) {
    let (_, property) =
        *PROPERTIES.iter().find(|(name, _)| *name == target).expect("a property of that name");
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "{target} has no inputs");
    for (path, input) in &corpus {
        let _failing = Failing(target, input);
        check(property, input, &|| path.display().to_string());
    }
    let mut changes = Changes::new(target);
    for number in 0..CHANGED {
        let input = changes.next(&corpus);
        let _failing = Failing(target, &input);
        check(property, &input, &|| format!("{target}, change {number}"));
    }
}

/// A test for each target, so that they run beside each other.
macro_rules! targets {
    ($($target:ident)*) => {
        $(#[test] fn $target() { replay(stringify!($target)); })*

        #[test]
        fn every_property_is_replayed() {
            let replayed = [$(stringify!($target)),*];
            assert!(PROPERTIES.iter().all(|(name, _)| replayed.contains(name)));
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
            let manifest = fs::read_to_string(manifest).expect("the manifest of the targets");
            for target in replayed {
                assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is no target");
            }
        }
    };
}

targets! {
    gguf gguf_structured tokenizer model pack pack_structured pack_manifest pack_index recipe statistics
    statistics_structured imatrix base_logits board sensitivity dequantize
}
