//! Tests against llama.cpp's tokens, and against files that are wrong.
//!
//! `tests/data/tokenizer/generate.py` wrote the fixtures.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tessera_formats::gguf::{Array, Gguf, GgufWriter, Metadata, Strings, Value};

use super::{LONGEST_TOKEN, Special, Tokenizer, TokenizerError};

const PLAIN: Special = Special { add: false, parse: false };
const PARSE: Special = Special { add: false, parse: true };
const ADD: Special = Special { add: true, parse: false };

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer").join(name)
}

/// The repository's model with a SentencePiece vocabulary of 512.
fn stories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/stories260K-Q8_0.gguf")
}

/// A path under `../shared`, if that is there.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(name);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn metadata_of(path: &Path) -> Metadata {
    Gguf::open(path).expect("a GGUF file").metadata().clone()
}

/// Keys and values, by way of a file.
fn metadata(entries: &[(String, Value)]) -> Metadata {
    let mut writer = GgufWriter::new();
    for (key, value) in entries {
        writer.metadata(key.clone(), value.clone()).expect("a key");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.gguf");
    let mut bytes = Vec::new();
    writer.write(&mut bytes, |_| Vec::new()).expect("written");
    std::fs::write(&path, bytes).expect("written");
    metadata_of(&path)
}

/// The keys of a file with some of them replaced, added, or (None) removed.
fn changed(path: &Path, changes: &[(&str, Option<Value>)]) -> Metadata {
    let original = metadata_of(path);
    let kept = original.iter().filter(|(key, _)| !changes.iter().any(|(name, _)| name == key));
    let kept = kept.map(|(key, value)| (key.to_owned(), value.clone()));
    let new = changes.iter().filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?)));
    metadata(&kept.chain(new).collect::<Vec<_>>())
}

fn tokenizer(path: &Path) -> Tokenizer {
    Tokenizer::new(&metadata_of(path)).expect("a tokenizer")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a text file")
}

fn ids(line: &str) -> Vec<u32> {
    line.split_whitespace().map(|id| id.parse().expect("a token")).collect()
}

fn texts(path: &Path) -> Vec<String> {
    const END: &str = "\n__ggml_vocab_test__\n";
    let file = read(path);
    file.strip_suffix(END).expect("an end").split(END).map(str::to_owned).collect()
}

fn assert_tokens(
    tokenizer: &Tokenizer,
    name: &str,
    texts: &[String],
    lines: &[&str],
    how: Special,
) {
    assert_eq!(texts.len(), lines.len(), "{name}");
    for (text, line) in texts.iter().zip(lines) {
        let tokens = tokenizer.encode(text, how).expect("encodes");
        assert_eq!(tokens, ids(line), "{name} {how:?} {text:?}");
    }
}

/// Sections of a file of expected tokens: names, how, and a line for each text.
fn expected(name: &str) -> Vec<(Vec<String>, Special, Vec<String>)> {
    let file = read(&data(name));
    let sections = file.split("# ").skip(1).map(|section| {
        let (head, lines) = section.split_once('\n').expect("a head line");
        let (names, how) = head.rsplit_once(' ').expect("names and how");
        let names = names.split(' ').map(str::to_owned).collect();
        let how = if how == "parse" { PARSE } else { PLAIN };
        (names, how, lines.lines().map(str::to_owned).collect())
    });
    sections.collect()
}

#[test]
fn every_rule_for_words_gives_the_tokens_of_llama_cpp() {
    let texts = texts(&data("texts.inp"));
    let mut names = BTreeSet::new();
    for (pres, how, lines) in expected("bpe.out") {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        for pre in pres {
            let keys = changed(&data("bpe.gguf"), &[(PRE, Some(Value::from(pre.as_str())))]);
            let tokenizer = Tokenizer::new(&keys).expect("a known rule");
            assert_tokens(&tokenizer, &pre, &texts, &lines, how);
            for text in &texts {
                let tokens = tokenizer.encode(text, PLAIN).expect("encodes");
                assert_eq!(&tokenizer.decode(&tokens), text, "{pre}");
            }
            names.insert(format!("`{pre}`"));
        }
    }
    let known = super::pretokenizer::known_names();
    assert_eq!(names.into_iter().collect::<Vec<_>>().join(", "), known);
}

#[test]
fn sentencepiece_gives_the_tokens_of_llama_cpp() {
    let texts = texts(&data("texts.inp"));
    let tokenizer = tokenizer(&stories());
    for (names, how, lines) in expected("spm.out") {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_tokens(&tokenizer, &names.join(" "), &texts, &lines, how);
    }
}

