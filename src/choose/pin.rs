//! Parts of a model that keep a scheme whatever is chosen for the rest.

use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::convert::roles;
use crate::options::SchemeChoice;
use crate::recipe::Recipe;

/// A part of a model, and its scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    part: Part,
    scheme: SchemeChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The first layer.
    First,
    /// The last layer.
    Last,
    /// The output head.
    Head,
}

impl FromStr for Pin {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (part, scheme) = text.split_once('=').context("expected PART=SCHEME")?;
        let part = match part {
            "first" => Part::First,
            "last" => Part::Last,
            "head" => Part::Head,
            _ => bail!("no part of a model is named `{part}`: expected first, last or head"),
        };
        let Ok(scheme) = SchemeChoice::from_str(scheme, false) else {
            bail!("no scheme is named `{scheme}`");
        };
        Ok(Pin { part, scheme })
    }
}

impl Pin {
    /// A pattern of the names that are pinned in a model of so many layers.
    fn pattern(self, layers: u64) -> String {
        match self.part {
            Part::First => r"^blk\.0\.".to_owned(),
            Part::Last => format!(r"^blk\.{}\.", layers.saturating_sub(1)),
            Part::Head => format!("^{}$", regex::escape(roles::HEAD)),
        }
    }
}

/// The recipe with the pins, which its own rules count for more than.
///
/// # Errors
///
/// If a pin makes no rule.
pub fn pinned(recipe: Recipe, pins: &[Pin], layers: u64) -> anyhow::Result<Recipe> {
    let rules = pins.iter().map(|pin| (pin.pattern(layers), pin.scheme));
    recipe.with_rules(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Overrides;

    #[test]
    fn pins_name_layers_and_the_head() {
        let pins = ["first=w8a8", "last=w16a16", "head=keep"].map(|pin| pin.parse().unwrap());
        let recipe = pinned(Recipe::uniform(Overrides::default()), &pins, 12).unwrap();
        for (name, scheme) in [
            ("blk.0.attn_q.weight", Some(SchemeChoice::W8A8)),
            ("blk.1.attn_q.weight", None),
            ("blk.11.ffn_down.weight", Some(SchemeChoice::W16A16)),
            ("output.weight", Some(SchemeChoice::Keep)),
            ("output_norm.weight", None),
        ] {
            assert_eq!(recipe.pinned(name), scheme, "{name}");
        }
        // One layer is the first and the last: what is said last counts.
        let recipe = pinned(Recipe::uniform(Overrides::default()), &pins, 1).unwrap();
        assert_eq!(recipe.pinned("blk.0.attn_q.weight"), Some(SchemeChoice::W16A16));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("first", "PART=SCHEME"),
            ("middle=w8a8", "`middle`"),
            ("first=w2a2", "`w2a2`"),
            ("=", "named ``"),
        ] {
            let error = text.parse::<Pin>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
