//! Cutting text into words before merging: the rules that `tokenizer.ggml.pre` names.
//!
//! The names, what they imply and the patterns are those of llama.cpp (`src/llama-vocab.cpp`,
//! `src/unicode.cpp`), Copyright (c) 2023-2026 The ggml authors, MIT License (the text is that of
//! `LICENSE-MIT`). Where its patterns differ from those of the models' first publishers, so do
//! these. Classes are of the regex engine's Unicode, which is newer than llama.cpp's: letters
//! that Unicode 16 added are letters here, and symbols there.
//!
//! The patterns are run by an engine that takes linear time and has no look-ahead. The one that
//! they need, `\s+(?!\S)`, is expressed by [`Spaces`]; `(?=[\p{L}])([^a-z])` is an intersection
//! of classes.

use std::sync::OnceLock;

use regex::Regex;

use super::TokenizerError;

/// How a run of white space is cut that the pattern's other alternatives have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spaces {
    /// The pattern says all.
    Pattern,
    /// `\s+(?!\S)|\s+`: all but the last, if more text follows.
    Run,
    /// The same, in a pattern with an alternative of its own for runs with line ends.
    RunInLine,
    /// `\s{512}(?!\S)|\s{256}(?!\S)|…|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}` in such a pattern.
    PowersInLine,
}

/// One cut of a text. The pieces of one step are the texts of the next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Every match is a piece, and what lies between matches.
    Pattern(&'static str, Spaces),
    /// Runs of digits in groups of three from the right. The text before a run stays with its
    /// first group, as in llama.cpp: the next step takes it off.
    Digits,
    /// Cuts before every group of three ASCII digits, counted from the right.
    Thousands,
}

/// What a name stands for.
#[derive(Debug)]
struct Rule {
    names: &'static [&'static str],
    steps: &'static [Step],
    /// A word that is a token is not merged.
    ignore_merges: bool,
    add_bos: bool,
    /// Whether there is a beginning-of-text token if no key names it.
    default_bos: bool,
}

impl Rule {
    const fn new(names: &'static [&'static str], steps: &'static [Step]) -> Self {
        Self { names, steps, ignore_merges: false, add_bos: false, default_bos: true }
    }

    const fn ignoring_merges(self) -> Self {
        Self { ignore_merges: true, ..self }
    }

    const fn adding_bos(self) -> Self {
        Self { add_bos: true, ..self }
    }

    const fn without_default_bos(self) -> Self {
        Self { default_bos: false, ..self }
    }
}

