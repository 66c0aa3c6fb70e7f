//! Known architectures: in what their graphs differ from llama's, as data.
//!
//! The facts are those of llama.cpp's graphs, `src/models/*.cpp`.

/// Which elements of a head are rotated together by RoPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// 2i and 2i + 1, as llama.
    Adjacent,
    /// i and i + half, as GPT-NeoX.
    Halves,
}

/// Activation function of the gated FFN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// The tanh approximation of x · Φ(x).
    Gelu,
}

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormPlacement {
    /// Before attention and before the FFN.
    Before,
    /// After attention and after the FFN, before the residual is added.
    After,
    /// Both.
    Both,
}

/// Where the scale of embeddings comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EmbeddingScale {
    One,
    SqrtWidth,
}

/// Sliding windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Windows {
    /// None; a key that asks for one is refused.
    None,
    /// None, though the key may be there: llama.cpp's graph does not heed it either.
    Ignored,
    /// Every layer but each `period`-th, of the length that the key says.
    Pattern {
        /// Layers after which a layer has no window.
        period: usize,
        /// Length where the key is absent; without it there are no windows then.
        default: Option<usize>,
        /// What RoPE is on the layers with a window.
        rope: WindowRope,
    },
}

/// RoPE of layers with a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowRope {
    /// The same as elsewhere, unless a key gives another base.
    Same,
    /// Base 10000, unless a key gives another, and positions not scaled.
    Local,
    /// The same base, unless a key gives another, and no scaling of any kind.
    Unscaled,
}

/// A bound of values, cap · tanh(x / cap).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SoftCap {
    /// None; a key that asks for one is refused.
    None,
    /// From a key.
    Key {
        /// Where the key is absent.
        default: Option<f32>,
    },
}

/// One architecture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Architecture {
    /// `general.architecture`.
    pub(super) name: &'static str,
    pub(super) pairing: Pairing,
    pub(super) activation: Activation,
    pub(super) norms: NormPlacement,
    /// Whether queries and keys are normalized, per head or over all heads.
    pub(super) head_norms: bool,
    pub(super) embedding_scale: EmbeddingScale,
    /// Whether the keys of Granite's multipliers are read.
    pub(super) multipliers: bool,
    pub(super) windows: Windows,
    /// Number of layers of the one size whose attention scale is 1/√(width/heads).
    pub(super) layers_scaled_by_width: Option<usize>,
    /// Bound of attention's scores.
    pub(super) attention_cap: SoftCap,
    /// Bound of logits.
    pub(super) logit_cap: SoftCap,
    /// Each so-many-th layer has no RoPE.
    pub(super) no_rope_every: Option<usize>,
    /// Whether a key turns RoPE off.
    pub(super) rope_switch: bool,
    /// Whether YaRN's betas and the temperature of Mistral 3 are read.
    pub(super) temperature: bool,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub(super) normalized_router: bool,
    /// Whether llama.cpp takes the embedding for the head, and refuses a file that has one.
    pub(super) always_tied: bool,
}

/// llama itself.
const LLAMA: Architecture = Architecture {
    name: "llama",
    pairing: Pairing::Adjacent,
    activation: Activation::Silu,
    norms: NormPlacement::Before,
    head_norms: false,
    embedding_scale: EmbeddingScale::One,
    multipliers: false,
    windows: Windows::None,
    layers_scaled_by_width: None,
    attention_cap: SoftCap::None,
    logit_cap: SoftCap::None,
    no_rope_every: None,
    rope_switch: false,
    temperature: false,
    normalized_router: true,
    always_tied: false,
};

/// What the Gemma family shares.
const GEMMA: Architecture = Architecture {
    name: "gemma",
    pairing: Pairing::Halves,
    activation: Activation::Gelu,
    embedding_scale: EmbeddingScale::SqrtWidth,
    always_tied: true,
    ..LLAMA
};

const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture { name: "mistral3", temperature: true, ..LLAMA },
    Architecture { name: "smollm3", no_rope_every: Some(4), ..LLAMA },
    Architecture { name: "granite", multipliers: true, rope_switch: true, ..LLAMA },
    Architecture { name: "granitemoe", multipliers: true, ..LLAMA },
    Architecture { name: "qwen2", pairing: Pairing::Halves, ..LLAMA },
    Architecture { name: "qwen2moe", pairing: Pairing::Halves, normalized_router: false, ..LLAMA },
    Architecture { name: "qwen3", pairing: Pairing::Halves, head_norms: true, ..LLAMA },
    Architecture { name: "qwen3moe", pairing: Pairing::Halves, head_norms: true, ..LLAMA },
    Architecture { name: "phi3", pairing: Pairing::Halves, windows: Windows::Ignored, ..LLAMA },
    Architecture {
        name: "olmo2",
        pairing: Pairing::Halves,
        norms: NormPlacement::After,
        head_norms: true,
        windows: Windows::Pattern { period: 4, default: None, rope: WindowRope::Unscaled },
        ..LLAMA
    },
    Architecture {
        name: "olmoe",
        pairing: Pairing::Halves,
        head_norms: true,
        normalized_router: false,
        ..LLAMA
    },
    GEMMA,
    Architecture {
        name: "gemma2",
        norms: NormPlacement::Both,
        windows: Windows::Pattern { period: 2, default: Some(4096), rope: WindowRope::Same },
        layers_scaled_by_width: Some(46),
        attention_cap: SoftCap::Key { default: Some(50.0) },
        logit_cap: SoftCap::Key { default: Some(30.0) },
        ..GEMMA
    },
    Architecture {
        name: "gemma3",
        norms: NormPlacement::Both,
        head_norms: true,
        windows: Windows::Pattern { period: 6, default: None, rope: WindowRope::Local },
        layers_scaled_by_width: Some(62),
        logit_cap: SoftCap::Key { default: None },
        always_tied: false,
        ..GEMMA
    },
];

impl Architecture {
    pub(super) fn by_name(name: &str) -> Option<Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.name == name).copied()
    }
}

/// Names of all, for messages.
pub(super) fn known_names() -> String {
    ARCHITECTURES.iter().map(|architecture| architecture.name).collect::<Vec<_>>().join(", ")
}
