//! States in memory and in a file, and what they leave in the work folder.

use std::fs;
use std::path::Path;

use tessera_formats::gguf::Gguf;
use tessera_runtime::checkpoint::GgufCheckpoint;
use tessera_runtime::decoder::{Decoder, Layer};

use super::plan::Plan;
use super::run::run_as;
use super::{Collection, Prefix, PrefixFailure};
use crate::statistics::{InputStatistics, ObservationOptions, Provenance};

/// Looks at the folder after every layer, and gives up at one of them.
struct Watch<'a> {
    work: &'a Path,
    gives_up_at: usize,
}

impl Prefix for Watch<'_> {
    fn layer(&self, index: usize, _: &[InputStatistics]) -> Result<Option<Layer>, PrefixFailure> {
        let mut names: Vec<_> = fs::read_dir(self.work)?
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let mut expected: Vec<_> =
            (0..index).map(|layer| format!("inputs-{layer:05}.safetensors")).collect();
        expected.extend(["lock".to_owned(), "run.json".to_owned()]);
        for stream in ["reference", "states"] {
            expected.extend((index > 0).then(|| format!("{stream}-{index:05}.f32")));
            expected.push(format!("{stream}-{:05}.f32.part", index + 1));
        }
        expected.sort();
        assert_eq!(names, expected);
        if index == self.gives_up_at { Err("enough".into()) } else { Ok(None) }
    }
}

#[test]
fn states_in_a_file_are_those_in_memory() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/golden/llama.gguf");
    let gguf = Gguf::open(&golden).unwrap();
    let checkpoint = GgufCheckpoint::new(&gguf);
    let decoder = Decoder::new(&checkpoint).unwrap();
    let layers = decoder.model().layers;
    let chunks: Vec<Vec<u32>> = (0..7).map(|chunk| (chunk..chunk + 64).collect()).collect();
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path().join("work");
    let read = |folder: &Path| {
        let parts = (0..=layers).map(|part| folder.join(format!("inputs-{part:05}.safetensors")));
        let mut files: Vec<_> = parts.map(|part| fs::read(part).unwrap()).collect();
        files.push(fs::read(folder.join(format!("states-{layers:05}.f32"))).unwrap());
        files
    };
    let run = |states_in_memory: bool, resume: bool, gives_up_at: Option<usize>| {
        let watch = gives_up_at.map(|gives_up_at| Watch { work: &work, gives_up_at });
        let collection = Collection {
            decoder: &decoder,
            chunks: &chunks,
            options: ObservationOptions { rows: 8, ..ObservationOptions::default() },
            memory_budget_bytes: 0,
            work: Some(&work),
            resume,
            provenance: Provenance::default(),
            prefix: watch.as_ref().map(|watch| watch as &dyn Prefix),
        };
        let plan = Plan { call: 3, states_in_memory };
        let failed = run_as(&collection, plan, &mut |_| ()).err();
        assert_eq!(failed.is_some(), gives_up_at.is_some_and(|layer| layer < layers), "{failed:?}");
    };
    run(true, false, Some(layers));
    let expected = read(&work);
    fs::remove_dir_all(&work).unwrap();
    run(false, false, Some(layers));
    assert!(read(&work) == expected);
    for (before, after) in [(true, false), (false, true), (false, false)] {
        for gives_up_at in 0..=layers {
            fs::remove_dir_all(&work).unwrap();
            run(before, false, Some(gives_up_at));
            run(after, true, Some(layers));
            assert!(read(&work) == expected, "{before} {after} {gives_up_at}");
        }
    }
    // What is finished is not done again.
    run(true, true, Some(layers));
    assert!(read(&work) == expected);
}
