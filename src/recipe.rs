//! Recipes: TOML files of ordered rules that choose options per tensor.

use std::path::Path;

use anyhow::{Context, anyhow};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tessera_formats::escape::escaped_path;
use tessera_formats::npu::Scheme;

use crate::convert::roles;
use crate::hash::hex;
use crate::options::{LinearOptions, Overrides, Preset, RotationChoice, SchemeChoice};
use crate::text_file;

/// Largest recipe that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// Most rules of a recipe: models have some hundred linears.
const MOST_RULES: usize = 4096;

/// Largest compiled regex, in bytes; keeps a hostile pattern from filling memory.
const LARGEST_REGEX: usize = 1 << 20;

/// Bytes that the compiled regexes of a recipe share: many rules get less each.
const ALL_REGEXES: usize = 64 << 20;

/// A recipe as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeFile {
    /// Options of every tensor; the command line overrides them.
    #[serde(default)]
    defaults: Overrides,
    /// Rules, in order: a later one overrides an earlier one. Each has `match`, options, and
    /// `linear` where a tensor is to become a linear although its name tells nothing.
    #[serde(default, rename = "rule")]
    rules: Vec<toml::Table>,
}

/// The options of every tensor: defaults and ordered rules.
#[derive(Clone, Debug)]
pub struct Recipe {
    defaults: Overrides,
    rules: Vec<Rule>,
    /// Whether a calibration's statistics are at hand.
    statistics: bool,
}

/// Options of the tensors whose names a pattern is found in.
#[derive(Clone, Debug)]
struct Rule {
    pattern: Regex,
    linear: Option<bool>,
    options: Overrides,
}

impl Recipe {
    /// The same options for every tensor.
    pub fn uniform(options: Overrides) -> Self {
        Recipe { defaults: options, rules: Vec::new(), statistics: false }
    }

    /// In a few words: the scheme, after the preset if there is one.
    pub fn summary(&self) -> String {
        if !self.rules.is_empty() {
            return "recipe".to_owned();
        }
        let scheme = match (self.defaults.scheme, self.defaults.preset) {
            (Some(scheme), _) => scheme,
            (None, Some(Preset::W4)) => SchemeChoice::W4A8,
            (None, _) => SchemeChoice::W8A8,
        };
        let scheme = scheme.name();
        match self.defaults.preset {
            Some(preset) => format!("{} {scheme}", preset.name()),
            None => scheme.to_owned(),
        }
    }

    /// The same recipe for a model whose statistics are at hand, or are not.
    #[must_use]
    pub fn with_statistics(self, statistics: bool) -> Self {
        Recipe { statistics, ..self }
    }

    /// The same recipe with other defaults where `options` say so; its rules override both.
    #[must_use]
    pub fn overridden_by(self, options: Overrides) -> Self {
        Recipe { defaults: self.defaults.overridden_by(options), ..self }
    }

    /// The same recipe with `options` where its defaults say nothing.
    #[must_use]
    pub fn or(self, options: Overrides) -> Self {
        Recipe { defaults: options.overridden_by(self.defaults), ..self }
    }

    /// Reads a recipe file; `command_line` overrides its defaults, its rules override both.
    pub fn read(path: &Path, command_line: Overrides) -> anyhow::Result<Self> {
        let context = || format!("recipe `{}`", escaped_path(path));
        let text = text_file::text(path, "recipe", LARGEST_FILE)?;
        Self::parse(&text, command_line).with_context(context)
    }

    /// Parses the text of a recipe; `command_line` overrides its defaults, its rules override both.
    pub fn parse(text: &str, command_line: Overrides) -> anyhow::Result<Self> {
        let file: RecipeFile = toml::from_str(text).map_err(mistake)?;
        let count = file.rules.len();
        anyhow::ensure!(
            count <= MOST_RULES,
            "{count} rules, more than the {MOST_RULES} a recipe may have",
        );
        let limit = LARGEST_REGEX.min(ALL_REGEXES / count.max(1));
        let rule =
            |(index, rule)| Self::rule(rule, limit).with_context(|| format!("rule {}", index + 1));
        let rules = file.rules.into_iter().enumerate().map(rule).collect::<anyhow::Result<_>>()?;
        let defaults = file.defaults.overridden_by(command_line);
        Ok(Recipe { defaults, rules, statistics: false })
    }

