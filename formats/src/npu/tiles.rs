//! Native tile layouts of weights.
