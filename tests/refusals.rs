//! What is refused, with which exit code and which words, and that nothing is lost by it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::path::Path;

use harness::{convert, short_text, tessera, tiny_model};

/// Runs `tessera` and returns its exit code and what it said on stderr.
fn run(arguments: &[&str]) -> (i32, String) {
    let output = tessera().args(arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output.status.code().unwrap(), stderr)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_existing_pack_is_kept_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    fs::write(&pack, "precious").unwrap();
    let (code, said) = run(&["convert", text(&tiny_model()), "-o", text(&pack)]);
    assert_eq!(code, 2);
    assert!(said.contains("--force"), "{said}");
    assert_eq!(fs::read(&pack).unwrap(), b"precious");
    convert(&tiny_model(), &pack, &["--force"]);
    assert_ne!(fs::read(&pack).unwrap(), b"precious");
}

#[test]
fn the_input_is_never_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.safetensors");
    fs::copy(tiny_model(), &model).unwrap();
    let link = folder.path().join("link.safetensors");
    std::os::unix::fs::symlink(&model, &link).unwrap();
    let hard = folder.path().join("hard.safetensors");
    fs::hard_link(&model, &hard).unwrap();
    let before = fs::read(&model).unwrap();
    for output in [&model, &link, &hard] {
        let (code, said) = run(&["convert", text(&model), "-o", text(output), "--force"]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("is the input"), "{said}");
        assert_eq!(fs::read(&model).unwrap(), before);
    }
}

#[test]
fn wrong_arguments_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    let missing = folder.path().join("missing/pack.safetensors");
    let model = tiny_model();
    let model = text(&model);
    let recipe = folder.path().join("recipe.toml");
    fs::write(&recipe, "[[rule]]\nmatch = 'a'\nbits = 4\n").unwrap();
    for (arguments, words) in [
        (vec!["convert", "no.gguf", "-o", text(&pack)], "no.gguf"),
        (vec!["convert", model, "-o", text(&missing)], "does not exist"),
        (vec!["convert", model, "-o", "pack.bin"], "safetensors"),
        (vec!["convert", model, "-o", text(&pack), "--scheme", "w3a3"], "w3a3"),
        (vec!["convert", model, "-o", text(&pack), "--target", "rk1"], "rk1"),
        (vec!["convert", model, "-o", text(&pack), "--threads", "0"], "--threads"),
        (vec!["convert", model, "-o", text(&pack), "--memory-budget", "1K"], "memory budget"),
        (vec!["convert", model, "-o", text(&pack), "--memory-budget", "much"], "much"),
        (vec!["convert", model, "-o", text(&pack), "--calibrator", "best"], "best"),
        (vec!["convert", model, "-o", text(&pack), "--recipe", text(&recipe)], "bits"),
        (
            vec![
                "convert",
                model,
                "-o",
                text(&pack),
                "--preset",
                "rk-llama-v3",
                "--scheme",
                "w4a8",
            ],
            "w4a8",
        ),
        (vec!["verify", model], "safetensors"),
        (vec!["inspect", text(folder.path())], "pack"),
    ] {
        let (code, said) = run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(!pack.exists(), "{arguments:?}");
    }
}

#[test]
fn a_damaged_model_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let model = fs::read(tiny_model()).unwrap();
    let damaged = folder.path().join("damaged.gguf");
    let pack = folder.path().join("pack.safetensors");

    fs::write(&damaged, &model[..model.len() - 1000]).unwrap();
    let (code, said) = run(&["convert", text(&damaged), "-o", text(&pack)]);
    assert_eq!(code, 2);
    assert!(said.contains("damaged.gguf") && said.contains("byte"), "{said}");

    // The last tensor's data end 16 bytes before the file does, with a block of Q8_0 of 34 bytes
    // that begins with its f16 scale; 0x7c00 is infinite.
    let mut infinite = model.clone();
    let block = infinite.len() - 16 - 34;
    infinite[block..block + 2].copy_from_slice(&[0x00, 0x7c]);
    fs::write(&damaged, &infinite).unwrap();
    let (code, said) = run(&["convert", text(&damaged), "-o", text(&pack)]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("not finite") && said.contains("row"), "{said}");

    let left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["damaged.gguf"], "no pack, and no temporary file");
}

