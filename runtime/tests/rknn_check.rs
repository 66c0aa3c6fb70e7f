//! The self-test of the NPU on the stand-in: nothing is wrong, or what was planted.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod rknn_support;

use std::sync::Arc;

use rknn_support::{stand_in, with_faults};
use tessera_formats::npu::Engine;
use tessera_runtime::rknn::check::{Cause, self_test};
use tessera_runtime::rknn::{Kind, Library, open};

fn library() -> Arc<Library> {
    open(Kind::StandIn, Some(&stand_in())).unwrap().0
}

#[test]
#[ignore = "run by others, with faults planted"]
fn faulty() {
    match self_test(&library(), 3, 2) {
        Ok(findings) => {
            let short =
                |engine: Engine, core: usize, cause: Cause| format!("{engine:?}/{core}/{cause}");
            let all = findings.iter().map(|f| short(f.engine, f.core, f.cause));
            println!("found: {}.", all.collect::<Vec<_>>().join(" "));
            for finding in findings {
                println!("{finding}");
            }
        }
        Err(error) => println!("nothing to test: {error}"),
    }
}

/// The causes of all findings, and the text of one.
#[test]
fn planted_faults_are_told_with_their_cause() {
    let each = |causes: [&str; 3]| {
        let all = (0..3).flat_map(|core| {
            [("I8", causes[0]), ("I4", causes[1]), ("F16", causes[2])]
                .into_iter()
                .filter(|(_, cause)| !cause.is_empty())
                .map(move |(engine, cause)| format!("{engine}/{core}/{cause}"))
        });
        format!("found: {}.\n", all.collect::<Vec<_>>().join(" "))
    };
    let of_fault = |fault: &'static str| vec![("RKNN_STAND_IN_FAULT", fault)];
    for (variables, found, words) in [
        (vec![], each(["", "", ""]), ""),
        (of_fault("stride"), each(["", "", ""]), ""),
        (
            of_fault("nibbles"),
            each(["", "nibble-order", ""]),
            "nibble-order: core 0, a matmul I4 of M = 1, K = 32, N = 64 in domain 2: row 0, channel 0 is ",
        ),
        (
            of_fault("tile-order"),
            each(["tile-order", "tile-order", "tile-order"]),
            "tile-order: core 2, a matmul F16 of M = 1, K = 96, N = 48 in domain 2: row 0, channel ",
        ),
        (
            of_fault("wrap"),
            each(["", "wrap", ""]),
            "wrap: core 1, a matmul I4 of M = 1, K = 512, N = 64 in domain 2: row 0, channel 0 is -32768, not 32767, \
             the first of 64 among 64 that are wrong; sums beyond 16 bits wrap",
        ),
        (
            of_fault("stale"),
            each(["stale-memory", "stale-memory", "stale-memory"]),
            "`rknn_mem_sync` does not work",
        ),
        (
            of_fault("core"),
            "found: I8/1/dead-core I4/1/dead-core F16/1/dead-core.\n".to_owned(),
            "channel 0 is 0, not ",
        ),
        (
            of_fault("run"),
            "found: I8/0/call I8/1/call I8/2/call.\n".to_owned(),
            "call: core 0: `rknn_matmul_run` returned -2 (timeout)",
        ),
        (
            vec![("RKNN_STAND_IN_DOMAIN_BYTES", "100000")],
            each(["call", "call", "call"]),
            "`rknn_create_mem` gave no memory for",
        ),
        (
            vec![("RKNN_STAND_IN_DESCRIPTORS", "2")],
            each(["call", "call", "call"]),
            "no file descriptors left",
        ),
        (
            vec![("RKNN_STAND_IN_DOMAIN_BYTES", "10")],
            "nothing to test: `rknn_create_mem` gave no memory".to_owned(),
            "",
        ),
    ] {
        let said = with_faults("faulty", &variables);
        assert!(said.contains(&found), "{variables:?}: expected {found} {said}");
        assert!(said.contains(words), "{variables:?}: {said}");
    }
}
