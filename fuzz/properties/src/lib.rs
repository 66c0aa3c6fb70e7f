//! What must hold whatever bytes a file has: a property for each file that tessera reads.
//!
//! A property takes bytes and panics where it does not hold. The targets of libFuzzer call them with
//! bytes they make up; a test calls them with the corpus of the repository and with changes of it.
//! What every property says is that a file gives an error or what can be used, without a panic, and
//! without more memory than its bytes justify.

mod blocks;
mod changes;
mod gguf;
mod gguf_bytes;
mod hostile;
mod imatrix;
mod input;
mod logits;
mod model;
mod pack;
mod statistics;
mod text;
mod tokenizer;
mod told;

pub use blocks::dequantize;
pub use gguf::{gguf, gguf_structured};
pub use imatrix::imatrix;
pub use logits::base_logits;
pub use model::model;
pub use pack::{pack, pack_index, pack_manifest, pack_structured};
pub use statistics::{statistics, statistics_structured};
pub use text::{board, recipe, sensitivity};
pub use tokenizer::tokenizer;

/// A property of bytes.
pub type Property = fn(&[u8]);

/// Every property, by the name of its target.
pub const PROPERTIES: [(&str, Property); 16] = [
    ("gguf", gguf),
    ("gguf_structured", gguf_structured),
    ("tokenizer", tokenizer),
    ("model", model),
    ("pack", pack),
    ("pack_structured", pack_structured),
    ("pack_manifest", pack_manifest),
    ("pack_index", pack_index),
    ("recipe", recipe),
    ("statistics", statistics),
    ("statistics_structured", statistics_structured),
    ("imatrix", imatrix),
    ("base_logits", base_logits),
    ("board", board),
    ("sensitivity", sensitivity),
    ("dequantize", dequantize),
];