/// llama.cpp's own vectors for its vocabularies.
#[test]
fn vectors_of_llama_cpp() {
    let Some(folder) = shared("models/vocab") else { return };
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "gguf") {
            continue;
        }
        let beside = |extension: &str| PathBuf::from(format!("{}{extension}", path.display()));
        let texts = texts(&beside(".inp"));
        let out = read(&beside(".out"));
        let lines: Vec<&str> = out.lines().collect();
        let tokenizer = tokenizer(&path);
        assert_tokens(&tokenizer, &path.display().to_string(), &texts, &lines, PLAIN);
        round_trips(&tokenizer);
        count += 1;
    }
    assert_eq!(count, 7);
}

/// 200 lines of WikiText come back as they were, with BOS and without.
fn round_trips(tokenizer: &Tokenizer) {
    let Some(path) = shared("data/wiki.test.raw") else { return };
    let text = read(&path);
    for line in text.lines().filter(|line| !line.is_empty()).take(200) {
        for how in [PLAIN, PARSE, ADD] {
            let tokens = tokenizer.encode(line, how).expect("encodes");
            assert_eq!(tokenizer.decode(&tokens), line);
        }
    }
}

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";

fn strings<S: AsRef<str>>(strings: impl IntoIterator<Item = S>) -> Value {
    Value::from(strings.into_iter().collect::<Strings>())
}

/// Tokens `<unk> <s> </s> a b ab` and what is given, all normal save the first three.
fn small(
    more: &[(&str, i32)],
    changes: &[(&str, Option<Value>)],
) -> Result<Tokenizer, TokenizerError> {
    let first = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("a", 1), ("b", 1), ("ab", 1)];
    let tokens: Vec<(&str, i32)> = first.iter().chain(more).copied().collect();
    let mut entries: Vec<(String, Value)> = vec![
        (MODEL.to_owned(), "llama".into()),
        (TOKENS.to_owned(), strings(tokens.iter().map(|(text, _)| text))),
        (TYPES.to_owned(), tokens.iter().map(|(_, ty)| *ty).collect::<Vec<i32>>().into()),
        (SCORES.to_owned(), vec![0.0_f32; tokens.len()].into()),
        ("tokenizer.ggml.add_space_prefix".to_owned(), false.into()),
    ];
    for (name, value) in changes {
        entries.retain(|(key, _)| key != name);
        entries.extend(value.clone().map(|value| ((*name).to_owned(), value)));
    }
    Tokenizer::new(&metadata(&entries))
}

/// The same as byte-level BPE with one merge.
fn small_bpe(
    more: &[(&str, i32)],
    changes: &[(&str, Option<Value>)],
) -> Result<Tokenizer, TokenizerError> {
    let bpe = [
        (MODEL, Some(Value::from("gpt2"))),
        (PRE, Some("gpt-2".into())),
        (SCORES, None),
        (MERGES, Some(strings(["a b"]))),
    ];
    small(more, &[&bpe, changes].concat())
}

#[test]
fn beginning_and_end_of_text() {
    let tokens = |tokenizer: Result<Tokenizer, TokenizerError>| {
        tokenizer.expect("a tokenizer").encode("ab", ADD).expect("encodes")
    };
    assert_eq!(tokens(small(&[], &[])), [1, 5]);
    assert_eq!(tokens(small(&[], &[(ADD_BOS, Some(false.into()))])), [5]);
    assert_eq!(tokens(small(&[], &[(ADD_EOS, Some(true.into()))])), [1, 5, 2]);
    assert_eq!(tokens(small(&[], &[(BOS, Some(4_u32.into()))])), [4, 5]);
    // Byte-level BPE adds none, save by a rule that does, and then must have one.
    assert_eq!(tokens(small_bpe(&[], &[])), [5]);
    let llama3 = (PRE, Some("llama-bpe".into()));
    assert_eq!(tokens(small_bpe(&[], &[llama3.clone(), (BOS, Some(1_u32.into()))])), [1, 5]);
    let error = small_bpe(&[], &[llama3]).expect_err("no BOS");
    assert_eq!(error, TokenizerError::NoToken { key: BOS, switch: ADD_BOS });
    let error = small_bpe(&[], &[(ADD_EOS, Some(true.into()))]).expect_err("no EOS");
    assert_eq!(error, TokenizerError::NoToken { key: EOS, switch: ADD_EOS });

    let tokenizer = small(&[], &[(ADD_EOS, Some(true.into()))]).expect("a tokenizer");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.len()), (Some(1), Some(2), 6));
    assert_eq!((tokenizer.add_bos(), tokenizer.add_eos()), (true, true));
    assert_eq!(tokenizer.decode(&[1, 5, 2]), "ab");
    assert_eq!(tokenizer.decode(&[5, 1, 2, 5]), "ab<s></s>ab");
    assert_eq!(tokenizer.encode("", PLAIN), Ok(vec![]));
}