    /// A rule whose regex takes at most `limit` bytes.
    fn rule(mut rule: toml::Table, limit: usize) -> anyhow::Result<Rule> {
        let pattern = rule.remove("match").context("`match` is missing")?;
        let pattern = pattern.as_str().context("`match` must be a string")?;
        let pattern = RegexBuilder::new(pattern)
            .size_limit(limit)
            .build()
            .context("`match` must be a regular expression")?;
        let linear = rule
            .remove("linear")
            .map(|value| value.as_bool().context("`linear` must be true or false"))
            .transpose()?;
        Ok(Rule { pattern, linear, options: rule.try_into().map_err(mistake)? })
    }

    /// Options of the tensor `name`; `None` when it is carried. The error names the contradiction.
    /// An input that the weights before it give out rotated is rotated again only where that is asked
    /// for, and where a preset reproduces a system that does.
    pub fn options(
        &self,
        name: &str,
        given_rotated: bool,
    ) -> Result<Option<LinearOptions>, String> {
        let mut given = self.given(name);
        // As llama.cpp does in its files of four bits: the head's errors go straight into the logits.
        if given.preset == Some(Preset::W4) && given.scheme.is_none() && name == roles::HEAD {
            given.scheme = Some(SchemeChoice::W8A8);
        }
        if given_rotated && given.preset.and_then(Preset::system).is_none() {
            given.rotation = given.rotation.or(Some(RotationChoice::None));
        }
        given.resolve(self.statistics)
    }

    /// The scheme that a rule gives `name`; what is chosen for all others leaves it alone.
    pub fn pinned(&self, name: &str) -> Option<SchemeChoice> {
        self.matching(name).filter_map(|rule| rule.options.scheme).next_back()
    }

    /// The same recipe with a scheme for each of some linears, which its own rules override.
    ///
    /// # Errors
    ///
    /// If a name makes no pattern.
    pub fn with_schemes(self, schemes: &[(String, Scheme)]) -> anyhow::Result<Self> {
        let rules = schemes
            .iter()
            .map(|(name, scheme)| (format!("^{}$", regex::escape(name)), (*scheme).into()));
        self.with_rules(rules)
    }

    /// The same recipe with a scheme for the names that each pattern is found in, which its own rules
    /// override.
    ///
    /// # Errors
    ///
    /// If a pattern is none.
    pub fn with_rules(
        mut self,
        rules: impl Iterator<Item = (String, SchemeChoice)>,
    ) -> anyhow::Result<Self> {
        let rule = |(pattern, scheme): (String, SchemeChoice)| {
            let pattern = RegexBuilder::new(&pattern).size_limit(LARGEST_REGEX).build()?;
            let options = Overrides { scheme: Some(scheme), ..Overrides::default() };
            Ok(Rule { pattern, linear: None, options })
        };
        let rules: anyhow::Result<Vec<Rule>> = rules.map(rule).collect();
        self.rules.splice(0..0, rules?);
        Ok(self)
    }

    /// Whether a rule declares `name` a linear, although by its name it would be carried.
    pub fn declares_linear(&self, name: &str) -> bool {
        self.matching(name).filter_map(|rule| rule.linear).next_back().unwrap_or(false)
    }

    fn given(&self, name: &str) -> Overrides {
        self.matching(name).fold(self.defaults, |options, rule| options.overridden_by(rule.options))
    }

    fn matching(&self, name: &str) -> impl DoubleEndedIterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.pattern.is_match(name))
    }

    /// A name that no other recipe has, for statistics that were observed behind its layers.
    pub fn fingerprint(&self) -> String {
        format!("{} {}", self.summary(), hex(&Sha256::digest(self.record().to_string())))
    }

    /// The recipe as it is recorded in a manifest.
    pub fn record(&self) -> serde_json::Value {
        let rules: Vec<_> = self
            .rules
            .iter()
            .map(|rule| {
                serde_json::json!({
                    "match": rule.pattern.as_str(),
                    "linear": rule.linear,
                    "options": rule.options,
                })
            })
            .collect();
        serde_json::json!({ "defaults": self.defaults, "rules": rules })
    }
}

