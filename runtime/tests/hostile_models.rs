//! Damaged models: every key and every tensor of small models, one wrong at a time. What comes of
//! it is an error that names what is wrong, or a run; never a panic, never an allocation that the
//! file does not justify.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{Array, Gguf, GgufWriter, Strings, Value};
use tessera_runtime::checkpoint::GgufCheckpoint;
use tessera_runtime::decoder::Decoder;
use tessera_runtime::generate::{Generator, Sampler, Sampling};
use tessera_runtime::tokenizer::{Special, Tokenizer};

/// Address space that a damaged model may ask for beyond what a sound one takes. Much of it goes to
/// the allocator's arenas, of which threads of other tests make some meanwhile.
const ALLOWANCE_KIB: u64 = 512 << 10;

/// A model in parts.
#[derive(Clone)]
struct Parts {
    keys: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone)]
struct Tensor {
    name: String,
    ggml_type: GgmlType,
    dims: Vec<u64>,
    bytes: Vec<u8>,
}

impl Parts {
    fn read(path: &Path) -> Self {
        let gguf = Gguf::open(path).unwrap();
        let keys = gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone()));
        let tensors = gguf.tensors().iter().map(|tensor| {
            let mut bytes = vec![0; usize::try_from(tensor.bytes).unwrap()];
            gguf.read_at(tensor, 0, &mut bytes).unwrap();
            Tensor {
                name: tensor.name.clone(),
                ggml_type: tensor.ggml_type,
                dims: tensor.dims.clone(),
                bytes,
            }
        });
        Parts { keys: keys.collect(), tensors: tensors.collect() }
    }

    fn golden(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        Self::read(&folder.join(format!("{name}.gguf")))
    }

    /// Writes the model; `None` if no file can be like this.
    fn write(&self, path: &Path) -> Option<()> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.keys {
            writer.metadata(key.clone(), value.clone()).ok()?;
        }
        for tensor in &self.tensors {
            writer.tensor(tensor.name.clone(), tensor.ggml_type, &tensor.dims).ok()?;
        }
        let mut tensors = self.tensors.iter();
        let mut out = BufWriter::new(File::create(path).unwrap());
        writer.write(&mut out, |_| tensors.next().unwrap().bytes.clone()).ok()
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        match self.keys.iter_mut().find(|(other, _)| other == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }
}

impl Tensor {
    /// F32 of that shape, small values.
    fn reshape(&mut self, dims: &[u64]) {
        let count = usize::try_from(dims.iter().product::<u64>()).unwrap();
        self.ggml_type = GgmlType::F32;
        self.dims = dims.to_vec();
        self.bytes = (0..count).flat_map(|i| ((i % 7) as f32 * 0.01).to_le_bytes()).collect();
    }
}

/// An error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Runs a model file: some tokens together and one after them, on the float device as it is and as
/// ggml rounds.
fn run(path: &Path) -> Result<(), String> {
    let gguf = Gguf::open(path).map_err(|error| chain(&error))?;
    // Models with two sets of RoPE factors take those for long contexts the second time.
    for (checkpoint, context) in
        [(GgufCheckpoint::new(&gguf), 8), (GgufCheckpoint::like_ggml(&gguf), 1 << 20)]
    {
        let decoder = Decoder::for_context(&checkpoint, context).map_err(|error| chain(&error))?;
        let generator = Generator::new(&decoder, u64::MAX, |_| ());
        let mut generator = generator.map_err(|error| chain(&error))?;
        generator.extend(&[1, 0, 2, 1, 3, 1]).map_err(|error| chain(&error))?;
        let logits = generator.extend(&[2]).map_err(|error| chain(&error))?;
        Sampler::new(Sampling { temperature: 1.0, top_k: 3, top_p: 0.9, seed: 0 }).sample(&logits);
    }
    Ok(())
}

/// Most address space that this process has had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap())
}

/// What came of damaged models.
struct Trial {
    folder: tempfile::TempDir,
    pool: rayon::ThreadPool,
    problems: Vec<String>,
    allowed_kib: u64,
    cases: usize,
    runs: usize,
}

impl Trial {
    fn new(sound: &Parts) -> Self {
        let mut trial = Trial {
            folder: tempfile::tempdir().unwrap(),
            pool: rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap(),
            problems: Vec::new(),
            allowed_kib: u64::MAX,
            cases: 0,
            runs: 0,
        };
        let path = trial.path();
        sound.write(&path).unwrap();
        trial.pool.install(|| run(&path)).unwrap();
        trial.allowed_kib = peak_kib() + ALLOWANCE_KIB;
        trial
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.gguf")
    }