#[test]
fn tokens_that_end_generation() {
    let ends = |tokenizer: Result<Tokenizer, TokenizerError>| {
        let tokenizer = tokenizer.expect("a tokenizer");
        (0..9).filter(|&token| tokenizer.is_end(token)).collect::<Vec<u32>>()
    };
    assert_eq!(ends(small(&[], &[])), [2]);
    // EOS by key, `</s>` by its text.
    assert_eq!(ends(small(&[], &[(EOS, Some(3_u32.into()))])), [2, 3]);
    assert_eq!(ends(small(&[("<|im_end|>", 3), ("<|x|>", 3)], &[])), [2, 6]);
    let key = ("tokenizer.ggml.eot_token_id", Some(7_u32.into()));
    assert_eq!(ends(small(&[("<|im_end|>", 3), ("<|x|>", 3)], &[key])), [2, 6, 7]);
    assert_eq!(ends(small(&[("<|fim_pad|>", 3), ("<|fim_prefix|>", 3)], &[])), [2, 6]);
    // gpt-oss: `<|end|>` ends a part of an answer.
    assert_eq!(ends(small(&[("<|end|>", 3), ("<|call|>", 3)], &[])), [2, 6, 7]);
    let harmony = [("<|end|>", 3), ("<|call|>", 3), ("<|return|>", 3)];
    assert_eq!(ends(small(&harmony, &[])), [2, 7, 8]);
}

#[test]
fn special_tokens_in_a_text() {
    let tokenizer = small(&[("<x>", 3), ("<x><x>", 3), ("<u>", 4)], &[]).expect("a tokenizer");
    let parsed = |text: &str| tokenizer.encode(text, PARSE).expect("encodes");
    // The longest first, wherever it is.
    assert_eq!(parsed("a<x>b"), [3, 6, 4]);
    assert_eq!(parsed("<x><x><x>"), [7, 6]);
    assert_eq!(parsed("<u><s></s><unk>ab"), [8, 1, 2, 0, 5]);
    // User-defined tokens are always found; the unknown token stands for what is not known.
    assert_eq!(tokenizer.encode("a<u>b", PLAIN), Ok(vec![3, 8, 4]));
    assert_eq!(tokenizer.encode("a<x>b", PLAIN), Ok(vec![3, 0, 0, 0, 4]));
    assert!(tokenizer.is_control(6) && !tokenizer.is_control(8) && !tokenizer.is_control(99));
}

#[test]
fn overlapping_special_tokens_of_one_length() {
    // Lower numbers first: `ba` before `ac` and `cb`.
    let more = [("ba", 4), ("ac", 4), ("cb", 4)];
    let tokenizer = small(&more, &[]).expect("a tokenizer");
    assert_eq!(tokenizer.encode("acba", PLAIN), Ok(vec![7, 6]));
    assert_eq!(tokenizer.encode("acbac", PLAIN), Ok(vec![7, 6, 0]));
    assert_eq!(tokenizer.encode("acbcb", PLAIN), Ok(vec![7, 4, 8]));
}

#[test]
fn phi_3_takes_white_space_after_special_tokens() {
    let name = ("general.name", Some("Phi-3 mini".into()));
    let tokenizer = small(&[("<|u|>", 3)], &[name]).expect("a tokenizer");
    assert_eq!(tokenizer.encode("a<|u|> \n\tb", PARSE), Ok(vec![3, 6, 4]));
    assert_eq!(tokenizer.encode("<|u|>  <|u|> ", PARSE), Ok(vec![6, 6]));
    assert_eq!(tokenizer.encode("<s> b", PARSE), Ok(vec![1, 0, 0, 0, 4]));
    let tokenizer = small(&[("<|u|>", 3)], &[]).expect("a tokenizer");
    assert_eq!(tokenizer.encode("<|u|>\nb", PARSE), Ok(vec![6, 0, 4]));
}