#[test]
fn verify_notices_every_damage() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &["--scheme", "w4a4"]);
    let good = fs::read(&pack).unwrap();
    let header = usize::try_from(u64::from_le_bytes(good[..8].try_into().unwrap())).unwrap();
    let data = 8 + header;
    let damaged = folder.path().join("damaged.safetensors");
    let check = |bytes: &[u8]| -> i32 {
        fs::write(&damaged, bytes).unwrap();
        run(&["verify", text(&damaged)]).0
    };
    assert_eq!(check(&good), 0);
    // A flipped bit in the first tile, in the last carried byte, a lost tail, an added tail.
    for position in [data, data + 5000, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[position] ^= 1;
        assert_eq!(check(&bytes), 1, "byte {position}");
    }
    assert_eq!(check(&good[..good.len() - 1]), 2);
    assert_eq!(check(&[&good[..], b"!"].concat()), 2);
    assert_eq!(check(&good[..data / 2]), 2);
}

#[test]
fn verify_notices_another_source() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &[]);
    let mut other = fs::read(tiny_model()).unwrap();
    let last = other.len() - 1;
    other[last] ^= 1;
    let model = folder.path().join("other.gguf");
    fs::write(&model, other).unwrap();
    let arguments = ["verify", text(&pack), "--source", text(&model)];
    let (code, _) = run(&arguments);
    assert_eq!(code, 1);
    let (code, _) = run(&[&arguments[..], &["--any-source"]].concat());
    assert_eq!(code, 0);

    // Other weights are a larger error, and no fault of the pack: the sign of a block's scale.
    let mut other = fs::read(tiny_model()).unwrap();
    let block = other.len() - 16 - 34;
    other[block + 1] ^= 0x80;
    fs::write(&model, other).unwrap();
    let arguments = [&arguments[..], &["--any-source", "--json"]].concat();
    let output = tessera().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let worst = harness::errors(&report).into_iter().map(|(_, error)| error).fold(0.0, f64::max);
    assert!(worst > 0.05, "{worst}");
}

#[test]
fn verify_notices_numbers_that_are_none() {
    use sha2::{Digest, Sha256};

    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    let story = short_text();
    let data = ["--dataset", text(&story), "--ctx", "64", "--tokens", "256"];
    convert(&tiny_model(), &pack, &[&["--bias-correction", "true"], &data[..]].concat());
    let good = fs::read(&pack).unwrap();
    let hash = |bytes: &[u8]| -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let reader = tessera_formats::pack::PackReader::open(&pack).unwrap();
    for (tensor, value, words) in [
        ("blk.0.attn_q.weight.scale", f32::NAN, "scale"),
        ("blk.0.attn_q.weight.scale", 0.0, "scale"),
        ("blk.0.attn_q.weight.correction", f32::NAN, "correction"),
        ("blk.0.attn_input.rotation", f32::INFINITY, "vector"),
        ("blk.0.attn_input.rotation", 0.0, "vector"),
    ] {
        let info = reader.tensor_info(tensor).unwrap();
        let start = usize::try_from(info.offset).unwrap();
        let range = start..start + usize::try_from(info.bytes).unwrap();
        let mut bytes = good.clone();
        bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
        // The digest in the header is that of the damaged tensor.
        let (old, new) = (hash(&good[range.clone()]), hash(&bytes[range]));
        let at = bytes.windows(64).position(|window| window == old.as_bytes()).unwrap();
        bytes[at..at + 64].copy_from_slice(new.as_bytes());
        let damaged = folder.path().join("damaged.safetensors");
        fs::write(&damaged, bytes).unwrap();
        let output = tessera().arg("verify").arg(&damaged).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{tensor} {value}: {said}");
        assert!(said.contains(words) && !said.contains("SHA-256"), "{said}");
    }
}

#[test]
fn verify_notices_results_that_are_not_those_of_the_tiles() {
    use tessera_formats::pack::PackReader;

    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &["--scheme", "w4a4"]);
    let good = fs::read(&pack).unwrap();
    let reader = PackReader::open(&pack).unwrap();
    let linear = reader.linear("blk.3.ffn_down.weight").unwrap();
    let golden = linear.segments[0].golden.clone().unwrap();
    let at = good.windows(64).position(|window| window == golden.as_bytes()).unwrap();
    let mut bytes = good.clone();
    bytes[at..at + 64].copy_from_slice("0".repeat(64).as_bytes());
    fs::write(&pack, bytes).unwrap();
    let output = tessera().arg("verify").arg(&pack).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("blk.3.ffn_down.weight: segment 0: what its tiles give"), "{said}");
    assert!(said.contains("NOT ok") && said.matches("SHA-256").count() == 1, "{said}");
}

#[test]
fn verify_notices_domains_that_overflow() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &[]);
    let mut bytes = fs::read(&pack).unwrap();
    let key = br#"\"domain_capacity\":"#;
    let at = key.len() + bytes.windows(key.len()).position(|window| window == key).unwrap();
    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    bytes[at..at + digits].fill(b' ');
    bytes[at] = b'1';
    fs::write(&pack, bytes).unwrap();
    let output = tessera().arg("verify").arg(&pack).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("domain 0"), "{said}");
}