/// English contractions, in any case.
macro_rules! contractions {
    () => {
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}

const GPT2: Step =
    Step::Pattern(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+", Spaces::Run);
const LLAMA3_PATTERN: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
);
const LLAMA3: Step = Step::Pattern(LLAMA3_PATTERN, Spaces::RunInLine);
const QWEN2: Step = Step::Pattern(
    concat!(
        contractions!(),
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    ),
    Spaces::RunInLine,
);
const ONE_NUMBER: Step = Step::Pattern(r"\p{N}", Spaces::Pattern);
const THREE_NUMBERS: Step = Step::Pattern(r"\p{N}{1,3}", Spaces::Pattern);
const NUMBERS: Step = Step::Pattern(r"\p{N}+", Spaces::Pattern);
const THREE_DIGITS: Step = Step::Pattern("[0-9][0-9][0-9]", Spaces::Pattern);
const LINE_END: Step = Step::Pattern(r"[\r\n]", Spaces::Pattern);
const LINES: Step = Step::Pattern(r"[^\n]+|[\n]+", Spaces::Pattern);
const WORDS: Step = Step::Pattern(
    r" ?[^(\s|.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C})]+",
    Spaces::Pattern,
);
/// Chinese, Korean and what lies between U+0800 and them. White space is in no class of llama.cpp
/// other than `\s`, so that U+3000 is also missing from [`DEEPSEEK_LLM_PUNCTUATION`].
const EAST_ASIAN: Step =
    Step::Pattern(r"[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}&&\S]+", Spaces::Pattern);
const CHINESE_JAPANESE: Step =
    Step::Pattern(r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+", Spaces::Pattern);
const DEEPSEEK_LLM_WORDS: Step = Step::Pattern(
    concat!(
        r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}",
        r"\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}",
        r"\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}",
        r"\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}",
        r"\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}",
        r"\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}",
        r"\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}",
        r"\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}",
        r"\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}",
        r"\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}",
        r"\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}",
        r"\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}",
        r"\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}",
        r"\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}",
        r"\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}",
        r"\u{1E900}-\u{1E943}]+",
    ),
    Spaces::Pattern,
);
const DEEPSEEK_LLM_PUNCTUATION: Step = Step::Pattern(
    r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3001}-\u{3002}]+",
    Spaces::Pattern,
);
const TRAILING_SPACES: Step = Step::Pattern(r"\s+\z", Spaces::Pattern);
const DEEPSEEK3: Step = Step::Pattern(
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
    ),
    Spaces::RunInLine,
);
const SPARK: Step = Step::Pattern(
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+|[\r\n]"
    ),
    Spaces::Run,
);
const YOUTU_SCRIPTS: Step = Step::Pattern(
    concat!(
        r"[\u{AC00}-\u{D7A3}\u{3131}-\u{318E}]+|[\u{FF01}\u{2026}\u{201C}\u{201D}\u{2018}",
        r"\u{2019}\u{2014}\u{FF1A}\u{FF1B}\u{FF0C}\u{3001}-\u{303F}\u{FE30}-\u{FE4F}]+|[",
        r"\u{3105}-\u{312F}]+|[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+",
    ),
    Spaces::Pattern,
);
const YOUTU: Step = Step::Pattern(
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        contractions!(),
        r"?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
    ),
    Spaces::RunInLine,
);
const TINY_AYA: Step = Step::Pattern(
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        contractions!(),
        r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
    ),
    Spaces::RunInLine,
);
const QWEN35: Step = Step::Pattern(
    concat!(
        contractions!(),
        r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
    ),
    Spaces::RunInLine,
);
const TEKKEN: Step = Step::Pattern(
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+",
        r"|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*",
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
    ),
    Spaces::RunInLine,
);
const GPT4O: Step = Step::Pattern(
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+",
        contractions!(),
        r"?|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*",
        contractions!(),
        r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
    ),
    Spaces::RunInLine,
);
const GRANITE_EMBEDDING: Step = Step::Pattern(
    concat!(
        r"[^\r\n\p{L}\p{N}]?[[\p{L}\p{M}]&&[^a-z]]*[[\p{L}\p{M}]&&[^A-Z]]+",
        contractions!(),
        r"?|[^\r\n\p{L}\p{N}]?[[\p{L}\p{M}]&&[^a-z]]+[[\p{L}\p{M}]&&[^A-Z]]*",
        contractions!(),
        r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
    ),
    Spaces::RunInLine,
);
/// Han ideographs, by block.
macro_rules! han {
    () => {
        concat!(
            r"\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}",
            r"\u{2B740}-\u{2B81F}\u{2B820}-\u{2CEAF}\u{2CEB0}-\u{2EBEF}\u{F900}-\u{FAFF}",
            r"\u{2F800}-\u{2FA1F}"
        )
    };
}
const KIMI: Step = Step::Pattern(
    concat!(
        "[",
        han!(),
        r"]+|[^\r\n\p{L}\p{N}]?[\p{L}--[",
        han!(),
        "]]+",
        contractions!(),
        r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    ),
    Spaces::RunInLine,
);
const BAILING: Step = Step::Pattern(
    concat!(
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]"
    ),
    Spaces::RunInLine,
);
const SEED_CODER: Step = Step::Pattern(
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"),
    Spaces::RunInLine,
);
/// Qwen 2's without contractions, so that Turkish suffixes keep their apostrophe.
const UFAKZEKA: Step = Step::Pattern(
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    Spaces::RunInLine,
);
const AFMOE_SCRIPTS: Step = Step::Pattern(
    concat!(
        r"[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{8C48}-\u{FAFF}\u{3040}-\u{309F}\u{30A0}-\u{30FF}",
        r"\u{FF65}-\u{FF9F}\u{2F00}-\u{2FDF}\u{E40}-\u{E7F}\u{E80}-\u{EFF}\u{1780}-\u{17FF}",
        r"\u{1000}-\u{109F}\u{AA60}-\u{AA7F}\u{A9E0}-\u{A9FF}\u{AC00}-\u{D7AF}\u{1100}-\u{11FF}]",
        r"+",
    ),
    Spaces::Pattern,
);
const EXAONE_MOE: Step = Step::Pattern(
    concat!(
        contractions!(),
        r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
    ),
    Spaces::RunInLine,
);
const MINICPM5: Step = Step::Pattern(
    concat!(
        contractions!(),
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    ),
    Spaces::RunInLine,
);