#[test]
fn pieces_and_decoding() {
    let more = [("<0x0A>", 6), ("▁b", 1), ("<0xE2>", 6), ("<0x96>", 6), ("x", 5), ("", 1)];
    let tokenizer = small(&more, &[]).expect("a tokenizer");
    let pieces: [(u32, &[u8]); 8] = [
        (2, b"</s>"),
        (5, b"ab"),
        (6, b"\n"),
        (7, b" b"),
        (8, &[0xE2]),
        (10, b""),
        (11, b""),
        (12, b""),
    ];
    for (token, piece) in pieces {
        assert_eq!(&*tokenizer.piece(token), piece, "{token}");
    }
    assert_eq!(tokenizer.decode(&[7, 6, 8, 3, u32::MAX]), " b\n\u{FFFD}a");
    let prefixed = [("tokenizer.ggml.add_space_prefix", Some(true.into()))];
    let tokenizer = small(&more, &prefixed).expect("a tokenizer");
    // The space that encoding adds is taken away, also after BOS; others are not.
    assert_eq!(tokenizer.encode("b b", ADD), Ok(vec![1, 7, 7]));
    assert_eq!(tokenizer.decode(&[1, 7, 7]), "b b");
    assert_eq!(tokenizer.decode(&[7, 7]), "b b");
    // Bytes of one character that are no tokens.
    assert_eq!(tokenizer.encode("▁", PLAIN).map(|tokens| tokens.len()), Ok(6));
}

#[test]
fn files_that_are_wrong_are_refused() {
    use TokenizerError as E;
    let key = |key, expected: &str, found: &str| E::Key {
        key,
        expected: expected.to_owned(),
        found: found.to_owned(),
    };
    let long = "x".repeat(LONGEST_TOKEN + 1);
    let cases: Vec<(Result<Tokenizer, E>, E)> = vec![
        (small(&[], &[(MODEL, None)]), E::MissingKey { key: MODEL }),
        (small(&[], &[(MODEL, Some(1_u32.into()))]), key(MODEL, "a text", "1")),
        (small(&[], &[(MODEL, Some("bert".into()))]), E::Model { name: "bert".into() }),
        (small(&[], &[(MODEL, Some("gemma4".into()))]), E::Model { name: "gemma4".into() }),
        (small(&[], &[(TOKENS, None)]), E::MissingKey { key: TOKENS }),
        (
            small(&[], &[(TOKENS, Some(strings([""; 0])))]),
            key(TOKENS, "an array of at least one token", "empty"),
        ),
        (
            small(&[], &[(TOKENS, Some(vec![1_u8].into()))]),
            key(TOKENS, "an array of texts", "an array of 1 u8"),
        ),
        (small(&[("ab", 1)], &[]), E::DuplicateToken { text: "ab".into(), first: 5, second: 6 }),
        (small(&[(&long, 1)], &[]), E::LongToken { token: 6, bytes: LONGEST_TOKEN + 1 }),
        (small(&[("x", 7)], &[]), E::Type { token: 6, found: 7 }),
        (small(&[("x", -1)], &[]), E::Type { token: 6, found: -1 }),
        (small(&[("<0xG0>", 6)], &[]), E::ByteToken { token: 6, text: "<0xG0>".into() }),
        (
            small(&[], &[(TYPES, Some(vec![1_i32; 5].into()))]),
            E::Length { key: TYPES, found: 5, tokens: 6 },
        ),
        (
            small(&[], &[(TYPES, Some("x".into()))]),
            key(TYPES, "an array of whole numbers", "\"x\""),
        ),
        (small(&[], &[(SCORES, None)]), E::MissingKey { key: SCORES }),
        (
            small(&[], &[(SCORES, Some(vec![0.0_f32; 7].into()))]),
            E::Length { key: SCORES, found: 7, tokens: 6 },
        ),
        (
            small(&[], &[(SCORES, Some(vec![0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0].into()))]),
            E::Score { token: 2 },
        ),
        (
            small(&[], &[(SCORES, Some(Value::Array(Array::U8(vec![0; 6]))))]),
            key(SCORES, "an array of f32", "an array of 6 u8"),
        ),
        (small(&[], &[(BOS, Some(6_u32.into()))]), E::TokenId { key: BOS, id: 6, tokens: 6 }),
        (
            small(&[], &[(EOS, Some(u64::MAX.into()))]),
            E::TokenId { key: EOS, id: u64::MAX, tokens: 6 },
        ),
        (small(&[], &[(BOS, Some((-1_i32).into()))]), key(BOS, "the number of a token", "-1")),
        (small(&[], &[(ADD_BOS, Some(1_u8.into()))]), key(ADD_BOS, "true or false", "1")),
        (small_bpe(&[], &[(PRE, None)]), E::MissingPretokenizer),
        (small_bpe(&[], &[(PRE, Some("gpt-9".into()))]), E::Pretokenizer { name: "gpt-9".into() }),
        (small_bpe(&[], &[(PRE, Some("".into()))]), E::Pretokenizer { name: String::new() }),
        (small_bpe(&[], &[(MERGES, None)]), E::MissingKey { key: MERGES }),
        (
            small_bpe(&[], &[(MERGES, Some(strings(["a b", "a c"])))]),
            E::MergeToken { index: 1, merge: "a c".into(), text: "c".into() },
        ),
        (
            small_bpe(&[], &[(MERGES, Some(strings(["b a"])))]),
            E::MergeToken { index: 0, merge: "b a".into(), text: "ba".into() },
        ),
    ];
    for (result, expected) in cases {
        assert_eq!(result.map(|_| ()), Err(expected));
    }
    for merge in ["", "ab", " a", "a ", " ", "  "] {
        let result = small_bpe(&[], &[(MERGES, Some(strings([merge])))]).map(|_| ());
        assert_eq!(result, Err(E::MergeForm { index: 0, merge: merge.to_owned() }));
    }
    let message = small_bpe(&[], &[(PRE, None)]).expect_err("no rule").to_string();
    assert!(message.contains("`llama-bpe`") && message.contains("tokenizer.ggml.pre"));
}

