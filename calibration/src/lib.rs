//! Which numbers to choose: clip searches, scales, equalization.
