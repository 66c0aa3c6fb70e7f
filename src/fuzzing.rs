//! What fuzz targets reach of this crate: its readers of files, on text in memory.

use tessera_formats::npu::Scheme;

use crate::exit::told;
use crate::options::{Overrides, SchemeChoice};
use crate::recipe::Recipe;
use crate::sensitivity::file::{Sensitivities, at_scheme, operator, work};

/// Parses a recipe and asks it what it says of tensors of these names; the message if it is none.
///
/// # Errors
///
/// If it is no recipe.
pub fn recipe(text: &str, names: &[&str]) -> Result<(), String> {
    let recipe = Recipe::parse(text, Overrides::default()).map_err(|error| told(&error))?;
    for statistics in [false, true] {
        let recipe = recipe.clone().with_statistics(statistics);
        for name in names {
            let _ = recipe.options(name, statistics);
            let _ = (recipe.pinned(name), recipe.declares_linear(name));
        }
        let _ = (recipe.summary(), recipe.fingerprint());
    }
    Ok(())
}

/// Parses a file of sensitivities and asks it what choosing schemes asks; the message if it is none.
///
/// # Errors
///
/// If it is no file of sensitivities.
pub fn sensitivities(text: &str) -> Result<(), String> {
    let found = Sensitivities::parse(text).map_err(|error| told(&error))?;
    for linear in &found.linears {
        let _ = operator(linear);
        for option in &linear.options {
            assert!(found.damage(linear, option).is_some_and(f64::is_finite));
            let _ = (option.bits(linear.weights), option.bytes(), work(linear, option));
        }
        let _ = at_scheme(linear, Scheme::W8A8);
    }
    for layer in found.layers.iter().filter_map(|layer| layer.layer) {
        found.clone().find_factors(layer, Scheme::W4A8);
    }
    let _ = found.clone().pin(|_| Some(SchemeChoice::W8A8));
    Ok(())
}