#[test]
fn bytes_without_a_token() {
    let tokenizer = small_bpe(&[], &[]).expect("a tokenizer");
    assert_eq!(tokenizer.encode("abc", PLAIN), Err(TokenizerError::Byte { byte: b'c' }));
    assert_eq!(tokenizer.encode("abab", PLAIN), Ok(vec![5, 5]));
}

/// 100,000 bytes without white space, of white space, and of what special tokens begin with: each is
/// one word, or a text that every length of special token is looked for in.
#[test]
fn long_words_take_no_quadratic_time() {
    let spm = tokenizer(&stories());
    let special: Vec<(String, i32)> =
        (2..100).map(|count| (format!("{}!", "a".repeat(count)), 4)).collect();
    let special: Vec<(&str, i32)> = special.iter().map(|(text, ty)| (text.as_str(), *ty)).collect();
    let many = small(&special, &[]).expect("a tokenizer");
    let bpe = |pre: &str| {
        let keys = changed(&data("bpe.gguf"), &[(PRE, Some(Value::from(pre)))]);
        Tokenizer::new(&keys).expect("a tokenizer")
    };
    let rules = ["llama-bpe", "jais-2", "gpt-4o", "deepseek-llm", "exaone-moe"].map(bpe);
    let texts = ["a", " ", "ab", "\n ", "'", "1", "é", "a\u{301}"];
    for text in texts.map(|part| part.repeat(100_000 / part.len())) {
        for tokenizer in rules.iter().chain([&spm, &many]) {
            let start = std::time::Instant::now();
            let tokens = tokenizer.encode(&text, PLAIN).expect("encodes");
            assert!(!tokens.is_empty());
            assert!(start.elapsed().as_secs() < 10, "{:?}", text.chars().next());
        }
    }
}

#[test]
fn can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
}

proptest! {
    #[test]
    fn any_text_comes_back(text in r"(\PC|[\s\x00-\x1f]|<s>|<tool>|<\|im_end\|>|▁| |'s|12){0,60}") {
        thread_local! {
            static TOKENIZERS: Vec<(bool, Tokenizer)> = vec![
                (false, tokenizer(&stories())),
                (true, tokenizer(&data("bpe.gguf"))),
            ];
        }
        TOKENIZERS.with(|tokenizers| {
            for (byte_level, tokenizer) in tokenizers {
                // SentencePiece cannot tell U+2581 from a space.
                let back = if *byte_level { text.clone() } else { text.replace('▁', " ") };
                for how in [PLAIN, ADD] {
                    let tokens = tokenizer.encode(&text, how).expect("encodes");
                    assert_eq!(tokenizer.decode(&tokens), back);
                }
                if *byte_level {
                    let tokens = tokenizer.encode(&text, PARSE).expect("encodes");
                    assert_eq!(tokenizer.decode(&tokens), back);
                }
            }
        });
    }
}