    /// Tries a damaged model; an error must have `name` in it.
    fn attempt(&mut self, what: &str, name: &str, parts: &Parts) {
        let path = self.path();
        if parts.write(&path).is_none() {
            return;
        }
        self.attempt_with(what, name, || run(&path));
    }

    fn attempt_with(
        &mut self,
        what: &str,
        name: &str,
        work: impl FnOnce() -> Result<(), String> + Send,
    ) {
        self.cases += 1;
        match catch_unwind(AssertUnwindSafe(|| self.pool.install(work))) {
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or(panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
                self.problems.push(format!("{what}: PANIC {}", text.unwrap_or_default()));
            }
            Ok(Err(error)) if !error.contains(name) => {
                self.problems.push(format!("{what}: does not name `{name}`: {error}"));
            }
            Ok(Err(_)) => {}
            Ok(Ok(())) => self.runs += 1,
        }
        let peak = peak_kib();
        if peak > self.allowed_kib {
            let mebibytes = (peak - self.allowed_kib + ALLOWANCE_KIB) >> 10;
            self.problems.push(format!("{what}: {mebibytes} MiB"));
            self.allowed_kib = peak + ALLOWANCE_KIB;
        }
    }

    fn finish(self, least_cases: usize) {
        eprintln!("{} cases, {} of them ran", self.cases, self.runs);
        assert!(self.problems.is_empty(), "{:#?}", self.problems);
        assert!(self.cases >= least_cases, "{} cases", self.cases);
    }
}

/// Values that a key may be set to.
fn values(sound: &Value) -> Vec<Value> {
    let mut values = vec![
        Value::U32(0),
        Value::U32(1),
        Value::U32(3),
        Value::U32(1 << 24),
        Value::U32(1 << 31),
        Value::U64(1 << 63),
        Value::U64(u64::MAX),
        Value::I32(-1),
        Value::F32(0.0),
        Value::F32(-1.0),
        Value::F32(f32::MIN_POSITIVE / 4.0),
        Value::F32(f32::MAX),
        Value::F32(f32::NAN),
        Value::F64(f64::INFINITY),
        Value::Bool(false),
        Value::Bool(true),
        Value::String("\u{1b}[31m".repeat(50)),
        Value::Array(Array::U32(vec![])),
        Value::Array(Array::U32(vec![0; 3])),
        Value::Array(Array::U32(vec![1; 2])),
        Value::Array(Array::I32(vec![-1; 2])),
        Value::Array(Array::F32(vec![f32::NAN; 2])),
        Value::Array(Array::Strings(Strings::from_iter(["a", "a"]))),
    ];
    if let Value::Array(Array::U32(sound)) = sound {
        values.push(Value::Array(Array::U32(vec![0; sound.len()])));
        values.push(Value::Array(Array::U32(vec![u32::MAX; sound.len()])));
    }
    values
}

const MODELS: [&str; 9] = [
    "llama",
    "gemma3",
    "qwen3moe",
    "qwen2moe",
    "granitemoe",
    "phi3-longrope-long",
    "mistral3",
    "olmo2-window",
    "llama-yarn",
];

#[test]
fn keys_of_models() {
    let mut trial = Trial::new(&Parts::golden("llama"));
    for model in MODELS {
        let sound = Parts::golden(model);
        for index in 0..sound.keys.len() {
            let (key, value) = &sound.keys[index];
            if key.starts_with("tokenizer.") || key == "general.alignment" {
                continue;
            }
            let mut parts = sound.clone();
            parts.keys.remove(index);
            trial.attempt(&format!("{model} without {key}"), "`", &parts);
            for value in values(value) {
                let mut parts = sound.clone();
                let what = format!("{model} with {key} = {value:?}");
                parts.keys[index].1 = value;
                trial.attempt(&what, "`", &parts);
            }
        }
    }
    trial.finish(1000);
}

#[test]
fn keys_that_models_do_not_have() {
    let sound = Parts::golden("llama");
    let mut trial = Trial::new(&sound);
    for key in [
        "attention.key_length",
        "attention.value_length",
        "attention.head_count_kv",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "attention.scale",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.attn_factor",
        "expert_count",
        "expert_used_count",
        "expert_feed_forward_length",
        "feed_forward_length",
        "vocab_size",
        "never_heard_of",
    ] {
        let key = format!("llama.{key}");
        for value in values(&Value::U32(1)) {
            let what = format!("{key} = {value:?}");
            trial.attempt(&what, "`", sound.clone().set(&key, value));
        }
    }
    trial.finish(400);
}

