//! Names of the files of a split: `STEM-00002-of-00003`, of GGUF models and of packs.

/// Stem, number (from 1, unchecked) and count of a file name that ends in `suffix`; `None` for a
/// name of another form.
pub(crate) fn parse<'a>(name: &'a str, suffix: &str) -> Option<(&'a str, u32, u32)> {
    let (rest, count) = name.strip_suffix(suffix)?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    Some((stem, five_digits(number)?, five_digits(count)?))
}

/// Name of file `number` of `count`.
pub(crate) fn format(stem: &str, number: u64, count: u64, suffix: &str) -> String {
    format!("{stem}-{number:05}-of-{count:05}{suffix}")
}

/// A number written with exactly five digits.
fn five_digits(text: &str) -> Option<u32> {
    (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}