/// All names, each in one rule.
const RULES: &[Rule] = &[
    Rule::new(
        &["default"],
        &[Step::Pattern(r"[\p{P}\$\+<=>\^~\|]+", Spaces::Pattern), GPT2, NUMBERS, THREE_DIGITS],
    ),
    Rule::new(
        &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[LLAMA3],
    )
    .ignoring_merges()
    .adding_bos(),
    Rule::new(&["dbrx", "smaug-bpe"], &[LLAMA3]),
    Rule::new(&["chatglm-bpe"], &[LLAMA3]).without_default_bos(),
    Rule::new(&["glm4", "glm5"], &[LLAMA3]).ignoring_merges().without_default_bos(),
    Rule::new(&["jais-2"], &[Step::Pattern(LLAMA3_PATTERN, Spaces::PowersInLine)]),
    Rule::new(&["minicpm5"], &[THREE_NUMBERS, MINICPM5]).ignoring_merges(),
    Rule::new(
        &["deepseek-llm"],
        &[
            LINE_END,
            DEEPSEEK_LLM_WORDS,
            DEEPSEEK_LLM_PUNCTUATION,
            TRAILING_SPACES,
            EAST_ASIAN,
            NUMBERS,
        ],
    ),
    Rule::new(
        &["deepseek-coder"],
        &[
            LINE_END,
            Step::Pattern(r"\s?\p{L}+", Spaces::Pattern),
            Step::Pattern(r"\s?\p{P}+", Spaces::Pattern),
            EAST_ASIAN,
            ONE_NUMBER,
        ],
    ),
    Rule::new(
        &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        &[THREE_NUMBERS, CHINESE_JAPANESE, DEEPSEEK3],
    ),
    Rule::new(&["spark2_5"], &[THREE_NUMBERS, CHINESE_JAPANESE, SPARK, ONE_NUMBER]),
    Rule::new(&["youtu"], &[YOUTU_SCRIPTS, YOUTU]).ignoring_merges(),
    Rule::new(
        &["falcon"],
        &[Step::Pattern(r"[\p{P}\$\+<=>\^~\|`]+", Spaces::Pattern), GPT2, THREE_DIGITS],
    ),
    Rule::new(
        &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        &[ONE_NUMBER, GPT2],
    ),
    Rule::new(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        &[GPT2],
    ),
    Rule::new(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        &[QWEN2],
    ),
    Rule::new(&["qwen35"], &[QWEN35]),
    Rule::new(&["poro-chat", "bloom", "gpt3-finnish"], &[WORDS]),
    Rule::new(&["viking"], &[WORDS, ONE_NUMBER]),
    Rule::new(&["tekken"], &[TEKKEN]).ignoring_merges().adding_bos(),
    Rule::new(
        &["chameleon"],
        &[
            Step::Pattern("<sentinel:[0-9]+>", Spaces::Pattern),
            Step::Pattern("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", Spaces::Pattern),
            Step::Pattern(r"([\t\n]|    |  )", Spaces::Pattern),
            ONE_NUMBER,
            Step::Pattern(r"[\p{P}!-/:-@\[-`{-~]", Spaces::Pattern),
            GPT2,
        ],
    )
    .adding_bos(),
    Rule::new(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    Rule::new(&["granite-embed-multi-97m"], &[GRANITE_EMBEDDING]).ignoring_merges(),
    Rule::new(&["tiny_aya", "cohere2moe"], &[Step::Digits, TINY_AYA]),
    Rule::new(&["superbpe"], &[NUMBERS, Step::Thousands]),
    Rule::new(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    Rule::new(&["seed-coder"], &[SEED_CODER]),
    Rule::new(&["kimi-k2"], &[KIMI]),
    Rule::new(&["ufakzeka"], &[UFAKZEKA]),
    Rule::new(&["afmoe"], &[Step::Digits, AFMOE_SCRIPTS, DEEPSEEK3]),
    Rule::new(&["laguna"], &[LINES, QWEN2]),
    Rule::new(&["exaone-moe"], &[EXAONE_MOE]),
];

/// All names, for a message.
pub(super) fn known_names() -> String {
    let mut names: Vec<String> = Vec::new();
    names.extend(RULES.iter().flat_map(|rule| rule.names).map(|name| format!("`{name}`")));
    names.sort_unstable();
    names.join(", ")
}

/// The steps of each rule, compiled when a model first names it: that takes longer than to read the model.
static COMPILED: [OnceLock<Vec<Compiled>>; RULES.len()] = [const { OnceLock::new() }; RULES.len()];

/// A compiled rule.
#[derive(Debug)]
pub(super) struct Pretokenizer {
    steps: &'static [Compiled],
    pub ignore_merges: bool,
    pub add_bos: bool,
    pub default_bos: bool,
}

#[derive(Debug)]
enum Compiled {
    Pattern(Regex, Spaces),
    Digits(Regex),
    Thousands(Regex),
}

impl Pretokenizer {
    /// The rule of a name.
    pub(super) fn new(name: &str) -> Result<Self, TokenizerError> {
        let mut rules = RULES.iter().zip(&COMPILED);
        let (rule, compiled) = rules
            .find(|(rule, _)| rule.names.contains(&name))
            .ok_or_else(|| TokenizerError::Pretokenizer { name: name.to_owned() })?;
        if compiled.get().is_none() {
            let steps = rule.steps.iter().map(Compiled::new).collect::<Result<_, _>>()?;
            // Another thread may have been faster: its steps are the same.
            let _ = compiled.set(steps);
        }
        Ok(Self {
            steps: compiled.get().map_or(&[], Vec::as_slice),
            ignore_merges: rule.ignore_merges,
            add_bos: rule.add_bos,
            default_bos: rule.default_bos,
        })
    }

    /// Calls `word` with every word of a text, in order. Together they are the text.
    pub(super) fn cut<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        apply(self.steps, text, &mut word);
    }
}

fn apply<'t>(steps: &[Compiled], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    match steps.split_first() {
        _ if text.is_empty() => {}
        None => word(text),
        Some((step, rest)) => step.cut(text, &mut |piece| apply(rest, piece, word)),
    }
}