#[test]
fn tensors_of_models() {
    let mut trial = Trial::new(&Parts::golden("llama"));
    let q8 = GgmlType::from_name("Q8_0").unwrap();
    let i32s = GgmlType::from_name("I32").unwrap();
    for model in MODELS {
        let sound = Parts::golden(model);
        for index in 0..sound.tensors.len() {
            let name = sound.tensors[index].name.clone();
            // One layer is like another.
            if name.starts_with("blk.1.") || name.starts_with("blk.2.") {
                continue;
            }
            let mut damage = |what: &str, names: &str, change: &dyn Fn(&mut Tensor)| {
                let mut parts = sound.clone();
                change(&mut parts.tensors[index]);
                trial.attempt(&format!("{model}: {name} {what}"), names, &parts);
            };
            damage("renamed", "`", &|tensor| tensor.name.push('x'));
            damage("transposed", &name, &|tensor| tensor.dims.reverse());
            damage("one dimension more", &name, &|tensor| tensor.dims.push(1));
            damage("flat", &name, &|tensor| tensor.dims = vec![tensor.dims.iter().product()]);
            damage("of integers", &name, &|tensor| {
                if tensor.ggml_type == GgmlType::F32 {
                    tensor.ggml_type = i32s;
                }
            });
            damage("one row", &name, &|tensor| tensor.reshape(&[tensor.dims[0]]));
            damage("one element", &name, &|tensor| tensor.reshape(&[1]));
            damage("narrow", &name, &|tensor| {
                let dims: Vec<u64> = tensor
                    .dims
                    .iter()
                    .enumerate()
                    .map(|(i, &d)| if i == 0 { 32 } else { d })
                    .collect();
                tensor.reshape(&dims);
            });
            damage("quantized", &name, &|tensor| {
                if tensor.dims[0].is_multiple_of(32) {
                    let count = usize::try_from(tensor.dims.iter().product::<u64>()).unwrap();
                    tensor.ggml_type = q8;
                    tensor.bytes =
                        (0..count / 32 * 34).map(|i| (i * 37).to_le_bytes()[0]).collect();
                }
            });
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0, -0.0] {
                damage(&format!("all {value}"), &name, &|tensor| {
                    tensor.reshape(&tensor.dims.clone());
                    tensor
                        .bytes
                        .chunks_exact_mut(4)
                        .for_each(|x| x.copy_from_slice(&value.to_le_bytes()));
                });
            }
            let mut parts = sound.clone();
            parts.tensors.remove(index);
            trial.attempt(&format!("{model} without {name}"), "`", &parts);
        }
    }
    trial.finish(1000);
}

/// Makes the tokenizer of a model file, and encodes and decodes with it.
fn tokenize(path: &Path) -> Result<(), String> {
    let gguf = Gguf::open(path).map_err(|error| chain(&error))?;
    let tokenizer = Tokenizer::new(gguf.metadata()).map_err(|error| chain(&error))?;
    let text = "Once upon\u{3000}a time,  </s><s>\n\n it's 1234 \u{1F469}\u{200D}\u{1F467}\0 ";
    for special in [Special::default(), Special { add: true, parse: true }] {
        let tokens = tokenizer.encode(text, special).map_err(|error| chain(&error))?;
        assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.len()));
        tokenizer.decode(&tokens);
    }
    tokenizer.decode(&[u32::MAX, 0]);
    Ok(())
}

