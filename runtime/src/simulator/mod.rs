//! The NPU's arithmetic on the host, integer for integer.

mod gemm;