/// What is wrong with the text, without the line break that ends the parser's message.
fn mistake(error: toml::de::Error) -> anyhow::Error {
    anyhow!("{}", error.to_string().trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::SchemeChoice;

    const RECIPE: &str = r#"
        [defaults]
        scheme = "w4a8"
        calibrator = "kl"

        [[rule]]
        match = 'ffn_down'
        scheme = "w8a8"

        [[rule]]
        match = '^blk\.0\.'
        scheme = "keep"
    "#;

    #[test]
    fn later_rules_override_earlier_ones() {
        let recipe = Recipe::parse(RECIPE, Overrides::default()).unwrap();
        let scheme = |name| recipe.options(name, false).unwrap().map(|options| options.scheme);
        assert_eq!(scheme("blk.1.attn_q.weight"), Some(Scheme::W4A8));
        assert_eq!(scheme("blk.1.ffn_down.weight"), Some(Scheme::W8A8));
        assert_eq!(scheme("blk.0.ffn_down.weight"), None);
    }

    #[test]
    fn the_command_line_overrides_defaults_but_not_rules() {
        let command_line = Overrides { scheme: Some(SchemeChoice::W16A16), ..Default::default() };
        let recipe = Recipe::parse(RECIPE, command_line).unwrap();
        let scheme = |name| recipe.options(name, false).unwrap().map(|options| options.scheme);
        assert_eq!(scheme("blk.1.attn_q.weight"), Some(Scheme::W16A16));
        assert_eq!(scheme("blk.1.ffn_down.weight"), Some(Scheme::W8A8));
    }

    #[test]
    fn only_a_declaration_makes_an_unknown_tensor_a_linear() {
        let text = "[[rule]]\nmatch = 'x'\nscheme = \"w8a8\"\n\
                    [[rule]]\nmatch = 'xy'\nlinear = true\n\
                    [[rule]]\nmatch = 'xyz'\nlinear = false\n";
        let recipe = Recipe::parse(text, Overrides::default()).unwrap();
        assert!(!recipe.declares_linear("x"));
        assert!(recipe.declares_linear("xy"));
        assert!(!recipe.declares_linear("xyz"));
    }

    /// A recipe of 1 MiB had room for 35,000 patterns of 1 MiB each.
    #[test]
    fn many_patterns_share_the_memory_of_a_few() {
        let rules = |count: usize, pattern: &str| {
            format!("[[rule]]\nmatch = '{pattern}'\nscheme = \"w8a8\"\n").repeat(count)
        };
        let parse = |count, pattern| Recipe::parse(&rules(count, pattern), Overrides::default());
        // A fifth of 1 MiB, and more than 64 KiB.
        let large = "a{8000}";
        assert!(parse(64, large).is_ok());
        let error = format!("{:#}", parse(1024, large).unwrap_err());
        assert!(error.starts_with("rule 1: ") && error.contains("size limit"), "{error}");
        // Names of tensors are far below what many rules are left with.
        assert!(parse(MOST_RULES, r"^blk\.47\.ffn_gate_shexp\.weight$").is_ok());
        let error = format!("{:#}", parse(MOST_RULES + 1, "a").unwrap_err());
        assert_eq!(error, "4097 rules, more than the 4096 a recipe may have");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("[defaults]\nschem = \"w8a8\"", "schem"),
            ("[[rule]]\nmatch = \"a\"\nscheme = \"w2a2\"", "w2a2"),
            ("[[rule]]\nmatch = \"a\"\nbits = 4", "bits"),
            ("[[rule]]\nmatch = \"(\"\nscheme = \"w8a8\"", "rule 1"),
            ("[[rule]]\nscheme = \"w8a8\"", "match"),
            ("[[rule]]\nmatch = \"a\"\nlinear = 1", "linear"),
            ("[[rule]]\nmatch = \"a{1000}{1000}{1000}\"", "rule 1"),
        ] {
            let error = format!("{:#}", Recipe::parse(text, Overrides::default()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