/// Elements of an array in other forms.
fn damaged(value: &Value) -> Vec<Value> {
    let mut values = values(value);
    match value {
        Value::Array(Array::Strings(strings)) => {
            let texts: Vec<&str> = strings.iter().collect();
            let with = |index: usize, text: &str| {
                let mut texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
                texts[index] = text.to_owned();
                Value::Array(Array::Strings(Strings::from_iter(texts)))
            };
            let last = texts.len() - 1;
            for text in ["", " ", "  ", "a", "\u{0}", "<0xZZ>", "<0x41>", "a b c", "\u{10FFFF} x"] {
                values.push(with(last, text));
                values.push(with(0, text));
            }
            values.push(with(last, &"x".repeat(20_000)));
            values.push(with(last, texts[0]));
            values.push(Value::Array(Array::Strings(Strings::from_iter(&texts[1..]))));
            values.push(Value::Array(Array::Strings(Strings::from_iter(vec![""; texts.len()]))));
        }
        Value::Array(Array::F32(scores)) => {
            for score in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0] {
                let mut scores = scores.clone();
                scores[7] = score;
                values.push(Value::Array(Array::F32(scores.clone())));
                scores.fill(score);
                values.push(Value::Array(Array::F32(scores)));
            }
            values.push(Value::Array(Array::F32(scores[1..].to_vec())));
            values.push(Value::Array(Array::I32(vec![i32::MIN; scores.len()])));
        }
        Value::Array(Array::I32(types)) => {
            for found in [-1, 0, 1, 2, 3, 4, 5, 6, 7, i32::MAX] {
                let mut types = types.clone();
                types[70] = found;
                values.push(Value::Array(Array::I32(types.clone())));
                types.fill(found);
                values.push(Value::Array(Array::I32(types)));
            }
        }
        _ => {}
    }
    values
}

#[test]
fn keys_of_tokenizers() {
    let mut trial = Trial::new(&Parts::golden("llama"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for model in ["../tests/data/stories260K-Q8_0.gguf", "tests/data/tokenizer/bpe.gguf"] {
        let mut sound = Parts::read(&folder.join(model));
        sound.tensors.clear();
        let mut attempt = |what: &str, parts: &Parts| {
            let path = trial.path();
            if parts.write(&path).is_some() {
                trial.attempt_with(what, "token", || tokenize(&path));
            }
        };
        for index in 0..sound.keys.len() {
            let (key, value) = &sound.keys[index];
            if !key.starts_with("tokenizer.") {
                continue;
            }
            let mut parts = sound.clone();
            parts.keys.remove(index);
            attempt(&format!("{model} without {key}"), &parts);
            for (case, value) in damaged(value).into_iter().enumerate() {
                let mut parts = sound.clone();
                parts.keys[index].1 = value;
                attempt(&format!("{model} with {key}, case {case}"), &parts);
            }
        }
        for key in ["bos_token_id", "eot_token_id", "fim_pad_token_id", "add_space_prefix", "pre"] {
            let key = format!("tokenizer.ggml.{key}");
            for value in values(&Value::U32(1)) {
                attempt(&format!("{model} with {key} = {value:?}"), sound.clone().set(&key, value));
            }
        }
    }
    trial.finish(500);
}

/// Errors that name the cause, not what follows from it.
#[test]
fn what_is_wrong_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    type Damage = fn(&mut Tensor);
    let cases: [(&str, &str, Damage, &str); 5] = [
        (
            "llama",
            "blk.0.ffn_gate.weight",
            |tensor| tensor.name = "blk.0.ffn_gatx.weight".to_owned(),
            "the model has no tensor `blk.0.ffn_gate.weight`",
        ),
        (
            "qwen2moe",
            "blk.0.ffn_gate_shexp.weight",
            |tensor| tensor.name = "blk.0.ffn_gatx_shexp.weight".to_owned(),
            "the model has no tensor `blk.0.ffn_gate_shexp.weight`",
        ),
        (
            "qwen2moe",
            "blk.0.ffn_up_shexp.weight",
            |tensor| tensor.dims.reverse(),
            "`blk.0.ffn_up_shexp.weight` has shape [24, 32]",
        ),
        (
            "llama",
            "token_embd.weight",
            |tensor| tensor.dims.push(1),
            "`token_embd.weight` has shape [",
        ),
        (
            "llama",
            "output_norm.weight",
            |tensor| tensor.reshape(&[2 * tensor.dims[0]]),
            "`output_norm.weight` has shape [",
        ),
    ];
    for (model, name, damage, expected) in cases {
        let mut parts = Parts::golden(model);
        damage(parts.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap());
        parts.write(&path).unwrap();
        let error = run(&path).unwrap_err();
        assert!(error.contains(expected), "{model} {name}: {error}");
    }
    // Before a table of RoPE's frequencies as long as a head is made.
    let mut long = Parts::golden("llama");
    long.set("llama.attention.key_length", Value::U32(1 << 24)).write(&path).unwrap();
    let error = run(&path).unwrap_err();
    assert!(error.contains("`llama.attention.key_length` is 16777216"), "{error}");
}