impl Compiled {
    fn new(step: &Step) -> Result<Self, TokenizerError> {
        let compile = |pattern: &str| {
            Regex::new(pattern)
                .map_err(|error| TokenizerError::Pattern { reason: error.to_string() })
        };
        match *step {
            Step::Pattern(pattern, Spaces::Pattern) => {
                Ok(Self::Pattern(compile(pattern)?, Spaces::Pattern))
            }
            Step::Pattern(pattern, spaces) => {
                Ok(Self::Pattern(compile(&format!(r"{pattern}|\s+"))?, spaces))
            }
            Step::Digits => compile(r"\p{N}+").map(Self::Digits),
            Step::Thousands => compile("[0-9]+").map(Self::Thousands),
        }
    }

    fn cut<'t>(&self, text: &'t str, piece: &mut dyn FnMut(&'t str)) {
        let mut cutter = Cutter { text, done: 0, piece };
        match self {
            Self::Pattern(pattern, spaces) => {
                let mut at = 0;
                while let Some(found) = pattern.find_at(text, at) {
                    cutter.cut_at(found.start());
                    let more = found.end() < text.len();
                    spaces.cut(found.as_str(), more, &mut cutter);
                    at = cutter.done;
                    // No pattern matches the empty text.
                    if at <= found.start() {
                        break;
                    }
                }
            }
            Self::Digits(digits) => {
                for run in digits.find_iter(text) {
                    let count = run.as_str().chars().count();
                    let ends = run.as_str().char_indices().enumerate();
                    let ends = ends.filter(|(index, _)| *index > 0 && (count - index) % 3 == 0);
                    for (_, (offset, _)) in ends {
                        cutter.cut_at(run.start() + offset);
                    }
                    cutter.cut_at(run.end());
                }
            }
            Self::Thousands(digits) => {
                for run in digits.find_iter(text) {
                    let start = run.start() + run.len() % 3;
                    (start..run.end()).step_by(3).for_each(|at| cutter.cut_at(at));
                }
            }
        }
        cutter.cut_at(text.len());
    }
}

/// Hands out a text in pieces.
struct Cutter<'t, 'f> {
    text: &'t str,
    done: usize,
    piece: &'f mut dyn FnMut(&'t str),
}

impl Cutter<'_, '_> {
    /// Ends a piece, unless it would be empty.
    fn cut_at(&mut self, end: usize) {
        if end > self.done
            && let Some(piece) = self.text.get(self.done..end)
        {
            (self.piece)(piece);
            self.done = end;
        }
    }
}

impl Spaces {
    /// Cuts a match, which begins where the cutter is; `more` says whether text follows it. What
    /// is not cut is matched anew with what follows.
    fn cut(self, found: &str, more: bool, cutter: &mut Cutter<'_, '_>) {
        let start = cutter.done;
        let in_line = matches!(self, Self::RunInLine | Self::PowersInLine);
        let is_run = self != Self::Pattern
            && found.chars().all(char::is_whitespace)
            && !(in_line && found.contains(['\r', '\n']));
        if !is_run {
            return cutter.cut_at(start + found.len());
        }
        let ends = found.char_indices().map(|(index, space)| start + index + space.len_utf8());
        let mut ends: Vec<usize> = ends.collect();
        if more && ends.len() > 1 {
            ends.pop();
        }
        if self != Self::PowersInLine {
            return ends.last().into_iter().for_each(|&end| cutter.cut_at(end));
        }
        let mut rest = ends.as_slice();
        while !rest.is_empty() {
            let size = 1 << rest.len().ilog2().min(9);
            let (piece, after) = rest.split_at(size);
            piece.last().into_iter().for_each(|&end| cutter.cut_at(end));
            rest = after;
        }
    }
}
