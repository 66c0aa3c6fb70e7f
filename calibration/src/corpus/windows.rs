//! Windows of tokens that a model runs over.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// Separates these keys from any other use of a seed.
const DOMAIN: &[u8] = b"tessera windows v1\0";

/// Windows of `context` tokens, as many as make at least `tokens` tokens, or as there are.
///
/// The documents' tokens are joined and cut, from the first on, into windows that do not overlap;
/// what is left over at the end, shorter than a window, is not used, so that there are none of a text
/// that is too short. Where `bos` is given, each window begins with it and has one token less of the
/// text. Windows are drawn without replacement, in the order of the draw, which the seed decides: the
/// first ones are already of the whole text.
pub fn windows(
    documents: &[Vec<u32>],
    context: usize,
    tokens: usize,
    bos: Option<u32>,
    seed: u64,
) -> Vec<Vec<u32>> {
    let taken = context.saturating_sub(usize::from(bos.is_some()));
    if taken == 0 {
        return Vec::new();
    }
    let stream: Vec<u32> = documents.iter().flatten().copied().collect();
    let mut places: Vec<&[u32]> = stream.chunks_exact(taken).collect();
    let wanted = tokens.div_ceil(context).min(places.len());
    let key = Sha256::new().chain_update(DOMAIN).chain_update(seed.to_le_bytes()).finalize();
    let mut random = ChaCha8Rng::from_seed(key.into());
    for drawn in 0..wanted {
        let rest = (places.len() - drawn) as u128;
        // Below `rest`.
        let place = usize::try_from((u128::from(random.next_u64()) * rest) >> 64);
        places.swap(drawn, drawn + place.unwrap_or_default());
    }
    let window = |place: &&[u32]| bos.into_iter().chain(place.iter().copied()).collect();
    places[..wanted].iter().map(window).collect()
}
