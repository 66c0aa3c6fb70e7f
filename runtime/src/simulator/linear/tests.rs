//! Whole linears against dense sums from the tiles.

use super::*;
